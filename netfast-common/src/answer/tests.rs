use etherparse::{Icmpv4Type, Icmpv6Type, Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice};
use proptest::prelude::*;

use super::*;
use crate::{abi::FlowKey, addr, checksum::full, wire::UDP};

fn native(address: [u8; 4]) -> u32 {
    u32::from_ne_bytes(address)
}

fn words(address: [u8; 16]) -> [u32; 4] {
    core::array::from_fn(|i| native([0, 1, 2, 3].map(|j| address[4 * i + j])))
}

fn embedded(bytes: &[u8]) -> Delta {
    bytes.chunks(4).fold(Delta::NONE, |sum, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.added(native(word))
    })
}

const ERRORS: [Answer; 5] = [
    Answer::TimeExceeded,
    Answer::TooBig,
    Answer::PortUnreachable,
    Answer::Prohibited,
    Answer::HostUnreachable,
];

proptest! {
    #[test]
    fn icmp_errors_are_right(source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), data in prop::collection::vec(any::<u8>(), 28..200), value in any::<u16>(), which in 0usize..5) {
        let answer = ERRORS[which];
        let value = if answer == Answer::TooBig { value } else { 0 };
        let payload = 8 + data.len() as u16;
        let (mut packet, mut icmp) = (vec![0u8; 20], vec![0u8; 8]);
        put_ipv4(&mut packet, native(source), native(destination), ICMP4, payload);
        put_icmp(&mut icmp, 4, answer, value, embedded(&data));
        packet.extend([icmp, data.clone()].concat());
        let ip = Ipv4HeaderSlice::from_slice(&packet).unwrap();
        prop_assert_eq!(ip.header_checksum(), ip.to_header().calc_header_checksum());
        prop_assert_eq!((ip.source(), ip.destination(), ip.ttl()), (source, destination, 64));
        prop_assert_eq!((usize::from(ip.total_len()), ip.dont_fragment()), (packet.len(), true));
        let icmp: Icmpv4Type = etherparse::Icmpv4Header::from_slice(&packet[20..]).unwrap().0.icmp_type;
        prop_assert_eq!(icmp.calc_checksum(&data).to_be_bytes(), [packet[22], packet[23]]);
        prop_assert_eq!([packet[20], packet[21]], answer.icmp4());
    }

    #[test]
    fn icmpv6_errors_are_right(source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), data in prop::collection::vec(any::<u8>(), 48..200), value in any::<u16>(), which in 0usize..5) {
        let answer = ERRORS[which];
        let value = if answer == Answer::TooBig { value } else { 0 };
        let payload = 8 + data.len() as u16;
        let (mut packet, mut icmp) = (vec![0u8; 40], vec![0u8; 8]);
        let (from, to) = (words(source), words(destination));
        put_ipv6(&mut packet, from, to, 58, payload);
        put_icmp(&mut icmp, 6, answer, value, embedded(&data).and(pseudo6(from, to, 58, payload)));
        packet.extend([icmp, data.clone()].concat());
        let ip = Ipv6HeaderSlice::from_slice(&packet).unwrap();
        prop_assert_eq!((ip.source(), ip.destination(), ip.hop_limit()), (source, destination, 64));
        prop_assert_eq!(usize::from(ip.payload_length()) + 40, packet.len());
        let header = etherparse::Icmpv6Header::from_slice(&packet[40..]).unwrap().0;
        let kind: Icmpv6Type = header.icmp_type;
        prop_assert_eq!(kind.calc_checksum(source, destination, &data).unwrap(), header.checksum);
        prop_assert_eq!([packet[40], packet[41]], answer.icmp6());
    }

    /// RFC 9293 3.10.7.1.
    #[test]
    fn resets_are_right(ports in any::<[u8; 4]>(), sequence in any::<u32>(), acknowledgement in any::<u32>(), data in 0u32..2000, flags in any::<u8>(), v6 in any::<bool>()) {
        let segment = Segment { ports: native(ports), sequence, acknowledgement, flags, data };
        let mut header = vec![0u8; 20];
        let (a, b) = ([1u8; 16], [2u8; 16]);
        let pseudo = if v6 { pseudo6(words(a), words(b), TCP, 20) } else { pseudo4(native([1; 4]), native([2; 4]), TCP, 20) };
        put_reset(&mut header, &segment, pseudo);
        let tcp = TcpHeaderSlice::from_slice(&header).unwrap().to_header();
        let sum = if v6 { tcp.calc_checksum_ipv6_raw(a, b, &[]) } else { tcp.calc_checksum_ipv4_raw([1; 4], [2; 4], &[]) };
        prop_assert_eq!(sum.unwrap(), tcp.checksum);
        prop_assert_eq!((tcp.source_port.to_be_bytes(), tcp.destination_port.to_be_bytes()), ([ports[2], ports[3]], [ports[0], ports[1]]));
        prop_assert!(tcp.rst && !tcp.syn && !tcp.fin && !tcp.psh && tcp.window_size == 0);
        if flags & ACK != 0 {
            prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number, tcp.ack), (acknowledgement, 0, false));
        } else {
            let length = data + u32::from(flags & SYN != 0) + u32::from(flags & FIN != 0);
            prop_assert_eq!((tcp.sequence_number, tcp.acknowledgment_number, tcp.ack), (0, sequence.wrapping_add(length), true));
        }
    }
}

fn packet(source: &str, destination: &str, protocol: u8) -> Packet {
    let ip = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let version = if ip(source).is_ipv4() { 4 } else { 6 };
    let key = FlowKey {
        source: addr::from_ip(ip(source)),
        destination: addr::from_ip(ip(destination)),
        protocol,
        ..FlowKey::default()
    };
    Packet { source_mac: [2; 6], destination_mac: [4; 6], version, key, ..Packet::default() }
}

#[test]
fn who_gets_no_answer() {
    let good = packet("198.51.100.1", "192.0.2.10", UDP);
    assert!(may_answer(&good, Answer::TimeExceeded));
    assert!(may_answer(&packet("2001:db8::1", "2001:db8::2", UDP), Answer::TimeExceeded));
    assert!(may_answer(&Packet { fragment: Fragment::First, ..good }, Answer::TimeExceeded));
    let mut refused = vec![
        ("a later fragment", Packet { fragment: Fragment::Later, ..good }),
        ("from a group's MAC address", Packet { source_mac: [3; 6], ..good }),
        ("to a group's MAC address", Packet { destination_mac: [0xff; 6], ..good }),
    ];
    for (what, source, destination) in [
        ("to a group", "198.51.100.1", "224.0.0.5"),
        ("to all", "198.51.100.1", "255.255.255.255"),
        ("to the unspecified address", "198.51.100.1", "0.0.0.0"),
        ("from a group", "239.0.0.1", "192.0.2.10"),
        ("from all", "255.255.255.255", "192.0.2.10"),
        ("from loopback", "127.0.0.1", "192.0.2.10"),
        ("from nobody", "0.0.0.0", "192.0.2.10"),
        ("from itself", "192.0.2.10", "192.0.2.10"),
        ("to a group, IPv6", "2001:db8::1", "ff02::1"),
        ("from a group, IPv6", "ff02::1", "2001:db8::1"),
        ("from nobody, IPv6", "::", "2001:db8::1"),
        ("from loopback, IPv6", "::1", "2001:db8::1"),
    ] {
        refused.push((what, packet(source, destination, UDP)));
    }
    for (what, packet) in refused {
        assert!(!may_answer(&packet, Answer::TimeExceeded), "{what}");
    }
}

#[test]
fn resets_answer_tcp_that_is_no_reset() {
    let segment = packet("198.51.100.1", "192.0.2.10", TCP);
    assert!(may_answer(&Packet { flags: SYN, ..segment }, Answer::Reset));
    assert!(!may_answer(&Packet { flags: RST | ACK, ..segment }, Answer::Reset));
    assert!(!may_answer(&Packet { fragment: Fragment::First, ..segment }, Answer::Reset));
    assert!(!may_answer(&packet("198.51.100.1", "192.0.2.10", UDP), Answer::Reset));
}

#[test]
fn no_error_about_an_error() {
    for kind in [3, 4, 5, 11, 12, 9, 200] {
        assert!(!is_query(4, kind), "{kind}");
    }
    for kind in [1, 2, 3, 4, 127, 137] {
        assert!(!is_query(6, kind), "{kind}");
    }
    assert!(is_query(4, 8) && is_query(6, 128));
}

#[test]
fn pseudo_headers_are_those_of_the_checksum() {
    let mut bytes = vec![9u8; 40];
    bytes[32..].copy_from_slice(&[0, 0, 1, 2, 0, 0, 0, 58]);
    assert_eq!(full(&[&bytes]), pseudo6(words([9; 16]), words([9; 16]), 58, 0x0102).fresh());
    let bytes = [7, 7, 7, 7, 8, 8, 8, 8, 0, 6, 1, 2];
    assert_eq!(full(&[&bytes]), pseudo4(native([7; 4]), native([8; 4]), 6, 0x0102).fresh());
}
