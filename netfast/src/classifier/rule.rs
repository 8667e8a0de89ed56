//! A filter rule as the compiler takes it, and what it means.

use std::net::IpAddr;

use netfast_common::{
    abi::{self, FilterEntry},
    addr,
    wire::{ACK, FIN, Fragment, Packet, RST, SYN, TCP},
};

/// Source or destination addresses of a rule.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Addresses {
    /// All of both versions.
    #[default]
    Any,
    /// IPv4 addresses from the first to the last one, host order.
    V4 {
        /// The first.
        first: u32,
        /// The last, not below the first.
        last: u32,
    },
    /// An IPv6 prefix.
    V6 {
        /// Its first address, host order.
        address: u128,
        /// Its length, 0 to 128.
        length: u8,
    },
}

impl Addresses {
    /// The addresses of a prefix.
    pub fn prefix(net: ipnet::IpNet) -> Self {
        match net {
            ipnet::IpNet::V4(net) => {
                Self::V4 { first: net.network().to_bits(), last: net.broadcast().to_bits() }
            }
            ipnet::IpNet::V6(net) => Self::V6 { address: net.network().to_bits(), length: net.prefix_len() },
        }
    }

    /// The IP version, if it says one.
    pub const fn version(self) -> Option<u8> {
        match self {
            Self::Any => None,
            Self::V4 { .. } => Some(4),
            Self::V6 { .. } => Some(6),
        }
    }

    /// Whether `address` is one of them.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::Any, _) => true,
            (Self::V4 { first, last }, IpAddr::V4(v4)) => (first..=last).contains(&v4.to_bits()),
            (Self::V6 { address, length }, IpAddr::V6(v6)) => {
                (address ^ v6.to_bits()).checked_shr(128 - u32::from(length)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl Addresses {
    /// Whether some address is one of both.
    pub(super) fn overlaps(self, other: Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::V4 { first: a, last: b }, Self::V4 { first: c, last: d }) => meet([a, b], [c, d]),
            (Self::V6 { address: a, length: m }, Self::V6 { address: b, length: n }) => {
                (a ^ b).checked_shr(128 - u32::from(m.min(n))).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// What stands where TCP and UDP have their ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Ports {
    /// Nothing that the rule asks for.
    #[default]
    Any,
    /// TCP or UDP ports, first and last, host order: the rule matches packets whose ports were read, and no others.
    Ports {
        /// Source ports.
        source: [u16; 2],
        /// Destination ports.
        destination: [u16; 2],
    },
    /// ICMP or ICMPv6 types and codes, first and last. Goes with that protocol.
    Icmp {
        /// Types.
        kind: [u8; 2],
        /// Codes.
        code: [u8; 2],
    },
}

/// What a rule does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Action {
    /// The packet may go on.
    Allow,
    /// It is dropped.
    #[default]
    Drop,
    /// It is dropped and the sender told; the argument says how.
    Reject(u32),
    /// It is counted and the next rule asked.
    Count,
    /// It is dropped if the limit with this index is exceeded, else the next rule is asked.
    Limit(u32),
}

impl Action {
    /// Whether the next rules are asked, too.
    pub const fn goes_on(self) -> bool {
        matches!(self, Self::Count | Self::Limit(_))
    }
}

/// A rule. Of a list of rules the first one that matches decides; those that [go on](Action::goes_on) do not decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rule {
    /// Number of the rule, below [`abi::MAX_FILTER_NUMBERS`]: index of its counter and entry. It stays with the rule. Several
    /// matches of one rule (lists, sets) have one number; then what stands in the entry is the same.
    pub number: u32,
    /// IP version 4 or 6, 0 for both; what addresses say goes before it.
    pub version: u8,
    /// Source addresses.
    pub source: Addresses,
    /// Destination addresses.
    pub destination: Addresses,
    /// IP protocol.
    pub protocol: Option<u8>,
    /// Ports, or ICMP type and code.
    pub ports: Ports,
    /// TCP flags: value and mask. Such a rule matches TCP only.
    pub tcp_flags: Option<[u8; 2]>,
    /// Index of the interface, 0: any.
    pub ifindex: u32,
    /// VLAN identifier, 0 for untagged.
    pub vlan: Option<u16>,
    /// What it does.
    pub action: Action,
}

impl Rule {
    /// The IP version that it speaks of; 0: both. `None`: it names both, and so matches nothing.
    pub fn ip_version(&self) -> Option<u8> {
        let named = (self.version != 0).then_some(self.version);
        let mut says = [self.source.version(), self.destination.version(), named].into_iter().flatten();
        let Some(first) = says.next() else { return Some(0) };
        says.all(|other| other == first).then_some(first)
    }

    /// Whether it matches, said once more and without a tree: the oracle of tests, and what `explain` shows. `icmp`: type
    /// and code, if they were read.
    pub fn matches(&self, packet: &Packet, ifindex: u32, icmp: Option<[u8; 2]>) -> bool {
        let within = |range: [u16; 2], port: u16| (range[0]..=range[1]).contains(&port);
        let ports = match self.ports {
            Ports::Any => true,
            Ports::Ports { source, destination } => {
                packet.has_ports()
                    && within(source, packet.source_port())
                    && within(destination, packet.destination_port())
            }
            Ports::Icmp { kind, code } => icmp.is_some_and(|[t, c]| {
                packet.key.protocol == icmp_of(packet.version == 6)
                    && (kind[0]..=kind[1]).contains(&t)
                    && (code[0]..=code[1]).contains(&c)
            }),
        };
        ports
            && self.ip_version().is_some_and(|version| version == 0 || version == packet.version)
            && self.source.contains(addr::to_ip(&packet.key.source))
            && self.destination.contains(addr::to_ip(&packet.key.destination))
            && self.protocol.is_none_or(|protocol| protocol == packet.key.protocol)
            && self.tcp_flags.is_none_or(|[value, mask]| {
                mask == 0
                    || packet.key.protocol == TCP
                        && packet.fragment != Fragment::Later
                        && (value ^ packet.flags) & mask == 0
            })
            && (self.ifindex == 0 || self.ifindex == ifindex)
            && self.vlan.is_none_or(|vlan| vlan == packet.vlan)
    }

    /// Whether packets of established flows are asked about it: it names TCP flags, and does something else than to allow.
    pub fn speaks_of_flows(&self) -> bool {
        self.entry().speaks_of_flows()
    }

    /// Whether it speaks of flows and can match a plain segment.
    pub(super) fn speaks_of_plain_segments(&self) -> bool {
        self.speaks_of_flows() && self.tcp_flags.is_some_and(can_be_plain)
    }

    /// Whether its flags match one plain segment, and another one not.
    pub(super) fn tells_plain_segments_apart(&self) -> bool {
        self.tcp_flags.is_some_and(|[value, mask]| mask & !PLAIN != 0 && can_be_plain([value, mask]))
    }

    /// Whether it can keep later rules out of a tree: it decides, and all that it asks for can be told from a packet's place.
    pub(super) fn hides(&self) -> bool {
        !self.action.goes_on()
            && self.vlan.is_none()
            && self.tcp_flags.is_none_or(|[_, mask]| mask == 0)
            && !self.is_on_ports_alone()
    }

    /// False if no packet is in the boxes of both rules.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        let ports = match (self.ports, other.ports) {
            (Ports::Ports { source: a, destination: b }, Ports::Ports { source: c, destination: d }) => {
                meet(a, c) && meet(b, d)
            }
            (Ports::Icmp { kind: a, code: b }, Ports::Icmp { kind: c, code: d }) => meet(a, c) && meet(b, d),
            // Boxes of rules on ICMP types are those of ports.
            _ => true,
        };
        let version = |v6: bool| {
            let (a, b) = (self.protocol_of(v6), other.protocol_of(v6));
            self.can_match(v6) && other.can_match(v6) && (a.is_none() || b.is_none() || a == b)
        };
        ports
            && self.source.overlaps(other.source)
            && self.destination.overlaps(other.destination)
            && (self.ifindex == 0 || other.ifindex == 0 || self.ifindex == other.ifindex)
            && (version(false) || version(true))
    }

    /// Whether conditions stand in the entry alone.
    pub(super) fn has_extra(&self) -> bool {
        self.tcp_flags.is_some_and(|[_, mask]| mask != 0)
            || self.ifindex != 0
            || self.vlan.is_some()
            || self.is_on_ports_alone()
    }

    /// Whether it names ports and no protocol.
    pub(super) fn is_on_ports_alone(&self) -> bool {
        matches!(self.ports, Ports::Ports { .. }) && self.protocol_of(false).is_none()
    }

    /// The protocol that it speaks of in IPv4 or IPv6: a rule on TCP flags is one on TCP.
    pub(super) fn protocol_of(&self, v6: bool) -> Option<u8> {
        let flags = self.tcp_flags.filter(|[_, mask]| *mask != 0).map(|_| TCP);
        let icmp = matches!(self.ports, Ports::Icmp { .. }).then_some(icmp_of(v6));
        self.protocol.or(flags).or(icmp)
    }

    /// Whether some packet of the version can match.
    pub(super) fn can_match(&self, v6: bool) -> bool {
        let version = if v6 { 6 } else { 4 };
        let icmp = matches!(self.ports, Ports::Icmp { .. });
        let flags = self.tcp_flags.is_some_and(|[_, mask]| mask != 0);
        self.ip_version().is_some_and(|v| v == 0 || v == version)
            && (!icmp || self.protocol_of(v6) == Some(icmp_of(v6)))
            && (!flags || self.protocol_of(v6) == Some(TCP))
    }

    /// The program's entry of the rule.
    pub fn entry(&self) -> FilterEntry {
        let [flags, mask] = self.tcp_flags.unwrap_or_default();
        let (action, argument) = match self.action {
            Action::Allow => (abi::FILTER_ALLOW, 0),
            Action::Drop => (abi::FILTER_DROP, 0),
            Action::Reject(how) => (abi::FILTER_REJECT, how),
            Action::Count => (abi::FILTER_COUNT, 0),
            Action::Limit(index) => (abi::FILTER_LIMIT, index),
        };
        FilterEntry {
            ifindex: self.ifindex,
            vlan: self.vlan.unwrap_or_default(),
            vlan_mask: if self.vlan.is_some() { u16::MAX } else { 0 },
            tcp_flags: flags,
            tcp_mask: mask,
            action,
            in_use: 1,
            argument,
            ports: u32::from(self.is_on_ports_alone()),
            reserved: [0; 3],
        }
    }
}

/// Whether two ranges have a value in common.
fn meet<T: Ord>(a: [T; 2], b: [T; 2]) -> bool {
    a[0] <= b[1] && b[0] <= a[1]
}

/// The flags that tell plain segments: ACK is set and none of the others.
const PLAIN: u8 = SYN | FIN | RST | ACK;

/// Whether a plain segment may have such flags.
const fn can_be_plain([value, mask]: [u8; 2]) -> bool {
    (value ^ ACK) & mask & PLAIN == 0
}

/// The protocol number of ICMP or ICMPv6.
const fn icmp_of(v6: bool) -> u8 {
    if v6 { 58 } else { 1 }
}
