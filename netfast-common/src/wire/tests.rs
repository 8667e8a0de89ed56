use proptest::prelude::*;

use super::*;
use crate::addr;

/// An Ethernet header with tags, then `payload`.
fn frame(tags: &[u16], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for tag in tags {
        frame.extend([0x81, 0x00]);
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IPv4 header with options and a fragment field, then `payload`.
fn ipv4(protocol: u8, options: &[u8], fragment: u16, payload: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut packet = vec![0x45 + (options.len() / 4) as u8, 0];
    packet.extend(((20 + options.len() + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    packet.extend(options);
    packet.extend(payload);
    packet
}

fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0xfd; 16]);
    packet.extend([0xfc; 16]);
    packet.extend(payload);
    packet
}

fn udp(data: &[u8]) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0, 53];
    header.extend(((8 + data.len()) as u16).to_be_bytes());
    header.extend([0xab, 0xcd]);
    header.extend(data);
    header
}

fn tcp(flags: u8) -> Vec<u8> {
    let mut header = vec![0; 20];
    header[..4].copy_from_slice(&[0x9c, 0x40, 0, 80]);
    header[12] = 5 << 4;
    header[13] = flags;
    header
}

fn read4(options: &[u8], fragment: u16, payload: &[u8], protocol: u8) -> Result<Packet, Reason> {
    parse_slice(&frame(&[], 0x0800, &ipv4(protocol, options, fragment, payload)))
}

#[test]
fn plain_udp_over_ipv4() {
    let packet = read4(&[], 0, &udp(b"hello"), UDP).unwrap();
    assert_eq!((packet.version, packet.l3, packet.l4, packet.ttl), (4, 14, 34, 64));
    assert_eq!((packet.source_port(), packet.destination_port()), (40_000, 53));
    assert_eq!(packet.key.source, addr::from_v4([10, 0, 0, 1]));
    assert!(packet.has_ports() && !packet.no_udp_checksum);
}

#[test]
fn vlan_tags() {
    let inner = ipv4(TCP, &[], 0, &tcp(SYN));
    let packet = parse_slice(&frame(&[0x0064], 0x0800, &inner)).unwrap();
    assert_eq!((packet.tags, packet.vlan, packet.l3, packet.l4, packet.flags), (1, 100, 18, 38, SYN));
    let packet = parse_slice(&frame(&[0x0064, 0x60c8], 0x0800, &inner)).unwrap();
    assert_eq!((packet.tags, packet.vlan, packet.l3), (2, 200, 22));
    assert_eq!(parse_slice(&frame(&[1, 2, 3], 0x0800, &inner)), Err(Reason::DeepVlan));
}

#[test]
fn not_ip() {
    assert_eq!(parse_slice(&frame(&[], 0x0806, &[0; 28])), Err(Reason::NotIp));
    assert_eq!(parse_slice(&frame(&[], 0x0040, &[0; 64])), Err(Reason::NotIp), "an 802.3 length");
    assert_eq!(parse_slice(&[0; 13]), Err(Reason::Malformed));
}

#[test]
fn ipv4_options() {
    let packet = read4(&[1, 1, 1, 0], 0, &udp(b""), UDP).unwrap();
    assert_eq!((packet.l4, packet.destination_port()), (38, 53), "the ports stand behind the options");
    let packet = read4(&[7, 7, 4, 0, 0, 0, 0, 0], 0, &udp(b""), UDP).unwrap();
    assert_eq!(packet.l4, 42);
    assert!(packet.has_options() && !packet.source_route);
    for options in [&[131, 7, 4, 1, 2, 3, 4, 0][..], &[1, 137, 3, 4]] {
        let packet = read4(options, 0, &udp(b""), UDP).unwrap();
        assert!(packet.source_route);
        assert_eq!(53, packet.destination_port(), "the filter can be asked all the same");
    }
    assert_eq!(read4(&[7, 9, 4, 0], 0, &udp(b""), UDP), Err(Reason::Malformed), "longer than the header");
    assert_eq!(read4(&[7, 1, 4, 0], 0, &udp(b""), UDP), Err(Reason::Malformed), "shorter than an option");
    assert_eq!(read4(&[1, 1, 1, 7], 0, &udp(b""), UDP), Err(Reason::Malformed), "an option without length");
}

/// The header checksum is right only if every word of the header, options included, is in it (RFC 791 3.1).
#[test]
fn ipv4_header_checksum() {
    for options in [&[][..], &[1, 1, 1, 0], &[7, 7, 4, 0xff, 0xff, 0xff, 0xff, 0]] {
        let mut packet = ipv4(UDP, options, 0, &udp(b"data"));
        let length = 20 + options.len();
        let sum = crate::checksum::full(&[&packet[..length]]);
        packet[10..12].copy_from_slice(&sum);
        let read = |packet: &[u8]| parse_slice(&frame(&[5], 0x0800, packet)).unwrap();
        assert!(!read(&packet).bad_checksum);
        for at in (1..length).filter(|at| ![2, 3, 6, 7].contains(at)) {
            let mut wrong = packet.clone();
            wrong[at] ^= 0x40;
            // What makes the header unreadable is told first.
            if let Ok(read) = parse_slice(&frame(&[5], 0x0800, &wrong)) {
                assert_eq!(Some(Reason::BadChecksum), read.unusual(), "byte {at} of {packet:02x?}");
            }
        }
    }
}

#[test]
fn tcp_flags_that_no_connection_has() {
    let (psh, urg) = (0x08, 0x20);
    let odd = |flags| {
        let mut packet = read4(&[], 0, &tcp(flags), TCP).unwrap();
        packet.bad_checksum = false;
        packet.unusual() == Some(Reason::TcpFlags)
    };
    for flags in [
        0,
        psh,
        psh | urg,
        FIN,
        FIN | psh | urg,
        SYN | FIN,
        SYN | FIN | ACK,
        SYN | RST,
        FIN | RST | ACK,
        0x3f,
        0xff,
        0xc0,
    ] {
        assert!(odd(flags), "{flags:#x}");
    }
    for flags in [
        SYN,
        SYN | psh,
        SYN | ACK,
        SYN | 0xc0,
        ACK,
        ACK | psh,
        ACK | urg,
        FIN | ACK,
        FIN | ACK | psh | urg,
        RST,
        RST | ACK,
    ] {
        assert!(!odd(flags), "{flags:#x}");
    }
    assert!(!read4(&[], 0x2010, &tcp(0), TCP).unwrap().has_odd_flags(), "a later fragment has no flags");
}

#[test]
fn ipv4_fragments() {
    assert_eq!(read4(&[], 0x2000, &udp(b""), UDP).unwrap().fragment, Fragment::First);
    let later = read4(&[], 0x2010, &[0; 8], UDP).unwrap();
    assert_eq!((later.fragment, later.has_ports()), (Fragment::Later, false));
    assert_eq!(later.key.destination_port, [0, 0], "payload is not read as ports");
    assert_eq!(read4(&[], 0x2000, &tcp(SYN)[..16], TCP), Err(Reason::TinyFragment));
    assert_eq!(read4(&[], 0x0001, &[0; 16], TCP), Err(Reason::TinyFragment));
}

#[test]
fn lengths_that_contradict_each_other() {
    let whole = frame(&[], 0x0800, &ipv4(UDP, &[], 0, &udp(b"data")));
    for cut in 14..whole.len() {
        assert_eq!(parse_slice(&whole[..cut]), Err(Reason::Malformed), "cut at {cut}");
    }
    let mut longer = whole.clone();
    longer.extend([0; 18]);
    assert!(parse_slice(&longer).is_ok(), "Ethernet padding is no contradiction");
    let mut bad = whole.clone();
    bad[14] = 0x44;
    assert_eq!(parse_slice(&bad), Err(Reason::Malformed), "header length below 20");
    let mut bad = whole;
    bad[14 + 20 + 5] = 200;
    assert_eq!(parse_slice(&bad), Err(Reason::Malformed), "UDP length beyond the datagram");
    let mut short = tcp(ACK);
    short[12] = 4 << 4;
    assert_eq!(read4(&[], 0, &short, TCP), Err(Reason::Malformed), "TCP data offset below 5");
    short[12] = 6 << 4;
    assert_eq!(read4(&[], 0, &short, TCP), Err(Reason::Malformed), "TCP data offset beyond the segment");
}

#[test]
fn ipv6_extension_headers() {
    let read = |next, payload: &[u8]| parse_slice(&frame(&[], 0x86dd, &ipv6(next, payload)));
    assert_eq!(read(UDP, &udp(b"x")).unwrap().l4, 54);
    let with = |head: &[u8], rest: &[u8]| [head, rest].concat();
    let packet = read(0, &with(&[UDP, 0, 0, 0, 0, 0, 0, 0], &udp(b""))).unwrap();
    assert_eq!((packet.l4, packet.destination_port()), (62, 53));
    let packet =
        read(60, &with(&[51, 0, 0, 0, 0, 0, 0, 0, UDP, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], &udp(b""))).unwrap();
    assert_eq!((packet.l4, packet.key.protocol), (74, UDP), "destination options, then AH");
    let routed = read(43, &with(&[UDP, 0, 0, 1, 0, 0, 0, 0], &udp(b""))).unwrap();
    assert_eq!((routed.unusual(), routed.destination_port()), (Some(Reason::SourceRoute), 53));
    let arrived = read(43, &with(&[UDP, 0, 0, 0, 0, 0, 0, 0], &udp(b""))).unwrap();
    assert_eq!(None, arrived.unusual(), "no segments left");
    let first = read(44, &with(&[UDP, 0, 0, 1, 0, 0, 0, 9], &udp(b""))).unwrap();
    assert_eq!((first.fragment, first.has_ports()), (Fragment::First, true));
    let later = read(44, &with(&[UDP, 0, 0x01, 0x00, 0, 0, 0, 9], &[0; 8])).unwrap();
    assert_eq!((later.fragment, later.has_ports()), (Fragment::Later, false));
    let atomic = read(44, &with(&[UDP, 0, 0, 0, 0, 0, 0, 9], &udp(b""))).unwrap();
    assert_eq!(atomic.fragment, Fragment::No);
    let mut deep = Vec::new();
    for _ in 0..MAX_EXTENSIONS {
        deep.extend([60, 0, 0, 0, 0, 0, 0, 0]);
    }
    deep.extend([UDP, 0, 0, 0, 0, 0, 0, 0]);
    deep.extend(udp(b""));
    assert_eq!(read(60, &deep), Err(Reason::Ipv6Extensions));
    assert_eq!(read(60, &deep[8..]).unwrap().destination_port(), 53, "as many as are walked");
    assert_eq!(read(60, &[UDP, 9, 0, 0, 0, 0, 0, 0]), Err(Reason::Malformed), "longer than the payload");
    assert_eq!(read(59, &[]).unwrap().key.protocol, 59, "no next header");
}

#[test]
fn sources_that_can_never_be_one() {
    let mut packet = read4(&[], 0, &udp(b""), UDP).unwrap();
    assert!(!packet.is_martian());
    for source in [[127, 0, 0, 1], [224, 0, 0, 1], [255, 255, 255, 255], [240, 0, 0, 1], [10, 0, 0, 2]] {
        packet.key.source = addr::from_v4(source);
        assert!(packet.is_martian(), "{source:?}");
    }
    packet.key.source = addr::from_v4([0, 0, 0, 0]);
    assert!(!packet.is_martian() && packet.is_unspecified(), "DHCP");
    let mut packet = parse_slice(&frame(&[], 0x86dd, &ipv6(UDP, &udp(b"")))).unwrap();
    assert!(!packet.is_martian());
    packet.key.source = addr::from_v4([10, 0, 0, 1]);
    assert!(packet.is_martian(), "IPv4-mapped on the wire");
}

proptest! {
    /// Whatever comes: no panic, and what is said to be there is there.
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in prop::sample::select(vec![0x0800u16, 0x86dd, 0x8100]), version in prop::sample::select(vec![0x45u8, 0x46, 0x4f, 0x60])) {
        let mut frame = frame(&[], kind, &bytes);
        if frame.len() > 14 { frame[14] = version; }
        if let Ok(packet) = parse_slice(&frame) {
            prop_assert!(packet.l3 < packet.l4 && packet.l4 as usize <= frame.len());
            if packet.has_ports() {
                let header = if packet.key.protocol == TCP { 20 } else { 8 };
                prop_assert!(packet.l4 as usize + header <= frame.len());
                prop_assert_eq!(&frame[packet.l4 as usize..packet.l4 as usize + 2], &packet.key.source_port);
            }
        }
    }

    /// An independent parser agrees on what it can read.
    #[test]
    fn agrees_with_etherparse(ports in any::<(u16, u16)>(), data in prop::collection::vec(any::<u8>(), 0..64), v6 in any::<bool>(), vlan in prop::option::of(1u16..4095)) {
        use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut bytes = Vec::new();
        macro_rules! finish { ($b:expr) => {{
            let b = $b;
            if v6 { b.ipv6([1; 16], [2; 16], 9).udp(ports.0, ports.1).write(&mut bytes, &data).unwrap() }
            else { b.ipv4([1; 4], [2; 4], 9).udp(ports.0, ports.1).write(&mut bytes, &data).unwrap() }
        }}; }
        match vlan {
            Some(id) => finish!(builder.single_vlan(id.try_into().unwrap())),
            None => finish!(builder),
        }
        let packet = parse_slice(&bytes).unwrap();
        let oracle = SlicedPacket::from_ethernet(&bytes).unwrap();
        let Some(TransportSlice::Udp(udp)) = oracle.transport else { panic!("no UDP") };
        prop_assert_eq!((packet.source_port(), packet.destination_port()), (udp.source_port(), udp.destination_port()));
        prop_assert_eq!(packet.vlan, vlan.unwrap_or(0));
        prop_assert_eq!(packet.ttl, 9);
    }
}
