//! Forwards between the IP versions (RFC 7915): clients of one, targets of the other.

use std::net::SocketAddr;

use etherparse::{Ipv4HeaderSlice, NetSlice, SlicedPacket};
use netfast::datapath::{Direction, sandbox::mac_of};
use netfast_common::{
    Reason::{self, *},
    Verdict::{self, *},
    abi::NextHop,
    wire::{ACK, FIN, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios, source_port},
    forward::forward,
    frames::{Extension, Frame, socket, tcp, udp},
};

scenarios! {
    tcp_from_ipv6_to_ipv4, tcp_from_ipv4_to_ipv6, datagrams_both_ways, payloads_of_any_length_between_the_versions,
    a_missing_udp_checksum_is_made, what_cannot_be_translated_is_dropped, what_does_not_fit_after_translation,
    header_fields_follow_rfc_7915, tags_between_the_versions, used_up_before_translation, rules_change_in_between,
    one_forward_with_targets_of_both_versions, out_where_it_came_in_between_the_versions,
}

/// Clients, service and target: an IPv6 one on IPv4, and the other way round.
pub const UP: (&str, &str, &str) = ("[2001:db8:1::1]:4001", "[2001:db8::10]:80", "10.0.0.11:8080");
pub const DOWN: (&str, &str, &str) = ("198.51.100.1:4001", "192.0.2.10:80", "[fd00::11]:8080");

/// The frame without what the translator chooses freely: the identification of an IPv4 packet that may be fragmented, and
/// with it the header checksum (which the bed has verified).
fn plain(frame: &[u8]) -> Vec<u8> {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(NetSlice::Ipv4(ip)) = &packet.net else { return frame.to_vec() };
    let at = ip.header().slice().as_ptr() as usize - frame.as_ptr() as usize;
    let mut frame = frame.to_vec();
    for byte in [4, 5, 10, 11] {
        frame[at + byte] = 0;
    }
    // Frames of these tests are made without DF; a long one has it after translation.
    if frame[at + 6] == 0x40 && u16::from_be_bytes([frame[at + 2], frame[at + 3]]) > 1260 {
        frame[at + 6] = 0;
    }
    frame
}

/// Runs a frame and expects that it leaves as `out`; the frame as it left.
#[track_caller]
fn leaves(bed: &mut Bed, what: &str, on: u32, frame: &Frame, how: (Verdict, Reason), out: &Frame) -> Vec<u8> {
    let ran = bed.run(what, on, &frame.bytes());
    assert_eq!((Some(how.0), Some(how.1)), (ran.verdict(), ran.reason()), "{what}");
    assert_eq!(plain(&out.bytes()), plain(&ran.frame), "{what}: {out:?} expected");
    ran.frame
}

/// Expects that a client's frame gets to a target of the other version; the frame as it must have left.
#[track_caller]
pub fn crosses(bed: &mut Bed, what: &str, frame: &Frame, target: &str) -> Frame {
    let target = socket(target);
    let own = if target.is_ipv4() { "10.0.0.1" } else { "fd00::1" };
    let ran = bed.run(what, CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()), "{what}");
    let source = SocketAddr::new(own.parse().unwrap(), source_port(&ran.frame));
    let out = frame.forwarded(TARGET_SIDE.1, mac_of(target.ip()), source, target);
    assert_eq!(plain(&out.bytes()), plain(&ran.frame), "{what}: {out:?} expected");
    out
}

/// Expects that a target's answer to what was `frame` when the client sent it gets to the client.
#[track_caller]
fn returns(bed: &mut Bed, what: &str, frame: &Frame, reply: &Frame) {
    let expected = reply.forwarded(CLIENT_SIDE.1, frame.from, frame.destination, frame.source);
    leaves(bed, what, TARGET_SIDE.0, reply, (Redirect, Reply), &expected);
}

fn connection(bed: &mut Bed, (source, service, target): (&str, &str, &str)) {
    bed.rules(&forward("web", "tcp", service, "nat", target));
    let syn = tcp(source, service, SYN);
    let out = crosses(bed, "SYN", &syn, target);
    returns(bed, "SYN ACK", &syn, &out.answer().flags(SYN | ACK));
    let data = tcp(source, service, ACK);
    for round in 0..4 {
        let sent = crosses(bed, "data", &data.payload(&vec![round; 100 * usize::from(round) + 1]), target);
        assert_eq!(out.source, sent.source, "the source port stays");
        returns(bed, "data back", &data, &out.answer().flags(ACK).payload(&[round; 901]));
    }
    crosses(bed, "client's FIN", &data.flags(FIN | ACK).payload(b""), target);
    returns(bed, "target's FIN", &data, &out.answer().flags(FIN | ACK).payload(b""));
    crosses(bed, "last ACK", &data.payload(b""), target);
    let index = bed.sandbox.ids().forwards()[0].targets[0].index;
    let counters = bed.sandbox.counters();
    let (there, back) =
        (counters.target(index, Direction::ToTarget), counters.target(index, Direction::ToClient));
    assert_eq!((7, 6), (there.packets, back.packets));
    assert_eq!(1, counters.flows_made(bed.sandbox.ids().forwards()[0].index));
}

fn tcp_from_ipv6_to_ipv4(bed: &mut Bed) {
    connection(bed, UP);
}

fn tcp_from_ipv4_to_ipv6(bed: &mut Bed) {
    connection(bed, DOWN);
}

fn datagrams_both_ways(bed: &mut Bed) {
    for (source, service, target) in [UP, DOWN] {
        bed.rules(&forward("dns", "udp", service, "nat", target));
        let query = udp(source, service);
        let sent = crosses(bed, "query", &query, target);
        for _ in 0..3 {
            returns(bed, "answer", &query, &sent.answer());
            assert_eq!(sent.source, crosses(bed, "next query", &query, target).source);
        }
    }
}

fn payloads_of_any_length_between_the_versions(bed: &mut Bed) {
    for (source, service, target) in [UP, DOWN] {
        bed.rules(&forward("dns", "udp", service, "nat", target));
        let query = udp(source, service);
        for length in (0..70).chain([511, 512, 513, 1200, 1232, 1233, 1451, 1452]) {
            let query = query.payload(&vec![0xe7; length]);
            let sent = crosses(bed, "query", &query, target);
            returns(bed, "answer", &query, &sent.answer().payload(&vec![0x7e; length]));
        }
        // Ethernet's padding stays behind what counts.
        let padded = Frame { padding: 11, ..query.payload(b"x") };
        crosses(bed, "padded", &padded, target);
    }
}

fn a_missing_udp_checksum_is_made(bed: &mut Bed) {
    let (source, service, target) = DOWN;
    bed.sandbox.set_way("fd00::11".parse().unwrap(), Some(NextHop { mtu: 65_535, ..bed.way("fd00::11") }));
    bed.rules(&forward("dns", "udp", service, "nat", target));
    // Around the parts in which it is summed up, and beyond the first buffer.
    for length in (0..12).chain([503, 504, 505, 506, 1015, 1016, 1017, 1400, 3400, 3500, 9000, 60_000]) {
        let payload: Vec<u8> = (0..length).map(|at| (at * 31 + length) as u8).collect();
        let whole = udp(source, service).payload(&payload);
        let sent = bed.run("no checksum", CLIENT_SIDE.0, &whole.without_checksum().bytes()).frame;
        let with = bed.run("with one", CLIENT_SIDE.0, &whole.bytes()).frame;
        assert_eq!(with, sent, "{length} bytes");
    }
    // One that comes to 0 is sent as FFFF.
    let sent = crosses(bed, "any", &udp(source, service).payload(&[0, 0]), target).bytes();
    let sum = [sent[60], sent[61]];
    let ran = bed.run(
        "made to be 0",
        CLIENT_SIDE.0,
        &udp(source, service).payload(&sum).without_checksum().bytes(),
    );
    assert_eq!([0xff, 0xff], ran.frame[60..62]);
    // In the other direction there is none to be made: IPv6 asks for it.
    let (source, service, target) = UP;
    bed.rules(&forward("dns", "udp", service, "nat", target));
    bed.expect("IPv6 without one", &udp(source, service).without_checksum(), Drop, UdpZeroChecksum);
}

fn what_cannot_be_translated_is_dropped(bed: &mut Bed) {
    let (source, service, target) = DOWN;
    bed.rules(&forward("web", "tcp", service, "nat", target));
    let before = bed.sandbox.counters().flows_made(0);
    let syn = tcp(source, service, SYN);
    bed.expect("options", &Frame { options: vec![1, 1, 1, 0], ..syn.clone() }, Drop, Untranslatable);
    assert_eq!(before, bed.sandbox.counters().flows_made(0), "no flow was made for it");
    let out = crosses(bed, "SYN", &syn, target);
    let extension = Extension::Raw(60, vec![1, 4, 0, 0, 0, 0]);
    for (what, extension) in [("options", extension), ("an atomic fragment", Extension::Fragment(0, false))] {
        let reply = out.answer().flags(SYN | ACK).extended(&[extension]);
        bed.expect_on(what, TARGET_SIDE.0, &reply.bytes(), Drop, Untranslatable);
    }
    returns(bed, "SYN ACK", &syn, &out.answer().flags(SYN | ACK));
}

/// A frame whose IPv4 packet must not be fragmented.
fn whole(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes[20] |= 0x40;
    bytes[24..26].fill(0);
    let sum = Ipv4HeaderSlice::from_slice(&bytes[14..]).unwrap().to_header().calc_header_checksum();
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

fn what_does_not_fit_after_translation(bed: &mut Bed) {
    let (source, service, target) = DOWN;
    bed.rules(&forward("dns", "udp", service, "nat", target));
    let query = udp(source, service);
    crosses(bed, "1480 bytes become 1500", &query.payload(&[1; 1452]), target);
    let ran = bed.run("1481 with DF", CLIENT_SIDE.0, &whole(&query.payload(&[1; 1453])));
    assert_eq!(Some(MtuExceeded), ran.reason());
    bed.expect("1481, to be fragmented", &query.payload(&[1; 1453]), Drop, MtuExceeded);

    let (source, service, target) = UP;
    bed.rules(&forward("dns", "udp", service, "nat", target));
    let query = udp(source, service);
    crosses(bed, "1520 bytes become 1500", &query.payload(&[1; 1472]), target);
    let ran = bed.run("1521", CLIENT_SIDE.0, &query.payload(&[1; 1473]).bytes());
    assert_eq!(Some(MtuExceeded), ran.reason());
}

fn header_fields_follow_rfc_7915(bed: &mut Bed) {
    let (source, service, target) = UP;
    bed.rules(&forward("dns", "udp", service, "nat", target));
    let mut identifications = std::collections::BTreeSet::new();
    for length in [0, 1232, 1233, 1400] {
        let mut frame = udp(source, service).payload(&vec![9; length]).bytes();
        frame[14..18].copy_from_slice(&[0x6b, 0x8a, 0xbc, 0xde]);
        for _ in 0..4 {
            let ran = bed.run("to IPv4", CLIENT_SIDE.0, &frame);
            let packet = SlicedPacket::from_ethernet(&ran.frame).unwrap();
            let Some(NetSlice::Ipv4(ip)) = packet.net else { panic!("not IPv4") };
            let header = ip.header();
            assert_eq!(0xb8, header.dcp().value() << 2 | header.ecn().value(), "traffic class");
            assert_eq!((63, 17), (header.ttl(), header.protocol().0));
            assert_eq!(28 + length, usize::from(header.total_len()));
            // Up to 1260 bytes it may be fragmented on the way.
            assert_eq!(length > 1232, header.dont_fragment(), "{length} bytes");
            if header.dont_fragment() {
                assert_eq!(0, header.identification());
            } else {
                identifications.insert(header.identification());
            }
        }
    }
    assert!(identifications.len() > 4, "they differ: {identifications:?}");
    let (source, service, target) = DOWN;
    bed.rules(&forward("dns", "udp", service, "nat", target));
    let mut header = udp(source, service).bytes();
    header[15] = 0xb9;
    header[24..26].fill(0);
    let sum = Ipv4HeaderSlice::from_slice(&header[14..]).unwrap().to_header().calc_header_checksum();
    header[24..26].copy_from_slice(&sum.to_be_bytes());
    let ran = bed.run("to IPv6", CLIENT_SIDE.0, &header);
    assert_eq!([0x6b, 0x90, 0, 0], ran.frame[14..18], "traffic class, and no flow label");
}

fn tags_between_the_versions(bed: &mut Bed) {
    for (source, service, target) in [UP, DOWN] {
        let end = socket(target);
        for (round, (came, leave)) in [
            (vec![], 5u16),
            (vec![(0x8100, 7)], 0),
            (vec![(0x8100, 7)], 5),
            (vec![(0x88a8, 3), (0x8100, 7)], 5),
        ]
        .into_iter()
        .enumerate()
        {
            let hop = bed.way(&end.ip().to_string());
            bed.sandbox.set_way(end.ip(), Some(NextHop { vlan: leave, ..hop }));
            bed.rules(&forward("dns", "udp", service, "nat", target));
            let port = 6100 + round as u16;
            let query = udp(&SocketAddr::new(socket(source).ip(), port).to_string(), service).tagged(&came);
            let tag = |vlan: u16| if vlan == 0 { Vec::new() } else { vec![(0x8100, vlan)] };
            for _ in 0..2 {
                let own = if end.is_ipv4() { "10.0.0.1" } else { "fd00::1" };
                let ran = bed.run("query", CLIENT_SIDE.0, &query.bytes());
                let own = SocketAddr::new(own.parse().unwrap(), source_port(&ran.frame));
                let sent = query.forwarded(hop.source, hop.destination, own, end).tagged(&tag(leave));
                assert_eq!(plain(&sent.bytes()), plain(&ran.frame), "{came:?} to {leave}");
                let inner = came.last().map_or(0, |tag| tag.1);
                let back = sent
                    .answer()
                    .forwarded(CLIENT_SIDE.1, query.from, query.destination, query.source)
                    .tagged(&tag(inner));
                leaves(bed, "answer", TARGET_SIDE.0, &sent.answer(), (Redirect, Reply), &back);
            }
        }
    }
}

fn used_up_before_translation(bed: &mut Bed) {
    for (source, service, target) in [UP, DOWN] {
        bed.rules(&forward("dns", "udp", service, "nat", target));
        let query = udp(source, service);
        for ttl in [0, 1] {
            let ran = bed.run("used up", CLIENT_SIDE.0, &query.ttl(ttl).bytes());
            assert_eq!(Some(TtlExpired), ran.reason());
        }
        crosses(bed, "one hop left", &query.ttl(2), target);
    }
}

/// Both ends of a flow are asked again after a publication: for its way to the target, and for the way to the client.
fn rules_change_in_between(bed: &mut Bed) {
    for (source, service, target) in [UP, DOWN] {
        let rules = forward("dns", "udp", service, "nat", target);
        bed.rules(&rules);
        let query = udp(source, service);
        let sent = crosses(bed, "query", &query, target);
        returns(bed, "answer", &query, &sent.answer());
        for filter in ["192.0.2.99/32", "192.0.2.98/32"] {
            bed.rules(&format!("{rules}[[filter]]\naction = \"drop\"\nsrc = \"{filter}\"\n"));
            returns(bed, "answer under new rules", &query, &sent.answer());
            assert_eq!(sent.source, crosses(bed, "query under new rules", &query, target).source);
        }
        bed.rules("");
        bed.expect("the forward is gone", &query, Pass, ForwardRemoved);
    }
}

fn one_forward_with_targets_of_both_versions(bed: &mut Bed) {
    let targets = "[[forward.target]]\naddress = \"[fd00::11]:8080\"\n";
    bed.rules(&format!("{}{targets}", forward("dns", "udp", "192.0.2.10:80", "nat", "10.0.0.11:8080")));
    let mut versions = [0, 0];
    for port in 5000..5060 {
        let query = udp(&format!("198.51.100.1:{port}"), "192.0.2.10:80");
        for _ in 0..3 {
            let ran = bed.run("query", CLIENT_SIDE.0, &query.bytes());
            let version = usize::from(ran.frame[12] == 0x86);
            let (target, own) = [("10.0.0.11:8080", "10.0.0.1"), ("[fd00::11]:8080", "fd00::1")][version];
            let own = SocketAddr::new(own.parse().unwrap(), source_port(&ran.frame));
            let sent = query.forwarded(TARGET_SIDE.1, mac_of(socket(target).ip()), own, socket(target));
            assert_eq!(plain(&sent.bytes()), plain(&ran.frame));
            returns(bed, "answer", &query, &sent.answer());
            versions[version] += 1;
        }
    }
    assert!(versions.iter().all(|count| *count >= 30), "{versions:?}");
}

fn out_where_it_came_in_between_the_versions(bed: &mut Bed) {
    let (source, service, target) = UP;
    let hop = bed.way("10.0.0.11");
    let way = NextHop { ifindex: CLIENT_SIDE.0, source: CLIENT_SIDE.1, ..hop };
    bed.sandbox.set_way("10.0.0.11".parse().unwrap(), Some(way));
    bed.rules(&forward("dns", "udp", service, "nat", target));
    let query = udp(source, service);
    for _ in 0..3 {
        let ran = bed.run("query", CLIENT_SIDE.0, &query.bytes());
        assert_eq!((Some(Transmit), Some(Forwarded)), (ran.verdict(), ran.reason()));
        let own = SocketAddr::new("10.0.0.1".parse().unwrap(), source_port(&ran.frame));
        let sent = query.forwarded(CLIENT_SIDE.1, hop.destination, own, socket(target));
        assert_eq!(plain(&sent.bytes()), plain(&ran.frame));
        let back = sent.answer().forwarded(CLIENT_SIDE.1, query.from, query.destination, query.source);
        leaves(bed, "answer", CLIENT_SIDE.0, &sent.answer(), (Transmit, Reply), &back);
    }
}
