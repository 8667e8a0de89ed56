//! Packets of one flow that come in on two CPUs at the same moment.

use std::collections::HashMap;

use netfast_common::{
    flow::{ORIGINAL, State},
    wire::{ACK, FIN, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    frames::{tcp, udp},
    tracking::{DNS, WEB, rules},
};

scenarios! {
    both_ends_close_at_once, a_target_closes_while_the_handshake_ends, a_client_sends_on_while_its_flow_is_confirmed,
    a_flow_that_begins_on_two_cpus_is_one,
}

/// Flows of which two packets come at once.
const CROSSED: u16 = 2_000;
/// `enum xdp_action`.
const XDP_REDIRECT: u32 = 4;

/// A client of its own for each number below [`CROSSED`]: addresses enough, so that none exceeds its quota of new flows.
fn client(number: u16) -> String {
    format!("198.51.100.{}:{}", 1 + number % 200, 10_000 + number)
}

/// Runs the frames of two sides on two CPUs, the n-th of both at once. Returns how many of each were sent on, and how many flows there
/// are then, by whether they are confirmed and by state.
fn at_once(bed: &Bed, sides: [(u32, Vec<Vec<u8>>); 2]) -> ([usize; 2], HashMap<(bool, u8), u16>) {
    let [one, other] = &sides;
    let actions = bed.sandbox.race([(one.0, &one.1), (other.0, &other.1)]).unwrap();
    let sent = actions.map(|side| side.iter().filter(|action| **action == XDP_REDIRECT).count());
    let mut states = HashMap::new();
    for (confirmed, _, flow) in bed.sandbox.flows().unwrap() {
        if flow.direction == ORIGINAL {
            *states.entry((confirmed, flow.state)).or_default() += 1;
        }
    }
    (sent, states)
}

/// All of both sides' packets went on, and all flows are in one state.
fn all(confirmed: bool, state: State) -> ([usize; 2], HashMap<(bool, u8), u16>) {
    ([CROSSED.into(); 2], HashMap::from([((confirmed, state as u8), CROSSED)]))
}

/// What becomes of connections whose client sends a segment with `flags[0]` when its target sends one with `flags[1]`. `done`: after
/// the handshake, else before its last segment.
fn cross(bed: &mut Bed, done: bool, flags: [u8; 2]) -> ([usize; 2], HashMap<(bool, u8), u16>) {
    bed.rules(&rules());
    let mut sides = [(CLIENT_SIDE.0, Vec::new()), (TARGET_SIDE.0, Vec::new())];
    for number in 0..CROSSED {
        let syn = tcp(&client(number), WEB.0, SYN);
        let sent = bed.nat("SYN", &syn, WEB.1);
        bed.replied("SYN ACK", &syn, &sent.answer().flags(SYN | ACK));
        if done {
            bed.nat("ACK", &syn.flags(ACK), WEB.1);
        }
        sides[0].1.push(syn.flags(flags[0]).bytes());
        sides[1].1.push(sent.answer().flags(flags[1]).bytes());
    }
    at_once(bed, sides)
}

/// Each CPU reads the state before the other one has written what it makes of it. Neither FIN may be lost, or the flow waits for
/// what has come.
fn both_ends_close_at_once(bed: &mut Bed) {
    assert_eq!(all(true, State::BothClosed), cross(bed, true, [FIN | ACK, FIN | ACK]));
}

/// One CPU notes the FIN in the entry of the half-open flow while the other one copies that to the table of confirmed flows.
fn a_target_closes_while_the_handshake_ends(bed: &mut Bed) {
    assert_eq!(all(true, State::TargetClosed), cross(bed, false, [ACK, FIN | ACK]));
}

/// One CPU looks for the flow while the other one moves it from one table to the other: it must not be taken for a new one.
fn a_client_sends_on_while_its_flow_is_confirmed(bed: &mut Bed) {
    bed.rules(&rules());
    let mut sides = [(CLIENT_SIDE.0, Vec::new()), (TARGET_SIDE.0, Vec::new())];
    for number in 0..CROSSED {
        let query = udp(&client(number), DNS.0);
        let sent = bed.nat("query", &query, DNS.1);
        sides[0].1.push(query.bytes());
        sides[1].1.push(sent.answer().bytes());
    }
    assert_eq!(all(true, State::TwoWay), at_once(bed, sides));
}

/// The same new flow on two CPUs: there is one flow, and at least one packet of it goes on.
fn a_flow_that_begins_on_two_cpus_is_one(bed: &mut Bed) {
    bed.rules(&rules());
    let queries: Vec<_> = (0..CROSSED).map(|number| udp(&client(number), DNS.0).bytes()).collect();
    let (sent, states) = at_once(bed, [(CLIENT_SIDE.0, queries.clone()), (CLIENT_SIDE.0, queries)]);
    assert_eq!(HashMap::from([((false, State::OneWay as u8), CROSSED)]), states, "{sent:?} were sent on");
    assert!(sent.iter().sum::<usize>() >= CROSSED.into(), "{sent:?}");
}
