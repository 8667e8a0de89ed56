//! The STAMP session-reflector (RFC 8762): its answers and its guards.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use netfast_common::{Reason::*, Verdict::*, stamp};

use crate::{
    bed::{Bed, CLIENT_SIDE, scenarios},
    frames::{Extension, Frame, udp},
};

scenarios! { test_packets_are_reflected, by_the_hosts_clock, short_packets_are_none, guards_of_the_reflector }

const STAMP: &str = "[[echo]]\nlisten = \"192.0.2.10:862\"\nprotocol = \"stamp\"\nallow = [\"198.51.100.0/24\"]\n\
                     [[echo]]\nlisten = \"[2001:db8::10]:862\"\nprotocol = \"stamp\"\nallow = [\"2001:db8:1::/48\"]\n\
                     [[echo]]\nlisten = \"192.0.2.10:7777\"\nallow = [\"198.51.100.0/24\"]\n";
const ERROR: u16 = 0x8c2a;

/// A session-sender's packet: sequence number, timestamp, error estimate, session identifier, zeros, and what follows.
fn sent(rest: &[u8]) -> Vec<u8> {
    let head: Vec<u8> = (1..=16).map(|byte| byte * 7).collect();
    [&head[..], &[0; 28], rest].concat()
}

/// The two timestamps of an answer (sent, received), after everything else was found to be as it must be.
#[track_caller]
fn reflected(bed: &mut Bed, what: &str, frame: &Frame) -> [[u8; 8]; 2] {
    let ran = bed.run(what, CLIENT_SIDE.0, &frame.bytes());
    assert_eq!((Some(Transmit), Some(StampReflected)), (ran.verdict(), ran.reason()), "{what}");
    let asked = &frame.payload;
    let l3 = 14 + 4 * frame.tags.len();
    let headers = if frame.source.is_ipv4() { 20 + frame.options.len() } else { 40 };
    let extensions: usize = frame.extensions.iter().map(|_| 8).sum();
    let body = l3 + headers + extensions + 8;
    let told = &ran.frame[body..body + asked.len()];
    let time = |at: usize| -> [u8; 8] { told[at..at + 8].try_into().unwrap() };
    let (transmitted, received) = (time(4), time(16));
    let payload = [
        &asked[..4],
        &transmitted,
        &ERROR.to_be_bytes(),
        &asked[14..16],
        &received,
        &asked[..4],
        &asked[4..12],
        &asked[12..14],
        &[0, 0, frame.ttl, 0, 0, 0],
        &asked[44..],
    ]
    .concat();
    let expected = Frame {
        payload,
        ttl: stamp::TTL,
        tags: frame.tags.clone(),
        options: frame.options.clone(),
        ..frame.answer()
    };
    assert_eq!(expected.bytes(), ran.frame, "{what}");
    [transmitted, received]
}

fn test_packets_are_reflected(bed: &mut Bed) {
    bed.rules(STAMP);
    bed.sandbox.datapath().set_clock(0, ERROR);
    // Extra padding of RFC 8972 4.1, flag U as its sender sets it, and an unknown one.
    let tlvs = [0x80, 1, 0, 4, 1, 2, 3, 4, 0x80, 250, 0, 2, 9, 9];
    let v4 = udp("198.51.100.1:7001", "192.0.2.10:862").payload(&sent(&[]));
    let v6 = udp("[2001:db8:1::1]:7001", "[2001:db8::10]:862").payload(&sent(&[]));
    for (what, frame) in [
        ("44 bytes", v4.clone()),
        ("TLVs", v4.payload(&sent(&tlvs))),
        ("1400 bytes", v4.payload(&sent(&[0x5a; 1356]))),
        ("padding of the link", Frame { padding: 9, ..v4.clone() }),
        ("TTL 255", v4.ttl(255)),
        ("TTL 1", v4.ttl(1)),
        ("a tag", v4.tagged(&[(0x8100, 9)])),
        ("no checksum", v4.without_checksum()),
        ("options", Frame { options: vec![7, 7, 4, 0, 0, 0, 0, 0], ..v4 }),
        ("IPv6", v6.clone()),
        ("IPv6, TLVs", v6.payload(&sent(&tlvs))),
        ("IPv6, an odd length", v6.payload(&sent(&[1]))),
        ("IPv6, hop limit 9", v6.ttl(9)),
        ("IPv6, a tag", v6.tagged(&[(0x8100, 9)])),
        ("IPv6, options", v6.extended(&[Extension::Raw(60, vec![1, 4, 0, 0, 0, 0])])),
    ] {
        for again in ["", ", again"] {
            reflected(bed, &format!("{what}{again}"), &frame);
        }
    }
    let id = bed.sandbox.ids().echoes()[0].index;
    assert_eq!(18, bed.sandbox.counters().echo(id).packets);
}

/// Nanoseconds since 1970 of an NTP timestamp.
fn nanoseconds(time: [u8; 8]) -> u128 {
    let [a, b, c, d, e, f, g, h] = time;
    let seconds = u32::from_be_bytes([a, b, c, d]).wrapping_sub(2_208_988_800);
    u128::from(seconds) * 1_000_000_000
        + ((u128::from(u32::from_be_bytes([e, f, g, h])) * 1_000_000_000) >> 32)
}

fn by_the_hosts_clock(bed: &mut Bed) {
    bed.rules(STAMP);
    // Both clocks as the agent compares them.
    let clock = |id| {
        let time = nix::time::clock_gettime(id).unwrap();
        time.tv_sec()
    };
    let offset = clock(nix::time::ClockId::CLOCK_TAI) - clock(nix::time::ClockId::CLOCK_REALTIME);
    for ahead in [0, 37] {
        bed.sandbox.datapath().set_clock(u32::try_from(offset).unwrap() + ahead, ERROR);
        let frame = udp("198.51.100.1:7001", "192.0.2.10:862").payload(&sent(&[]));
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let before = now();
        let [transmitted, received] = reflected(bed, "now", &frame);
        let after = now();
        let back = Duration::from_secs(u64::from(ahead));
        // A fraction is cut to 2^-32 s, and cut again when it is read.
        let (first, last) = ((before - back).as_nanos() - 2, (after - back).as_nanos());
        let (received, transmitted) = (nanoseconds(received), nanoseconds(transmitted));
        assert!(first <= received && received <= transmitted && transmitted <= last);
        assert!(transmitted - received < 1_000_000_000, "{}", transmitted - received);
    }
}

fn short_packets_are_none(bed: &mut Bed) {
    bed.rules(STAMP);
    let frame = |source: &str, listen: &str, length: usize| {
        let payload = vec![0; length];
        udp(source, listen).payload(&payload)
    };
    for length in [0, 1, 14, 43] {
        let v4 = Frame { padding: 60, ..frame("198.51.100.1:7001", "192.0.2.10:862", length) };
        bed.expect(&format!("{length} bytes"), &v4, Drop, StampShort);
        let v6 = frame("[2001:db8:1::1]:7001", "[2001:db8::10]:862", length);
        bed.expect(&format!("{length} bytes, IPv6"), &v6, Drop, StampShort);
    }
}

fn guards_of_the_reflector(bed: &mut Bed) {
    bed.rules(&STAMP.replacen("allow", "rate = 3\nallow", 1));
    bed.sandbox.datapath().set_clock(0, ERROR);
    let from = |source: &str| udp(source, "192.0.2.10:862").payload(&sent(&[]));
    bed.expect("not on the list", &from("198.51.101.1:7001"), Drop, EchoNotAllowed);
    // Another reflector's answer would be answered, and so on.
    for port in [862, 7, 19, 53, 123, 7777] {
        bed.expect(&format!("from port {port}"), &from(&format!("198.51.100.1:{port}")), Drop, EchoLoop);
    }
    let echo = udp("198.51.100.1:862", "192.0.2.10:7777");
    bed.expect("the echo reflector, from a STAMP port", &echo, Drop, EchoLoop);
    let own = ["198.51.100.4".parse().unwrap()];
    bed.sandbox.datapath().set_locals(&own).unwrap();
    bed.expect("from the host itself", &from("198.51.100.4:7001"), Drop, EchoLoop);
    for _ in 0..3 {
        bed.expect("within the rate", &from("198.51.100.2:7001"), Transmit, StampReflected);
    }
    let over = (0..20).filter(|_| {
        let ran = bed.run("over the rate", CLIENT_SIDE.0, &from("198.51.100.2:7001").bytes());
        ran.reason() == Some(EchoRate)
    });
    assert!(over.count() >= 17);
    bed.expect("another port", &udp("198.51.100.1:7001", "192.0.2.10:863"), Pass, NoService);
}
