//! ICMP errors about flows between the IP versions (RFC 7915 4.2 to 4.4, 5.2 to 5.4).

use std::net::IpAddr;

use netfast::datapath::sandbox::mac_of;
use netfast_common::{Reason::*, Verdict::*, abi::NextHop, checksum::full, wire::SYN};

use crate::{
    bed::{Bed, CLIENT_SIDE, TARGET_SIDE, scenarios},
    family::{DOWN, UP, crosses},
    forward::forward,
    frames::{Frame, Mac, socket, tcp, udp},
};

scenarios! {
    errors_from_beyond_the_target, errors_from_the_client_s_side, path_mtu_between_the_versions,
    errors_without_counterpart, errors_of_any_length_between_the_versions,
}

/// An ICMP error's type, code and rest.
type Kind = (u8, u8, [u8; 4]);

/// An ICMP error from `source` to `destination` about `embedded`, an IP packet or the beginning of one.
fn error(
    link: (Mac, Mac),
    source: IpAddr,
    destination: IpAddr,
    (kind, code, rest): Kind,
    embedded: &[u8],
) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest);
    message.extend(embedded);
    let mut frame = [link.0, link.1].concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let sum = full(&[&message]);
            message[2..4].copy_from_slice(&sum);
            let mut header = etherparse::Ipv4Header::new(
                message.len() as u16,
                64,
                etherparse::IpNumber::ICMP,
                source.octets(),
                destination.octets(),
            )
            .unwrap();
            header.header_checksum = header.calc_header_checksum();
            frame.extend([0x08, 0x00]);
            frame.extend(header.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = (message.len() as u32).to_be_bytes();
            let sum = full(&[&source.octets(), &destination.octets(), &length, &[0, 0, 0, 58], &message]);
            message[2..4].copy_from_slice(&sum);
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((message.len() as u16).to_be_bytes());
            frame.extend([58, 64]);
            frame.extend(source.octets());
            frame.extend(destination.octets());
        }
        _ => panic!("two versions"),
    }
    [frame, message].concat()
}

/// What stands in an ICMP error whose checksums are right: source, destination, kind, embedded packet.
fn read(frame: &[u8]) -> (IpAddr, IpAddr, Kind, Vec<u8>) {
    let address = |at: usize, length: usize| -> IpAddr {
        match length {
            4 => <[u8; 4]>::try_from(&frame[at..at + 4]).unwrap().into(),
            _ => <[u8; 16]>::try_from(&frame[at..at + 16]).unwrap().into(),
        }
    };
    let (source, destination, message) = if frame[12..14] == [0x08, 0x00] {
        assert_eq!((0x45, 1, 63), (frame[14], frame[23], frame[22]));
        assert_eq!([0, 0], full(&[&frame[14..34]]), "IPv4 header");
        let total = usize::from(u16::from_be_bytes([frame[16], frame[17]]));
        assert_eq!([0, 0], full(&[&frame[34..14 + total]]), "ICMP");
        (address(26, 4), address(30, 4), &frame[34..14 + total])
    } else {
        assert_eq!(([0x86, 0xdd, 0x60], 58, 63), ([frame[12], frame[13], frame[14]], frame[20], frame[21]));
        let payload = u16::from_be_bytes([frame[18], frame[19]]);
        let message = &frame[54..54 + usize::from(payload)];
        let length = u32::from(payload).to_be_bytes();
        assert_eq!([0, 0], full(&[&frame[22..54], &length, &[0, 0, 0, 58], message]), "ICMPv6");
        (address(22, 16), address(38, 16), message)
    };
    let kind = (message[0], message[1], message[4..8].try_into().unwrap());
    (source, destination, kind, message[8..].to_vec())
}

/// The IP packet of a frame without tags, as it is one hop further, and without what the translator chooses.
fn packet(frame: &[u8], ttl: u8) -> Vec<u8> {
    let mut packet = frame[14..].to_vec();
    if packet[0] == 0x45 {
        packet[8] = ttl;
        packet[10..12].fill(0);
        packet[4..7].fill(0);
    } else {
        packet[7] = ttl;
    }
    packet
}

/// An embedded packet likewise.
fn plain(embedded: &[u8]) -> Vec<u8> {
    let mut packet = embedded.to_vec();
    if packet[0] == 0x45 {
        assert_eq!([0, 0], full(&[&packet[..20]]), "the embedded header");
        packet[10..12].fill(0);
        packet[4..7].fill(0);
    }
    packet
}

/// Opens a flow; the client's frame, and how it left.
fn open(bed: &mut Bed, (source, service, target): (&str, &str, &str), protocol: &str) -> (Frame, Frame) {
    bed.rules(&forward("web", protocol, service, "nat", target));
    let frame = if protocol == "tcp" { tcp(source, service, SYN) } else { udp(source, service) };
    let out = crosses(bed, "the first packet", &frame, target);
    (frame, out)
}

fn router(version: &Frame) -> IpAddr {
    if version.source.is_ipv4() { "10.9.9.9".parse().unwrap() } else { "fd00:9::9".parse().unwrap() }
}

fn errors_from_beyond_the_target(bed: &mut Bed) {
    for (flow, kinds) in [
        (
            UP,
            [
                ((3, 3, [0; 4]), (1, 4, [0; 4])),
                ((11, 0, [0; 4]), (3, 0, [0; 4])),
                ((3, 13, [0; 4]), (1, 1, [0; 4])),
            ],
        ),
        (
            DOWN,
            [
                ((1, 4, [0; 4]), (3, 3, [0; 4])),
                ((3, 0, [0; 4]), (11, 0, [0; 4])),
                ((1, 1, [0; 4]), (3, 10, [0; 4])),
            ],
        ),
    ] {
        for protocol in ["tcp", "udp"] {
            let (frame, out) = open(bed, flow, protocol);
            for (came, expected) in kinds {
                let about = &out.bytes()[14..];
                let link = (TARGET_SIDE.1, mac_of(socket(flow.2).ip()));
                let bytes = error(link, router(&out), out.source.ip(), came, about);
                let ran = bed.run("error", TARGET_SIDE.0, &bytes);
                assert_eq!((Some(Redirect), Some(IcmpError)), (ran.verdict(), ran.reason()), "{came:?}");
                assert_eq!(
                    [CLIENT_SIDE.1, frame.from].map(|mac| mac.to_vec()),
                    [ran.frame[6..12].to_vec(), ran.frame[..6].to_vec()]
                );
                let (source, destination, kind, embedded) = read(&ran.frame);
                assert_eq!((frame.destination.ip(), frame.source.ip()), (source, destination));
                assert_eq!(expected, kind, "{came:?}");
                // What the client sent, one hop further; even the transport checksum is its own.
                assert_eq!(packet(&frame.bytes(), 63), plain(&embedded), "{protocol} {came:?}");
            }
        }
    }
}

fn errors_from_the_client_s_side(bed: &mut Bed) {
    for (flow, came, expected) in
        [(UP, (1, 4, [0; 4]), (3, 3, [0; 4])), (DOWN, (3, 3, [0; 4]), (1, 4, [0; 4]))]
    {
        let (frame, out) = open(bed, flow, "udp");
        let answer = out.answer();
        let ran = bed.run("answer", TARGET_SIDE.0, &answer.bytes());
        assert_eq!(Some(Reply), ran.reason());
        let bytes = error(
            (CLIENT_SIDE.1, frame.from),
            frame.source.ip(),
            frame.destination.ip(),
            came,
            &ran.frame[14..],
        );
        let ran = bed.run("error", CLIENT_SIDE.0, &bytes);
        assert_eq!((Some(Redirect), Some(IcmpError)), (ran.verdict(), ran.reason()), "{came:?}");
        let (source, destination, kind, embedded) = read(&ran.frame);
        assert_eq!((out.source.ip(), out.destination.ip()), (source, destination));
        assert_eq!(expected, kind);
        assert_eq!(packet(&answer.bytes(), 63), plain(&embedded));
    }
}

fn path_mtu_between_the_versions(bed: &mut Bed) {
    let mtu = |mtu: u16| {
        let [a, b] = mtu.to_be_bytes();
        [0, 0, a, b]
    };
    for (flow, from, to, rows) in [
        (UP, (3, 4), (2, 0), [(1400, 1420), (1480, 1500), (576, 1280), (0, 1280)]),
        (DOWN, (2, 0), (3, 4), [(1400, 1380), (1500, 1480), (1280, 1260), (1000, 1260)]),
    ] {
        let (_, out) = open(bed, flow, "tcp");
        for (told, expected) in rows {
            let link = (TARGET_SIDE.1, mac_of(socket(flow.2).ip()));
            let bytes =
                error(link, router(&out), out.source.ip(), (from.0, from.1, mtu(told)), &out.bytes()[14..]);
            let ran = bed.run("too big", TARGET_SIDE.0, &bytes);
            let (_, _, kind, _) = read(&ran.frame);
            assert_eq!((to.0, to.1, mtu(expected)), kind, "told {told}");
        }
    }
}

fn errors_without_counterpart(bed: &mut Bed) {
    for (flow, kinds) in [
        (UP, [(3, 14, [0; 4]), (12, 1, [0; 4]), (4, 0, [0; 4])]),
        (DOWN, [(1, 5, [0; 4]), (4, 2, [0; 4]), (1, 6, [0; 4])]),
    ] {
        let (_, out) = open(bed, flow, "udp");
        let link = (TARGET_SIDE.1, mac_of(socket(flow.2).ip()));
        for kind in kinds {
            let bytes = error(link, router(&out), out.source.ip(), kind, &out.bytes()[14..]);
            bed.expect_on("no counterpart", TARGET_SIDE.0, &bytes, Drop, Untranslatable);
        }
        let mut bytes = error(link, router(&out), out.source.ip(), (3, 1, [0; 4]), &out.bytes()[14..]);
        // A TTL that is used up.
        let at = if bytes[12] == 8 { 22 } else { 21 };
        bytes[at] = 1;
        if at == 22 {
            bytes[24..26].fill(0);
            let sum = full(&[&bytes[14..34]]);
            bytes[24..26].copy_from_slice(&sum);
        }
        let ran = bed.run("used up", TARGET_SIDE.0, &bytes);
        assert_eq!((Some(Drop), Some(TtlExpired)), (ran.verdict(), ran.reason()));
    }
}

/// From the 8 bytes that RFC 792 asks for up to what fits; a wrong checksum stays wrong.
fn errors_of_any_length_between_the_versions(bed: &mut Bed) {
    for (flow, kind) in [(UP, (3, 1, [0; 4])), (DOWN, (1, 3, [0; 4]))] {
        for protocol in ["tcp", "udp"] {
            let (_, out) = open(bed, flow, protocol);
            let header = if out.source.is_ipv4() { 20 } else { 40 };
            let long = out.payload(&[0x5a; 1200]).bytes();
            let link = (TARGET_SIDE.1, mac_of(socket(flow.2).ip()));
            for length in (8..40).chain([100, 501, 548, 1200]) {
                let bytes = error(link, router(&out), out.source.ip(), kind, &long[14..14 + header + length]);
                let ran = bed.run("error", TARGET_SIDE.0, &bytes);
                assert_eq!(Some(IcmpError), ran.reason(), "{length}");
                let (.., embedded) = read(&ran.frame);
                let other = if header == 20 { 40 } else { 20 };
                assert_eq!(other + length, embedded.len());
            }
            let mut bytes = error(link, router(&out), out.source.ip(), kind, &long[14..14 + header + 100]);
            let last = bytes.len() - 1;
            bytes[last] ^= 0x10;
            // Not by the bed, which lets no wrong checksum leave.
            let ran = bed.sandbox.run(TARGET_SIDE.0, &bytes).unwrap();
            assert_eq!(Some(IcmpError), ran.reason());
            assert!(
                std::panic::catch_unwind(|| read(&ran.frame)).is_err(),
                "a wrong checksum was made right"
            );
        }
    }
    // And one that is too long for the way back.
    let (frame, out) = open(bed, UP, "udp");
    let way = bed.way("10.0.0.11");
    bed.sandbox.set_way("10.0.0.11".parse().unwrap(), Some(NextHop { mtu: 1000, ..way }));
    let answer = Frame { payload: vec![1; 900], ..out.answer() };
    let ran = bed.run("answer", TARGET_SIDE.0, &answer.bytes());
    let link = (CLIENT_SIDE.1, frame.from);
    let mut about = ran.frame[14..].to_vec();
    about.resize(1100, 0);
    let bytes = error(link, frame.source.ip(), frame.destination.ip(), (1, 3, [0; 4]), &about);
    let ran = bed.run("longer than the way to the target", CLIENT_SIDE.0, &bytes);
    assert_eq!((Some(Drop), Some(MtuExceeded)), (ran.verdict(), ran.reason()));
}
