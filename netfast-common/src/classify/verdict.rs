//! Which verdicts on packets of no flow may stand in the flow cache.
//!
//! A line acts on all plain packets of a tuple (UDP, and TCP segments with ACK and without SYN, FIN and RST) until its rule
//! set is replaced or some seconds are over. So the verdict may depend on nothing else, and the tuple must not become a
//! flow's meanwhile, in either direction.

use super::is_plain_segment;
use crate::{
    abi::{FILTER_NAT, FILTER_PLACES, FILTER_TCP_ANY, FILTER_TCP_VARIES, FILTER_VERDICTS},
    wire::{Packet, TCP},
};

/// Whether the verdict on `packet`, a whole packet with ports, may be cached. `rules`: the rule set's `filter_flags`;
/// `drops`: the filter drops it, else it goes to the kernel, since no service wants it; `nat`: first and last port that
/// forwards in mode `nat` take; `service` says whether a service is at its destination.
#[inline(always)]
pub fn keeps(
    rules: u32,
    packet: &Packet,
    drops: bool,
    nat: [u32; 2],
    service: impl FnOnce() -> bool,
) -> bool {
    if rules & FILTER_VERDICTS == 0 {
        return false;
    }
    if packet.key.protocol == TCP {
        // Where flags decide, a segment may be dropped and yet the one that opens the connection allowed.
        let unlike = if drops { FILTER_TCP_ANY } else { FILTER_TCP_VARIES };
        if rules & unlike != 0 || !is_plain_segment(packet.flags) {
            return false;
        }
    }
    let port = packet.destination_port() as u32;
    // Answers to flows of such forwards come to these ports.
    if rules & FILTER_NAT != 0 && port >= nat[0] && port <= nat[1] {
        return false;
    }
    // Dropped here and allowed elsewhere: a flow may come to be there, and its packets may come here.
    !(drops && rules & FILTER_PLACES != 0 && service())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ACK, SYN, UDP};

    fn packet(protocol: u8, flags: u8, port: u16) -> Packet {
        let mut packet = Packet { flags, ..Packet::default() };
        packet.key.protocol = protocol;
        packet.key.destination_port = port.to_be_bytes();
        packet
    }

    fn kept(rules: u32, packet: &Packet, drops: bool) -> bool {
        keeps(rules, packet, drops, [20_000, 30_000], || true)
    }

    #[test]
    fn what_may_be_an_answer_is_not_cached() {
        let to = |port| packet(UDP, 0, port);
        for (rules, port, expected) in [
            (0, 53, false),
            (FILTER_VERDICTS, 53, true),
            (FILTER_VERDICTS, 25_000, true),
            (FILTER_VERDICTS | FILTER_NAT, 19_999, true),
            (FILTER_VERDICTS | FILTER_NAT, 20_000, false),
            (FILTER_VERDICTS | FILTER_NAT, 30_000, false),
            (FILTER_VERDICTS | FILTER_NAT, 30_001, true),
        ] {
            for drops in [false, true] {
                assert_eq!(expected, kept(rules, &to(port), drops), "{rules} {port} {drops}");
            }
        }
    }

    #[test]
    fn where_flags_decide_segments_are_not_cached() {
        let (data, opening) = (packet(TCP, ACK, 80), packet(TCP, SYN, 80));
        assert!(kept(FILTER_VERDICTS, &data, true) && kept(FILTER_VERDICTS, &data, false));
        assert!(!kept(FILTER_VERDICTS, &opening, true) && !kept(FILTER_VERDICTS, &opening, false));
        let any = FILTER_VERDICTS | FILTER_TCP_ANY;
        assert!(!kept(any, &data, true) && kept(any, &data, false));
        assert!(!kept(any | FILTER_TCP_VARIES, &data, false));
        assert!(kept(any | FILTER_TCP_VARIES, &packet(UDP, 0, 80), true));
    }

    #[test]
    fn what_is_dropped_at_one_place_is_not_cached_for_services() {
        let (rules, to) = (FILTER_VERDICTS | FILTER_PLACES, packet(UDP, 0, 80));
        assert!(!keeps(rules, &to, true, [1, 1], || true));
        assert!(keeps(rules, &to, true, [1, 1], || false));
        assert!(keeps(rules, &to, false, [1, 1], || true));
    }
}
