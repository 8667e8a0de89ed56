//! The one record of live settings, and what is done with frames that cannot be classified.

use super::pod;

/// Element 0 of the map `CONFIG`. Each field is written by the agent with a single 32-bit store and read by the
/// program at most once a packet, so no field needs another one to be current.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Number of the live rule set, never 0 once rules were published. Its lowest bit is the slot of every
    /// double-buffered map; the store to this field publishes a change. Cached lines made under another generation
    /// are decided anew.
    pub generation: u32,
    /// Sets of the IPv4 flow cache in use on each CPU, minus one (a power of two minus one).
    pub cache4_mask: u32,
    /// Sets of the IPv6 flow cache in use on each CPU, minus one (a power of two minus one).
    pub cache6_mask: u32,
    /// Sets of the IPv4 flow cache that a CPU owns in the map (distance between CPUs' parts).
    pub cache4_stride: u32,
    /// Sets of the IPv6 flow cache that a CPU owns in the map.
    pub cache6_stride: u32,
    /// What is noted by the second is counted in units of `jiffies >> stamp_shift` (about a second).
    pub stamp_shift: u32,
    /// Jiffies after which a cached line must be confirmed by the flow table again (give or take some [`super::LINE_TICK`]s, see [`super::line_end`]). At
    /// most a quarter of the shortest timeout of a confirmed flow (half of that after a RST: such a flow gets no new lines), so
    /// that a line is void long before its flow can expire.
    pub line_lifetime: u32,
    /// First and last source port (host order) that `nat` gives out.
    pub nat_port_low: u32,
    /// See [`Config::nat_port_low`].
    pub nat_port_high: u32,
    /// Jiffies in a second (CONFIG_HZ), measured by the agent.
    pub hz: u32,
    /// Seed of all hashes, random per host, so that nobody can aim at one cache set.
    pub seed: u32,
    /// Idle times, in jiffies, after which a flow is dead.
    pub timeouts: Timeouts,
    /// [`Policy`] per [`PolicyClass`].
    pub policies: [u32; PolicyClass::COUNT],
    /// Frames of the slow path that may be logged each second and CPU (aya-log); 0 is none.
    pub log_rate: u32,
    /// ICMP errors and TCP resets that each CPU may make in a second; 0 is none.
    pub error_rate: u32,
    /// New flows that one source (IPv4 address, IPv6 /64) may open in a second; 0: any number.
    pub flow_rate: u32,
    /// New flows that it may open at once.
    pub flow_burst: u32,
    /// Entries of the map `CLAIMS`; with none nobody asks it.
    pub claims: u32,
    /// Seconds that the host's CLOCK_TAI is before its CLOCK_REALTIME.
    pub tai_offset: u32,
    /// Error estimate of the host's clock, as a STAMP packet has it ([`crate::stamp::error_estimate`]).
    pub clock_error: u32,
    /// Sets of the map `HALF_OPEN` ([`crate::half_open`]).
    pub half_open_sets: u32,
}

/// Idle times in jiffies (host order).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// UDP flow that has seen packets both ways (RFC 4787 REQ-5: at least 2 min, default 5 min).
    pub udp: u32,
    /// UDP flow that has seen packets one way only.
    pub udp_one_way: u32,
    /// ICMP query and its answers (RFC 5508 REQ-1: at least 60 s).
    pub icmp: u32,
    /// TCP.
    pub tcp: TcpTimeouts,
}

/// TCP idle times in jiffies (RFC 5382 REQ-5, RFC 7857 2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpTimeouts {
    /// Handshake not finished.
    pub opening: u32,
    /// Established.
    pub established: u32,
    /// One side has sent FIN (RFC 6146 3.5.2.2: the other one may go on for as long as it likes).
    pub half_closed: u32,
    /// Both sides have sent FIN.
    pub closing: u32,
    /// A RST was seen (RFC 7857 2.2: 4 min).
    pub reset: u32,
}

/// What happens to frames of a class that the program does not classify by five-tuple.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// To the kernel, unchanged.
    Pass = 0,
    /// Dropped.
    Drop = 1,
    /// Treated as any other packet; fragments: as their first one.
    Accept = 2,
}

/// Classes of frames with a policy of their own. The agent's configuration key is the label in lower case.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyClass {
    /// Lengths or fixed fields that contradict each other; truncated headers.
    Malformed = 0,
    /// More than two VLAN tags.
    DeepVlan = 1,
    /// IPv4 with a source-route option (RFC 7126 4.3, 4.4).
    SourceRoute = 2,
    /// IPv6 extension headers beyond the number that is walked, or of an unknown kind.
    Ipv6Extensions = 3,
    /// Fragments to this host's MAC address. [`Policy::Accept`]: they follow the flow of their first fragment.
    Fragment = 4,
    /// A first fragment too short for its transport header (RFC 3128).
    TinyFragment = 5,
    /// A source address that can never be one: multicast, loopback, the destination itself.
    Martian = 6,
    /// A TCP segment that belongs to no flow and does not open one, to a forwarded port.
    TcpNoFlow = 7,
    /// TCP flags that no connection has.
    TcpFlags = 8,
    /// IPv4 options other than source routes (RFC 7126).
    IpOptions = 9,
    /// IPv4 header checksum is wrong.
    BadChecksum = 10,
}

impl PolicyClass {
    /// Number of classes.
    pub const COUNT: usize = 11;
    /// Every class with its configuration key, its default and one line of help.
    pub const TABLE: [(PolicyClass, &'static str, Policy, &'static str); Self::COUNT] = [
        (Self::Malformed, "malformed", Policy::Drop, "lengths that contradict each other, truncated headers"),
        (Self::DeepVlan, "deep_vlan", Policy::Drop, "more than two VLAN tags"),
        (Self::SourceRoute, "source_route", Policy::Drop, "IPv4 source-route options (RFC 7126)"),
        (Self::Ipv6Extensions, "ipv6_extensions", Policy::Drop, "too many or unknown IPv6 extension headers"),
        (Self::Fragment, "fragment", Policy::Pass, "fragments without a transport header"),
        (
            Self::TinyFragment,
            "tiny_fragment",
            Policy::Drop,
            "first fragments that cut the transport header (RFC 3128)",
        ),
        (Self::Martian, "martian", Policy::Drop, "source addresses that can never be one"),
        (Self::TcpNoFlow, "tcp_no_flow", Policy::Pass, "TCP to a forwarded port that belongs to no flow"),
        (Self::TcpFlags, "tcp_flags", Policy::Drop, "TCP flags that no connection has"),
        (Self::IpOptions, "ip_options", Policy::Accept, "IPv4 options other than source routes (RFC 7126)"),
        (Self::BadChecksum, "bad_checksum", Policy::Drop, "IPv4 header checksums that are wrong"),
    ];

    /// The words that the operator may choose from.
    pub const fn choices(self) -> &'static [(&'static str, Policy)] {
        match self {
            Self::IpOptions => &[("accept", Policy::Accept), ("pass", Policy::Pass), ("drop", Policy::Drop)],
            Self::Fragment => &[("pass", Policy::Pass), ("drop", Policy::Drop), ("follow", Policy::Accept)],
            _ => &[("pass", Policy::Pass), ("drop", Policy::Drop)],
        }
    }

    /// Whether packets of the class cannot be read to their ports: those that are passed have not been seen by the filter.
    pub const fn is_unread(self) -> bool {
        matches!(self, Self::Malformed | Self::DeepVlan | Self::Ipv6Extensions | Self::TinyFragment)
    }
}

pod!(Config => 152);
