//! Why a frame went where it went: one list for the metric labels, the logs, the replay tool and the tests.

/// What becomes of a frame. The numbers are those of the driver's answers (`xdp_action`), one less.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Dropped.
    Drop = 0,
    /// To the kernel, unchanged.
    Pass = 1,
    /// Sent back out of the interface it came in by (XDP_TX).
    Transmit = 2,
    /// Sent out of another interface.
    Redirect = 3,
}

impl Verdict {
    /// Number of verdicts.
    pub const COUNT: u32 = 4;
    /// All of them.
    pub const ALL: [Verdict; 4] = [Self::Drop, Self::Pass, Self::Transmit, Self::Redirect];

    /// The metric label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Transmit => "tx",
            Self::Redirect => "redirect",
        }
    }
}

/// Declares [`Reason`] with its labels and help from one table.
macro_rules! reasons {
    ($($(#[$attribute:meta])* $name:ident = $number:literal, $label:literal, $help:literal;)+) => {
        /// Why a frame went where it went. Every way through the program ends in exactly one.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Reason {
            $(#[doc = $help] $(#[$attribute])* $name = $number,)+
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Self::$name,)+];

            /// The metric label; stable.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One line for a person.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => $help,)+ }
            }
        }
    };
}

impl Reason {
    /// Rows that the counters reserve for reasons.
    pub const SLOTS: u32 = 64;
}

reasons! {
    // Forwarded or answered.
    Forwarded = 0, "forwarded", "client's packet sent to its target";
    Reply = 1, "reply", "target's packet sent back to its client";
    Echoed = 2, "echoed", "UDP echo answered";
    // To the kernel because it is not netfast's.
    NotIp = 3, "not_ip", "neither IPv4 nor IPv6 (ARP, LLDP, ...)";
    NotOurMac = 4, "not_our_mac", "addressed to another station, to a group or to all";
    NoService = 5, "no_service", "no service of netfast at its address and port";
    NotTcpUdp = 6, "not_tcp_udp", "ICMP or another protocol that is left to the kernel";
    TtlExpired = 7, "ttl_expired", "TTL or hop limit is used up; answered (tx), or not (drop)";
    Unattached = 8, "unattached", "came in by an interface that the agent does not know yet";
    // By policy.
    Malformed = 9, "malformed", "truncated, or lengths that contradict each other";
    DeepVlan = 10, "deep_vlan", "more than two VLAN tags";
    SourceRoute = 11, "source_route", "IPv4 source-route option";
    Ipv6Extensions = 12, "ipv6_extensions", "too many IPv6 extension headers, or an unknown one";
    Fragment = 13, "fragment", "fragment without a transport header";
    TinyFragment = 14, "tiny_fragment", "first fragment that cuts its transport header";
    Martian = 15, "martian", "source address that can never be one";
    TcpNoFlow = 16, "tcp_no_flow", "TCP to a forwarded port that belongs to no flow and opens none";
    // Dropped by the operator's rules.
    FilterDrop = 17, "filter_drop", "dropped by a filter rule";
    // Dropped because it cannot go on.
    NoTarget = 18, "no_target", "the forward has no target";
    HopUnresolved = 19, "hop_unresolved", "the next hop's MAC address is not known (yet); it is being asked for";
    NoRoute = 20, "no_route", "no route to the target, or back to the client";
    MtuExceeded = 21, "mtu_exceeded", "larger than the MTU of the way out; answered (tx), or not (drop)";
    PortsExhausted = 22, "ports_exhausted", "no free source port towards the target";
    FlowTableFull = 23, "flow_table_full", "the flow table is full; established flows go on";
    FlowConflict = 24, "flow_conflict", "another flow to this target uses the same addresses and ports";
    ForwardRemoved = 25, "forward_removed", "its forward was removed; the flow has ended";
    UdpZeroChecksum = 26, "udp_zero_checksum", "UDP over IPv6 without a checksum (RFC 8200 8.1)";
    FragmentedService = 27, "fragmented_service", "first fragment to a service";
    RedirectFailed = 28, "redirect_failed", "the way out is not an interface that netfast can send by";
    Internal = 29, "internal", "a map that must be there is not: a bug, please report";
    // Echo guards (RFC 862, CVE-2024-2169).
    EchoNotAllowed = 30, "echo_not_allowed", "source is not on the echo reflector's allow-list";
    EchoLoop = 31, "echo_loop", "source port could answer an answer: it might start a loop";
    EchoRate = 32, "echo_rate", "source is over the echo reflector's rate";
    // ICMP and fragments of flows.
    IcmpError = 33, "icmp_error", "ICMP error about a flow, translated and sent on";
    FragmentUnknown = 34, "fragment_unknown", "later fragment whose first fragment was not seen";
    // New flows that are refused.
    SnatFiltered = 35, "snat_filtered", "to a source NAT mapping, from a peer that its filtering does not let in";
    FlowQuota = 36, "flow_quota", "source is over its quota of new flows";
    // By policy, too.
    TcpFlags = 37, "tcp_flags", "TCP flags that no connection has (none, SYN with FIN, ...)";
    IpOptions = 38, "ip_options", "IPv4 options other than source routes";
    BadChecksum = 39, "bad_checksum", "IPv4 header checksum is wrong";
    Untranslatable = 40, "untranslatable", "cannot be translated to the target's IP version";
    // By the operator's rules, too.
    FilterReject = 41, "filter_reject", "refused by a filter rule, with an answer";
    FilterLimit = 42, "filter_limit", "over the rate of a filter rule";
    // By policy, too: like malformed ones, since nothing can be judged.
    HeadersSplit = 43, "headers_split", "driver put the headers beyond the frame's first buffer; netfast cannot read them";
    // About tunnels to targets.
    TunnelMtu = 44, "tunnel_mtu", "ICMP error about a packet in a tunnel to a target: the path's MTU is noted";
    // Answered or dropped because the target is no more.
    TargetEnded = 45, "target_ended", "its target is down, drained or removed and the flow has ended; TCP is reset (tx)";
    // Claimed addresses.
    ClaimAnswered = 46, "claim_answered", "ARP request or neighbour solicitation for a claimed address, answered";
    ClaimEchoed = 47, "claim_echoed", "ping of a claimed address; answered (tx), or over the rate of answers (drop)";
    ClaimRefused = 48, "claim_refused", "to a claimed address, and no service is there; answered (tx), or not (drop)";
    // STAMP (RFC 8762).
    StampReflected = 49, "stamp_reflected", "STAMP test packet reflected";
    StampShort = 50, "stamp_short", "to a STAMP reflector, and shorter than a test packet (44 bytes)";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_named_once() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(index as u32, *reason as u32);
            assert_eq!(1, Reason::ALL.iter().filter(|other| other.label() == reason.label()).count());
        }
        assert!((Reason::ALL.len() as u32) < Reason::SLOTS);
    }
}
