use etherparse::{Ipv4Header, Ipv6Header};
use proptest::prelude::*;

use super::{icmp::Error, *};
use crate::checksum::full;

fn words<const N: usize>(bytes: &[u8]) -> [u32; N] {
    core::array::from_fn(|i| {
        u32::from_ne_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
    })
}

fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A packet's description by its lengths.
fn packet(version: u8, header: u16, length: u32) -> Packet {
    Packet { version, l3: 14, l4: 14 + header, length, ..Packet::default() }
}

#[test]
fn what_cannot_be_translated() {
    assert!(is_translatable(&packet(4, 20, 1500)) && is_translatable(&packet(6, 40, 1500)));
    assert!(!is_translatable(&packet(4, 24, 1500)), "options");
    assert!(!is_translatable(&packet(6, 48, 1500)), "extension headers");
    assert!(!is_translatable(&Packet { fragment: Fragment::First, ..packet(4, 20, 1500) }));
    assert!(!is_translatable(&Packet { fragment: Fragment::Later, ..packet(6, 40, 1500) }));
    assert!(is_translatable(&packet(6, 40, 65_555)) && !is_translatable(&packet(6, 40, 65_556)));
    assert!(is_translatable(&packet(4, 20, 65_535)));
}

#[test]
fn lengths_and_mtus_as_each_side_sees_them() {
    assert_eq!((1500, 1480), (length(&packet(4, 20, 1480)), length(&packet(6, 40, 1500))));
    assert_eq!((1480, 1520), (mtu(4, 1500), mtu(6, 1500)));
    assert_eq!((1280, 0, u16::MAX), (mtu(6, 576), mtu(4, 10), mtu(6, u16::MAX)));
}

/// RFC 7915 4.2 and 5.2, row by row: type, code and the rest.
#[test]
fn icmp_errors_by_the_table() {
    let to6 =
        |kind, code, rest| Error { kind, code, rest }.to_icmp6(1500, 0).map(|e| (e.kind, e.code, e.rest));
    let none = [0; 4];
    for code in [0, 1, 5, 6, 7, 8, 11, 12] {
        assert_eq!(Some((1, 0, none)), to6(3, code, none), "code {code}");
    }
    assert_eq!(Some((4, 1, [0, 0, 0, 6])), to6(3, 2, none));
    assert_eq!(Some((1, 4, none)), to6(3, 3, [9, 9, 0, 0]), "nothing of the rest is carried over");
    for code in [9, 10, 13, 15] {
        assert_eq!(Some((1, 1, none)), to6(3, code, none), "code {code}");
    }
    assert_eq!(Some((3, 0, none)), to6(11, 0, [0, 32, 0, 0]));
    assert_eq!(Some((3, 1, none)), to6(11, 1, none));
    let pointers = [(0, 0), (1, 1), (2, 4), (3, 4), (8, 7), (9, 6), (12, 8), (15, 8), (16, 24), (19, 24)];
    for (old, new) in pointers {
        assert_eq!(Some((4, 0, [0, 0, 0, new])), to6(12, 0, [old, 0, 0, 0]), "pointer {old}");
    }
    for (kind, code, rest) in [
        (3, 14, none),
        (3, 16, none),
        (12, 1, none),
        (12, 0, [4, 0, 0, 0]),
        (12, 0, [20, 0, 0, 0]),
        (4, 0, none),
        (5, 1, none),
        (8, 0, none),
    ] {
        assert_eq!(None, to6(kind, code, rest), "{kind} {code} {rest:?}");
    }

    let to4 = |kind, code, rest| Error { kind, code, rest }.to_icmp4(0).map(|e| (e.kind, e.code, e.rest));
    for code in [0, 2, 3] {
        assert_eq!(Some((3, 1, none)), to4(1, code, none), "code {code}");
    }
    assert_eq!((Some((3, 10, none)), Some((3, 3, none))), (to4(1, 1, none), to4(1, 4, none)));
    assert_eq!((Some((11, 0, none)), Some((11, 1, none))), (to4(3, 0, none), to4(3, 1, none)));
    assert_eq!(Some((3, 2, none)), to4(4, 1, [0, 0, 0, 6]));
    for (old, new) in [(0, 0), (1, 1), (4, 2), (5, 2), (6, 9), (7, 8), (8, 12), (23, 12), (24, 16), (39, 16)]
    {
        assert_eq!(Some((12, 0, [new, 0, 0, 0])), to4(4, 0, [0, 0, 0, old]), "pointer {old}");
    }
    for (kind, code, rest) in [
        (1, 5, none),
        (1, 6, none),
        (4, 2, none),
        (4, 0, [0, 0, 0, 2]),
        (4, 0, [0, 0, 0, 40]),
        (4, 0, [1, 0, 0, 0]),
        (128, 0, none),
        (134, 0, none),
    ] {
        assert_eq!(None, to4(kind, code, rest), "{kind} {code} {rest:?}");
    }
}

#[test]
fn the_mtu_of_an_error_is_off_by_the_growth() {
    let to6 = |mtu: u16, length, way| {
        let [a, b] = mtu.to_be_bytes();
        let error = Error { kind: 3, code: 4, rest: [0, 0, a, b] }.to_icmp6(length, way).unwrap();
        assert_eq!((2, 0), (error.kind, error.code));
        u32::from_be_bytes(error.rest)
    };
    assert_eq!(1420, to6(1400, 1480, 1500));
    assert_eq!(1410, to6(1400, 1480, 1410), "the way back to the sender is narrower");
    assert_eq!(1280, to6(576, 1260, 1500), "no sender of IPv6 goes below");
    assert_eq!(1280, to6(0, 1480, 1500), "an old router: by RFC 1191's table");
    assert_eq!(1512, to6(0, 1500, 0));
    assert_eq!(u32::from(u16::MAX), to6(u16::MAX, 1480, 0));
    let to4 = |mtu: u32, way| {
        let error = Error { kind: 2, code: 0, rest: mtu.to_be_bytes() }.to_icmp4(way).unwrap();
        assert_eq!((3, 4, [0, 0]), (error.kind, error.code, [error.rest[0], error.rest[1]]));
        u16::from_be_bytes([error.rest[2], error.rest[3]])
    };
    assert_eq!((1380, 1300, 1260, 65_515), (to4(1400, 1500), to4(1400, 1300), to4(68, 0), to4(1 << 30, 0)));
}

proptest! {
    /// An independent library reads the same from the header before and after.
    #[test]
    fn headers_both_ways(class: u8, payload in 0u16..=65_515, protocol: u8, ttl in 1u8.., v4 in any::<[[u8; 4]; 2]>(), v6 in any::<[[u8; 16]; 2]>(), label in 0u32..1 << 20, identification: u16) {
        let mut old = Ipv4Header::new(payload, ttl, protocol.into(), v4[0], v4[1]).unwrap();
        old.dscp = (class >> 2).try_into().unwrap();
        old.ecn = (class & 3).try_into().unwrap();
        old.header_checksum = old.calc_header_checksum();
        let old = old.to_bytes();
        let common = Common::of_ipv4(words(&old[..12]));
        prop_assert_eq!(common, Common { class, payload, protocol, ttl });
        let new = bytes(&common.ipv6(words(&v6[0]), words(&v6[1])));
        let (new, rest) = Ipv6Header::from_slice(&new).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!((new.traffic_class, new.flow_label.value(), new.payload_length), (class, 0, payload));
        prop_assert_eq!((new.next_header.0, new.hop_limit, new.source, new.destination), (protocol, ttl, v6[0], v6[1]));

        let old = Ipv6Header { flow_label: label.try_into().unwrap(), ..new }.to_bytes();
        let common = Common::of_ipv6(words(&old[..8]));
        prop_assert_eq!(common, Common { class, payload, protocol, ttl });
        let new = bytes(&common.ipv4(words::<1>(&v4[0])[0], words::<1>(&v4[1])[0], identification));
        prop_assert_eq!(full(&[&new]), [0, 0], "the header checksum");
        let (new, rest) = Ipv4Header::from_slice(&new).unwrap();
        prop_assert!(rest.is_empty());
        prop_assert_eq!((new.dscp.value() << 2 | new.ecn.value(), new.total_len), (class, payload + 20));
        prop_assert_eq!((new.protocol.0, new.time_to_live, new.source, new.destination), (protocol, ttl, v4[0], v4[1]));
        let atomic = payload + 20 > 1260;
        prop_assert_eq!((new.dont_fragment, new.identification), (atomic, if atomic { 0 } else { identification }));
        prop_assert!(!new.more_fragments && new.fragment_offset.value() == 0);
    }

    #[test]
    fn transport_checksums_follow_the_addresses(v4 in any::<[u8; 8]>(), v6 in any::<[u8; 32]>(), mut segment in prop::collection::vec(any::<u8>(), 20..60)) {
        if segment.len() % 2 == 1 { segment.pop(); }
        let rest = [0, 6, 0, segment.len() as u8];
        segment[16..18].copy_from_slice(&[0, 0]);
        let sum = full(&[&v4, &rest, &segment]);
        let old = [sum[0], sum[1]];
        let (w4, w6): ([u32; 2], [u32; 8]) = (words(&v4), words(&v6));
        let new = pseudo(&w4, &w6).apply(old);
        segment[16..18].copy_from_slice(&new);
        prop_assert_eq!(full(&[&v6, &rest, &segment]), [0, 0]);
        let back = pseudo(&w6, &w4).apply(new);
        segment[16..18].copy_from_slice(&back);
        prop_assert_eq!(full(&[&v4, &rest, &segment]), [0, 0]);
    }
}
