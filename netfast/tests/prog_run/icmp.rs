//! ICMP errors about flows, translated inside and out (RFC 5508 4): what a router on the way says reaches the one whom it
//! concerns, about the packet that it has sent.

use std::net::{IpAddr, SocketAddr};

use netfast_common::{
    Reason::*,
    Verdict::*,
    abi::NextHop,
    wire::{ACK, SYN},
};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    checksums::{self, Sum},
    forward::forward,
    frames::{Extension, Frame, Mac, tcp, udp},
};

scenarios! {
    errors_of_the_targets_side, errors_of_the_clients_side, every_type_and_code, as_little_as_routers_embed,
    options_and_extension_headers_inside, extensions_of_rfc_4884_stay, tags_of_errors, wrong_checksums_stay_wrong,
    errors_about_nothing, errors_neither_refresh_nor_end, an_error_that_cannot_go_on, no_checksum_inside,
    out_by_the_same_side,
}

/// A router somewhere between this host and an end.
const ROUTERS: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn number(version4: bool) -> u8 {
    if version4 { 1 } else { 58 }
}

/// The sum over all words, the field taken as zero, in ones' complement.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum = etherparse::checksum::Sum16BitWords::new();
    for part in parts {
        sum = sum.add_slice(part);
    }
    sum.ones_complement().to_be()
}

/// The frame of an ICMP error: from `router` to `to`, type, code and second word, and what is inside.
#[derive(Clone, Debug)]
pub struct Error {
    pub macs: (Mac, Mac),
    tags: Vec<(u16, u16)>,
    pub router: IpAddr,
    to: IpAddr,
    kind: (u8, u8),
    value: u32,
    inside: Vec<u8>,
    ttl: u8,
}

impl Error {
    pub fn frame(&self) -> Frame {
        let v4 = self.to.is_ipv4();
        let mut message = vec![self.kind.0, self.kind.1, 0, 0];
        message.extend(self.value.to_be_bytes());
        message.extend(&self.inside);
        let field = if v4 {
            sum(&[&message])
        } else {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V6(v6) => v6.octets(),
                IpAddr::V4(_) => panic!("both versions"),
            };
            let length = (message.len() as u32).to_be_bytes();
            sum(&[&octets(self.router), &octets(self.to), &length, &[0, 0, 0, 58], &message])
        };
        message[2..4].copy_from_slice(&field.to_be_bytes());
        let (from, to) = self.macs;
        Frame {
            from,
            to,
            tags: self.tags.clone(),
            source: SocketAddr::new(self.router, 0),
            destination: SocketAddr::new(self.to, 0),
            ttl: self.ttl,
            ..udp("198.51.100.1:1", "198.51.100.2:1").protocol(number(v4)).payload(&message)
        }
    }
}

/// The IP packet of a frame, up to `length` bytes of it.
fn packet(frame: &Frame, length: usize) -> Vec<u8> {
    let bytes = frame.bytes();
    let l3 = 14 + 4 * frame.tags.len();
    bytes[l3..bytes.len().min(l3 + length)].to_vec()
}

/// An error by a router about `frame`, which has left this host; it comes in on the side that the frame went to.
pub fn about(frame: &Frame, kind: (u8, u8), value: u32, length: usize) -> Error {
    let router = ip(ROUTERS[usize::from(frame.source.is_ipv6())]);
    // As the router has received it: some hops further.
    let inside = packet(&frame.ttl(frame.ttl - 3), length);
    Error {
        macs: (frame.to, frame.from),
        tags: Vec::new(),
        router,
        to: frame.source.ip(),
        kind,
        value,
        inside,
        ttl: 60,
    }
}

/// The error as it must leave: from `source`, about `frame` as its sender knows it.
pub fn translated(error: &Error, frame: &Frame, source: IpAddr, from: Mac, length: usize) -> Frame {
    let mut expected = error.clone();
    expected.macs = (from, frame.from);
    expected.router = source;
    expected.to = frame.source.ip();
    expected.inside = packet(&frame.ttl(frame.ttl - 4), length);
    expected.ttl = error.ttl - 1;
    expected.frame()
}

/// A client's packet and what left for the target, for each mode, protocol and IP version; the flows are half-open.
fn flows(bed: &mut Bed) -> Vec<(&'static str, Frame, Frame)> {
    let mut rules = String::new();
    let mut cases = Vec::new();
    for (mode, port) in [("nat", 1000), ("dnat", 2000)] {
        for protocol in ["tcp", "udp"] {
            for (service, target, client) in [
                ("192.0.2.10", "10.0.0.11", "198.51.100.1"),
                ("[2001:db8::10]", "[fd00::11]", "[2001:db8:1::1]"),
            ] {
                let name = format!("{mode}-{protocol}-{}", rules.len());
                let end = format!("{target}:{}", port + 7);
                rules += &forward(&name, protocol, &format!("{service}:{port}"), mode, &end);
                let (source, destination) = (format!("{client}:4{port}"), format!("{service}:{port}"));
                let frame = match protocol {
                    "tcp" => tcp(&source, &destination, SYN).payload(&[5; 33]),
                    _ => udp(&source, &destination),
                };
                cases.push((if mode == "nat" { "nat" } else { "dnat" }, frame, end));
            }
        }
    }
    bed.rules(&rules);
    cases
        .into_iter()
        .map(|(mode, frame, end)| {
            let ran = bed.run(mode, CLIENT_SIDE.0, &frame.bytes());
            assert_eq!((Some(Redirect), Some(Forwarded)), (ran.verdict(), ran.reason()));
            let end: SocketAddr = end.parse().unwrap();
            let source = match (mode, end.is_ipv4()) {
                ("dnat", _) => frame.source,
                (_, true) => SocketAddr::new(ip("10.0.0.1"), crate::bed::source_port(&ran.frame)),
                (_, false) => SocketAddr::new(ip("fd00::1"), crate::bed::source_port(&ran.frame)),
            };
            let to = netfast::datapath::sandbox::mac_of(end.ip());
            let sent = frame.forwarded(TARGET_SIDE.1, to, source, end);
            assert_eq!(sent.bytes(), ran.frame);
            (mode, frame, sent)
        })
        .collect()
}

/// Makes a flow a confirmed one.
fn confirm(bed: &mut Bed, frame: &Frame, sent: &Frame) {
    match frame.transport {
        crate::frames::Transport::Tcp(_) => {
            bed.replied("SYN ACK", frame, &sent.answer().flags(SYN | ACK).payload(b""));
            bed.run("ACK", CLIENT_SIDE.0, &frame.flags(ACK).bytes());
        }
        _ => bed.replied("answer", frame, &sent.answer()),
    }
}

fn unreachable(frame: &Frame) -> (u8, u8) {
    if frame.source.is_ipv4() { (3, 1) } else { (1, 3) }
}

#[track_caller]
pub fn leaves(bed: &mut Bed, what: &str, on: u32, error: &Error, expected: &Frame) {
    let frame = error.frame();
    assert_eq!(Sum::Right, checksums::of(&frame.bytes()).transport, "{what}: as built");
    assert_eq!(Sum::Right, checksums::of(&expected.bytes()).transport, "{what}: as expected");
    bed.leaves(what, on, &frame, Redirect, IcmpError, expected);
}

fn errors_of_the_targets_side(bed: &mut Bed) {
    for (mode, frame, sent) in flows(bed) {
        for state in ["half-open", "confirmed"] {
            let what = format!("{mode} {state} {:?}", frame.transport);
            let error = about(&sent, unreachable(&frame), 0, 1500);
            // What lies behind the service is not known outside: the error comes from the service's address.
            let expected = translated(&error, &frame, frame.destination.ip(), CLIENT_SIDE.1, 1500);
            leaves(bed, &what, TARGET_SIDE.0, &error, &expected);
            if state == "half-open" {
                confirm(bed, &frame, &sent);
            }
        }
    }
}

fn errors_of_the_clients_side(bed: &mut Bed) {
    for (mode, frame, sent) in flows(bed) {
        confirm(bed, &frame, &sent);
        let answer = sent.answer();
        let back = answer.forwarded(CLIENT_SIDE.1, frame.from, frame.destination, frame.source);
        let error = about(&back, unreachable(&frame), 0, 1500);
        // The target of a `nat` forward knows this host only; that of a `dnat` one knows the client and what lies before it.
        let source = if mode == "nat" { sent.source.ip() } else { error.router };
        let expected = translated(&error, &answer, source, TARGET_SIDE.1, 1500);
        leaves(bed, mode, CLIENT_SIDE.0, &error, &expected);
    }
}

fn every_type_and_code(bed: &mut Bed) {
    for (_, frame, sent) in flows(bed) {
        let kinds: &[(u8, u8, u32)] = if frame.source.is_ipv4() {
            &[
                (3, 0, 0),
                (3, 3, 0),
                (3, 4, 1400),
                (3, 13, 0),
                (4, 0, 0),
                (11, 0, 0),
                (11, 1, 0),
                (12, 0, 0x0500_0000),
            ]
        } else {
            &[(1, 0, 0), (1, 4, 0), (2, 0, 1280), (3, 0, 0), (3, 1, 0), (4, 1, 40)]
        };
        for (kind, code, value) in kinds {
            let error = about(&sent, (*kind, *code), *value, 1500);
            let expected = translated(&error, &frame, frame.destination.ip(), CLIENT_SIDE.1, 1500);
            leaves(bed, &format!("{kind} {code}"), TARGET_SIDE.0, &error, &expected);
        }
        let others: &[u8] = if frame.source.is_ipv4() { &[5, 9, 13, 200] } else { &[100, 133, 137, 200] };
        for kind in others {
            let error = about(&sent, (*kind, 0), 0, 1500).frame().bytes();
            bed.expect_on(&format!("type {kind}"), TARGET_SIDE.0, &error, Pass, NotTcpUdp);
        }
    }
}

fn as_little_as_routers_embed(bed: &mut Bed) {
    for (_, frame, sent) in flows(bed) {
        let headers = if frame.source.is_ipv4() { 20 } else { 40 };
        for bytes in [8, 9, 16, 18, 19, 20, 21, 28] {
            let error = about(&sent, unreachable(&frame), 0, headers + bytes);
            let expected = translated(&error, &frame, frame.destination.ip(), CLIENT_SIDE.1, headers + bytes);
            leaves(bed, &format!("{bytes} bytes"), TARGET_SIDE.0, &error, &expected);
        }
        for bytes in [0, 4, 7] {
            let error = about(&sent, unreachable(&frame), 0, headers + bytes).frame();
            // Padding is not what was cut off.
            let error = Frame { padding: 30, ..error }.bytes();
            bed.expect_on(&format!("only {bytes} bytes"), TARGET_SIDE.0, &error, Pass, NotTcpUdp);
        }
    }
}

fn options_and_extension_headers_inside(bed: &mut Bed) {
    for (_, frame, sent) in flows(bed) {
        let with = |frame: &Frame| {
            if frame.source.is_ipv4() {
                Frame { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..frame.clone() }
            } else {
                let options = Extension::Raw(60, vec![1, 4, 0, 0, 0, 0]);
                frame.extended(&[Extension::Raw(0, vec![1, 4, 0, 0, 0, 0]), options])
            }
        };
        let error = about(&with(&sent), unreachable(&frame), 0, 1500);
        let expected = translated(&error, &with(&frame), frame.destination.ip(), CLIENT_SIDE.1, 1500);
        leaves(bed, "inside", TARGET_SIDE.0, &error, &expected);
        // And outside, where they are the router's.
        let error =
            Frame { options: with(&sent).options, extensions: with(&sent).extensions, ..error.frame() };
        let out = Frame { options: with(&sent).options, extensions: with(&sent).extensions, ..expected };
        bed.leaves("outside, too", TARGET_SIDE.0, &error, Redirect, IcmpError, &out);
    }
}

/// RFC 4884: the packet padded to a whole number of words, its length in the header, an extension structure behind it.
fn extensions_of_rfc_4884_stay(bed: &mut Bed) {
    for (_, frame, sent) in flows(bed) {
        let v4 = frame.source.is_ipv4();
        let kind = if v4 { (11, 0) } else { (3, 0) };
        // An MPLS label stack (RFC 4950) with the structure's own checksum.
        let mut structure = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0, 0x3e, 0x81, 1];
        let field = sum(&[&structure]).to_be_bytes();
        structure[2..4].copy_from_slice(&field);
        let value = if v4 { 32 << 16 } else { 16 << 24 };
        let long = |frame: &Frame| {
            let mut inside = packet(frame, 128);
            inside.resize(128, 0);
            [inside, structure.clone()].concat()
        };
        let mut error = about(&sent, kind, value, 1500);
        error.inside = long(&sent.ttl(sent.ttl - 3));
        let mut out = error.clone();
        out.macs = (CLIENT_SIDE.1, frame.from);
        (out.router, out.to, out.ttl) = (frame.destination.ip(), frame.source.ip(), error.ttl - 1);
        out.inside = long(&frame.ttl(frame.ttl - 4));
        leaves(bed, "with a label stack", TARGET_SIDE.0, &error, &out.frame());
    }
}

fn tags_of_errors(bed: &mut Bed) {
    let (_, frame, sent) = flows(bed).swap_remove(2);
    let error = about(&sent, unreachable(&frame), 0, 1500);
    let expected = translated(&error, &frame, frame.destination.ip(), CLIENT_SIDE.1, 1500);
    for tags in [vec![(0x8100, 7)], vec![(0x88a8, 3), (0x8100, 7)]] {
        let error = Error { tags: tags.clone(), ..error.clone() };
        leaves(bed, "tags are taken off", TARGET_SIDE.0, &error, &expected);
    }
}

fn wrong_checksums_stay_wrong(bed: &mut Bed) {
    for (_, frame, sent) in flows(bed) {
        let error = about(&sent, unreachable(&frame), 0, 1500);
        let mut bytes = error.frame().bytes();
        let headers = if frame.source.is_ipv4() { 20 } else { 40 };
        bytes[14 + headers + 2] ^= 0x5a;
        let ran = bed.sandbox.run(TARGET_SIDE.0, &bytes).unwrap();
        assert_eq!((Some(Redirect), Some(IcmpError)), (ran.verdict(), ran.reason()));
        assert_eq!(Sum::Wrong, checksums::of(&ran.frame).transport);
        let expected = translated(&error, &frame, frame.destination.ip(), CLIENT_SIDE.1, 1500).bytes();
        let differences: Vec<_> = (0..expected.len()).filter(|at| expected[*at] != ran.frame[*at]).collect();
        assert!(!differences.is_empty());
        assert!(
            differences.iter().all(|at| (14 + headers + 2..14 + headers + 4).contains(at)),
            "{differences:?}"
        );
    }
}

fn errors_about_nothing(bed: &mut Bed) {
    for (mode, frame, sent) in flows(bed) {
        let good = about(&sent, unreachable(&frame), 0, 1500);
        let other =
            |source: SocketAddr, destination: SocketAddr| Frame { source, destination, ..sent.clone() };
        let port = |socket: SocketAddr| SocketAddr::new(socket.ip(), socket.port() ^ 1);
        for (what, about_what) in [
            ("another source port", other(port(sent.source), sent.destination)),
            ("another target port", other(sent.source, port(sent.destination))),
            ("the packet as the client sent it", frame.clone()),
            ("another protocol", sent.protocol(47)),
        ] {
            let error = Error {
                to: sent.source.ip(),
                macs: good.macs,
                ..about(&about_what, unreachable(&frame), 0, 1500)
            };
            bed.expect_on(what, TARGET_SIDE.0, &error.frame().bytes(), Pass, NotTcpUdp);
        }
        let elsewhere = Error { to: ip(ROUTERS[usize::from(sent.source.is_ipv6())]), ..good.clone() };
        let elsewhere = Error { router: sent.destination.ip(), ..elsewhere };
        bed.expect_on("to somebody else", TARGET_SIDE.0, &elsewhere.frame().bytes(), Pass, NotTcpUdp);
        let foreign = Error { macs: (good.macs.0, [2, 9, 9, 9, 9, 9]), ..good.clone() };
        bed.expect_on("another station's", TARGET_SIDE.0, &foreign.frame().bytes(), Pass, NotOurMac);
        if frame.source.is_ipv4() {
            let later = Frame { fragment: Some((3, false)), ..sent.clone() };
            let error = about(&later, unreachable(&frame), 0, 1500).frame().bytes();
            bed.expect_on("a later fragment inside", TARGET_SIDE.0, &error, Pass, NotTcpUdp);
        }
        bed.sandbox.forget_flows().unwrap();
        bed.expect_on(mode, TARGET_SIDE.0, &good.frame().bytes(), Pass, NotTcpUdp);
        bed.sandbox.reset().unwrap();
        flows(bed);
    }
}

/// RFC 5508 REQ-6, RFC 4787 REQ-12, RFC 5382 REQ-10.
fn errors_neither_refresh_nor_end(bed: &mut Bed) {
    for (_, frame, sent) in flows(bed) {
        confirm(bed, &frame, &sent);
        let mut before = bed.sandbox.flows().unwrap();
        let error = about(&sent, unreachable(&frame), 0, 1500).frame().bytes();
        for _ in 0..3 {
            bed.expect_on("an error", TARGET_SIDE.0, &error, Redirect, IcmpError);
        }
        let mut after = bed.sandbox.flows().unwrap();
        before.sort_by_key(|(_, key, _)| *key);
        after.sort_by_key(|(_, key, _)| *key);
        assert_eq!(before, after);
    }
    // Nor does the error of a forward that is gone find its flow.
    let (_, frame, sent) = flows(bed).swap_remove(0);
    bed.rules("");
    let error = about(&sent, unreachable(&frame), 0, 1500).frame().bytes();
    bed.expect_on("the forward is gone", TARGET_SIDE.0, &error, Pass, NotTcpUdp);
}

fn an_error_that_cannot_go_on(bed: &mut Bed) {
    for (_, frame, sent) in flows(bed) {
        confirm(bed, &frame, &sent);
        let error = about(&sent, unreachable(&frame), 0, 1500);
        for ttl in [0, 1] {
            let error = Error { ttl, ..error.clone() };
            bed.expect_on("TTL", TARGET_SIDE.0, &error.frame().bytes(), Drop, TtlExpired);
        }
        // About an answer, so that it goes to the target, by a way that is not there or too narrow.
        let back = sent.answer().forwarded(CLIENT_SIDE.1, frame.from, frame.destination, frame.source);
        let error = about(&back, unreachable(&frame), 0, 1500).frame().bytes();
        let target = sent.destination.ip();
        let hop = bed.way(&target.to_string());
        bed.sandbox.set_way(target, Some(hop.closed()));
        bed.expect_on("no next hop", CLIENT_SIDE.0, &error, Drop, HopUnresolved);
        bed.sandbox.set_way(target, Some(NextHop { mtu: 60, ..hop }));
        bed.expect_on("too large", CLIENT_SIDE.0, &error, Drop, MtuExceeded);
        bed.sandbox.set_way(target, Some(hop));
        bed.expect_on("as before", CLIENT_SIDE.0, &error, Redirect, IcmpError);
    }
}

fn no_checksum_inside(bed: &mut Bed) {
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:5353"));
    let query = udp("198.51.100.1:9999", "192.0.2.10:53").without_checksum();
    let sent = bed.nat("query", &query, "10.0.0.53:5353");
    let error = about(&sent, (3, 3), 0, 1500);
    let expected = translated(&error, &query, query.destination.ip(), CLIENT_SIDE.1, 1500);
    leaves(bed, "none stays none", TARGET_SIDE.0, &error, &expected);
}

/// Client and target on one side: a forward that hairpins (RFC 5508 REQ-7).
fn out_by_the_same_side(bed: &mut Bed) {
    let (ifindex, source) = CLIENT_SIDE;
    let hop = bed.way("10.0.0.53");
    bed.sandbox.set_way(ip("10.0.0.53"), Some(NextHop { ifindex, source, ..hop }));
    bed.rules(&forward("dns", "udp", "192.0.2.10:53", "nat", "10.0.0.53:53"));
    let query = udp("10.0.0.77:9998", "192.0.2.10:53");
    let ran = bed.run("query", ifindex, &query.bytes());
    let own = SocketAddr::new(ip("10.0.0.1"), crate::bed::source_port(&ran.frame));
    let to = netfast::datapath::sandbox::mac_of(ip("10.0.0.53"));
    let sent = query.forwarded(source, to, own, "10.0.0.53:53".parse().unwrap());
    assert_eq!(sent.bytes(), ran.frame);
    // By the target itself.
    let error = Error { router: ip("10.0.0.53"), ..about(&sent, (3, 3), 0, 1500) };
    let expected = translated(&error, &query, query.destination.ip(), source, 1500);
    bed.leaves("port unreachable", ifindex, &error.frame(), Transmit, IcmpError, &expected);
}
