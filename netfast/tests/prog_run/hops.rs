//! Next hops: unresolved ones, MTU, transmit or redirect, VLANs, the way back.

use std::net::IpAddr;

use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::{EventKind, NextHop},
    addr,
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    forward::forward,
    frames::{Frame, udp},
};

scenarios! {
    an_unresolved_hop_is_asked_for, no_route, too_large_for_the_way_out, out_where_it_came_in,
    a_way_out_that_is_none, tags_come_and_go, the_way_back_is_the_routing_table_s, a_hop_that_moves_is_followed,
}

const TARGET: &str = "10.0.0.53:53";

fn target() -> IpAddr {
    "10.0.0.53".parse().unwrap()
}

fn dns() -> String {
    format!(
        "{}{}",
        forward("dns", "udp", "192.0.2.10:53", "nat", TARGET),
        forward("dns6", "udp", "[2001:db8::10]:53", "nat", "[fd00::53]:53")
    )
}

fn an_unresolved_hop_is_asked_for(bed: &mut Bed) {
    let hop = bed.way("10.0.0.53");
    bed.sandbox.set_way(target(), Some(hop.closed()));
    bed.rules(&dns());
    let query = udp("198.51.100.1:6001", "192.0.2.10:53");
    let asked = |bed: &Bed| {
        let events = bed.sandbox.events();
        events.iter().filter(|event| event.kind == EventKind::HopUnresolved as u32).count()
    };
    bed.expect("its MAC address is not known", &query, Drop, HopUnresolved);
    assert_eq!(1, asked(bed), "the agent is told at once");
    assert!(bed.sandbox.flows().unwrap().is_empty(), "no flow for a packet that did not leave");
    bed.sandbox.set_way(target(), Some(hop));
    let sent = bed.nat("resolved", &query, TARGET);
    bed.replied("answer", &query, &sent.answer());
    bed.nat("cached", &query, TARGET);
    bed.sandbox.set_way(target(), Some(hop.closed()));
    bed.expect("lost again, of a cached flow: never a stale address", &query, Drop, HopUnresolved);
    assert_eq!(1, asked(bed));
    bed.sandbox.set_way(target(), Some(hop));
    assert_eq!(sent.source, bed.nat("found again", &query, TARGET).source);
}

fn a_hop_that_moves_is_followed(bed: &mut Bed) {
    bed.rules(&dns());
    let query = udp("198.51.100.1:6002", "192.0.2.10:53");
    let sent = bed.nat("query", &query, TARGET);
    bed.replied("answer", &query, &sent.answer());
    bed.nat("cached", &query, TARGET);
    let moved = [0x02, 0, 0, 0xaa, 0xbb, 0xcc];
    bed.sandbox.set_way(target(), Some(NextHop { destination: moved, ..bed.way("10.0.0.53") }));
    let expected = Frame { to: moved, ..sent };
    bed.leaves(
        "its new MAC address from the next packet on",
        CLIENT_SIDE.0,
        &query,
        Redirect,
        Forwarded,
        &expected,
    );
}

fn no_route(bed: &mut Bed) {
    bed.sandbox.set_way(target(), None);
    bed.rules(&dns());
    bed.expect("no route to the target", &udp("198.51.100.1:6003", "192.0.2.10:53"), Drop, NoRoute);
}

fn too_large_for_the_way_out(bed: &mut Bed) {
    for address in ["10.0.0.53", "fd00::53"] {
        let hop = bed.way(address);
        bed.sandbox.set_way(address.parse().unwrap(), Some(NextHop { mtu: 200, ..hop }));
    }
    bed.rules(&dns());
    for (query, target, room) in [
        (udp("198.51.100.1:6004", "192.0.2.10:53"), TARGET, 200 - 28),
        (udp("[2001:db8:1::1]:6004", "[2001:db8::10]:53"), "[fd00::53]:53", 200 - 48),
    ] {
        let (fits, large) = (query.payload(&vec![1; room]), query.payload(&vec![1; room + 1]));
        bed.expect("one byte too many, new", &large, Drop, MtuExceeded);
        let sent = bed.nat("fits", &fits, target);
        bed.replied("answer", &query, &sent.answer());
        bed.nat("cached", &fits, target);
        bed.expect("one byte too many, cached", &large, Drop, MtuExceeded);
    }
}

fn out_where_it_came_in(bed: &mut Bed) {
    let (ifindex, source) = CLIENT_SIDE;
    for address in ["10.0.0.53", "fd00::53"] {
        let hop = bed.way(address);
        bed.sandbox.set_way(address.parse().unwrap(), Some(NextHop { ifindex, source, ..hop }));
    }
    bed.rules(&dns());
    for query in [udp("198.51.100.1:6005", "192.0.2.10:53"), udp("[2001:db8:1::1]:6005", "[2001:db8::10]:53")]
    {
        let mut sent = None;
        for _ in 0..3 {
            let ran = bed.run("query", ifindex, &query.bytes());
            assert_eq!((Some(Transmit), Some(Forwarded)), (ran.verdict(), ran.reason()));
            let (own, address) =
                if query.source.is_ipv4() { ("10.0.0.1", TARGET) } else { ("fd00::1", "[fd00::53]:53") };
            let own = std::net::SocketAddr::new(own.parse().unwrap(), crate::bed::source_port(&ran.frame));
            let to = netfast::datapath::sandbox::mac_of(crate::frames::socket(address).ip());
            let out = query.forwarded(source, to, own, address.parse().unwrap());
            assert_eq!(out.bytes(), ran.frame);
            let back = out.answer().forwarded(source, query.from, query.destination, query.source);
            bed.leaves("answer", ifindex, &out.answer(), Transmit, Reply, &back);
            assert_eq!(out, sent.get_or_insert(out.clone()).clone());
        }
    }
}

fn a_way_out_that_is_none(bed: &mut Bed) {
    let hop = bed.way("10.0.0.53");
    bed.sandbox.set_way(target(), Some(NextHop { ifindex: 99, ..hop }));
    bed.rules(&dns());
    bed.expect("no device of netfast", &udp("198.51.100.1:6006", "192.0.2.10:53"), Drop, RedirectFailed);
}

fn tags_come_and_go(bed: &mut Bed) {
    let to_tag = |vlan: u16| if vlan == 0 { Vec::new() } else { vec![(0x8100, vlan)] };
    let inner = |tags: &[(u16, u16)]| tags.last().map_or(0, |tag| tag.1);
    for (index, (address, listen)) in
        [("10.0.0.53", "192.0.2.10:53"), ("fd00::53", "[2001:db8::10]:53")].into_iter().enumerate()
    {
        let target: IpAddr = address.parse().unwrap();
        let end = std::net::SocketAddr::new(target, 53);
        for (round, (came, leaves)) in [
            (vec![], 5),
            (vec![(0x8100, 7)], 0),
            (vec![(0x8100, 7)], 5),
            (vec![(0x8100, 7)], 7),
            (vec![(0x88a8, 3), (0x8100, 7)], 0),
            (vec![(0x88a8, 3), (0x8100, 7)], 5),
            (vec![], 4094),
            // A priority tag (identifier 0) is none: its station belongs to the untagged network (802.1Q 6.9.1).
            (vec![(0x8100, 0)], 0),
            (vec![(0x8100, 0)], 5),
        ]
        .into_iter()
        .enumerate()
        {
            let hop = bed.way(address);
            bed.sandbox.set_way(target, Some(NextHop { vlan: leaves, ..hop }));
            bed.rules(&dns());
            let source = format!("{}:{}", ["198.51.100.1", "[2001:db8:1::1]"][index], 6100 + round);
            let query = udp(&source, listen).tagged(&came);
            // By the table, confirmed, by the cache.
            for way in ["new", "known", "cached"] {
                let what = format!("{came:?} to {leaves}, {way}");
                let ran = bed.run(&what, CLIENT_SIDE.0, &query.bytes());
                assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{what}");
                let own = if target.is_ipv4() { "10.0.0.1" } else { "fd00::1" };
                let own =
                    std::net::SocketAddr::new(own.parse().unwrap(), crate::bed::source_port(&ran.frame));
                let sent = query.forwarded(hop.source, hop.destination, own, end).tagged(&to_tag(leaves));
                assert_eq!(sent.bytes(), ran.frame, "{what}");
                // Back to the client with the tag that it came with: its inner one, where it had two.
                let back = sent
                    .answer()
                    .forwarded(CLIENT_SIDE.1, query.from, query.destination, query.source)
                    .tagged(&to_tag(inner(&came)));
                bed.leaves(&what, TARGET_SIDE.0, &sent.answer(), Redirect, Reply, &back);
            }
        }
    }
}

fn the_way_back_is_the_routing_table_s(bed: &mut Bed) {
    bed.rules(&dns());
    let gateway = [0x02, 0, 0, 0, 0, 0xfe];
    for set_up in [
        "link set nf-client address 02:6e:66:00:00:0a",
        "link set p10 up",
        "link set nf-client up",
        "addr replace 192.0.2.1/24 dev nf-client",
        "addr replace 2001:db8::ffff/64 dev nf-client nodad",
        "neigh replace 192.0.2.254 lladdr 02:00:00:00:00:fe dev nf-client nud permanent",
        "neigh replace 2001:db8::fe lladdr 02:00:00:00:00:fe dev nf-client nud permanent",
        "route replace 198.51.100.0/24 via 192.0.2.254",
        "-6 route replace 2001:db8:1::/64 via 2001:db8::fe",
    ] {
        bed.sandbox.ip(set_up).unwrap();
    }
    let forwarding = |on: &str| {
        for version in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{version}/conf/nf-client/forwarding"), on).unwrap();
        }
    };
    forwarding("1");
    let mut ran = Vec::new();
    let cases = [
        (udp("198.51.100.77:6007", "192.0.2.10:53"), "192.0.2.254"),
        (udp("[2001:db8:1::77]:6007", "[2001:db8::10]:53"), "2001:db8::fe"),
    ];
    for (query, _) in &cases {
        let out = bed.run("query", CLIENT_SIDE.0, &query.bytes());
        ran.push((out.frame, bed.sandbox.events()));
    }
    // The frames came from another station than the gateway: the way back is the route's all the same.
    let mut back = Vec::new();
    for ((query, _), (out, _)) in cases.iter().zip(&ran) {
        let own = if query.source.is_ipv4() { "10.0.0.1" } else { "fd00::1" };
        let own = std::net::SocketAddr::new(own.parse().unwrap(), crate::bed::source_port(out));
        let end = if query.source.is_ipv4() { TARGET } else { "[fd00::53]:53" };
        let end: std::net::SocketAddr = end.parse().unwrap();
        let sent = query.forwarded(TARGET_SIDE.1, netfast::datapath::sandbox::mac_of(end.ip()), own, end);
        let expected = sent.answer().forwarded(CLIENT_SIDE.1, gateway, query.destination, query.source);
        back.push((expected.bytes(), bed.run("answer", TARGET_SIDE.0, &sent.answer().bytes())));
    }
    forwarding("0");
    bed.sandbox.ip("link set nf-client down").unwrap();

    for ((_, gateway), (_, events)) in cases.iter().zip(&ran) {
        let learned = events.iter().find(|event| event.kind == EventKind::HopLearned as u32).unwrap();
        let key = learned.key;
        assert_eq!((CLIENT_SIDE.0, addr::from_ip(gateway.parse().unwrap())), (key.ifindex, key.address));
    }
    for (expected, ran) in back {
        assert_eq!((Some(Redirect), Some(Reply)), (ran.verdict(), ran.reason()));
        assert_eq!(expected, ran.frame);
    }
}
