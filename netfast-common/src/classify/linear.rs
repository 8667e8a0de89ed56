//! Matching a packet against one filter rule after the other.

use crate::{abi::FilterRule, wire::Packet};

/// What of a packet a filter rule is compared with, gathered once per packet.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    source: [u64; 2],
    destination: [u64; 2],
    source_port: u64,
    destination_port: u64,
    ifindex: u32,
    protocol: u8,
    version: u8,
    without_ports: u8,
}

impl Subject {
    /// The subject of `packet`, which came in by `ifindex`.
    #[inline(always)]
    pub fn new(packet: &Packet, ifindex: u32) -> Self {
        Self {
            source: words(&packet.key.source),
            destination: words(&packet.key.destination),
            source_port: packet.source_port() as u64,
            destination_port: packet.destination_port() as u64,
            ifindex,
            protocol: packet.key.protocol,
            version: packet.version,
            without_ports: !packet.has_ports() as u8,
        }
    }
}

/// Whether `rule` speaks of the packet. A rule with ports never matches a packet whose ports were not read (another
/// protocol, a later fragment): payload is never taken for a header.
///
/// All differences are collected and compared with zero once. A branch per field would make the verifier of the kernel
/// keep that many states for each of up to 512 rules ("the sequence of 8193 jumps is too complex").
#[inline(always)]
pub fn matches(rule: &FilterRule, subject: &Subject) -> bool {
    let masked = |packet: [u64; 2], field: &[u8; 16], mask: &[u8; 16]| {
        let (field, mask) = (words(field), words(mask));
        ((packet[0] ^ field[0]) & mask[0]) | ((packet[1] ^ field[1]) & mask[1])
    };
    // Out of range makes one of the two differences negative.
    let outside = |port: u64, range: [u16; 2]| {
        (port.wrapping_sub(range[0] as u64) | (range[1] as u64).wrapping_sub(port)) >> 63
    };
    let difference = masked(subject.source, &rule.source, &rule.source_mask)
        | masked(subject.destination, &rule.destination, &rule.destination_mask)
        | ((subject.ifindex ^ rule.ifindex) & rule.ifindex_mask) as u64
        | ((subject.protocol ^ rule.protocol) & rule.protocol_mask) as u64
        | ((subject.version ^ rule.version) & rule.version_mask) as u64
        | (rule.needs_ports & subject.without_ports) as u64
        | outside(subject.source_port, rule.source_ports)
        | outside(subject.destination_port, rule.destination_ports);
    difference == 0
}

/// An address as native words: for equality under a mask any order does.
#[inline(always)]
const fn words(a: &[u8; 16]) -> [u64; 2] {
    [
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        abi::FlowKey,
        addr,
        wire::{Fragment, TCP, UDP},
    };

    fn any() -> FilterRule {
        FilterRule { source_ports: [0, u16::MAX], destination_ports: [0, u16::MAX], ..FilterRule::default() }
    }

    fn ports(source: [u16; 2], destination: [u16; 2]) -> FilterRule {
        FilterRule { source_ports: source, destination_ports: destination, needs_ports: 1, ..any() }
    }

    fn matches(rule: &FilterRule, packet: &Packet, ifindex: u32) -> bool {
        super::matches(rule, &Subject::new(packet, ifindex))
    }

    fn packet(protocol: u8) -> Packet {
        Packet {
            version: 4,
            key: FlowKey {
                source: addr::from_v4([198, 51, 100, 7]),
                destination: addr::from_v4([192, 0, 2, 10]),
                source_port: 40_000u16.to_be_bytes(),
                destination_port: 22u16.to_be_bytes(),
                protocol,
                pad: [0; 3],
            },
            ..Packet::default()
        }
    }

    #[test]
    fn an_empty_rule_matches_everything() {
        assert!(matches(&any(), &packet(1), 3));
        assert!(matches(&any(), &Packet { fragment: Fragment::Later, ..packet(6) }, 3));
    }

    #[test]
    fn each_field_counts() {
        let p = packet(TCP);
        assert!(matches(&ports([0, u16::MAX], [22, 22]), &p, 3));
        assert!(!matches(&ports([0, u16::MAX], [23, 99]), &p, 3));
        assert!(!matches(&ports([0, u16::MAX], [1, 21]), &p, 3));
        assert!(!matches(&ports([1, 39_999], [0, u16::MAX]), &p, 3));
        assert!(matches(&ports([40_000, u16::MAX], [0, 22]), &p, 3));
        assert!(!matches(&FilterRule { protocol: UDP, protocol_mask: 0xff, ..any() }, &p, 3));
        assert!(!matches(&FilterRule { ifindex: 4, ifindex_mask: u32::MAX, ..any() }, &p, 3));
        assert!(!matches(&FilterRule { version: 6, version_mask: 0xff, ..any() }, &p, 3));
        let net = FilterRule {
            source: addr::from_v4([198, 51, 100, 0]),
            source_mask: addr::mask_bytes(120),
            ..any()
        };
        assert!(matches(&net, &p, 3));
        assert!(!matches(&FilterRule { source: addr::from_v4([198, 51, 101, 0]), ..net }, &p, 3));
        let host = FilterRule {
            destination: addr::from_v4([192, 0, 2, 11]),
            destination_mask: addr::mask_bytes(128),
            ..any()
        };
        assert!(!matches(&host, &p, 3));
    }

    #[test]
    fn ports_are_never_read_where_there_are_none() {
        let port = ports([0, u16::MAX], [0, 22]);
        assert!(!matches(&port, &Packet { fragment: Fragment::Later, ..packet(TCP) }, 3));
        assert!(!matches(&port, &packet(1), 3));
    }
}
