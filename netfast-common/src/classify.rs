//! Matching a packet against a filter rule.

use crate::{
    abi::FilterRule,
    addr,
    wire::{Fragment, Packet, TCP, UDP},
};

/// Whether `rule` speaks of `packet`, which came in by `ifindex`. A rule with ports never matches a packet whose ports
/// were not read (another protocol, a later fragment): payload is never taken for a header.
#[inline(always)]
pub fn matches(rule: &FilterRule, packet: &Packet, ifindex: u32) -> bool {
    (rule.any_protocol != 0 || rule.protocol == packet.key.protocol)
        && (rule.ifindex == 0 || rule.ifindex == ifindex)
        && (rule.version == 0 || rule.version == packet.version)
        && ports_match(rule, packet)
        && addr::in_prefix(&packet.key.source, &rule.source, rule.source_length as u32)
        && addr::in_prefix(&packet.key.destination, &rule.destination, rule.destination_length as u32)
}

#[inline(always)]
fn ports_match(rule: &FilterRule, packet: &Packet) -> bool {
    let any = rule.source_ports[0] == 0
        && rule.destination_ports[0] == 0
        && rule.source_ports[1] == u16::MAX
        && rule.destination_ports[1] == u16::MAX;
    if any {
        return true;
    }
    let has_ports = matches!(packet.key.protocol, TCP | UDP) && !matches!(packet.fragment, Fragment::Later);
    let (source, destination) = (packet.source_port(), packet.destination_port());
    has_ports
        && source >= rule.source_ports[0]
        && source <= rule.source_ports[1]
        && destination >= rule.destination_ports[0]
        && destination <= rule.destination_ports[1]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::FlowKey;

    fn any() -> FilterRule {
        FilterRule {
            source_ports: [0, u16::MAX],
            destination_ports: [0, u16::MAX],
            any_protocol: 1,
            ..FilterRule::default()
        }
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
        let port = FilterRule { destination_ports: [22, 22], ..any() };
        assert!(matches(&port, &p, 3));
        assert!(!matches(&FilterRule { destination_ports: [23, 99], ..any() }, &p, 3));
        assert!(!matches(&FilterRule { source_ports: [1, 39_999], ..any() }, &p, 3));
        assert!(!matches(&FilterRule { any_protocol: 0, protocol: UDP, ..any() }, &p, 3));
        assert!(!matches(&FilterRule { ifindex: 4, ..any() }, &p, 3));
        assert!(!matches(&FilterRule { version: 6, ..any() }, &p, 3));
        let net = FilterRule { source: addr::from_v4([198, 51, 100, 0]), source_length: 120, ..any() };
        assert!(matches(&net, &p, 3));
        assert!(!matches(&FilterRule { source: addr::from_v4([198, 51, 101, 0]), ..net }, &p, 3));
        assert!(!matches(
            &FilterRule { destination: addr::from_v4([192, 0, 2, 11]), destination_length: 128, ..any() },
            &p,
            3
        ));
    }

    #[test]
    fn ports_are_never_read_where_there_are_none() {
        let port = FilterRule { destination_ports: [22, 22], ..any() };
        assert!(!matches(&port, &Packet { fragment: Fragment::Later, ..packet(TCP) }, 3));
        assert!(!matches(&port, &packet(1), 3));
    }
}
