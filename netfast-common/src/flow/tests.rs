use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::{abi::TcpTimeouts, wire::UDP};

const TIMEOUTS: Timeouts = Timeouts {
    udp: 300,
    udp_one_way: 120,
    icmp: 60,
    tcp: TcpTimeouts { opening: 240, established: 7440, half_closed: 7441, closing: 241, reset: 242 },
};

/// Runs segments (direction, flags) through the state machine. The client acknowledges what the target has sent.
fn run(segments: &[(u8, u8)]) -> State {
    let mut state = State::first(TCP, segments[0].1).expect("opens a flow");
    for (direction, flags) in &segments[1..] {
        state = state.next(*direction, TCP, *flags, *direction == ORIGINAL);
    }
    state
}

/// As [`run`], after a handshake.
fn after(segments: &[(u8, u8)]) -> State {
    run(&[&[(ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, ACK)], segments].concat())
}

/// RFC 9293 3.5, figures 6 to 9; RFC 7413 for data on the SYN.
#[test]
fn openings() {
    let psh = 0x08;
    for (what, segments) in [
        ("basic", vec![(ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, ACK)]),
        ("simultaneous", vec![(ORIGINAL, SYN), (REPLY, SYN), (ORIGINAL, SYN | ACK), (REPLY, SYN | ACK)]),
        (
            "simultaneous, to its end",
            vec![(ORIGINAL, SYN), (REPLY, SYN), (ORIGINAL, SYN | ACK), (REPLY, ACK)],
        ),
        (
            "simultaneous, both SYN ACKs cross",
            vec![(ORIGINAL, SYN), (REPLY, SYN), (REPLY, SYN | ACK), (ORIGINAL, SYN | ACK)],
        ),
        ("SYN sent again", vec![(ORIGINAL, SYN), (ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, ACK)]),
        (
            "SYN ACK sent again",
            vec![
                (ORIGINAL, SYN),
                (REPLY, SYN | ACK),
                (REPLY, SYN | ACK),
                (ORIGINAL, ACK),
                (REPLY, SYN | ACK),
            ],
        ),
        (
            "data on the SYN, answered at once",
            vec![(ORIGINAL, SYN | psh), (REPLY, SYN | ACK), (REPLY, ACK | psh), (ORIGINAL, ACK)],
        ),
        ("the first ACK has data", vec![(ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, ACK | psh)]),
        (
            "a half-open connection is found (figure 10): ACK, RST, SYN again",
            vec![
                (ORIGINAL, SYN),
                (REPLY, ACK),
                (ORIGINAL, RST),
                (ORIGINAL, SYN),
                (REPLY, SYN | ACK),
                (ORIGINAL, ACK),
            ],
        ),
        (
            "an old duplicate SYN (figure 9): SYN ACK, RST, the right SYN",
            vec![
                (ORIGINAL, SYN),
                (REPLY, SYN | ACK),
                (ORIGINAL, RST),
                (ORIGINAL, SYN),
                (REPLY, SYN | ACK),
                (ORIGINAL, ACK),
            ],
        ),
        ("with ECN", vec![(ORIGINAL, SYN | 0xc0), (REPLY, SYN | ACK | 0x40), (ORIGINAL, ACK)]),
    ] {
        assert_eq!(State::Established, run(&segments), "{what}");
    }
    assert_eq!(
        State::SynSent,
        run(&[(ORIGINAL, SYN), (ORIGINAL, ACK)]),
        "an ACK out of nowhere confirms nothing"
    );
    let blind = State::SynReceived.next(ORIGINAL, TCP, ACK, false);
    assert_eq!(State::SynReceived, blind, "nor does one that acknowledges something else");
    for flags in [ACK, SYN | ACK, RST, FIN, SYN | FIN, SYN | RST, 0] {
        assert_eq!(None, State::first(TCP, flags), "{flags:#x}");
    }
    assert_eq!(Some(State::OneWay), State::first(UDP, 0));
}

#[test]
fn a_refused_opening_is_not_confirmed_and_may_go_on() {
    for direction in [ORIGINAL, REPLY] {
        let refused = run(&[(ORIGINAL, SYN), (direction, RST)]);
        assert_eq!(State::Refused, refused);
        assert!(!refused.is_confirmed(), "a SYN and a RST, both forged, would fill the table");
    }
    assert_eq!(State::Refused, run(&[(ORIGINAL, SYN), (REPLY, RST), (ORIGINAL, ACK), (REPLY, ACK)]));
    assert_eq!(
        State::SynSent,
        run(&[(ORIGINAL, SYN), (REPLY, RST), (ORIGINAL, SYN)]),
        "the client tries again"
    );
    assert_eq!(State::SynReceived, run(&[(ORIGINAL, SYN), (REPLY, RST), (REPLY, SYN | ACK)]), "forged");
    assert_eq!(State::SynReceived, run(&[(ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, RST)]));
    assert_eq!(
        State::Established,
        run(&[(ORIGINAL, SYN), (REPLY, SYN | ACK), (REPLY, RST), (ORIGINAL, ACK)]),
        "a RST was forged while the client's ACK was under way"
    );
}

#[test]
fn closings() {
    for (expected, segments) in [
        (State::ClientClosed, vec![(ORIGINAL, FIN | ACK)]),
        (State::ClientClosed, vec![(ORIGINAL, FIN | ACK), (ORIGINAL, FIN | ACK)]),
        (State::ClientClosed, vec![(ORIGINAL, FIN | ACK), (REPLY, ACK), (REPLY, ACK), (ORIGINAL, ACK)]),
        (State::TargetClosed, vec![(REPLY, FIN | ACK), (ORIGINAL, ACK), (ORIGINAL, ACK), (REPLY, ACK)]),
        (State::BothClosed, vec![(ORIGINAL, FIN | ACK), (REPLY, FIN | ACK), (ORIGINAL, ACK)]),
        (State::BothClosed, vec![(REPLY, FIN | ACK), (ORIGINAL, FIN | ACK), (REPLY, ACK)]),
        (
            State::BothClosed,
            vec![(ORIGINAL, FIN | ACK), (REPLY, FIN | ACK), (ORIGINAL, FIN | ACK), (REPLY, ACK)],
        ),
        (State::BothClosed, vec![(ORIGINAL, FIN | ACK), (ORIGINAL, RST)]),
        (State::BothClosed, vec![(ORIGINAL, FIN | ACK), (REPLY, FIN | ACK), (REPLY, RST), (ORIGINAL, ACK)]),
        (State::Reset, vec![(REPLY, RST)]),
        (State::Reset, vec![(ORIGINAL, RST | ACK), (REPLY, RST)]),
    ] {
        assert_eq!(expected, after(&segments), "{segments:?}");
    }
    let early = [(ORIGINAL, SYN), (REPLY, SYN | ACK), (REPLY, FIN | ACK)];
    assert_eq!(State::TargetClosedEarly, run(&early), "data on the SYN, answered and closed");
    assert!(!run(&early).is_confirmed());
    assert_eq!(State::TargetClosed, run(&[&early[..], &[(ORIGINAL, ACK)]].concat()));
    assert_eq!(State::BothClosed, run(&[&early[..], &[(ORIGINAL, FIN | ACK)]].concat()));
}

/// RFC 7857 2.2, RFC 6146 3.5.2.2, RFC 5961 3.
#[test]
fn a_reset_is_taken_back_when_traffic_goes_on() {
    for forger in [ORIGINAL, REPLY] {
        for next in [ORIGINAL, REPLY] {
            assert_eq!(State::Established, after(&[(forger, RST), (next, ACK)]), "data, or a challenge ACK");
            assert_eq!(State::Reset, after(&[(forger, RST), (next, RST)]));
        }
        assert_eq!(State::ClientClosed, after(&[(forger, RST), (ORIGINAL, FIN | ACK)]));
        assert_eq!(State::TargetClosed, after(&[(forger, RST), (REPLY, FIN | ACK)]));
    }
    let forged = [(REPLY, RST), (ORIGINAL, SYN), (REPLY, ACK)];
    assert_eq!(State::Reopened, after(&forged), "the target answers a SYN in its window by a challenge ACK");
    assert_eq!(
        State::Established,
        after(&[&forged[..], &[(ORIGINAL, ACK)]].concat()),
        "the client has sent no SYN"
    );
}

/// RFC 9293 3.6.1, RFC 6191.
#[test]
fn a_closed_five_tuple_is_opened_anew() {
    let closed = [(ORIGINAL, FIN | ACK), (REPLY, FIN | ACK), (ORIGINAL, ACK)];
    for end in [&closed[..], &[(REPLY, RST)]] {
        assert!(after(end).may_reopen());
        let with = |rest: &[(u8, u8)]| after(&[end, &[(ORIGINAL, SYN)], rest].concat());
        assert_eq!(State::Reopened, with(&[]));
        assert_eq!(State::Reopened, with(&[(ORIGINAL, SYN)]), "sent again");
        assert_eq!(State::SynReceived, with(&[(REPLY, SYN | ACK)]));
        assert_eq!(State::Established, with(&[(REPLY, SYN | ACK), (ORIGINAL, ACK)]));
        assert_eq!(State::Reset, with(&[(REPLY, RST)]));
        assert_eq!(
            State::Reopened,
            with(&[(REPLY, ACK)]),
            "the target still waits: the client's RST follows"
        );
        assert_eq!(
            State::Established,
            with(&[(REPLY, ACK), (ORIGINAL, RST), (ORIGINAL, SYN), (REPLY, SYN | ACK), (ORIGINAL, ACK)])
        );
        assert_eq!(after(end), after(&[end, &[(REPLY, SYN)]].concat()), "a target opens nothing");
    }
    for open in [&[][..], &[(ORIGINAL, FIN | ACK)], &[(REPLY, FIN | ACK)]] {
        assert_eq!(
            after(open),
            after(&[open, &[(ORIGINAL, SYN)]].concat()),
            "an open one is not opened anew"
        );
    }
}

#[test]
fn acknowledgements_of_a_target_s_syn() {
    for syn in [0, 1000, u32::MAX - 1, u32::MAX] {
        for (bytes, expected) in
            [(0, false), (1, true), (EARLY_BYTES, true), (EARLY_BYTES + 1, false), (u32::MAX, false)]
        {
            assert_eq!(expected, acknowledges(syn.wrapping_add(bytes), syn), "{syn} + {bytes}");
        }
    }
}

#[test]
fn udp_becomes_two_way_by_a_reply_only() {
    assert_eq!(State::OneWay.next(ORIGINAL, UDP, 0, false), State::OneWay);
    assert_eq!(State::OneWay.next(REPLY, UDP, 0, false), State::TwoWay);
    assert_eq!(State::TwoWay.next(ORIGINAL, UDP, 0, false), State::TwoWay);
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

/// What has been seen of a connection: the state machine as a history instead of as states.
#[derive(Clone, Copy, Debug, Default)]
struct History {
    target_syn: bool,
    confirmed: bool,
    fins: [bool; 2],
    reset: bool,
    reopened: bool,
}

impl History {
    fn is_over(&self) -> bool {
        self.confirmed && (self.fins == [true; 2] || self.reset)
    }

    fn see(&mut self, direction: u8, flags: u8, acknowledges: bool) {
        let client = direction == ORIGINAL;
        let has = |flag| flags & flag != 0;
        if has(RST) {
            if self.confirmed || !self.target_syn {
                // One that nobody but the forger knows of changes nothing while the handshake is under way.
                self.reset = true;
            }
            if self.reopened && !self.target_syn {
                *self = Self { confirmed: true, reset: true, ..Self::default() };
            }
            return;
        }
        if has(SYN) && self.is_over() {
            if client && !has(ACK) {
                *self = Self { reopened: true, ..Self::default() };
            }
            return;
        }
        if has(SYN) && !self.confirmed && !client {
            (self.target_syn, self.reset) = (true, false);
            return;
        }
        if has(SYN) && !has(ACK) {
            self.reset &= self.confirmed;
            return;
        }
        if self.confirmed {
            if has(SYN) || self.is_over() && !(self.reset && self.fins == [false; 2]) {
                return;
            }
            self.reset = false;
            self.fins[usize::from(direction)] |= has(FIN);
        } else if client && self.target_syn && acknowledges {
            self.confirmed = true;
            self.fins[0] |= has(FIN);
        } else if !client && self.target_syn && has(FIN) {
            self.fins[1] = true;
        } else if client && self.reopened && !self.target_syn && flags & (SYN | FIN) == 0 {
            *self = Self { confirmed: true, ..Self::default() };
        }
    }

    fn state(&self) -> State {
        match (self.confirmed, self.fins) {
            (true, [false, false]) if self.reset => State::Reset,
            (true, [true, true]) => State::BothClosed,
            (true, _) if self.reset => State::BothClosed,
            (true, [false, false]) => State::Established,
            (true, [true, false]) => State::ClientClosed,
            (true, [false, true]) => State::TargetClosed,
            (false, [_, true]) => State::TargetClosedEarly,
            (false, _) if self.target_syn => State::SynReceived,
            (false, _) if self.reset => State::Refused,
            (false, _) if self.reopened => State::Reopened,
            (false, _) => State::SynSent,
        }
    }
}

/// Segments at random: direction, flags, whether it acknowledges the target's SYN.
fn segments(length: usize) -> impl Strategy<Value = Vec<(u8, u8, bool)>> {
    let flags =
        prop::sample::select(vec![SYN, SYN | ACK, ACK, ACK, ACK | 8, FIN | ACK, FIN | ACK, RST, RST | ACK]);
    prop::collection::vec((0u8..2, flags, any::<bool>()), 0..length)
}

#[test]
fn one_way_flows_go_by_what_the_client_says() {
    use State::*;
    let cases: &[(&[u8], &[State])] = &[
        (
            &[SYN, SYN, ACK, ACK, FIN | ACK, ACK],
            &[SynSent, SynSent, Established, Established, BothClosed, BothClosed],
        ),
        (&[SYN, RST, RST | ACK], &[SynSent, Refused, Refused]),
        (&[ACK, RST, ACK, SYN, FIN], &[Established, Reset, Established, Established, BothClosed]),
        (&[FIN | ACK, RST, FIN], &[BothClosed, Reset, BothClosed]),
        (&[RST, ACK], &[Reset, Established]),
    ];
    for (flags, states) in cases {
        let mut state = State::first_direct(TCP, flags[0]);
        let mut seen = vec![state];
        for flags in &flags[1..] {
            state = state.next_direct(TCP, *flags);
            seen.push(state);
        }
        assert_eq!(*states, seen, "{flags:?}");
    }
    assert_eq!((OneWay, Lasting), (State::first_direct(UDP, 0), OneWay.next_direct(UDP, 0)));
    assert!(Lasting.is_confirmed() && !OneWay.is_confirmed());
    assert_eq!(Lasting, Lasting.next_direct(UDP, 0));
}

/// Hashes next to 2^32, where a sum that wraps would start the steps anew at ports that were tried before.
#[test]
fn candidates_of_the_largest_hashes_differ() {
    for width in 0..2000 {
        for hash in [u32::MAX, u32::MAX - 7919, 4_294_721_807] {
            let ports: HashSet<_> = (0..PORT_TRIES).map(|i| port_candidate(hash, i, 1, 1 + width)).collect();
            assert_eq!(PORT_TRIES.min(width + 1), ports.len() as u32, "hash {hash}, {width} + 1 ports");
        }
    }
}

/// Ports in use do not lie in the way of those who look for a free one: with five of six in use hardly anybody finds none in
/// [`PORT_TRIES`] tries, as if each try were drawn anew. Steps that are the same for all
/// flows refuse about a hundred here.
#[test]
fn ports_are_found_while_there_are_some() {
    const PORTS: u32 = 12_768;
    let (mut used, mut refused, mut hash) = (HashSet::new(), 0, 1u32);
    while used.len() < PORTS as usize * 5 / 6 {
        // Steele and Vigna's multiplier: any sequence that is equally distributed will do.
        hash = hash.wrapping_mul(0x915f_77f5).wrapping_add(1);
        let hash = hash ^ hash >> 15;
        let free = (0..PORT_TRIES)
            .map(|i| port_candidate(hash, i, 20_000, 20_000 + PORTS - 1))
            .find(|port| !used.contains(port));
        match free {
            Some(port) => drop(used.insert(port)),
            None => refused += 1,
        }
    }
    assert!(refused < 10, "{refused} of {} found no port", used.len() + refused);
}

#[test]
fn who_gives_way() {
    const HZ: u32 = 1;
    const LINES: u32 = 17;
    let after = |state: State, idle: u32| {
        let flow = Flow { state: state as u8, last_seen: u32::MAX - 2, ..Flow::default() };
        gives_way(&flow, flow.last_seen.wrapping_add(idle), LINES, HZ, &TIMEOUTS)
    };
    // Idle time up to which each keeps its port.
    for (state, keeps) in [
        (State::SynSent, 2),
        (State::SynReceived, 2),
        (State::TargetClosedEarly, 2),
        (State::Refused, 2),
        (State::Reopened, LINES),
        (State::BothClosed, LINES),
        (State::Reset, TIMEOUTS.tcp.reset),
        (State::Established, TIMEOUTS.tcp.established),
        (State::ClientClosed, TIMEOUTS.tcp.half_closed),
        (State::TargetClosed, TIMEOUTS.tcp.half_closed),
        (State::OneWay, TIMEOUTS.udp_one_way),
        (State::TwoWay, TIMEOUTS.udp),
    ] {
        assert!(!after(state, 0) && !after(state, keeps), "{state:?}");
        assert!(after(state, keeps + 1), "{state:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn states_tell_what_was_seen(segments in segments(30)) {
        let (mut state, mut history) = (State::SynSent, History::default());
        for (at, (direction, flags, acknowledges)) in segments.iter().enumerate() {
            state = state.next(*direction, TCP, *flags, *acknowledges);
            history.see(*direction, *flags, *acknowledges);
            prop_assert_eq!(history.state(), state, "after segment {} of {:?}: {:?}", at, segments, history);
        }
    }

    /// Who does not see the target's answers gets no flow confirmed.
    #[test]
    fn blind_segments_confirm_nothing(segments in segments(30)) {
        let mut state = State::SynSent;
        for (direction, flags, _) in segments {
            state = state.next(direction, TCP, flags, false);
            prop_assert!(!state.is_confirmed(), "{:?}", state);
        }
    }

    /// Whoever forges SYNs and RSTs into an established flow: one exchange of the two that it is between, and it is as
    /// long-lived as before; and it is never gone.
    #[test]
    fn an_established_flow_outlives_forgeries(forged in segments(10)) {
        let mut state = State::Established;
        for (direction, flags, acknowledges) in forged {
            // A target's SYN would make it look like a new connection; data and FIN are not what this is about.
            if flags & (SYN | RST) == 0 || (direction == REPLY && flags & SYN != 0) {
                continue;
            }
            state = state.next(direction, TCP, flags, acknowledges);
            prop_assert!(state.timeout(&TIMEOUTS) >= 240, "{:?}", state);
        }
        state = state.next(REPLY, TCP, ACK, false).next(ORIGINAL, TCP, ACK, true);
        prop_assert_eq!(State::Established, state);
    }

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
        if number <= 14 { prop_assert_eq!(state as u8, number); }
    }
}

/// What becomes of flows by the state of their target, under older rules and under the same.
#[test]
fn fates() {
    const LEAVES: u8 = TARGET_LEAVES;
    const ENDS: u8 = TARGET_LEAVES | TARGET_ENDS;
    let tcp = |target, flags, state, older| fate(target, ORIGINAL, TCP, flags, state, older);
    for older in [false, true] {
        for state in [State::SynSent, State::Established, State::ClientClosed, State::BothClosed] {
            for flags in [ACK, RST, FIN | ACK, SYN | ACK] {
                assert_eq!(Fate::Stays, tcp(0, flags, state, older));
                assert_eq!(Fate::Stays, tcp(LEAVES, flags, state, older));
                assert_eq!(Fate::Ends, tcp(ENDS, flags, state, older));
                assert_eq!(Fate::Ends, fate(ENDS, REPLY, TCP, flags, state, older));
            }
            assert_eq!(Fate::Moves, tcp(ENDS, SYN, state, older), "{state:?}");
            assert_eq!(Fate::Stays, fate(LEAVES, REPLY, TCP, SYN | ACK, state, older));
        }
        assert_eq!(Fate::Stays, tcp(0, SYN, State::SynSent, older), "sent again");
        assert_eq!(Fate::Moves, tcp(LEAVES, SYN, State::SynSent, older));
        assert_eq!(Fate::Moves, tcp(LEAVES, SYN, State::SynReceived, older));
        assert_eq!(Fate::Stays, tcp(LEAVES, SYN, State::Established, older), "the target answers it");
        assert_eq!(Fate::Moves, tcp(LEAVES, SYN, State::BothClosed, older));
        let reopened = if older { Fate::Moves } else { Fate::Stays };
        assert_eq!(reopened, tcp(0, SYN, State::BothClosed, older));
        for protocol in [UDP, 1] {
            for target in [0, LEAVES] {
                assert_eq!(Fate::Stays, fate(target, ORIGINAL, protocol, SYN, State::TwoWay, older));
                assert_eq!(Fate::Stays, fate(target, REPLY, protocol, SYN, State::TwoWay, older));
            }
            assert_eq!(Fate::Moves, fate(ENDS, ORIGINAL, protocol, SYN, State::TwoWay, older));
            assert_eq!(Fate::Fades, fate(ENDS, REPLY, protocol, SYN, State::TwoWay, older));
        }
    }
}
