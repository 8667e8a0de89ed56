//! Source NAT: mappings, filtering, hairpin, queries, ends.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use netfast_common::{
    Reason::*,
    Verdict::*,
    addr,
    wire::{ACK, FIN, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios, source_port},
    forward::forward,
    frames::{Frame, Mac, tcp, udp},
    snat_ports::outside_of,
};

scenarios! {
    one_mapping_towards_all_destinations, tcp_from_syn_to_close, filtering_by_choice, hairpin,
    identifiers_of_queries_are_translated, what_is_not_to_be_translated, a_rule_that_goes_ends_its_flows,
    a_changed_rule_set_keeps_flows_and_looks_up_their_ways, interfaces_are_matched,
}

/// The gateway outside and the inside hosts, by MAC address.
pub const GATEWAY: Mac = [0x02, 0, 0, 0, 0, 0xfe];
pub const HOSTS: [(&str, Mac); 4] = [
    ("10.1.0.5", [0x02, 0, 0, 1, 0, 5]),
    ("10.1.0.6", [0x02, 0, 0, 1, 0, 6]),
    ("fd01::5", [0x02, 0, 0, 1, 6, 5]),
    ("fd01::6", [0x02, 0, 0, 1, 6, 6]),
];
pub const EXTERNAL: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// A LAN with a way out: inside by the clients' side, outside by the targets' side.
pub fn in_lan(bed: &mut Bed, scenario: impl FnOnce(&mut Bed)) {
    let [[c0, c1, c2, c3, c4, c5], [t0, t1, t2, t3, t4, t5]] = [CLIENT_SIDE.1, TARGET_SIDE.1];
    let mac = |m: [u8; 6]| m.map(|byte| format!("{byte:02x}")).join(":");
    // Other scenarios leave addresses behind.
    let mut lines = vec![
        "addr flush dev nf-client".to_owned(),
        "addr flush dev nf-target".to_owned(),
        format!("link set nf-client address {}", mac([c0, c1, c2, c3, c4, c5])),
        format!("link set nf-target address {}", mac([t0, t1, t2, t3, t4, t5])),
    ];
    for name in ["p10", "nf-client", "p11", "nf-target"] {
        lines.push(format!("link set {name} up"));
    }
    for line in &lines {
        bed.sandbox.ip(line).unwrap();
    }
    // The kernel learns of a carrier by and by, and empties its neighbour tables when it does.
    let is_up = |name: &str| {
        let link = std::process::Command::new("ip").args(["-o", "link", "show", name]).output().unwrap();
        String::from_utf8_lossy(&link.stdout).contains("state UP")
    };
    let begin = std::time::Instant::now();
    while !(is_up("nf-client") && is_up("nf-target")) {
        assert!(begin.elapsed().as_secs() < 20, "no carrier");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    lines.clear();
    for line in [
        "addr replace 10.1.0.1/16 dev nf-client",
        "addr replace fd01::1/64 dev nf-client nodad",
        "addr replace 192.0.2.1/24 dev nf-target",
        "addr replace 2001:db8::1/64 dev nf-target nodad",
        "neigh replace 192.0.2.254 lladdr 02:00:00:00:00:fe dev nf-target nud permanent",
        "neigh replace 2001:db8::fe lladdr 02:00:00:00:00:fe dev nf-target nud permanent",
        "route replace default via 192.0.2.254",
        "-6 route replace default via 2001:db8::fe",
    ] {
        lines.push(line.to_owned());
    }
    for (address, host) in HOSTS {
        lines.push(format!("neigh replace {address} lladdr {} dev nf-client nud permanent", mac(host)));
    }
    for line in &lines {
        bed.sandbox.ip(line).unwrap();
    }
    let locals = ["10.1.0.1", "fd01::1", "192.0.2.1", "192.0.2.2", "2001:db8::1"];
    bed.sandbox.datapath().set_locals(&locals.map(|own| own.parse().unwrap())).unwrap();
    forwarding("1");
    let result = catch_unwind(AssertUnwindSafe(|| scenario(bed)));
    forwarding("0");
    for name in ["nf-client", "nf-target"] {
        bed.sandbox.ip(&format!("addr flush dev {name}")).unwrap();
        bed.sandbox.ip(&format!("link set {name} down")).unwrap();
    }
    if let Err(panic) = result {
        resume_unwind(panic);
    }
}

fn forwarding(on: &str) {
    for version in ["ipv4", "ipv6"] {
        for name in ["nf-client", "nf-target"] {
            std::fs::write(format!("/proc/sys/net/{version}/conf/{name}/forwarding"), on).unwrap();
        }
    }
}

/// A rule for both IP versions.
pub fn rule(more: &str) -> String {
    format!(
        "[[snat]]\nname = \"lan\"\nfrom = [\"10.1.0.0/16\", \"fd01::/64\"]\nto = [\"{}\", \"{}\"]\n{more}\n",
        EXTERNAL[0], EXTERNAL[1]
    )
}

/// MAC address of an inside host.
pub fn mac(address: IpAddr) -> Mac {
    let found = HOSTS.iter().find(|(host, _)| address == host.parse::<IpAddr>().unwrap());
    found.map_or(GATEWAY, |(_, mac)| *mac)
}

/// A frame of an inside host.
pub fn from_inside(frame: Frame) -> Frame {
    Frame { to: CLIENT_SIDE.1, from: mac(frame.source.ip()), ..frame }
}

/// A frame that comes from the outside.
pub fn from_outside(frame: Frame) -> Frame {
    Frame { to: TARGET_SIDE.1, from: GATEWAY, ..frame }
}

/// Expects that the frame leaves by the external address; returns it as it left.
#[track_caller]
pub fn out(bed: &mut Bed, what: &str, frame: &Frame) -> Frame {
    let ran = bed.run(what, CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{what}");
    let own = EXTERNAL[usize::from(frame.source.is_ipv6())].parse().unwrap();
    let source = SocketAddr::new(own, source_port(&ran.frame));
    let out = frame.forwarded(TARGET_SIDE.1, GATEWAY, source, frame.destination);
    assert_eq!(out.bytes(), ran.frame, "{what}: {out:?} expected");
    out
}

/// Expects that a frame from the outside gets to the inside endpoint `to`.
#[track_caller]
pub fn gets_in(bed: &mut Bed, what: &str, frame: &Frame, to: SocketAddr, reason: netfast_common::Reason) {
    let expected = frame.forwarded(CLIENT_SIDE.1, mac(to.ip()), frame.source, to);
    bed.leaves(what, TARGET_SIDE.0, frame, Redirect, reason, &expected);
}

fn one_mapping_towards_all_destinations(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule(""));
        for (host, destinations) in [
            ("10.1.0.5:4000", ["198.51.100.1:53", "198.51.100.1:54", "203.0.113.9:53"]),
            ("[fd01::5]:4000", ["[2001:db8:1::1]:53", "[2001:db8:1::1]:54", "[2001:db8:2::9]:53"]),
        ] {
            let mut seen = BTreeSet::new();
            for destination in destinations {
                let query = from_inside(udp(host, destination));
                let sent = out(bed, "query", &query);
                seen.insert(sent.source);
                gets_in(bed, "answer", &sent.answer(), query.source, Reply);
                // By the table, then by a cached line.
                for way in ["known", "cached", "cached once more"] {
                    assert_eq!(sent, out(bed, way, &query));
                    gets_in(bed, way, &sent.answer(), query.source, Reply);
                }
            }
            assert_eq!(1, seen.len(), "{seen:?}");
            let other = from_inside(udp(&host.replace("4000", "4001"), destinations[0]));
            assert!(!seen.contains(&out(bed, "another port", &other).source));
        }
        assert_eq!(2 * 4, bed.sandbox.mappings().unwrap().len());
    });
}

fn tcp_from_syn_to_close(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule(""));
        for (host, server) in [("10.1.0.5:4000", "198.51.100.1:80"), ("[fd01::5]:4000", "[2001:db8:1::1]:80")]
        {
            let syn = from_inside(tcp(host, server, SYN));
            let sent = out(bed, "SYN", &syn);
            gets_in(bed, "SYN ACK", &sent.answer().flags(SYN | ACK), syn.source, Reply);
            let data = from_inside(tcp(host, server, ACK));
            for what in ["ACK", "cached"] {
                assert_eq!(sent.source, out(bed, what, &data).source);
                gets_in(
                    bed,
                    what,
                    &from_outside(tcp(server, &sent.source.to_string(), ACK)),
                    syn.source,
                    Reply,
                );
            }
            out(bed, "FIN", &data.flags(FIN | ACK));
            gets_in(bed, "FIN back", &sent.answer().flags(FIN | ACK), syn.source, Reply);
            out(bed, "last ACK", &data);
            assert_eq!(sent.source, out(bed, "the same endpoints again", &syn).source);
        }
        let late = from_inside(tcp("10.1.0.5:4009", "198.51.100.1:80", ACK));
        bed.expect("no flow: not to leave with its inside address", &late, Drop, TcpNoFlow);
    });
}

fn filtering_by_choice(bed: &mut Bed) {
    in_lan(bed, |bed| {
        let stranger = |to: SocketAddr| from_outside(udp("203.0.113.9:9", &to.to_string()));
        for (filtering, open) in [("address-and-port-dependent", false), ("endpoint-independent", true)] {
            bed.rules(&rule(&format!("filtering = \"{filtering}\"")));
            let query = from_inside(udp("10.1.0.5:4000", "198.51.100.1:53"));
            let sent = out(bed, "query", &query);
            let others =
                [stranger(sent.source), from_outside(udp("198.51.100.1:54", &sent.source.to_string()))];
            for other in &others {
                if open {
                    gets_in(bed, "from another peer", other, query.source, Reply);
                    gets_in(bed, "once more", other, query.source, Reply);
                    let back = from_inside(other.answer());
                    let back = Frame { source: query.source, ..back };
                    assert_eq!(sent.source, out(bed, "answer to it", &back).source);
                    gets_in(bed, "cached", other, query.source, Reply);
                    gets_in(bed, "cached", other, query.source, Reply);
                } else {
                    let other = other.bytes();
                    bed.expect_on("from another peer", TARGET_SIDE.0, &other, Drop, SnatFiltered);
                }
            }
            let syn = from_inside(tcp("10.1.0.5:4000", "198.51.100.1:80", SYN));
            let sent = out(bed, "SYN", &syn);
            let unasked = from_outside(tcp("203.0.113.9:9", &sent.source.to_string(), SYN));
            let nonsense = from_outside(tcp("203.0.113.9:9", &sent.source.to_string(), ACK)).bytes();
            bed.expect_on("ACK of no flow", TARGET_SIDE.0, &nonsense, Drop, SnatFiltered);
            if open {
                gets_in(bed, "unsolicited SYN", &unasked, syn.source, Reply);
            } else {
                // RFC 5382 REQ-4: silence; and when the inside host opens at the same time it is let in.
                let bytes = unasked.bytes();
                bed.expect_on("unsolicited SYN", TARGET_SIDE.0, &bytes, Drop, SnatFiltered);
                let own = from_inside(tcp("10.1.0.5:4000", "203.0.113.9:9", SYN));
                assert_eq!(sent.source, out(bed, "own SYN", &own).source);
                gets_in(bed, "SYN of a simultaneous open", &unasked, syn.source, Reply);
            }
            let free = from_outside(udp("203.0.113.9:9", "192.0.2.1:1025"));
            bed.expect_on("a port of the host's own", TARGET_SIDE.0, &free.bytes(), Pass, NoService);
            bed.sandbox.forget_flows().unwrap();
            bed.sandbox.forget_lines().unwrap();
        }
    });
}

fn hairpin(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule(""));
        for (a, b, outside) in [
            ("10.1.0.5:4000", "10.1.0.6:5000", "198.51.100.1:53"),
            ("[fd01::5]:4000", "[fd01::6]:5000", "[2001:db8:1::1]:53"),
        ] {
            let (a, b) = (from_inside(udp(a, outside)), from_inside(udp(b, outside)));
            let (external_a, external_b) =
                (out(bed, "mapping of a", &a).source, out(bed, "mapping of b", &b).source);
            // Twice each: the second finds the flow.
            for round in [1, 2] {
                let call = Frame { destination: external_b, ..a.clone() };
                let there = call.forwarded(CLIENT_SIDE.1, b.from, external_a, b.source);
                let what = format!("a to b, {round}");
                bed.leaves(&what, CLIENT_SIDE.0, &call, Transmit, Forwarded, &there);
                let answer = Frame { destination: external_a, ..b.clone() };
                let back = answer.forwarded(CLIENT_SIDE.1, a.from, external_b, a.source);
                let what = format!("b to a, {round}");
                bed.leaves(&what, CLIENT_SIDE.0, &answer, Transmit, Reply, &back);
            }
            for round in [1, 2] {
                let itself = Frame { destination: external_a, ..a.clone() };
                let back = itself.forwarded(CLIENT_SIDE.1, a.from, external_a, a.source);
                let what = format!("a to itself, {round}");
                bed.leaves(&what, CLIENT_SIDE.0, &itself, Transmit, Forwarded, &back);
            }
        }
    });
}

/// An echo request or reply with an identifier and the right checksum.
pub fn echo(source: &str, destination: &str, kind: u8, identifier: u16) -> Frame {
    let (source, destination): (IpAddr, IpAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let mut body = vec![kind, 0, 0, 0];
    body.extend(identifier.to_be_bytes());
    body.extend([0, 1]);
    body.extend(b"are you there?");
    let protocol = if source.is_ipv4() { 1u8 } else { 58 };
    let pseudo = match (source, destination) {
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let length = (body.len() as u32).to_be_bytes();
            [&a.octets()[..], &b.octets()[..], &length[..], &[0, 0, 0, protocol][..]].concat()
        }
        _ => Vec::new(),
    };
    let sum = netfast_common::checksum::full(&[&pseudo, &body]);
    body[2..4].copy_from_slice(&sum);
    let frame = udp(&SocketAddr::new(source, 0).to_string(), &SocketAddr::new(destination, 0).to_string());
    frame.protocol(protocol).payload(&body)
}

fn identifiers_of_queries_are_translated(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule(""));
        for (hosts, server, own, request, reply) in [
            (["10.1.0.5", "10.1.0.6"], "198.51.100.1", EXTERNAL[0], 8, 0),
            (["fd01::5", "fd01::6"], "2001:db8:1::1", EXTERNAL[1], 128, 129),
        ] {
            let mut identifiers = BTreeSet::new();
            for host in hosts {
                let ping = from_inside(echo(host, server, request, 7));
                for round in 0..3 {
                    let what = format!("{host} pings, {round}");
                    let ran = bed.run(&what, CLIENT_SIDE.0, &ping.bytes());
                    assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{what}");
                    let at = if host.contains(':') { 14 + 40 } else { 14 + 20 };
                    let given = u16::from_be_bytes([ran.frame[at + 4], ran.frame[at + 5]]);
                    let sent = Frame { ttl: 63, ..echo(own, server, request, given) };
                    let sent = Frame { from: TARGET_SIDE.1, to: GATEWAY, ..sent };
                    assert_eq!(sent.bytes(), ran.frame, "{what}");
                    let pong = from_outside(echo(server, own, reply, given));
                    let back = Frame { ttl: 63, ..echo(server, host, reply, 7) };
                    let back = Frame { from: CLIENT_SIDE.1, to: ping.from, ..back };
                    bed.leaves(&what, TARGET_SIDE.0, &pong, Redirect, Reply, &back);
                    identifiers.insert(given);
                }
            }
            assert_eq!(2, identifiers.len(), "two hosts with the same identifier: {identifiers:?}");
            let other = from_outside(echo(server, own, reply, 9)).bytes();
            bed.expect_on("the host's own ping", TARGET_SIDE.0, &other, Pass, NotTcpUdp);
            let asked = from_outside(echo(server, own, request, 9)).bytes();
            bed.expect_on("a ping of the host", TARGET_SIDE.0, &asked, Pass, NotTcpUdp);
        }
    });
}

fn what_is_not_to_be_translated(bed: &mut Bed) {
    in_lan(bed, |bed| {
        let query = udp("10.1.0.5:4000", "198.51.100.1:53");
        bed.expect("without a rule", &from_inside(query.clone()), Pass, NoService);
        bed.rules(&rule(""));
        let frames = [
            ("to the host itself", udp("10.1.0.5:4000", "10.1.0.1:22"), NoService),
            ("to its external address", udp("10.1.0.5:4000", "192.0.2.1:22"), NoService),
            ("from inside to inside", udp("10.1.0.5:4000", "10.1.0.6:22"), NoService),
            ("from elsewhere", udp("10.2.0.5:4000", "198.51.100.1:53"), NoService),
            ("to a group", udp("10.1.0.5:4000", "224.0.0.251:5353"), NoService),
            ("link-local", udp("10.1.0.5:4000", "169.254.1.1:53"), NoService),
            ("another protocol", query.protocol(47), NotTcpUdp),
        ];
        for (what, frame, reason) in frames {
            bed.expect(what, &from_inside(frame), Pass, reason);
        }
        let zero = from_inside(udp("[fd01::5]:4000", "[2001:db8:1::1]:53").without_checksum());
        bed.expect("UDP over IPv6 without a checksum", &zero, Drop, UdpZeroChecksum);
        assert!(bed.sandbox.mappings().unwrap().is_empty(), "{:?}", bed.sandbox.mappings());
    });
}

fn a_rule_that_goes_ends_its_flows(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule(""));
        let query = from_inside(udp("10.1.0.5:4000", "198.51.100.1:53"));
        let sent = out(bed, "query", &query);
        gets_in(bed, "answer", &sent.answer(), query.source, Reply);
        out(bed, "cached", &query);
        bed.rules("");
        bed.expect("gone", &query, Pass, ForwardRemoved);
        bed.expect_on("its answers, too", TARGET_SIDE.0, &sent.answer().bytes(), Pass, NoService);
        bed.sandbox.datapath().sweep(0).unwrap();
        assert!(bed.sandbox.mappings().unwrap().is_empty(), "its ports are free at once");
        bed.rules(&rule(""));
        out(bed, "a new rule of the same name", &query);
    });
}

fn a_changed_rule_set_keeps_flows_and_looks_up_their_ways(bed: &mut Bed) {
    in_lan(bed, |bed| {
        bed.rules(&rule(""));
        let query = from_inside(udp("10.1.0.5:4000", "198.51.100.1:53"));
        let sent = out(bed, "query", &query);
        gets_in(bed, "answer", &sent.answer(), query.source, Reply);
        let elsewhere = [0x02, 0, 0, 0, 0, 0xfd];
        for line in [
            "neigh replace 192.0.2.253 lladdr 02:00:00:00:00:fd dev nf-target nud permanent",
            "route replace 198.51.100.0/24 via 192.0.2.253",
        ] {
            bed.sandbox.ip(line).unwrap();
        }
        bed.rules(&format!("{}{}", rule(""), forward("web", "tcp", "192.0.2.1:80", "nat", "10.1.0.6:80")));
        for what in ["by the new gateway", "cached"] {
            let moved = Frame { to: elsewhere, ..sent.clone() };
            bed.leaves(what, CLIENT_SIDE.0, &query, Redirect, Forwarded, &moved);
            gets_in(bed, what, &sent.answer(), query.source, Reply);
        }
        bed.rules(&format!("{}[[filter]]\naction = \"drop\"\ndst = \"198.51.100.0/24\"\n", rule("")));
        bed.expect("the filter is asked again", &query, Drop, FilterDrop);
    });
}

fn interfaces_are_matched(bed: &mut Bed) {
    in_lan(bed, |bed| {
        let query = from_inside(udp("10.1.0.5:4000", "198.51.100.1:53"));
        for (more, matches) in [
            ("in = \"nf-client\"", true),
            ("in = \"nf-client\"\nout = \"nf-target\"", true),
            ("out = \"nf-client\"", false),
            ("in = \"nf-target\"", false),
        ] {
            bed.rules(&rule(more));
            if matches {
                out(bed, more, &query);
            } else {
                bed.expect(more, &query, Pass, NoService);
            }
            bed.rules("");
            bed.sandbox.forget_flows().unwrap();
        }
        // The longest prefix decides, whatever the order.
        bed.rules(&format!(
            "[[snat]]\nname = \"all\"\nfrom = [\"10.0.0.0/8\"]\nto = [\"192.0.2.2\"]\nports = \"40000-40009\"\n{}",
            rule("")
        ));
        out(bed, "by the longer prefix", &query);
        let other = Frame { to: CLIENT_SIDE.1, ..udp("10.9.0.5:4000", "198.51.100.1:53") };
        let ran = bed.run("by the shorter one", CLIENT_SIDE.0, &other.bytes());
        assert_eq!([192, 0, 2, 2], ran.frame[26..30]);
        assert_eq!(addr::from_v4([192, 0, 2, 2]), outside_of(bed, source_port(&ran.frame)).0.address);
    });
}
