//! Modes `dsr` and `ipip`: what a target gets, and which target it is.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use etherparse::{Ipv4Header, Ipv6Header};
use netfast::datapath::sandbox::{Ran, mac_of};
use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::NextHop,
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    forward::forward,
    frames::{Extension, Frame, tcp, udp},
};

scenarios! {
    dsr_changes_the_macs_alone, dsr_to_a_gateway_is_refused, ipip_wraps_each_version_in_each, cached_tunnels_are_the_same,
    outer_headers_take_over_class_and_spread,
}

/// The header that a tunnel has put in front, as etherparse sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub class: u8,
    pub protocol: u8,
    pub ttl: u8,
    /// IPv6 only.
    pub label: u32,
}

/// Takes a frame apart that went into a tunnel: link header, outer header, inner packet.
#[track_caller]
pub fn unwrapped(frame: &[u8]) -> (&[u8], Outer, &[u8]) {
    let link = if frame[12..14] == [0x81, 0] { 18 } else { 14 };
    let (mac, packet) = frame.split_at(link);
    match packet[0] >> 4 {
        4 => {
            let (header, inner) = Ipv4Header::from_slice(packet).unwrap();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            assert!(header.dont_fragment && !header.more_fragments);
            let length = usize::from(header.total_len) - 20;
            let outer = Outer {
                source: IpAddr::from(header.source),
                destination: IpAddr::from(header.destination),
                class: packet[1],
                protocol: header.protocol.0,
                ttl: header.time_to_live,
                label: 0,
            };
            (mac, outer, &inner[..length])
        }
        _ => {
            let (header, inner) = Ipv6Header::from_slice(packet).unwrap();
            let outer = Outer {
                source: IpAddr::from(header.source),
                destination: IpAddr::from(header.destination),
                class: packet[0] << 4 | packet[1] >> 4,
                protocol: header.next_header.0,
                ttl: header.hop_limit,
                label: header.flow_label.value(),
            };
            (mac, outer, &inner[..usize::from(header.payload_length)])
        }
    }
}

/// As the frame leaves in mode `dsr`.
pub fn relayed(frame: &Frame, target: &str) -> Frame {
    Frame { from: TARGET_SIDE.1, to: mac_of(target.parse().unwrap()), ..frame.clone() }
}

/// The frame's packet one hop further.
fn aged(frame: &Frame) -> Vec<u8> {
    let link = 14 + 4 * frame.tags.len();
    Frame { ttl: frame.ttl - 1, padding: 0, ..frame.clone() }.bytes()[link..].to_vec()
}

/// Expects that a frame goes to `target` by a tunnel; returns the outer header.
#[track_caller]
pub fn tunnelled(bed: &mut Bed, what: &str, frame: &Frame, target: &str) -> Outer {
    let ran = bed.run(what, CLIENT_SIDE.0, &frame.bytes());
    wrapped(what, &ran, frame, target)
}

#[track_caller]
fn wrapped(what: &str, ran: &Ran, frame: &Frame, target: &str) -> Outer {
    assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{what}");
    let target: IpAddr = target.parse().unwrap();
    let (link, outer, inner) = unwrapped(&ran.frame);
    assert_eq!(aged(frame), inner, "{what}: the inner packet");
    assert_eq!(
        (mac_of(target), TARGET_SIDE.1),
        (link[..6].try_into().unwrap(), link[6..12].try_into().unwrap())
    );
    assert_eq!((target, 64), (outer.destination, outer.ttl), "{what}");
    assert_eq!(if frame.source.is_ipv4() { 4 } else { 41 }, outer.protocol, "{what}");
    outer
}

fn dsr_changes_the_macs_alone(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}",
        forward("web", "tcp", "192.0.2.10:80", "dsr", "10.0.0.11:80"),
        forward("dns6", "udp", "[2001:db8::10]:53", "dsr", "[fd00::53]:53")
    ));
    let syn = tcp("198.51.100.1:5001", "192.0.2.10:80", SYN);
    let query = udp("[2001:db8:1::1]:5001", "[2001:db8::10]:53");
    let data = syn.flags(ACK).payload(b"data");
    let tcp = [
        ("SYN", syn.clone()),
        ("SYN again", syn.clone()),
        ("ACK", data.clone()),
        ("data, by the cache", data.clone()),
        ("padded", Frame { padding: 9, ..data.clone() }),
        ("the last hop", data.ttl(1)),
        ("options", Frame { options: vec![1, 1, 1, 0], ..data.clone() }),
        ("FIN", syn.flags(FIN | ACK)),
        ("RST", syn.flags(RST | ACK)),
    ];
    for (what, frame) in tcp {
        bed.leaves(what, CLIENT_SIDE.0, &frame, Redirect, Forwarded, &relayed(&frame, "10.0.0.11"));
    }
    let udp = [
        ("a datagram", query.clone()),
        ("another", query.clone()),
        ("by the cache", query.clone()),
        ("extension headers", query.extended(&[Extension::Raw(60, vec![0; 6])])),
    ];
    for (what, frame) in udp {
        bed.leaves(what, CLIENT_SIDE.0, &frame, Redirect, Forwarded, &relayed(&frame, "fd00::53"));
    }
    // Not by the bed, which would not have it: whether that is right is the target's business (RFC 6935).
    let bare = query.without_checksum();
    let ran = bed.sandbox.run(CLIENT_SIDE.0, &bare.bytes()).unwrap();
    assert_eq!(relayed(&bare, "fd00::53").bytes(), ran.frame);
    let index = bed.sandbox.ids().forwards()[0].targets[0].index;
    let counters = bed.sandbox.counters();
    assert_eq!(9, counters.target(index, netfast::datapath::Direction::ToTarget).packets);
    assert_eq!(1, counters.flows_made(bed.sandbox.ids().forwards()[0].index));
}

fn dsr_to_a_gateway_is_refused(bed: &mut Bed) {
    bed.sandbox.set_gateway("10.0.0.11".parse().unwrap(), "10.0.0.254".parse().unwrap());
    bed.rules(&forward("web", "tcp", "192.0.2.10:80", "dsr", "10.0.0.11:80"));
    bed.expect("SYN", &tcp("198.51.100.1:5002", "192.0.2.10:80", SYN), Drop, NoRoute);
    bed.rules(&forward("web", "tcp", "192.0.2.10:80", "ipip", "10.0.0.11:80"));
    tunnelled(
        bed,
        "a tunnel goes by way of it",
        &tcp("198.51.100.1:5002", "192.0.2.10:80", SYN),
        "10.0.0.11",
    );
}

/// Both versions of the service, each to targets of both.
fn four(mode: &str) -> String {
    [
        ("a", "192.0.2.10:80", "10.0.0.11:80"),
        ("b", "192.0.2.11:80", "[fd00::11]:80"),
        ("c", "[2001:db8::10]:80", "10.0.0.12:80"),
        ("d", "[2001:db8::11]:80", "[fd00::12]:80"),
    ]
    .iter()
    .flat_map(|(name, listen, target)| {
        ["tcp", "udp"].map(|protocol| forward(&format!("{name}-{protocol}"), protocol, listen, mode, target))
    })
    .collect()
}

const FOUR: [(&str, &str, &str); 4] = [
    ("198.51.100.1:5003", "192.0.2.10:80", "10.0.0.11"),
    ("198.51.100.1:5003", "192.0.2.11:80", "fd00::11"),
    ("[2001:db8:1::1]:5003", "[2001:db8::10]:80", "10.0.0.12"),
    ("[2001:db8:1::1]:5003", "[2001:db8::11]:80", "fd00::12"),
];

fn ipip_wraps_each_version_in_each(bed: &mut Bed) {
    bed.rules(&four("ipip"));
    for (client, service, target) in FOUR {
        let own: IpAddr = if target.contains(':') { "fd00::1" } else { "10.0.0.1" }.parse().unwrap();
        let syn = tcp(client, service, SYN);
        let first = tunnelled(bed, "SYN", &syn, target);
        assert_eq!(own, first.source);
        let data = syn.flags(ACK).payload(b"some data");
        for what in ["ACK", "by the cache", "again"] {
            assert_eq!(
                first,
                tunnelled(bed, what, &data, target),
                "{what}: all packets of a flow look alike"
            );
        }
        tunnelled(bed, "padded", &Frame { padding: 9, ..data.clone() }, target);
        tunnelled(bed, "tagged", &data.tagged(&[(0x8100, 7)]), target);
        tunnelled(bed, "two tags", &data.tagged(&[(0x88a8, 7), (0x8100, 8)]), target);
        let query = udp(client, service);
        tunnelled(bed, "a datagram", &query, target);
        tunnelled(bed, "the shortest", &query.payload(b""), target);
        bed.expect("a TTL that is used up", &data.ttl(1), Drop, TtlExpired);
        // Out by a VLAN.
        let way = bed.way(target);
        bed.sandbox.set_way(target.parse().unwrap(), Some(NextHop { vlan: 9, ..way }));
        tunnelled(bed, "into a VLAN", &data, target);
        tunnelled(bed, "from one VLAN to another", &data.tagged(&[(0x8100, 7)]), target);
    }
}

fn cached_tunnels_are_the_same(bed: &mut Bed) {
    bed.rules(&four("ipip"));
    for (client, service, target) in FOUR {
        let query = udp(client, service);
        let slow = tunnelled(bed, "first", &query, target);
        tunnelled(bed, "second", &query, target);
        bed.sandbox.forget_flows().unwrap();
        assert_eq!(slow, tunnelled(bed, "no entry is needed", &query, target));
        assert!(bed.sandbox.flows().unwrap().is_empty(), "it went by the cache");
        bed.sandbox.forget_lines().unwrap();
        assert_eq!(slow, tunnelled(bed, "by the look-up table", &query, target));
        assert_eq!(1, bed.sandbox.flows().unwrap().len());
        bed.sandbox.forget_flows().unwrap();
    }
}

fn outer_headers_take_over_class_and_spread(bed: &mut Bed) {
    let spread = |rules: String, net: &str| {
        rules.replace("[[forward.target]]", &format!("tunnel_source = \"{net}\"\n[[forward.target]]"))
    };
    bed.rules(&format!(
        "{}{}",
        spread(forward("a", "udp", "192.0.2.10:80", "ipip", "10.0.0.11:80"), "172.16.0.0/20"),
        spread(forward("b", "udp", "192.0.2.11:80", "ipip", "[fd00::11]:80"), "2001:db8:77::/64"),
    ));
    for (service, target, first, last) in [
        ("192.0.2.10:80", "10.0.0.11", "172.16.0.0", "172.16.15.255"),
        ("192.0.2.11:80", "fd00::11", "2001:db8:77::", "2001:db8:77::ffff:ffff"),
    ] {
        let (first, last): (IpAddr, IpAddr) = (first.parse().unwrap(), last.parse().unwrap());
        let (mut sources, mut labels) = (HashSet::new(), HashSet::new());
        for port in 1000..1100 {
            let query = udp(&format!("198.51.100.1:{port}"), service);
            let outer = tunnelled(bed, "first", &query, target);
            assert_eq!(outer, tunnelled(bed, "second", &query, target));
            assert_eq!(outer, tunnelled(bed, "third, by the cache", &query, target));
            assert!((first..=last).contains(&outer.source), "{outer:?}");
            sources.insert(outer.source);
            labels.insert(outer.label);
        }
        assert!(sources.len() > 90, "{} sources of 100 flows", sources.len());
        assert!(first.is_ipv4() || labels.len() > 90, "{} flow labels of 100 flows", labels.len());
    }
    // DSCP and ECN, first and cached packets.
    for (service, target) in [("192.0.2.10:80", "10.0.0.11"), ("192.0.2.11:80", "fd00::11")] {
        for class in [0, 0xb8, 0xb9, 0xba, 0xbb, 3] {
            let mut bytes = udp("198.51.100.1:2000", service).bytes();
            bytes[15] = class;
            bytes[24..26].fill(0);
            let sum = Ipv4Header::from_slice(&bytes[14..]).unwrap().0.calc_header_checksum();
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
            let ran = bed.run("a class", CLIENT_SIDE.0, &bytes);
            let (_, outer, inner) = unwrapped(&ran.frame);
            assert_eq!((class, class), (outer.class, inner[1]), "{target}");
        }
    }
    bed.sandbox.pass(Duration::from_secs(1)).unwrap();
}
