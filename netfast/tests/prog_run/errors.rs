//! Answers of netfast's own: ICMP errors and TCP resets. etherparse reads them; nothing here is netfast's own arithmetic.

use std::net::{IpAddr, SocketAddr};

use etherparse::{
    Icmpv4Header, Icmpv6Header, LinkExtSlice, NetSlice, SlicedPacket, TcpHeaderSlice, TransportSlice,
};
use netfast_common::{
    Reason::{self, *},
    Verdict::*,
    abi::{Flow, FlowKey, InterfaceAddress, NextHop},
    addr,
    answer::Answer,
    wire::{ACK, FIN, RST, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    forward::forward,
    frames::{Extension, Frame, tcp, udp},
};

scenarios! {
    an_expired_packet_is_answered, the_answer_s_source, too_large_packets_are_answered, as_much_as_fits_is_embedded,
    who_gets_no_error, errors_are_rate_limited, a_refused_packet_leaves_nothing, closed_ports_reset, every_kind_of_error,
    errors_keep_their_tags,
}

/// The addresses of the interface towards the clients.
const OWN: [&str; 2] = ["198.51.100.254", "2001:db8:1::fe"];
/// Those of the interface towards the targets.
const OWN_INSIDE: [&str; 2] = ["10.0.0.1", "fd00::1"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn own(addresses: [&str; 2]) -> InterfaceAddress {
    let [v4, v6] = addresses.map(|address| addr::from_ip(ip(address)));
    InterfaceAddress { v4, v6 }
}

/// Rules for DNS of both IP versions, and a host that knows its addresses.
fn host(bed: &mut Bed) {
    bed.rules(&format!(
        "{}{}{}{}",
        forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"),
        forward("dns6", "udp", "[2001:db8::10]:53", "nat", "[fd00::53]:53"),
        forward("web", "tcp", "192.0.2.10:80", "dnat", "10.0.0.80:80"),
        forward("web6", "tcp", "[2001:db8::10]:80", "dnat", "[fd00::80]:80"),
    ));
    let datapath = bed.sandbox.datapath();
    let inside = own(OWN_INSIDE);
    datapath.set_answer_addresses(&[(CLIENT_SIDE.0, own(OWN)), (TARGET_SIDE.0, inside)]).unwrap();
    let locals: Vec<IpAddr> =
        ["192.0.2.10", "2001:db8::10"].into_iter().chain(OWN).chain(OWN_INSIDE).map(ip).collect();
    datapath.set_locals(&locals).unwrap();
}

/// The smallest MTU that the way to a target has.
fn narrow(bed: &mut Bed, mtu: u16) {
    for address in ["10.0.0.53", "fd00::53", "10.0.0.80", "fd00::80"] {
        let hop = bed.way(address);
        bed.sandbox.set_way(ip(address), Some(NextHop { mtu, ..hop }));
    }
}

/// An ICMP error as etherparse reads it.
#[derive(Debug, PartialEq, Eq)]
struct Error {
    source: IpAddr,
    destination: IpAddr,
    /// Type and code.
    kind: (u8, u8),
    /// Its second word: the MTU, or nothing.
    value: u32,
    embedded: Vec<u8>,
}

fn read(frame: &[u8]) -> Error {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (source, destination): (IpAddr, IpAddr) = match packet.net.as_ref().unwrap() {
        NetSlice::Ipv4(ip) => {
            assert!(ip.header().dcp().value() == 48, "internetwork control (RFC 1812 4.3.2.5)");
            assert!(ip.header().total_len() <= 576, "RFC 1812 4.3.2.3");
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            assert!(ip.header().payload_length() + 40 <= 1280, "RFC 4443 2.4 c");
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        NetSlice::Arp(_) => panic!("ARP"),
    };
    let bytes = match packet.transport.as_ref().unwrap() {
        TransportSlice::Icmpv4(icmp) => {
            Icmpv4Header::from_slice(icmp.slice()).unwrap();
            icmp.slice()
        }
        TransportSlice::Icmpv6(icmp) => {
            Icmpv6Header::from_slice(icmp.slice()).unwrap();
            icmp.slice()
        }
        other => panic!("no ICMP: {other:?}"),
    };
    Error {
        source,
        destination,
        kind: (bytes[0], bytes[1]),
        value: u32::from_be_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]),
        embedded: bytes[8..].to_vec(),
    }
}

/// Expects an ICMP error about `frame`, from `source`, and returns it.
#[track_caller]
fn answered(
    bed: &mut Bed,
    what: &str,
    (on, mac): (u32, [u8; 6]),
    frame: &Frame,
    reason: Reason,
    source: &str,
) -> Error {
    let bytes = frame.bytes();
    let ran = bed.run(what, on, &bytes);
    assert_eq!((Some(Transmit), Some(reason)), (ran.verdict(), ran.reason()), "{what}");
    assert_eq!(
        (&ran.frame[..6], &ran.frame[6..12]),
        (&frame.from[..], &mac[..]),
        "{what}: back where it came from"
    );
    let error = read(&ran.frame);
    assert_eq!((ip(source), frame.source.ip()), (error.source, error.destination), "{what}");
    let l3 = 14 + 4 * frame.tags.len();
    let packet = &bytes[l3..bytes.len() - frame.padding];
    let most = if frame.source.is_ipv4() { 576 - 28 } else { 1280 - 48 };
    assert_eq!(packet[..packet.len().min(most)], error.embedded[..], "{what}: the packet as it came");
    error
}

fn cases() -> [(Frame, &'static str, usize); 2] {
    [
        (udp("198.51.100.1:7001", "192.0.2.10:53"), "10.0.0.53:53", 0),
        (udp("[2001:db8:1::1]:7001", "[2001:db8::10]:53"), "[fd00::53]:53", 1),
    ]
}

fn an_expired_packet_is_answered(bed: &mut Bed) {
    host(bed);
    for (query, target, family) in cases() {
        let expected = [(11, 0), (3, 0)][family];
        for ttl in [1, 0] {
            let query = Frame { ttl, ..query.clone() };
            let error = answered(bed, "new", CLIENT_SIDE, &query, TtlExpired, OWN[family]);
            assert_eq!((expected, 0), (error.kind, error.value));
        }
        assert!(bed.sandbox.flows().unwrap().is_empty(), "no flow for a packet that did not leave");
        let sent = bed.nat("TTL 2", &query.ttl(2), target);
        answered(bed, "half-open", CLIENT_SIDE, &query.ttl(1), TtlExpired, OWN[family]);
        bed.replied("answer", &query, &sent.answer());
        bed.nat("cached", &query, target);
        let error = answered(bed, "cached", CLIENT_SIDE, &query.ttl(1), TtlExpired, OWN[family]);
        assert_eq!(expected, error.kind);
        let answer = sent.answer().ttl(1);
        let error = answered(bed, "an answer", TARGET_SIDE, &answer, TtlExpired, OWN_INSIDE[family]);
        assert_eq!(expected, error.kind);
        bed.sandbox.reset().unwrap();
        host(bed);
    }
    // Options and extension headers are embedded with the rest.
    let query = udp("198.51.100.1:7002", "192.0.2.10:53").ttl(1);
    let query = Frame { options: vec![7, 7, 4, 0, 0, 0, 0, 0], padding: 9, ..query };
    answered(bed, "with options and padding", CLIENT_SIDE, &query, TtlExpired, OWN[0]);
    let options = [Extension::Raw(0, vec![1, 4, 0, 0, 0, 0]), Extension::Raw(60, vec![1, 4, 0, 0, 0, 0])];
    let syn = tcp("[2001:db8:1::1]:7002", "[2001:db8::10]:80", SYN).ttl(1).extended(&options);
    answered(bed, "with extension headers", CLIENT_SIDE, &syn, TtlExpired, OWN[1]);
}

fn the_answer_s_source(bed: &mut Bed) {
    host(bed);
    narrow(bed, 1280);
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "dnat", "10.0.0.53:53"));
    let large =
        Frame { dont_fragment: true, ..udp("198.51.100.1:7003", "192.0.2.10:53") }.payload(&[7; 1400]);
    answered(bed, "too large, to an address of the host", CLIENT_SIDE, &large, MtuExceeded, "192.0.2.10");
    let sent = large.payload(b"").forwarded(
        TARGET_SIDE.1,
        netfast::datapath::sandbox::mac_of(ip("10.0.0.53")),
        large.source,
        "10.0.0.53:53".parse::<SocketAddr>().unwrap(),
    );
    bed.leaves("fits", CLIENT_SIDE.0, &large.payload(b""), Redirect, Forwarded, &sent);
    let answer = sent.answer().ttl(1);
    answered(bed, "to a client, not the host", TARGET_SIDE, &answer, TtlExpired, OWN_INSIDE[0]);
    let datapath = bed.sandbox.datapath();
    datapath.set_answer_addresses(&[]).unwrap();
    answered(bed, "an interface without an address", CLIENT_SIDE, &large.ttl(1), TtlExpired, "192.0.2.10");
    bed.expect_on("no address at all", TARGET_SIDE.0, &answer.bytes(), Drop, TtlExpired);
}

fn too_large_packets_are_answered(bed: &mut Bed) {
    host(bed);
    narrow(bed, 1000);
    host(bed);
    for (query, target, family) in cases() {
        let room = 1000 - [28, 48][family];
        let query = Frame { dont_fragment: true, ..query };
        let (fits, large) = (query.payload(&vec![1; room]), query.payload(&vec![1; room + 1]));
        let service = ["192.0.2.10", "2001:db8::10"][family];
        let expected = ([(3, 4), (2, 0)][family], 1000);
        let error = answered(bed, "new", CLIENT_SIDE, &large, MtuExceeded, service);
        assert_eq!(expected, (error.kind, error.value));
        assert!(bed.sandbox.flows().unwrap().is_empty());
        let sent = bed.nat("fits", &fits, target);
        bed.replied("answer", &query, &sent.answer());
        bed.nat("cached", &fits, target);
        let error = answered(bed, "cached", CLIENT_SIDE, &large, MtuExceeded, service);
        assert_eq!(expected, (error.kind, error.value));
        bed.sandbox.forget_flows().unwrap();
    }
    // What may be fragmented gets no answer (RFC 1812 4.3.2.7), and an XDP program cannot fragment.
    let large = udp("198.51.100.1:7004", "192.0.2.10:53").payload(&[1; 1200]);
    bed.expect("without DF", &large, Drop, MtuExceeded);
}

fn as_much_as_fits_is_embedded(bed: &mut Bed) {
    host(bed);
    for (query, _, family) in cases() {
        for length in (0..20).chain(500..560).chain(1170..1250).chain([1400, 1452]) {
            let payload: Vec<u8> = (0..length).map(|i| (i * 7) as u8).collect();
            answered(
                bed,
                "any length",
                CLIENT_SIDE,
                &query.ttl(1).payload(&payload),
                TtlExpired,
                OWN[family],
            );
        }
    }
}

fn who_gets_no_error(bed: &mut Bed) {
    host(bed);
    let query = udp("198.51.100.1:7005", "192.0.2.10:53").ttl(1);
    let group = Frame { from: [3, 0, 0, 0, 0, 1], ..query.clone() };
    bed.expect("from a group's MAC address", &group, Drop, TtlExpired);
    // ICMP by request, since it is not forwarded by itself.
    for (what, kind, answered) in [
        ("an echo request", 8, true),
        ("an error", 3, false),
        ("time exceeded", 11, false),
        ("redirect", 5, false),
    ] {
        let icmp = query.protocol(1).payload(&[kind, 0, 0, 0, 0, 0, 0, 0]).bytes();
        let ran = bed.sandbox.answer(CLIENT_SIDE.0, &icmp, Answer::TimeExceeded, 0, TtlExpired).unwrap();
        assert_eq!(Some(if answered { Transmit } else { Drop }), ran.verdict(), "{what}");
    }
    let query = udp("[2001:db8:1::1]:7005", "[2001:db8::10]:99");
    for (what, kind, answered) in
        [("an echo request", 128, true), ("too big", 2, false), ("redirect", 137, false)]
    {
        let icmp = query.protocol(58).payload(&[kind, 0, 0, 0, 0, 0, 0, 0]).bytes();
        let ran = bed.sandbox.answer(CLIENT_SIDE.0, &icmp, Answer::Prohibited, 0, FilterReject).unwrap();
        assert_eq!(Some(if answered { Transmit } else { Drop }), ran.verdict(), "{what}, IPv6");
    }
    let later = Frame { fragment: Some((3, true)), ..udp("198.51.100.1:7005", "192.0.2.10:99") }.bytes();
    let ran = bed.sandbox.answer(CLIENT_SIDE.0, &later, Answer::Prohibited, 0, FilterReject).unwrap();
    assert_eq!((Some(Drop), Some(FilterReject)), (ran.verdict(), ran.reason()), "a later fragment");
    let other = Frame { to: [2, 9, 9, 9, 9, 9], ..udp("198.51.100.1:7005", "192.0.2.10:99") }.bytes();
    let ran = bed.sandbox.answer(CLIENT_SIDE.0, &other, Answer::Prohibited, 0, FilterReject).unwrap();
    assert_eq!(Some(Drop), ran.verdict(), "to another station");
}

fn errors_are_rate_limited(bed: &mut Bed) {
    host(bed);
    bed.sandbox.configure(|settings| settings.error_rate = 1);
    let query = udp("198.51.100.1:7006", "192.0.2.10:53").ttl(1).bytes();
    let mut verdicts = Vec::new();
    for _ in 0..40 {
        let ran = bed.run("one of many", CLIENT_SIDE.0, &query);
        assert_eq!(Some(TtlExpired), ran.reason());
        verdicts.push(ran.verdict().unwrap());
    }
    let sent = verdicts.iter().filter(|verdict| **verdict == Transmit).count();
    assert!((1..30).contains(&sent), "{sent} of 40 at one a second and a burst of 16");
    assert_eq!(Some(&Drop), verdicts.last());
    bed.sandbox.configure(|settings| settings.error_rate = 0);
    for _ in 0..3 {
        let ran = bed.run("none at all", CLIENT_SIDE.0, &query);
        assert_eq!((Some(Drop), Some(TtlExpired)), (ran.verdict(), ran.reason()));
    }
}

fn a_refused_packet_leaves_nothing(bed: &mut Bed) {
    host(bed);
    narrow(bed, 1000);
    host(bed);
    let syn = tcp("198.51.100.1:7007", "192.0.2.10:80", SYN);
    let (fin, rst) = (syn.flags(FIN | ACK).ttl(1), syn.flags(RST).ttl(1));
    answered(bed, "SYN", CLIENT_SIDE, &syn.ttl(1), TtlExpired, OWN[0]);
    assert!(bed.sandbox.flows().unwrap().is_empty());
    bed.run("SYN", CLIENT_SIDE.0, &syn.bytes());
    let before = bed.sandbox.flows().unwrap();
    assert_eq!(2, before.len());
    // What does not leave does not end a connection either.
    answered(bed, "FIN", CLIENT_SIDE, &fin, TtlExpired, OWN[0]);
    answered(bed, "RST", CLIENT_SIDE, &rst, TtlExpired, OWN[0]);
    let states = |flows: &[(bool, FlowKey, Flow)]| {
        let mut states: Vec<_> = flows.iter().map(|(_, key, flow)| (*key, flow.state)).collect();
        states.sort();
        states
    };
    assert_eq!(states(&before), states(&bed.sandbox.flows().unwrap()));
}

/// RFC 9293 3.10.7.1, asked for as the filter asks for it.
fn closed_ports_reset(bed: &mut Bed) {
    host(bed);
    for (source, destination) in
        [("198.51.100.1:7008", "192.0.2.10:81"), ("[2001:db8:1::1]:7008", "[2001:db8::10]:81")]
    {
        let options = if source.starts_with('[') { vec![] } else { vec![7, 7, 4, 0, 0, 0, 0, 0] };
        for tags in [vec![], vec![(0x8100, 7)], vec![(0x88a8, 3), (0x8100, 7)]] {
            for (flags, data) in
                [(SYN, 0), (ACK, 100), (SYN | ACK, 0), (FIN | ACK, 1), (0, 33), (SYN | FIN, 5)]
            {
                let segment =
                    Frame { options: options.clone(), tags: tags.clone(), ..tcp(source, destination, flags) };
                let segment = segment.payload(&vec![9; data]);
                let bytes = segment.bytes();
                let ran = bed.sandbox.answer(CLIENT_SIDE.0, &bytes, Answer::Reset, 0, FilterReject).unwrap();
                assert_eq!((Some(Transmit), Some(FilterReject)), (ran.verdict(), ran.reason()));
                assert_eq!(None, crate::judge::judge(&bytes, &ran));
                let l3 = 14 + 4 * tags.len();
                assert_eq!(bytes[12..l3], ran.frame[12..l3], "tags");
                let headers = if source.starts_with('[') { 40 } else { 20 };
                assert_eq!(l3 + headers + 20, ran.frame.len());
                let reset = TcpHeaderSlice::from_slice(&ran.frame[l3 + headers..]).unwrap();
                let ports = (segment.destination.port(), segment.source.port());
                assert_eq!(ports, (reset.source_port(), reset.destination_port()));
                let length = data as u32 + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
                let (sequence, acknowledged) = segment.numbers;
                let expected =
                    if flags & ACK != 0 { (acknowledged, 0, false) } else { (0, sequence + length, true) };
                let got = (reset.sequence_number(), reset.acknowledgment_number(), reset.ack());
                assert_eq!((true, expected), (reset.rst(), got), "flags {flags:#x}, {data} bytes");
            }
        }
        let reset = tcp(source, destination, RST | ACK).bytes();
        let ran = bed.sandbox.answer(CLIENT_SIDE.0, &reset, Answer::Reset, 0, FilterReject).unwrap();
        assert_eq!(Some(Drop), ran.verdict(), "a reset is not answered");
        let datagram = udp(source, destination).bytes();
        let ran = bed.sandbox.answer(CLIENT_SIDE.0, &datagram, Answer::Reset, 0, FilterReject).unwrap();
        assert_eq!(Some(Drop), ran.verdict(), "UDP has no reset");
    }
}

fn every_kind_of_error(bed: &mut Bed) {
    host(bed);
    for (frame, service) in [
        (udp("198.51.100.1:7009", "192.0.2.10:99"), "192.0.2.10"),
        (udp("[2001:db8:1::1]:7009", "[2001:db8::10]:99"), "2001:db8::10"),
    ] {
        for (answer, value, v4, v6) in [
            (Answer::PortUnreachable, 0, (3, 3), (1, 4)),
            (Answer::Prohibited, 0, (3, 13), (1, 1)),
            (Answer::HostUnreachable, 0, (3, 1), (1, 3)),
            (Answer::TooBig, 1234, (3, 4), (2, 0)),
        ] {
            let ran = bed.sandbox.answer(CLIENT_SIDE.0, &frame.bytes(), answer, value, FilterReject).unwrap();
            assert_eq!((Some(Transmit), Some(FilterReject)), (ran.verdict(), ran.reason()), "{answer:?}");
            assert_eq!(None, crate::judge::judge(&frame.bytes(), &ran));
            let error = read(&ran.frame);
            let kind = if frame.source.is_ipv4() { v4 } else { v6 };
            assert_eq!((kind, u32::from(value), ip(service)), (error.kind, error.value, error.source));
        }
    }
}

fn errors_keep_their_tags(bed: &mut Bed) {
    host(bed);
    for (query, _, family) in cases() {
        for tags in [vec![(0x8100, 7)], vec![(0x88a8, 3), (0x8100, 4094)]] {
            let query = query.ttl(1).tagged(&tags);
            answered(bed, "tagged", CLIENT_SIDE, &query, TtlExpired, OWN[family]);
            let ran = bed.run("tagged", CLIENT_SIDE.0, &query.bytes());
            let packet = SlicedPacket::from_ethernet(&ran.frame).unwrap();
            let ids: Vec<u16> = packet
                .link_exts
                .iter()
                .map(|tag| match tag {
                    LinkExtSlice::Vlan(tag) => tag.vlan_identifier().value(),
                    other => panic!("{other:?}"),
                })
                .collect();
            assert_eq!(tags.iter().map(|tag| tag.1).collect::<Vec<_>>(), ids);
        }
    }
}
