//! What holds for every frame whatever: parsing and rewriting, against etherparse. Shared by the fuzz target and the tests.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netfast_common::{
    Reason,
    abi::FlowKey,
    addr, quic,
    rewrite::{self, Words},
    wire::{self, Fragment, Packet, UDP},
};

use super::checksums::{self, Sum, Sums};

/// A header inside a frame.
struct Header<'a>(&'a mut [u8]);

impl Words for Header<'_> {
    fn word(&self, index: usize) -> u32 {
        self.0.word(index)
    }

    fn put(&mut self, index: usize, word: u32) {
        self.0.put(index, word);
    }
}

/// Parses a frame and, where it could be forwarded or answered, rewrites it both ways. Panics if anything is wrong.
/// Returns what the parser made of it.
pub fn check(frame: &[u8]) -> Result<Packet, Reason> {
    let packet = wire::parse_slice(frame)?;
    places(frame, &packet);
    agrees_with_etherparse(frame, &packet);
    let plain = packet.fragment == Fragment::No && packet.has_ports();
    if plain && packet.key.protocol == UDP {
        server_ids(&frame[usize::from(packet.l4) + 8..]);
    }
    let refused = packet.version == 6 && packet.key.protocol == UDP && packet.no_udp_checksum;
    if plain && !refused {
        forward(frame, &packet);
        reflect(frame, &packet);
    }
    Ok(packet)
}

/// Everything that the packet is said to have lies inside the frame.
fn places(frame: &[u8], packet: &Packet) {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let network = if packet.version == 4 { 20 } else { 40 };
    assert!(packet.tags <= wire::MAX_TAGS && l3 == 14 + 4 * usize::from(packet.tags));
    assert!(l3 + network <= l4 && l4 <= frame.len(), "{packet:?}");
    if packet.has_ports() {
        assert!(l4 + if packet.key.protocol == UDP { 8 } else { 20 } <= frame.len(), "{packet:?}");
        assert_eq!(frame[l4..l4 + 2], packet.key.source_port);
        assert_eq!(frame[l4 + 2..l4 + 4], packet.key.destination_port);
    } else if packet.is_query {
        assert!(packet.fragment != Fragment::Later && l4 + 8 <= frame.len(), "{packet:?}");
        // RFC 792, RFC 4443 4: the asking side's identifier.
        let identifier = &frame[l4 + 4..l4 + 6];
        let asks = matches!((packet.key.protocol, frame[l4]), (wire::ICMP4, 8) | (wire::ICMP6, 128));
        let (asking, asked) = if asks {
            (packet.key.source_port, packet.key.destination_port)
        } else {
            (packet.key.destination_port, packet.key.source_port)
        };
        assert_eq!((identifier, [0, 0]), (&asking[..], asked), "{packet:?}");
    } else {
        assert_eq!((0, 0), (packet.source_port(), packet.destination_port()), "payload is no header");
    }
}

/// Server IDs of a datagram as it is, and as one of the QUIC versions whose long headers are read, against a plain reading.
fn server_ids(datagram: &[u8]) {
    let Some(bytes) = datagram.first_chunk::<{ quic::READ }>() else { return };
    let length = bytes[quic::READ - 1] % 18;
    for version in [None, Some(1u32), Some(0x6b33_43cf)] {
        let mut bytes = *bytes;
        if let Some(version) = version {
            bytes[1..5].copy_from_slice(&version.to_be_bytes());
            // A length that connection IDs of these versions have, or one more.
            bytes[5] %= 22;
        }
        // RFC 9000 17.2, RFC 9369 3.2: Handshake packets. RFC 9000 17.3: short headers.
        let id = match (bytes[0] >> 4, &bytes[1..5]) {
            (0..8, _) => Some(&bytes[1..]),
            (0xa | 0xe, [0, 0, 0, 1]) | (0xb | 0xf, [0x6b, 0x33, 0x43, 0xcf]) => {
                (length < bytes[5] && bytes[5] <= 20).then_some(&bytes[6..])
            }
            _ => None,
        };
        let named = id.filter(|id| id[0] < 0xe0 && length <= 15);
        let expected = named.and_then(|id| quic::words(&id[1..=usize::from(length)]));
        assert_eq!(expected, quic::server_id(&bytes, length), "{length} bytes of {bytes:02x?}");
    }
}

/// Where both understand a packet, they understand the same.
fn agrees_with_etherparse(frame: &[u8], packet: &Packet) {
    let Ok(other) = SlicedPacket::from_ethernet(frame) else { return };
    let (source, destination) = match &other.net {
        Some(NetSlice::Ipv4(ip)) => {
            (addr::from_v4(ip.header().source()), addr::from_v4(ip.header().destination()))
        }
        Some(NetSlice::Ipv6(ip)) => (ip.header().source(), ip.header().destination()),
        _ => panic!("etherparse sees no IP: {packet:?}"),
    };
    assert_eq!((source, destination), (packet.key.source, packet.key.destination));
    // etherparse 0.19 reads IPv6 fragment headers wrongly.
    if packet.fragment != Fragment::No {
        return;
    }
    let (slice, protocol, source, destination) = match &other.transport {
        Some(TransportSlice::Tcp(tcp)) => (tcp.slice(), wire::TCP, tcp.source_port(), tcp.destination_port()),
        Some(TransportSlice::Udp(udp)) => (udp.slice(), UDP, udp.source_port(), udp.destination_port()),
        _ => return,
    };
    assert_eq!(
        (protocol, source, destination),
        (packet.key.protocol, packet.source_port(), packet.destination_port())
    );
    let offset = slice.as_ptr() as usize - frame.as_ptr() as usize;
    assert_eq!(offset, usize::from(packet.l4), "where the transport header stands");
}

/// New addresses and ports that depend on the frame.
fn translation(frame: &[u8], packet: &Packet) -> FlowKey {
    let mut key = packet.key;
    let mut state = 0x9e37_79b9u32;
    for byte in frame {
        state = (state ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    let mut fill = |bytes: &mut [u8]| {
        for byte in bytes {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Words of all zeros and all ones are where ones' complement sums go wrong.
            *byte = match state >> 30 {
                0 => 0,
                1 => 0xff,
                _ => (state >> 16) as u8,
            };
        }
    };
    let from = if packet.version == 4 { 12 } else { 0 };
    fill(&mut key.source[from..]);
    fill(&mut key.destination[from..]);
    fill(&mut key.source_port);
    fill(&mut key.destination_port);
    key
}

/// What the programs do to a packet that they forward.
fn forward(before: &[u8], packet: &Packet) {
    if packet.ttl <= 1 {
        return;
    }
    let new = translation(before, packet);
    let mut frame = before.to_vec();
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let word = |address: &[u8; 16], i: usize| {
        u32::from_ne_bytes([address[4 * i], address[4 * i + 1], address[4 * i + 2], address[4 * i + 3]])
    };
    let pseudo = if packet.version == 4 {
        rewrite::ipv4(&mut Header(&mut frame[l3..l3 + 20]), word(&new.source, 3), word(&new.destination, 3))
    } else {
        let words = |address: &[u8; 16]| [0, 1, 2, 3].map(|i| word(address, i));
        rewrite::ipv6(&mut Header(&mut frame[l3..l3 + 40]), words(&new.source), words(&new.destination))
    };
    let ([a, b], [c, d]) = (new.source_port, new.destination_port);
    let udp = packet.key.protocol == UDP;
    let at = l4 + if udp { 6 } else { 16 };
    let delta = rewrite::ports(&mut Header(&mut frame[l4..l4 + 4]), u32::from_ne_bytes([a, b, c, d]), pseudo);
    let field = [frame[at], frame[at + 1]];
    let field = if udp { delta.apply_udp(field) } else { delta.apply(field) };
    frame[at..at + 2].copy_from_slice(&field);

    let after = wire::parse_slice(&frame);
    let expected = Packet { key: new, ttl: packet.ttl - 1, ..*packet };
    assert_eq!(Ok(expected), after, "only the key and the TTL change");
    only_changed(before, &frame, packet, at);
    same_sums(checksums::of(before), checksums::of(&frame));
}

/// What the programs do to a datagram that they answer.
fn reflect(before: &[u8], packet: &Packet) {
    let mut frame = before.to_vec();
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    if packet.version == 4 {
        rewrite::reflect_ipv4(&mut Header(&mut frame[l3..l3 + 20]), 64);
    } else {
        rewrite::reflect_ipv6(&mut Header(&mut frame[l3..l3 + 40]), 64);
    }
    let mut ports = Header(&mut frame[l4..l4 + 4]);
    ports.put(0, ports.word(0).rotate_left(16));
    let after = wire::parse_slice(&frame);
    let expected = Packet { key: netfast_common::flow::reverse(&packet.key), ttl: 64, ..*packet };
    assert_eq!(Ok(expected), after);
    only_changed(before, &frame, packet, l4);
    same_sums(checksums::of(before), checksums::of(&frame));
}

/// TTL, IPv4 checksum, addresses, ports and one checksum field at `field`: nothing else changes.
fn only_changed(before: &[u8], after: &[u8], packet: &Packet, field: usize) {
    let (l3, l4) = (usize::from(packet.l3), usize::from(packet.l4));
    let may = |at: usize| {
        let network = if packet.version == 4 {
            at == l3 + 8 || (l3 + 10..l3 + 20).contains(&at)
        } else {
            at == l3 + 7 || (l3 + 8..l3 + 40).contains(&at)
        };
        network || (l4..l4 + 4).contains(&at) || (field..field + 2).contains(&at)
    };
    assert_eq!(before.len(), after.len());
    let changed = (0..before.len()).find(|at| before[*at] != after[*at] && !may(*at));
    assert_eq!(None, changed, "a byte that is not to change: {packet:?}");
}

/// What was right stays right; what was wrong stays wrong, so that no corruption is hidden from the receiver.
fn same_sums(before: Sums, after: Sums) {
    let judged = |sum: Sum| sum != Sum::None;
    if judged(before.network) {
        assert_eq!(before.network, after.network, "IPv4 header checksum");
    }
    if judged(before.transport) {
        assert_eq!(before.transport, after.transport, "TCP or UDP checksum");
    }
}
