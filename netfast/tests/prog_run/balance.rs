//! How a forward chooses among its targets, and what becomes of the flows of those that leave.

use std::collections::HashSet;

use etherparse::TcpHeaderSlice;
use netfast::{config, datapath::sandbox::mac_of, rules::images::Images};
use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::{InterfaceAddress, TARGET_ENDS, TARGET_LEAVES},
    addr,
    flow::{ORIGINAL, State},
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    family,
    frames::{Frame, socket, tcp, udp},
};

scenarios! {
    all_flows_of_a_source_go_to_one_target, connections_of_a_source_are_spread, without_a_target_clients_are_told,
    a_draining_target_keeps_its_flows, udp_moves_at_once_by_choice, an_opening_moves_with_its_next_syn,
    a_dead_target_s_connections_are_reset, a_dead_target_s_datagrams_go_elsewhere, a_target_that_comes_back_in_time,
    the_source_port_of_an_ended_flow_stays_taken, flows_between_the_versions_end, removed_targets_keep_their_flows,
}

const WEB: &str = "192.0.2.10:443";
const TARGETS: [&str; 3] = ["10.0.0.11:8443", "10.0.0.12:8443", "10.0.0.13:8443"];

/// A forward to targets; each with further keys of its own.
fn balanced(protocol: &str, listen: &str, keys: &str, targets: &[(&str, &str)]) -> String {
    let mut text =
        format!("[[forward]]\nname = \"web\"\nprotocol = \"{protocol}\"\nlisten = \"{listen}\"\n{keys}\n");
    for (address, keys) in targets {
        text.push_str(&format!("[[forward.target]]\naddress = \"{address}\"\n{keys}\n"));
    }
    text
}

fn all(keys: &'static str) -> [(&'static str, &'static str); 3] {
    TARGETS.map(|target| (target, keys))
}

/// The target that a client's frame goes to.
#[track_caller]
fn target_of(bed: &mut Bed, frame: &Frame) -> &'static str {
    let ran = bed.run("to a target", CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{frame:?}");
    let to = ran.frame[..6].to_vec();
    TARGETS
        .into_iter()
        .find(|target| mac_of(socket(target).ip())[..] == to[..])
        .expect("it is one of the targets")
}

/// Publishes rules with a target in a state that only the agent knows of.
fn with_state(bed: &mut Bed, text: &str, target: &str, state: u8) {
    let rules = config::rules::parse("rules.toml", text).unwrap();
    let address = addr::from_ip(socket(target).ip());
    let change = |images: &mut Images| {
        for (_, image) in images.targets.iter_mut().filter(|(_, image)| image.address == address) {
            image.state = state;
        }
    };
    bed.sandbox.publish_with(&rules, change).unwrap();
}

/// A port of the client's from which a new flow goes to this target.
fn port_to(bed: &mut Bed, target: &str, make: impl Fn(u16) -> Frame) -> Frame {
    let found = (20_000..).map(make).find(|frame| target_of(bed, frame) == target);
    bed.sandbox.forget_flows().unwrap();
    bed.sandbox.forget_lines().unwrap();
    found.unwrap()
}

fn syn(port: u16) -> Frame {
    tcp(&format!("198.51.100.1:{port}"), WEB, SYN)
}

/// Expects a TCP reset to the sender, with the numbers that it accepts.
#[track_caller]
fn reset(bed: &mut Bed, what: &str, (on, mac): (u32, [u8; 6]), frame: &Frame) {
    let ran = bed.run(what, on, &frame.bytes());
    assert_eq!((Some(Transmit), Some(TargetEnded)), (ran.verdict(), ran.reason()), "{what}");
    assert_eq!((&frame.from[..], &mac[..]), (&ran.frame[..6], &ran.frame[6..12]), "{what}");
    let headers = if frame.source.is_ipv4() { 20 } else { 40 };
    let tcp = TcpHeaderSlice::from_slice(&ran.frame[14 + headers..]).unwrap();
    // RFC 9293 3.10.7.4, RFC 5961 3.2: taken if its number is exactly the next one that is waited for.
    assert_eq!((true, false, frame.numbers.1), (tcp.rst(), tcp.ack(), tcp.sequence_number()), "{what}");
    let ports = (frame.destination.port(), frame.source.port());
    assert_eq!(ports, (tcp.source_port(), tcp.destination_port()), "{what}");
}

fn all_flows_of_a_source_go_to_one_target(bed: &mut Bed) {
    let rules6 = ["[fd00::11]:8443", "[fd00::12]:8443", "[fd00::13]:8443"];
    for version in [4, 6] {
        let text = if version == 4 {
            balanced("tcp", WEB, "affinity = \"source\"", &all(""))
        } else {
            balanced("tcp", "[2001:db8::10]:443", "affinity = \"source\"", &rules6.map(|target| (target, "")))
        };
        bed.rules(&text);
        let mut used = HashSet::new();
        for client in 1..=60 {
            let mut of_client = HashSet::new();
            for port in [1024, 4001, 4002, 50_000, 65_535] {
                let frame = if version == 4 {
                    tcp(&format!("198.51.100.{client}:{port}"), WEB, SYN)
                } else {
                    tcp(&format!("[2001:db8:1::{client:x}]:{port}"), "[2001:db8::10]:443", SYN)
                };
                let ran = bed.run("SYN", CLIENT_SIDE.0, &frame.bytes());
                assert_eq!(Some(Forwarded), ran.reason());
                of_client.insert(ran.frame[..6].to_vec());
            }
            assert_eq!(1, of_client.len(), "client {client} of IPv{version}");
            used.extend(of_client);
        }
        assert_eq!(3, used.len(), "clients are spread");
    }
}

fn connections_of_a_source_are_spread(bed: &mut Bed) {
    bed.rules(&balanced("tcp", WEB, "affinity = \"connection\"", &all("")));
    let used: HashSet<_> = (4000..4030).map(|port| target_of(bed, &syn(port))).collect();
    assert_eq!(3, used.len());
}

fn without_a_target_clients_are_told(bed: &mut Bed) {
    let own = addr::from_ip("198.51.100.254".parse().unwrap());
    let own6 = addr::from_ip("2001:db8:1::fe".parse().unwrap());
    let addresses = InterfaceAddress { v4: own, v6: own6 };
    bed.sandbox.datapath().set_answer_addresses(&[(CLIENT_SIDE.0, addresses)]).unwrap();
    let services = ["192.0.2.10".parse().unwrap(), "2001:db8::10".parse().unwrap()];
    bed.sandbox.datapath().set_locals(&services).unwrap();
    for (protocol, drained) in [("tcp", false), ("udp", false), ("tcp", true), ("udp", true)] {
        for (client, service, target) in [
            ("198.51.100.1:4001", "192.0.2.10:443", "10.0.0.11:8443"),
            ("[2001:db8:1::1]:4001", "[2001:db8::10]:443", "[fd00::11]:8443"),
        ] {
            let targets = [(target, "drain = true")];
            let targets: &[_] = if drained { &targets } else { &[] };
            let frame = if protocol == "tcp" { tcp(client, service, SYN) } else { udp(client, service) };
            for keys in ["", "on_no_target = \"drop\""] {
                bed.rules(&balanced(protocol, service, keys, targets));
                bed.expect("dropped", &frame, Drop, NoTarget);
            }
            bed.rules(&balanced(protocol, service, "on_no_target = \"reject\"", targets));
            let ran = bed.run("rejected", CLIENT_SIDE.0, &frame.bytes());
            assert_eq!((Some(Transmit), Some(NoTarget)), (ran.verdict(), ran.reason()));
            let l4 = if frame.source.is_ipv4() { 34 } else { 54 };
            match (protocol, frame.source.is_ipv4()) {
                ("tcp", _) => {
                    let tcp = TcpHeaderSlice::from_slice(&ran.frame[l4..]).unwrap();
                    let next = frame.numbers.0 + 1;
                    assert_eq!((true, true, next), (tcp.rst(), tcp.ack(), tcp.acknowledgment_number()));
                }
                (_, true) => assert_eq!([3, 3], ran.frame[l4..l4 + 2], "port unreachable"),
                (_, false) => assert_eq!([1, 4], ran.frame[l4..l4 + 2], "port unreachable"),
            }
        }
    }
}

fn a_draining_target_keeps_its_flows(bed: &mut Bed) {
    let (rules, drains) = (balanced("tcp", WEB, "", &all("")), |drained: &str| {
        balanced("tcp", WEB, "", &TARGETS.map(|t| (t, if t == drained { "drain = true" } else { "" })))
    });
    bed.rules(&rules);
    let first = port_to(bed, TARGETS[1], syn);
    let (data, sent) = bed.connect(&first.source.to_string(), WEB, TARGETS[1]);
    bed.rules(&drains(TARGETS[1]));
    for port in 30_000..30_100 {
        assert_ne!(TARGETS[1], target_of(bed, &syn(port)), "no new flows");
    }
    for _ in 0..3 {
        assert_eq!(sent.source, bed.nat("the old one goes on", &data, TARGETS[1]).source);
        bed.replied("both ways", &data, &sent.answer());
    }
    bed.nat("FIN", &data.flags(FIN | ACK).payload(b""), TARGETS[1]);
    bed.replied("FIN", &data, &sent.answer().flags(FIN | ACK).payload(b""));
    bed.nat("to its end", &data.payload(b""), TARGETS[1]);
    assert_ne!(TARGETS[1], target_of(bed, &first), "the next connection from the same port goes elsewhere");
    bed.rules(&rules);
    assert!((31_000..31_100).any(|port| target_of(bed, &syn(port)) == TARGETS[1]), "it is back");
}

fn udp_moves_at_once_by_choice(bed: &mut Bed) {
    let rules = |how: &str, drain: &'static str| {
        let targets = TARGETS.map(|target| (target, if target == TARGETS[0] { drain } else { "" }));
        balanced("udp", WEB, &format!("on_drain = \"{how}\""), &targets)
    };
    for how in ["keep", "move"] {
        bed.rules(&rules(how, ""));
        let query = port_to(bed, TARGETS[0], |port| udp(&format!("198.51.100.1:{port}"), WEB));
        let sent = bed.nat("query", &query, TARGETS[0]);
        bed.replied("answer", &query, &sent.answer());
        bed.nat("cached", &query, TARGETS[0]);
        bed.rules(&rules(how, "drain = true"));
        for _ in 0..3 {
            bed.replied("an answer under way arrives", &query, &sent.answer());
        }
        if how == "keep" {
            bed.nat("it stays", &query, TARGETS[0]);
            continue;
        }
        let target = target_of(bed, &query);
        assert_ne!(TARGETS[0], target);
        let moved = bed.nat("the flow is the other target's", &query, target);
        bed.replied("which answers", &query, &moved.answer());
        bed.nat("and again", &query, target);
        let late = sent.answer();
        bed.expect_on("too late", TARGET_SIDE.0, &late.bytes(), Pass, NoService);
        bed.sandbox.forget_flows().unwrap();
    }
}

fn an_opening_moves_with_its_next_syn(bed: &mut Bed) {
    let rules = balanced("tcp", WEB, "", &all(""));
    for answered in [false, true] {
        for state in [TARGET_LEAVES, TARGET_LEAVES | TARGET_ENDS] {
            bed.rules(&rules);
            let opening = port_to(bed, TARGETS[2], syn);
            let sent = bed.nat("SYN", &opening, TARGETS[2]);
            if answered {
                bed.replied("SYN ACK", &opening, &sent.answer().flags(SYN | ACK));
            }
            let drained = TARGETS.map(|t| (t, if t == TARGETS[2] { "drain = true" } else { "" }));
            with_state(bed, &balanced("tcp", WEB, "", &drained), TARGETS[2], state);
            let target = target_of(bed, &opening);
            assert_ne!(TARGETS[2], target, "sent again, it opens elsewhere");
            let out = bed.nat("and stays there", &opening, target);
            bed.replied("SYN ACK", &opening, &out.answer().flags(SYN | ACK));
            bed.nat("ACK", &opening.flags(ACK), target);
        }
    }
}

fn a_dead_target_s_connections_are_reset(bed: &mut Bed) {
    let rules = balanced("tcp", WEB, "", &all(""));
    let dead =
        balanced("tcp", WEB, "", &TARGETS.map(|t| (t, if t == TARGETS[0] { "drain = true" } else { "" })));
    bed.rules(&rules);
    let first = port_to(bed, TARGETS[0], syn);
    let (data, sent) = bed.connect(&first.source.to_string(), WEB, TARGETS[0]);
    for _ in 0..2 {
        bed.replied("data back", &data, &sent.answer());
        bed.nat("cached", &data, TARGETS[0]);
    }
    with_state(bed, &dead, TARGETS[0], TARGET_ENDS | TARGET_LEAVES);
    for number in [1001, 0, u32::MAX, 77] {
        let data = Frame { numbers: (5000, number), ..data.clone() };
        reset(bed, "the client, as often as it asks", CLIENT_SIDE, &data);
        reset(bed, "with its FIN, too", CLIENT_SIDE, &data.flags(FIN | ACK).payload(b""));
        reset(bed, "the target, if it is not that dead", TARGET_SIDE, &sent.answer());
    }
    bed.expect("a reset is not answered", &data.flags(RST | ACK), Drop, TargetEnded);
    let target = target_of(bed, &first);
    assert_ne!(TARGETS[0], target, "it connects anew, from the same port");
    let out = bed.nat("SYN", &first, target);
    bed.replied("SYN ACK", &first, &out.answer().flags(SYN | ACK));
    bed.nat("ACK", &data, target);
    bed.nat("data", &data, target);
}

fn a_dead_target_s_datagrams_go_elsewhere(bed: &mut Bed) {
    let rules = |drain: &'static str| {
        balanced("udp", WEB, "", &TARGETS.map(|t| (t, if t == TARGETS[0] { drain } else { "" })))
    };
    for answered in [false, true] {
        bed.rules(&rules(""));
        let query = port_to(bed, TARGETS[0], |port| udp(&format!("198.51.100.1:{port}"), WEB));
        let sent = bed.nat("query", &query, TARGETS[0]);
        if answered {
            bed.replied("answer", &query, &sent.answer());
            bed.nat("cached", &query, TARGETS[0]);
        }
        with_state(bed, &rules("drain = true"), TARGETS[0], TARGET_ENDS | TARGET_LEAVES);
        let target = target_of(bed, &query);
        assert_ne!(TARGETS[0], target);
        let out = bed.nat("and stays there", &query, target);
        bed.replied("answer", &query, &out.answer());
    }
}

fn a_target_that_comes_back_in_time(bed: &mut Bed) {
    let rules = balanced("tcp", WEB, "", &all(""));
    bed.rules(&rules);
    let first = port_to(bed, TARGETS[0], syn);
    let (data, sent) = bed.connect(&first.source.to_string(), WEB, TARGETS[0]);
    with_state(bed, &rules, TARGETS[0], TARGET_ENDS | TARGET_LEAVES);
    bed.rules(&rules);
    for _ in 0..2 {
        assert_eq!(sent.source, bed.nat("nothing was said meanwhile", &data, TARGETS[0]).source);
        bed.replied("both ways", &data, &sent.answer());
    }
}

/// No other flow may get the port as long as a cached line of any CPU could act.
fn the_source_port_of_an_ended_flow_stays_taken(bed: &mut Bed) {
    let rules = |state: &'static str| balanced("udp", WEB, "", &[(TARGETS[0], state), (TARGETS[1], "")]);
    bed.rules(&rules(""));
    let query = port_to(bed, TARGETS[0], |port| udp(&format!("198.51.100.1:{port}"), WEB));
    bed.sandbox.configure(|settings| settings.nat_ports = 30_000..=30_000);
    let sent = bed.nat("query", &query, TARGETS[0]);
    bed.replied("answer", &query, &sent.answer());
    with_state(bed, &rules("drain = true"), TARGETS[0], TARGET_ENDS | TARGET_LEAVES);
    let moved = bed.nat("it goes elsewhere", &query, TARGETS[1]);
    bed.replied("and is confirmed", &query, &moved.answer());
    // The old target is back; its only port is still the old flow's.
    bed.rules(&rules(""));
    for _ in 0..2 {
        bed.expect_on("a late answer", TARGET_SIDE.0, &sent.answer().bytes(), Pass, NoService);
    }
    let others: Vec<Frame> = (40_000..40_200).map(|port| udp(&format!("198.51.100.2:{port}"), WEB)).collect();
    let mut refused = 0;
    for other in &others {
        let ran = bed.run("another client", CLIENT_SIDE.0, &other.bytes());
        assert_ne!(mac_of(socket(TARGETS[0]).ip())[..], ran.frame[..6], "the port is not free");
        refused += u32::from(ran.reason() == Some(PortsExhausted));
    }
    assert!(refused > 50, "{refused} of 200");
    bed.sandbox.pass(std::time::Duration::from_secs(60)).unwrap();
    bed.expect_on("long after", TARGET_SIDE.0, &sent.answer().bytes(), Pass, NoService);
    let got = others.iter().any(|other| {
        let ran = bed.run("another client", CLIENT_SIDE.0, &other.bytes());
        mac_of(socket(TARGETS[0]).ip())[..] == ran.frame[..6]
    });
    assert!(got, "then it is");
}

fn flows_between_the_versions_end(bed: &mut Bed) {
    for (source, service, target) in [family::UP, family::DOWN] {
        let rules = balanced("tcp", service, "", &[(target, "")]);
        bed.rules(&rules);
        let opening = tcp(source, service, SYN);
        let out = family::crosses(bed, "SYN", &opening, target);
        let answer = out.answer().flags(SYN | ACK);
        assert_eq!(Some(Reply), bed.run("SYN ACK", TARGET_SIDE.0, &answer.bytes()).reason());
        let data = tcp(source, service, ACK);
        let sent = family::crosses(bed, "data", &data, target);
        with_state(bed, &rules, target, TARGET_ENDS);
        reset(bed, "to the client in its version", CLIENT_SIDE, &data);
        reset(bed, "to the target in the other", TARGET_SIDE, &sent.answer());
    }
}

fn removed_targets_keep_their_flows(bed: &mut Bed) {
    let rules = balanced("tcp", WEB, "", &all(""));
    bed.rules(&rules);
    let first = port_to(bed, TARGETS[0], syn);
    let (data, sent) = bed.connect(&first.source.to_string(), WEB, TARGETS[0]);
    let removed = balanced("tcp", WEB, "", &[(TARGETS[1], ""), (TARGETS[2], "")]);
    bed.rules(&removed);
    for _ in 0..2 {
        bed.nat("for a while", &data, TARGETS[0]);
        bed.replied("both ways", &data, &sent.answer());
    }
    let rules = config::rules::parse("rules.toml", &removed).unwrap();
    let over = |images: &mut Images| {
        assert_eq!(1, images.leaving.len());
        assert_eq!(Some("web/10.0.0.11:8443"), images.leaving[0].removed.as_deref());
        images.leaving[0].state |= TARGET_ENDS;
    };
    bed.sandbox.publish_with(&rules, over).unwrap();
    reset(bed, "then they end", CLIENT_SIDE, &data);
    let flows = bed.sandbox.flows().unwrap();
    let mut states = flows.iter().filter(|(_, key, flow)| {
        flow.direction == ORIGINAL && u16::from_be_bytes(key.source_port) == first.source.port()
    });
    assert_eq!(Some(State::Reset as u8), states.next().map(|(.., flow)| flow.state));
}
