//! Modes `dsr` and `ipip`: which target a flow has and keeps, MTUs, ICMP errors, parts of datagrams.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use netfast::datapath::sandbox::mac_of;
use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::{InterfaceAddress, NextHop, Policy, PolicyClass},
    addr,
    flow::State,
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    direct::{relayed, tunnelled, unwrapped},
    forward::forward,
    fragments::parts,
    frames::{Frame, Mac, tcp, udp},
    icmp::about,
};

scenarios! {
    a_flow_keeps_its_target, states_of_one_way_flows, a_flow_that_is_over_chooses_anew, mid_flow_segments_need_no_entry,
    too_large_for_the_tunnel, errors_about_answers_go_to_the_target, a_tunnel_s_path_mtu_is_learned, jumbo_frames_go_on,
}

// Not in the list of scenarios whose frames scapy checks: see `fragments`; and one that makes many frames.
mod tests_apart {
    use crate::bed::run;

    #[test]
    fn datagrams_in_parts_go_to_one_target() {
        run(super::datagrams_in_parts_go_to_one_target);
    }

    #[test]
    fn a_flood_of_openings_leaves_flows_alone() {
        run(super::a_flood_of_openings_leaves_flows_alone);
    }
}

const SERVICE: &str = "192.0.2.10:80";

fn targets(mode: &str, numbers: &[u8]) -> String {
    let mut text = forward("web", "tcp", SERVICE, mode, &format!("10.0.0.{}:80", numbers[0]));
    for number in &numbers[1..] {
        text += &format!("[[forward.target]]\naddress = \"10.0.0.{number}:80\"\n");
    }
    text
}

/// The target that a frame goes to in mode `dsr`, by its MAC address.
#[track_caller]
fn goes_to(bed: &mut Bed, what: &str, frame: &Frame) -> u8 {
    let ran = bed.run(what, CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{what}");
    let mac: Mac = ran.frame[..6].try_into().unwrap();
    let found = (1..=254).find(|number| mac == mac_of(IpAddr::from([10, 0, 0, *number])));
    found.unwrap_or_else(|| panic!("{what}: {mac:?}"))
}

/// A client whose new flows go to `wanted` under the rules that are published.
fn client_of(bed: &mut Bed, wanted: &dyn Fn(u8) -> bool) -> String {
    for port in 2000..3000 {
        let client = format!("198.51.100.9:{port}");
        let target = goes_to(bed, "a try", &tcp(&client, SERVICE, ACK));
        if wanted(target) {
            bed.sandbox.forget_flows().unwrap();
            return client;
        }
    }
    panic!("nobody in a thousand");
}

fn a_flow_keeps_its_target(bed: &mut Bed) {
    bed.rules(&targets("dsr", &[11, 12, 13, 14]));
    let client = client_of(bed, &|target| target != 11);
    bed.rules(&targets("dsr", &[11]));
    let syn = tcp(&client, SERVICE, SYN);
    let data = syn.flags(ACK).payload(b"data");
    assert_eq!(11, goes_to(bed, "SYN", &syn));
    for what in ["ACK", "data", "cached"] {
        assert_eq!(11, goes_to(bed, what, &data), "{what}");
    }
    bed.rules(&targets("dsr", &[11, 12, 13, 14]));
    for what in ["more targets", "cached"] {
        assert_eq!(11, goes_to(bed, what, &data), "{what}");
    }
    bed.rules(&targets("dsr", &[12, 13, 14]));
    assert_eq!(11, goes_to(bed, "its target is none any more", &data));
    bed.rules(&targets("dsr", &[11, 12, 13, 14]));
    bed.sandbox.forget_flows().unwrap();
    assert_ne!(11, goes_to(bed, "without its entry", &data));
    // Another forward under the same name has other flows.
    bed.rules(&targets("dsr", &[11]));
    let other = tcp("198.51.100.9:1999", SERVICE, SYN);
    assert_eq!(11, goes_to(bed, "SYN", &other));
    bed.rules(&targets("ipip", &[12]));
    tunnelled(bed, "in another mode", &other.flags(ACK), "10.0.0.12");
}

/// State of the only flow, and whether it is in the table of those that have sent more than once.
#[track_caller]
fn state(bed: &Bed) -> (State, bool) {
    let flows = bed.sandbox.flows().unwrap();
    assert_eq!(1, flows.len(), "{flows:?}");
    (State::from_number(flows[0].2.state), flows[0].0)
}

fn states_of_one_way_flows(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}",
        targets("dsr", &[11]),
        forward("dns", "udp", "192.0.2.10:53", "dsr", "10.0.0.53:53")
    ));
    let syn = tcp("198.51.100.1:2001", SERVICE, SYN);
    for (what, frame, expected) in [
        ("SYN", syn.clone(), (State::SynSent, false)),
        ("SYN again", syn.clone(), (State::SynSent, false)),
        ("ACK", syn.flags(ACK), (State::Established, true)),
        ("SYN into a connection", syn.clone(), (State::Established, true)),
        ("RST", syn.flags(RST | ACK), (State::Reset, true)),
        ("it was forged", syn.flags(ACK), (State::Established, true)),
        ("FIN", syn.flags(FIN | ACK), (State::BothClosed, true)),
        ("last ACK", syn.flags(ACK), (State::BothClosed, true)),
        ("a new connection", syn.clone(), (State::SynSent, false)),
    ] {
        // A cached line would leave no trace.
        bed.sandbox.forget_lines().unwrap();
        goes_to(bed, what, &frame);
        let flows = bed.sandbox.flows().unwrap();
        let newest = flows.iter().find(|(confirmed, _, _)| *confirmed == expected.1).unwrap();
        assert_eq!(expected.0, State::from_number(newest.2.state), "{what}");
    }
    bed.sandbox.forget_flows().unwrap();
    bed.sandbox.forget_lines().unwrap();
    let query = udp("198.51.100.1:2001", "192.0.2.10:53");
    for expected in [(State::OneWay, false), (State::Lasting, true)] {
        bed.run("a datagram", CLIENT_SIDE.0, &query.bytes());
        assert_eq!(expected, state(bed));
    }
    // Its idle time is that of UDP both ways: nobody sees the answers.
    bed.sandbox.pass(Duration::from_secs(250)).unwrap();
    bed.run("after a while", CLIENT_SIDE.0, &query.bytes());
    assert_eq!((State::Lasting, true), state(bed));
    bed.sandbox.pass(Duration::from_secs(310)).unwrap();
    bed.sandbox.datapath().sweep(0).unwrap();
    assert!(bed.sandbox.flows().unwrap().is_empty(), "the sweep has it");
}

fn a_flow_that_is_over_chooses_anew(bed: &mut Bed) {
    bed.rules(&targets("dsr", &[11, 12, 13, 14]));
    let client = client_of(bed, &|target| target != 11);
    let syn = tcp(&client, SERVICE, SYN);
    let data = syn.flags(ACK);
    for (what, end) in [("closed", syn.flags(FIN | ACK)), ("reset", syn.flags(RST))] {
        bed.rules(&targets("dsr", &[11]));
        for frame in [&syn, &data, &end] {
            goes_to(bed, what, frame);
        }
        bed.rules(&targets("dsr", &[11, 12, 13, 14]));
        assert_eq!(11, goes_to(bed, "what comes late", &end), "{what}");
        assert_ne!(11, goes_to(bed, "a new connection", &syn), "{what}");
        assert_ne!(11, goes_to(bed, "its data", &data), "{what}");
        bed.sandbox.forget_flows().unwrap();
        bed.sandbox.forget_lines().unwrap();
    }
    // Expired.
    bed.rules(&targets("dsr", &[11]));
    goes_to(bed, "SYN", &syn);
    bed.rules(&targets("dsr", &[11, 12, 13, 14]));
    bed.sandbox.pass(Duration::from_secs(250)).unwrap();
    assert_ne!(11, goes_to(bed, "after its idle time", &data));
}

fn mid_flow_segments_need_no_entry(bed: &mut Bed) {
    bed.rules(&targets("dsr", &[11, 12, 13, 14]));
    let mut seen = HashSet::new();
    for port in 3000..3040 {
        let data = tcp(&format!("198.51.100.1:{port}"), SERVICE, ACK);
        let target = goes_to(bed, "first that is seen", &data);
        bed.sandbox.forget_flows().unwrap();
        bed.sandbox.forget_lines().unwrap();
        assert_eq!(target, goes_to(bed, "on another node", &data));
        assert_eq!(target, goes_to(bed, "and once more", &data));
        seen.insert(target);
    }
    assert_eq!(4, seen.len(), "{seen:?}");
    // Over its quota a source opens nothing, but what it has goes on.
    bed.sandbox.configure(|settings| settings.flow_quota = (1, 1));
    let flow = |port: u16, flags| tcp(&format!("198.51.100.77:{port}"), SERVICE, flags);
    goes_to(bed, "the first", &flow(1, SYN));
    bed.expect("the second", &flow(2, SYN), Drop, FlowQuota);
    goes_to(bed, "of a connection that is open", &flow(3, ACK));
}

fn a_flood_of_openings_leaves_flows_alone(bed: &mut Bed) {
    bed.rules(&targets("dsr", &[11, 12, 13, 14]));
    let mut kept = Vec::new();
    for port in 4000..4100 {
        let syn = tcp(&format!("198.51.100.1:{port}"), SERVICE, SYN);
        goes_to(bed, "SYN", &syn);
        goes_to(bed, "ACK", &syn.flags(ACK));
        kept.push(port);
    }
    for source in 0..40_000u32 {
        let [_, _, a, b] = source.to_be_bytes();
        let syn = tcp(&format!("203.0.{a}.{b}:{}", 1024 + source % 60_000), SERVICE, SYN);
        bed.sandbox.run(CLIENT_SIDE.0, &syn.bytes()).unwrap();
    }
    let flows = bed.sandbox.flows().unwrap();
    let confirmed = flows.iter().filter(|(confirmed, _, _)| *confirmed).count();
    assert_eq!(kept.len(), confirmed);
    assert!(flows.len() - confirmed <= 16_384, "{}", flows.len());
}

/// So that errors have a source.
fn at_home(bed: &Bed) {
    let [v4, v6] = ["198.51.100.254", "2001:db8:1::fe"].map(|text| text.parse::<IpAddr>().unwrap());
    let own = InterfaceAddress { v4: addr::from_ip(v4), v6: addr::from_ip(v6) };
    bed.sandbox.datapath().set_answer_addresses(&[(CLIENT_SIDE.0, own)]).unwrap();
}

/// The MTU that a frame is answered with.
#[track_caller]
fn told(bed: &mut Bed, what: &str, frame: &Frame) -> u32 {
    let ran = bed.run(what, CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Transmit), Some(MtuExceeded)), (ran.verdict(), ran.reason()), "{what}");
    let at = if frame.source.is_ipv4() { 38 } else { 58 };
    u32::from_be_bytes(ran.frame[at..at + 4].try_into().unwrap())
}

const TUNNELS: [(&str, &str, &str, u16); 4] = [
    ("198.51.100.1:5003", "192.0.2.10:80", "10.0.0.11", 20),
    ("198.51.100.1:5003", "192.0.2.11:80", "fd00::11", 40),
    ("[2001:db8:1::1]:5003", "[2001:db8::10]:80", "10.0.0.12", 20),
    ("[2001:db8:1::1]:5003", "[2001:db8::11]:80", "fd00::12", 40),
];

fn tunnels(bed: &mut Bed) {
    let rules = TUNNELS.map(|(_, service, target, _)| {
        let target = if target.contains(':') { format!("[{target}]:80") } else { format!("{target}:80") };
        forward(
            &format!("t{}", target.len() * 100 + service.len() + target.matches("12").count()),
            "udp",
            service,
            "ipip",
            &target,
        )
    });
    bed.rules(&rules.concat());
}

/// A datagram of `length` bytes that must not be fragmented.
fn sized(client: &str, service: &str, length: usize) -> Frame {
    let query = udp(client, service);
    let headers = if query.source.is_ipv4() { 28 } else { 48 };
    Frame { dont_fragment: true, ..query.payload(&vec![7; length - headers]) }
}

fn too_large_for_the_tunnel(bed: &mut Bed) {
    tunnels(bed);
    at_home(bed);
    for (client, service, target, overhead) in TUNNELS {
        let inner = 1500 - usize::from(overhead);
        for what in ["first", "second", "cached"] {
            tunnelled(bed, what, &sized(client, service, inner), target);
            assert_eq!(inner as u32, told(bed, what, &sized(client, service, inner + 1)), "{what} {target}");
        }
        // What may be fragmented is not answered, and an XDP program cannot fragment.
        let large = Frame { dont_fragment: false, ..sized(client, service, inner + 1) };
        if large.source.is_ipv4() {
            bed.expect("without DF", &large, Drop, MtuExceeded);
        }
    }
    let way = bed.way("fd00::12");
    bed.sandbox.set_way("fd00::12".parse().unwrap(), Some(NextHop { mtu: 1280, ..way }));
    let (client, service, ..) = TUNNELS[3];
    assert_eq!(1280, told(bed, "IPv6 is told no less", &sized(client, service, 1400)));
    bed.rules(&forward("a", "udp", "192.0.2.10:80", "dsr", "10.0.0.11:80"));
    let way = bed.way("10.0.0.11");
    bed.sandbox.set_way("10.0.0.11".parse().unwrap(), Some(NextHop { mtu: 1400, ..way }));
    assert_eq!(1400, told(bed, "dsr", &sized("198.51.100.1:1", "192.0.2.10:80", 1401)));
}

fn errors_about_answers_go_to_the_target(bed: &mut Bed) {
    for (mode, needs_entry) in [("dsr", true), ("dsr", false), ("ipip", true), ("ipip", false)] {
        bed.rules(&format!(
            "{}{}",
            forward("a", "tcp", "192.0.2.10:80", mode, "10.0.0.11:80"),
            forward("b", "udp", "[2001:db8::10]:80", mode, "[fd00::12]:80"),
        ));
        for (frame, target, kind) in [
            (tcp("198.51.100.1:5004", "192.0.2.10:80", ACK), "10.0.0.11", (3, 4)),
            (udp("[2001:db8:1::1]:5004", "[2001:db8::10]:80"), "fd00::12", (2, 0)),
        ] {
            if needs_entry {
                bed.run("the flow", CLIENT_SIDE.0, &frame.bytes());
            }
            // What the target has sent, as a router before the client sees it.
            let answer = Frame { from: CLIENT_SIDE.1, ..frame.answer() };
            let error = about(&answer, kind, 1400, 500).frame();
            if mode == "dsr" {
                let out = relayed(&error, target);
                bed.leaves("an error", CLIENT_SIDE.0, &error, Redirect, Forwarded, &out);
            } else {
                let ran = bed.run("an error", CLIENT_SIDE.0, &error.bytes());
                assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()));
                let (link, outer, inner) = unwrapped(&ran.frame);
                assert_eq!(mac_of(target.parse().unwrap()), link[..6]);
                assert_eq!(target.parse::<IpAddr>().unwrap(), outer.destination);
                assert_eq!(error.ttl(error.ttl - 1).bytes()[14..], *inner);
            }
            let other = Frame { source: "192.0.2.10:81".parse().unwrap(), ..answer.clone() };
            if frame.source.is_ipv4() {
                let error = about(&other, kind, 1400, 500).frame();
                bed.expect("about another service", &error, Pass, NotTcpUdp);
            }
            bed.sandbox.forget_flows().unwrap();
            bed.sandbox.forget_lines().unwrap();
        }
    }
}

/// An ICMP error by a router in the tunnel about a frame that has left.
fn by_a_router(left: &[u8], mtu: u32, quoted: usize) -> Frame {
    let (link, packet) = left.split_at(14);
    let v4 = packet[0] >> 4 == 4;
    let mut message = if v4 { vec![3, 4, 0, 0] } else { vec![2, 0, 0, 0] };
    message.extend(mtu.to_be_bytes());
    message.extend(&packet[..packet.len().min(quoted)]);
    let (from, own) = if v4 { ("10.0.0.254:1", "10.0.0.1:1") } else { ("[fd00::fe]:1", "[fd00::1]:1") };
    let to: Mac = link[6..12].try_into().unwrap();
    Frame { to, ..udp(from, own) }.protocol(if v4 { 1 } else { 58 }).payload(&message)
}

fn a_tunnel_s_path_mtu_is_learned(bed: &mut Bed) {
    tunnels(bed);
    at_home(bed);
    for (client, service, target, overhead) in TUNNELS {
        let full = sized(client, service, 1500 - usize::from(overhead));
        let run = |bed: &mut Bed| bed.run("full size", CLIENT_SIDE.0, &full.bytes()).frame;
        let left = (0..3).map(|_| run(bed)).last().unwrap();
        for (what, error) in [
            ("too little of the packet", by_a_router(&left, 1400, usize::from(overhead) + 8)),
            ("no MTU in it", by_a_router(&left, 0, 500)),
        ] {
            bed.expect_on(what, TARGET_SIDE.0, &error.bytes(), Pass, NotTcpUdp);
            tunnelled(bed, what, &full, target);
        }
        let error = by_a_router(&left, 1400, 500);
        bed.expect_on("too big", TARGET_SIDE.0, &error.bytes(), Pass, TunnelMtu);
        let inner = 1400 - usize::from(overhead);
        assert_eq!(inner as u32, told(bed, "full size", &full));
        for what in ["fits", "cached"] {
            tunnelled(bed, what, &sized(client, service, inner), target);
        }
        // Forged ones take it no lower than paths can be.
        let error = by_a_router(&left, 100, 500);
        bed.expect_on("tiny", TARGET_SIDE.0, &error.bytes(), Pass, TunnelMtu);
        let least = if overhead == 20 { 552 - 20 } else { 1280 - 40 };
        let least = if full.source.is_ipv6() { 1280 } else { least };
        assert_eq!(least, told(bed, "full size", &full));
    }
}

fn jumbo_frames_go_on(bed: &mut Bed) {
    tunnels(bed);
    for (client, service, target, _) in TUNNELS {
        let way = bed.way(target);
        bed.sandbox.set_way(target.parse().unwrap(), Some(NextHop { mtu: 9000, ..way }));
        for length in [4000, 8900] {
            for what in ["first", "second", "third"] {
                tunnelled(bed, what, &sized(client, service, length), target);
            }
        }
    }
}

fn datagrams_in_parts_go_to_one_target(bed: &mut Bed) {
    bed.sandbox.configure(|settings| settings.policies[PolicyClass::Fragment as usize] = Policy::Accept);
    for mode in ["dsr", "ipip"] {
        bed.rules(&format!(
            "{}{}",
            forward("a", "udp", "192.0.2.10:80", mode, "10.0.0.11:80"),
            forward("b", "udp", "[2001:db8::10]:80", mode, "[fd00::12]:80"),
        ));
        for (whole, target) in [
            (udp("198.51.100.1:5005", "192.0.2.10:80"), "10.0.0.11"),
            (udp("[2001:db8:1::1]:5005", "[2001:db8::10]:80"), "fd00::12"),
        ] {
            let mut outers = HashSet::new();
            for part in parts(&whole.payload(&[9; 3000])) {
                let ran = bed.run("a part", CLIENT_SIDE.0, &part.bytes());
                assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()));
                if mode == "dsr" {
                    assert_eq!(relayed(&part, target).bytes(), ran.frame);
                } else {
                    let (_, outer, inner) = unwrapped(&ran.frame);
                    assert_eq!(part.ttl(part.ttl - 1).bytes()[14..], *inner);
                    outers.insert((outer.source, outer.destination, outer.label));
                }
            }
            assert!(mode == "dsr" || outers.len() == 1, "all parts look alike: {outers:?}");
        }
    }
}
