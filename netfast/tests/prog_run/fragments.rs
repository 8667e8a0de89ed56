//! Fragments that follow the flow of their first one.

use std::net::SocketAddr;

use netfast::datapath::sandbox::mac_of;
use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::{Policy, PolicyClass},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, Case, TARGET_SIDE},
    forward::forward,
    frames::{Extension, Frame, socket, udp},
};

// Not in the list of scenarios whose frames scapy checks: the checksum of a datagram in parts stands in the first one.
mod tests {
    use crate::bed::run;

    #[test]
    fn datagrams_in_parts_follow_their_flow() {
        run(super::datagrams_in_parts_follow_their_flow);
    }

    #[test]
    fn parts_without_a_first_one() {
        run(super::parts_without_a_first_one);
    }

    #[test]
    fn parts_of_nobody_s_datagrams() {
        run(super::parts_of_nobody_s_datagrams);
    }
}

const SIZE: usize = 3000;
const PART: usize = 1400;

fn follow(bed: &mut Bed) {
    bed.sandbox.configure(|settings| settings.policies[PolicyClass::Fragment as usize] = Policy::Accept);
    bed.rules(&format!(
        "{}{}",
        forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:5353"),
        forward("dns6", "udp", "[2001:db8::10]:53", "nat", "[fd00::53]:5353")
    ));
}

/// What stands behind the IP header of a datagram without options.
fn body(frame: &Frame) -> Vec<u8> {
    frame.bytes()[if frame.source.is_ipv4() { 34 } else { 54 }..].to_vec()
}

/// The datagram in parts.
pub fn parts(whole: &Frame) -> Vec<Frame> {
    let body = body(whole);
    let count = body.len().div_ceil(PART);
    body.chunks(PART)
        .enumerate()
        .map(|(number, part)| {
            let (offset, more) = ((number * PART / 8) as u16, number + 1 < count);
            let part = whole.protocol(17).payload(part);
            if whole.source.is_ipv4() {
                Frame { fragment: Some((offset, more)), ..part }
            } else {
                part.extended(&[Extension::Fragment(offset, more)])
            }
        })
        .collect()
}

/// Sends the parts; returns what arrives, put together.
#[track_caller]
fn pass(bed: &mut Bed, on: u32, whole: &Frame, reason: netfast_common::Reason) -> Vec<u8> {
    let mut arrived = Vec::new();
    for (number, part) in parts(whole).into_iter().enumerate() {
        let ran = bed.run(&format!("part {number}"), on, &part.bytes());
        assert_eq!((Some(Redirect), Some(reason)), (ran.verdict(), ran.reason()), "part {number}");
        assert_eq!(part.ttl - 1, ran.frame[if whole.source.is_ipv4() { 22 } else { 21 }]);
        arrived.extend(&ran.frame[if whole.source.is_ipv4() { 34 } else { 62 }..]);
    }
    arrived
}

/// Both ways and both versions: put together it is what a whole datagram would have become, checksum included.
fn datagrams_in_parts_follow_their_flow(bed: &mut Bed) {
    follow(bed);
    for (query, target, own) in [
        (udp("198.51.100.1:4050", "192.0.2.10:53"), "10.0.0.53:5353", "10.0.0.1"),
        (udp("[2001:db8:1::1]:4050", "[2001:db8::10]:53"), "[fd00::53]:5353", "fd00::1"),
    ] {
        let target = socket(target);
        let query = query.payload(&(0..SIZE).map(|i| i as u8).collect::<Vec<_>>());
        let arrived = pass(bed, CLIENT_SIDE.0, &query, Forwarded);
        let source = SocketAddr::new(own.parse().unwrap(), u16::from_be_bytes([arrived[0], arrived[1]]));
        let sent = query.forwarded(TARGET_SIDE.1, mac_of(target.ip()), source, target);
        assert_eq!(body(&sent), arrived);
        let answer = sent.answer().payload(&[7; SIZE]);
        let arrived = pass(bed, TARGET_SIDE.0, &answer, Reply);
        let expected = answer.forwarded(CLIENT_SIDE.1, query.from, query.destination, query.source);
        assert_eq!(body(&expected), arrived);
        let again = pass(bed, CLIENT_SIDE.0, &query, Forwarded);
        assert_eq!(body(&sent), again, "the flow is known now");
    }
}

fn parts_without_a_first_one(bed: &mut Bed) {
    follow(bed);
    let query = udp("198.51.100.1:4051", "192.0.2.10:53").payload(&[1; SIZE]);
    let parts = parts(&query);
    bed.expect("a later part before the first one", &parts[1], Pass, FragmentUnknown);
    bed.expect("the first one", &parts[0], Redirect, Forwarded);
    bed.expect("now", &parts[1], Redirect, Forwarded);
    bed.expect("without a TTL to spend", &Frame { ttl: 1, ..parts[2].clone() }, Drop, TtlExpired);
    follow(bed);
    bed.expect("decided under other rules", &parts[2], Pass, FragmentUnknown);
    let v6 = udp("[2001:db8:1::1]:4051", "[2001:db8::10]:53").payload(&[1; SIZE]);
    bed.expect("IPv6", &self::parts(&v6)[1], Pass, FragmentUnknown);
}

fn parts_of_nobody_s_datagrams(bed: &mut Bed) {
    follow(bed);
    let other = parts(&udp("198.51.100.1:4052", "192.0.2.10:9999").payload(&[1; SIZE]));
    let cases: Vec<Case> = vec![
        ("the first one", other[0].bytes(), Pass, NoService),
        ("the second one", other[1].bytes(), Pass, FragmentUnknown),
        ("the last one", other[2].bytes(), Pass, FragmentUnknown),
    ];
    bed.table(&cases);
}
