//! ICMP errors about flows of source NAT (RFC 5508 4): what a router outside says reaches the inside host that it concerns,
//! and the other way round.

use std::net::IpAddr;

use netfast_common::{
    Reason::*,
    Verdict::*,
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    frames::{Frame, Transport, tcp, udp},
    icmp::{about, leaves, translated},
    snat::{EXTERNAL, GATEWAY, echo, from_inside, from_outside, gets_in, in_lan, out, rule},
};

scenarios! {
    errors_from_outside_reach_the_inside_host, errors_from_inside_leave_by_the_external_address,
    errors_about_queries, errors_leave_mappings_alone, errors_about_nobody_s_packets,
}

/// Too big, and time exceeded: type and code, value.
fn kinds(v4: bool) -> [((u8, u8), u32); 2] {
    if v4 { [((3, 4), 1400), ((11, 0), 0)] } else { [((2, 0), 1280), ((3, 0), 0)] }
}

/// An inside host's packet and what left for the outside, for both protocols and IP versions; the flows are confirmed.
fn flows(bed: &mut Bed) -> Vec<(Frame, Frame)> {
    // The external ports differ from the inside ones.
    bed.rules(&rule("ports = \"30000-30999\""));
    let mut flows = Vec::new();
    for (host, server) in [("10.1.0.5:4000", "198.51.100.1:80"), ("[fd01::5]:4000", "[2001:db8:1::1]:80")] {
        let query = from_inside(udp(host, server));
        let sent = out(bed, "query", &query);
        gets_in(bed, "answer", &sent.answer(), query.source, Reply);
        flows.push((query, sent));
        let syn = from_inside(tcp(host, server, SYN));
        let sent = out(bed, "SYN", &syn);
        gets_in(bed, "SYN ACK", &sent.answer().flags(SYN | ACK), syn.source, Reply);
        let data = from_inside(tcp(host, server, ACK));
        let sent = out(bed, "ACK", &data);
        flows.push((data, sent));
    }
    flows
}

fn errors_from_outside_reach_the_inside_host(bed: &mut Bed) {
    in_lan(bed, |bed| {
        for (frame, sent) in flows(bed) {
            assert_ne!(frame.source.port(), sent.source.port());
            for (kind, value) in kinds(frame.source.is_ipv4()) {
                for length in [28 + 20 * usize::from(frame.source.is_ipv6()), 1500] {
                    let error = about(&sent, kind, value, length);
                    // Source NAT hides nothing of what is outside: the router keeps its address.
                    let expected = translated(&error, &frame, error.router, CLIENT_SIDE.1, length);
                    let what = format!("{:?} {kind:?}, {length} bytes inside", frame.transport);
                    leaves(bed, &what, TARGET_SIDE.0, &error, &expected);
                }
            }
        }
    });
}

fn errors_from_inside_leave_by_the_external_address(bed: &mut Bed) {
    in_lan(bed, |bed| {
        for (frame, sent) in flows(bed) {
            let v4 = frame.source.is_ipv4();
            let answer = match sent.transport {
                Transport::Tcp(_) => sent.answer().flags(ACK),
                _ => sent.answer(),
            };
            gets_in(bed, "answer", &answer, frame.source, Reply);
            let inside = answer.forwarded(CLIENT_SIDE.1, frame.from, answer.source, frame.source);
            let closed = if v4 { ((3, 3), 0) } else { ((1, 4), 0) };
            for (kind, value) in kinds(v4).into_iter().chain([closed]) {
                // From a router within the LAN, and from the host itself: nobody outside learns which.
                for router in [None, Some(frame.source.ip())] {
                    let mut error = about(&inside, kind, value, 1500);
                    error.router = router.unwrap_or(error.router);
                    let own: IpAddr = EXTERNAL[usize::from(!v4)].parse().unwrap();
                    let expected = translated(&error, &answer, own, TARGET_SIDE.1, 1500);
                    assert_eq!(GATEWAY, expected.to);
                    leaves(bed, &format!("{kind:?} by {router:?}"), CLIENT_SIDE.0, &error, &expected);
                }
            }
        }
    });
}

/// RFC 5508 REQ-4 and REQ-5 for echo requests: the identifier inside is the inside host's again.
fn errors_about_queries(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule("ports = \"30000-30999\""));
        for (host, server, own, request) in
            [("10.1.0.5", "198.51.100.1", EXTERNAL[0], 8), ("fd01::5", "2001:db8:1::1", EXTERNAL[1], 128)]
        {
            let v4 = request == 8;
            let ping = from_inside(echo(host, server, request, 7));
            let ran = bed.run("ping", CLIENT_SIDE.0, &ping.bytes());
            assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()));
            let at = if v4 { 14 + 20 } else { 14 + 40 };
            let given = u16::from_be_bytes([ran.frame[at + 4], ran.frame[at + 5]]);
            assert_ne!(7, given);
            let sent =
                Frame { from: TARGET_SIDE.1, to: GATEWAY, ttl: 63, ..echo(own, server, request, given) };
            assert_eq!(sent.bytes(), ran.frame);
            for (kind, value) in kinds(v4) {
                let error = about(&sent, kind, value, 1500);
                let expected = translated(&error, &ping, error.router, CLIENT_SIDE.1, 1500);
                leaves(bed, &format!("{kind:?} about a ping"), TARGET_SIDE.0, &error, &expected);
            }
        }
    });
}

/// RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6.
fn errors_leave_mappings_alone(bed: &mut Bed) {
    in_lan(bed, |bed| {
        for (frame, sent) in flows(bed) {
            let state = |bed: &Bed| {
                let (mut flows, mut mappings) =
                    (bed.sandbox.flows().unwrap(), bed.sandbox.mappings().unwrap());
                flows.sort_by_key(|(_, key, _)| *key);
                mappings.sort_by_key(|(key, _)| *key);
                (flows, mappings)
            };
            let before = state(bed);
            let unreachable = if frame.source.is_ipv4() { (3, 1) } else { (1, 3) };
            let error = about(&sent, unreachable, 0, 1500).frame().bytes();
            for _ in 0..3 {
                bed.expect_on("an error", TARGET_SIDE.0, &error, Redirect, IcmpError);
            }
            assert_eq!(before, state(bed));
            assert_eq!(sent.source, out(bed, "it goes on", &frame).source);
        }
    });
}

fn errors_about_nobody_s_packets(bed: &mut Bed) {
    in_lan(bed, |bed| {
        for (frame, sent) in flows(bed) {
            let (kind, value) = kinds(frame.source.is_ipv4())[1];
            let mut other = sent.clone();
            other.source.set_port(sent.source.port() ^ 1);
            let error = about(&other, kind, value, 1500).frame().bytes();
            bed.expect_on("another external port", TARGET_SIDE.0, &error, Pass, NotTcpUdp);
            // A peer of the mapping's that nobody has sent to.
            let mut other = sent.clone();
            other.destination.set_port(81);
            let error = from_outside(about(&other, kind, value, 1500).frame()).bytes();
            bed.expect_on("another peer", TARGET_SIDE.0, &error, Pass, NotTcpUdp);
        }
    });
}
