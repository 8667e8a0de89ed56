//! The rule set's map images. Double-buffered maps hold two of them: slot `generation & 1` is live, the other one is
//! written by the agent and published by one store to [`super::Config::generation`].

use super::pod;

/// Element `slot` of the map `RULE_SETS`: how much of the slot's part of each map is in use.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSet {
    /// Entries of `SERVICES` in use, from `slot * MAX_SERVICES` on.
    pub services: u32,
    /// What the filter is to be asked for: [`super::FILTER_ASK`] and so on.
    pub filter_flags: u32,
    /// Entries of `SNAT` in use, from `slot * MAX_SNAT` on.
    pub snats: u32,
    /// Zero.
    pub pad: u32,
}

/// What listens at a service's ports.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// A forward to targets.
    Forward = 1,
    /// A UDP echo reflector (RFC 862).
    Echo = 2,
    /// A STAMP session-reflector (RFC 8762); an entry of `ECHOES`, too.
    Stamp = 3,
}

/// A service: address, protocol and a range of ports. The slot's part of `SERVICES` is sorted by (address, protocol,
/// first port), ranges of one address and protocol do not overlap: the program finds one by binary search.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The address.
    pub address: [u8; 16],
    /// First port, host order.
    pub port_low: u16,
    /// Last port, host order.
    pub port_high: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// [`ServiceKind`].
    pub kind: u8,
    /// Index of the forward or echo reflector.
    pub index: u16,
}

/// How a forward sends packets to its targets.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Both addresses rewritten: the target answers to this host.
    Nat = 0,
    /// Only the destination rewritten: the target routes its answers through this host.
    Dnat = 1,
    /// A source NAT rule, not a forward: the source of what goes out becomes the pool address.
    Snat = 2,
    /// Only the link header is rewritten: the target is on the same link, owns the service's address and answers the
    /// client itself (direct server return).
    Dsr = 3,
    /// The packet goes to the target inside another IP packet (RFC 2003, RFC 2473, RFC 4213); the target answers the client
    /// itself.
    Ipip = 4,
}

/// A forward or a source NAT rule: element `slot * MAX_FORWARDS + index` of the map `FORWARDS`. The index stays with it
/// for life.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// Unique over the life of the pin directory, never 0: a flow of another uid at the same index is dead.
    pub uid: u32,
    /// First entry of the forward's look-up table, counted from the start of the slot's part of `MAGLEV`, in entries
    /// (a multiple of [`MAGLEV_PER_CELL`]).
    pub maglev_offset: u32,
    /// Entries of the look-up table (a prime number); 0: the forward has no target.
    pub maglev_size: u32,
    /// [`Mode`].
    pub mode: u8,
    /// Of a source NAT rule: [`super::SNAT_DEPENDENT`] or [`super::SNAT_INDEPENDENT`].
    pub filtering: u8,
    /// [`FORWARD_BY_SOURCE`] and so on.
    pub flags: u8,
    /// With [`FORWARD_QUIC`]: bytes of the server ID in a QUIC connection ID.
    pub quic_id: u8,
}

/// [`Forward::flags`]: a new flow's target depends on its source address alone.
pub const FORWARD_BY_SOURCE: u8 = 1;
/// [`Forward::flags`]: a packet that finds no target is answered (TCP reset, ICMP port unreachable).
pub const FORWARD_REJECTS: u8 = 2;
/// [`Forward::flags`]: a new flow of QUIC goes to the target that its connection ID names.
pub const FORWARD_QUIC: u8 = 4;

/// [`Target::state`]: flows of this target end with their next packet: TCP is reset, others choose a target anew.
pub const TARGET_ENDS: u8 = 1;
/// [`Target::state`]: the target gets no new flows; one that is still opening (TCP) chooses a target anew at the client's
/// next SYN.
pub const TARGET_LEAVES: u8 = 2;

/// A target, or a pool address of a source NAT rule (`source` is the address, `address` and `service` are zero): element
/// `index` of the map `TARGETS`, not double-buffered. Everything but `next_hop` and `state` is
/// constant while a flow may refer to the index; in mode `ipip` `source` and `spread` are not, since no answer comes to them.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// Address of the target.
    pub address: [u8; 16],
    /// Source address that `nat` puts in (an address of this host on the way to the target); of the outer header in mode `ipip`.
    pub source: [u8; 16],
    /// Address of the service, put in as the source of replies.
    pub service: [u8; 16],
    /// What is added (mod 2^16, host order) to the service's port to get the target's.
    pub port_delta: u16,
    /// Index of the forward.
    pub forward: u16,
    /// Index of the next hop; 0 while there is no route. A single 16-bit store of the agent.
    pub next_hop: u16,
    /// [`Mode`].
    pub mode: u8,
    /// 1 while the element is in use.
    pub in_use: u8,
    /// Identifies the target over the life of the pin directory.
    pub uid: u32,
    /// [`TARGET_ENDS`] and [`TARGET_LEAVES`], or 0. A single 8-bit store of the agent, before the generation from which on it
    /// counts: a flow meets it when that finds it older.
    pub state: u8,
    /// Of a target in mode `ipip`: how many of the last bits of `source` are taken from the flow's hash.
    pub spread: u8,
    /// What the addresses here change a checksum by: [`crate::rewrite::target_sum`]. Filled in when the element is written.
    pub sum: u16,
}

/// Look-up entries in a [`MaglevCell`].
pub const MAGLEV_PER_CELL: u32 = 32;

/// A part of a forward's look-up table: indexes of targets.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaglevCell {
    /// Indexes of targets.
    pub targets: [u16; MAGLEV_PER_CELL as usize],
}

/// An echo reflector or STAMP session-reflector: element `slot * MAX_ECHOES + index` of the map `ECHOES`. The index stays with it for life.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Echo {
    /// Unique over the life of the pin directory, never 0.
    pub uid: u32,
    /// First entry of its allow-list, counted from the start of the slot's part of `ECHO_ALLOW`.
    pub allow_offset: u32,
    /// Entries of the allow-list; none allows nobody.
    pub allow_count: u32,
    /// Packets a second that one source address may have reflected.
    pub rate: u32,
    /// Packets that may come at once (bucket depth).
    pub burst: u32,
    /// Zero.
    pub pad: u32,
}

/// A prefix of an echo reflector's allow-list.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllowEntry {
    /// First address of the prefix.
    pub address: [u8; 16],
    /// Length of the prefix in the 128-bit form (an IPv4 /24 is 120).
    pub length: u32,
    /// Zero.
    pub pad: u32,
}

pod!(
    RuleSet => 16, Service => 24, Forward => 16, Target => 64, MaglevCell => 64, Echo => 24, AllowEntry => 24,
);
