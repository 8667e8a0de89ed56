use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::{abi::TcpTimeouts, wire::UDP};

const TIMEOUTS: Timeouts = Timeouts {
    udp: 300,
    udp_one_way: 30,
    tcp: TcpTimeouts { opening: 240, established: 7440, closing: 241, reset: 10 },
};

/// Runs segments (direction, flags) through the state machine.
fn run(segments: &[(u8, u8)]) -> State {
    let mut state = State::first(TCP, segments[0].1).expect("opens a flow");
    for (direction, flags) in &segments[1..] {
        state = state.next(*direction, TCP, *flags);
    }
    state
}

#[test]
fn openings() {
    assert_eq!(run(&[(ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, ACK)]), State::Established);
    assert_eq!(
        run(&[(ORIGINAL, SYN), (REPLY, SYN), (ORIGINAL, SYN | ACK), (REPLY, ACK)]),
        State::Established
    );
    assert_eq!(run(&[(ORIGINAL, SYN), (ORIGINAL, SYN)]), State::SynSent);
    assert_eq!(
        run(&[(ORIGINAL, SYN), (ORIGINAL, ACK)]),
        State::SynSent,
        "an ACK out of nowhere confirms nothing"
    );
    for flags in [ACK, SYN | ACK, RST, FIN, SYN | FIN, SYN | RST, 0] {
        assert_eq!(State::first(TCP, flags), None, "{flags:#x}");
    }
    assert_eq!(State::first(UDP, 0), Some(State::OneWay));
}

#[test]
fn closings() {
    let open = [(ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, ACK)];
    let closed = |rest: &[(u8, u8)]| run(&[&open[..], rest].concat());
    assert_eq!(closed(&[(ORIGINAL, FIN | ACK)]), State::ClientClosed);
    assert_eq!(
        closed(&[(ORIGINAL, FIN | ACK), (ORIGINAL, FIN | ACK)]),
        State::ClientClosed,
        "a retransmission"
    );
    assert_eq!(closed(&[(ORIGINAL, FIN | ACK), (REPLY, ACK)]), State::ClientClosed, "half closed");
    assert_eq!(closed(&[(ORIGINAL, FIN | ACK), (REPLY, FIN | ACK), (ORIGINAL, ACK)]), State::BothClosed);
    assert_eq!(closed(&[(REPLY, FIN | ACK), (ORIGINAL, FIN | ACK)]), State::BothClosed);
    assert_eq!(closed(&[(REPLY, RST)]), State::Reset);
}

#[test]
fn udp_becomes_two_way_by_a_reply_only() {
    assert_eq!(State::OneWay.next(ORIGINAL, UDP, 0), State::OneWay);
    assert_eq!(State::OneWay.next(REPLY, UDP, 0), State::TwoWay);
    assert_eq!(State::TwoWay.next(ORIGINAL, UDP, 0), State::TwoWay);
}

#[test]
fn expiry_and_wrap_around() {
    let flow = Flow { state: State::TwoWay as u8, last_seen: u32::MAX - 100, ..Flow::default() };
    assert!(!is_expired(&flow, flow.last_seen.wrapping_add(300), &TIMEOUTS));
    assert!(is_expired(&flow, flow.last_seen.wrapping_add(301), &TIMEOUTS));
    assert!(
        !is_expired(&flow, flow.last_seen.wrapping_sub(1), &TIMEOUTS),
        "a clock a jiffy behind expires nothing"
    );
}

proptest! {
    #[test]
    fn reverse_twice_is_the_same(source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), ports in any::<[u8; 4]>()) {
        let key = FlowKey {
            source, destination, source_port: [ports[0], ports[1]], destination_port: [ports[2], ports[3]],
            protocol: 6, pad: [0; 3],
        };
        prop_assert_eq!(reverse(&reverse(&key)), key);
    }

    #[test]
    fn candidates_stay_in_range_and_differ(hash in any::<u32>(), low in 1u32..60_000, width in 0u32..5_000) {
        let high = low + width;
        let ports: Vec<u16> = (0..PORT_TRIES).map(|i| port_candidate(hash, i, low, high)).collect();
        for port in &ports {
            prop_assert!((low..=high).contains(&u32::from(*port)));
        }
        let distinct: HashSet<_> = ports.iter().collect();
        prop_assert_eq!(distinct.len() as u32, PORT_TRIES.min(width + 1));
    }

    #[test]
    fn every_stored_number_is_a_state(number in any::<u8>()) {
        let state = State::from_number(number);
        if number <= 8 { prop_assert_eq!(state as u8, number); }
    }
}
