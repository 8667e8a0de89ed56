//! Server IDs in QUIC connection IDs, in plain text: draft-ietf-quic-load-balancers-21 (August 2025) sections 3 and 5.2. What is
//! read of a packet are the parts that all versions share (RFC 8999), and the type of long headers of versions 1 (RFC 9000
//! 17.2) and 2 (RFC 9369 3.2).

use crate::abi::QuicKey;

/// Bytes of a datagram that are read: a long header up to the end of the longest server ID.
pub const READ: usize = 24;
/// Longest server ID, in bytes.
pub const MAX_SERVER_ID: u8 = 15;
/// Longest connection ID of versions 1 and 2, in bytes.
const MAX_CONNECTION_ID: u8 = 20;

/// The server ID (`length` bytes, zeros after it) that the destination connection ID of a QUIC packet names; nothing if it
/// names none, or if the packet may be a connection's first one (Initial, 0-RTT, an unknown version): then its
/// connection ID is the client's invention.
///
/// `bytes`: the first bytes of the datagram. Every packet with a server ID has as many: one byte, the connection ID with
/// its nonce (4 bytes), a packet number and an authentication tag (16 bytes).
#[inline(always)]
pub const fn server_id(bytes: &[u8; READ], length: u8) -> Option<[u64; 2]> {
    if length == 0 || length > MAX_SERVER_ID {
        return None;
    }
    let long = bytes[0] & 0x80 != 0;
    if long {
        let version = u32::from_be_bytes([bytes[1], bytes[2], bytes[3], bytes[4]]);
        if !after_first(version, bytes[0] >> 4 & 3) || bytes[5] < length + 1 || bytes[5] > MAX_CONNECTION_ID {
            return None;
        }
    }
    let first = if long { bytes[6] } else { bytes[1] };
    // Rotation 0b111: the connection ID says nothing to a balancer.
    if first >> 5 == 7 {
        return None;
    }
    let words = if long { [word(bytes, 7), word(bytes, 15)] } else { [word(bytes, 2), word(bytes, 10)] };
    Some(cut(words, length))
}

/// Whether long headers of this type and version come after a connection's first flight only.
#[inline(always)]
const fn after_first(version: u32, kind: u8) -> bool {
    match version {
        1 => kind == 2,
        0x6b33_43cf => kind == 3,
        _ => false,
    }
}

#[inline(always)]
const fn word(bytes: &[u8; READ], at: usize) -> u64 {
    u64::from_be_bytes([
        bytes[at],
        bytes[at + 1],
        bytes[at + 2],
        bytes[at + 3],
        bytes[at + 4],
        bytes[at + 5],
        bytes[at + 6],
        bytes[at + 7],
    ])
}

/// The first `length` bytes (1 to 15) of two words in network order.
#[inline(always)]
const fn cut([first, second]: [u64; 2], length: u8) -> [u64; 2] {
    if length <= 8 {
        [first & (u64::MAX << (((8 - length) * 8) & 63)), 0]
    } else {
        [first, second & (u64::MAX << (((16 - length) * 8) & 63))]
    }
}

/// The key that a server ID stands under.
#[inline(always)]
pub const fn key(forward_uid: u32, slot: u32, length: u8, id: [u64; 2]) -> QuicKey {
    QuicKey { id, forward_uid, slot: slot as u8, length, pad: [0; 2] }
}

/// A server ID as [`server_id`] gives it; nothing if it is too long or empty.
pub fn words(id: &[u8]) -> Option<[u64; 2]> {
    let mut bytes = [0; 16];
    if id.is_empty() || id.len() > MAX_SERVER_ID as usize {
        return None;
    }
    bytes[..id.len()].copy_from_slice(id);
    let whole = u128::from_be_bytes(bytes);
    Some([(whole >> 64) as u64, whole as u64])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V2: u32 = 0x6b33_43cf;

    fn read(packet: &[u8], length: u8) -> Option<[u64; 2]> {
        let mut bytes = [0xee; READ];
        let there = packet.len().min(READ);
        bytes[..there].copy_from_slice(&packet[..there]);
        server_id(&bytes, length)
    }

    fn long(version: u32, kind: u8, id: &[u8]) -> Vec<u8> {
        let first = 0xc0 | kind << 4;
        [&[first][..], &version.to_be_bytes(), &[id.len() as u8], id, &[8; 30]].concat()
    }

    #[test]
    fn the_types_of_long_headers() {
        let id = [0x07, 0x0a, 0x01, 9, 9, 9, 9, 9];
        let named = words(&[0x0a, 0x01]);
        // RFC 9000 table 5 (Initial, 0-RTT, Handshake, Retry); RFC 9369 3.2 turns them.
        for (version, kinds) in [(1, [false, false, true, false]), (V2, [false, false, false, true])] {
            for (kind, named_by) in (0..).zip(kinds) {
                assert_eq!(named_by.then_some(named).flatten(), read(&long(version, kind, &id), 2), "{kind}");
            }
        }
        for version in [0, 2, 0xff00_001d, 0x0a0a_0a0a] {
            assert!((0..4).all(|kind| read(&long(version, kind, &id), 2).is_none()), "{version:x}");
        }
        assert_eq!(None, read(&long(1, 2, &id[..2]), 2), "shorter than a server ID");
        assert_eq!(named, read(&long(1, 2, &id[..3]), 2));
        assert_eq!(None, read(&long(1, 2, &[0; 21]), 2), "longer than versions 1 and 2 have them");
    }

    #[test]
    fn no_id_is_as_long() {
        assert_eq!(None, read(&[0x40; 40], 0));
        assert_eq!(None, read(&[0x40; 40], 16));
        assert_eq!(None, words(&[]));
        assert_eq!(None, words(&[0; 16]));
    }

    proptest! {
        #[test]
        fn a_server_id_is_found_again(
            id in prop::collection::vec(0u8.., 1..=15), first in 0u8..0xe0, bits in 0u8.., nonce in prop::collection::vec(0u8.., 4),
        ) {
            let length = id.len() as u8;
            let connection = [&[first][..], &id, &nonce].concat();
            let short = [&[bits & 0x7f][..], &connection, &[3; 20]].concat();
            prop_assert_eq!(words(&id), read(&short, length));
            prop_assert!(words(&id).is_some());
            let handshake = long(1, 2, &connection);
            prop_assert_eq!(words(&id), read(&handshake, length));
            let unroutable = [&[bits & 0x7f, first | 0xe0][..], &id, &[3; 30]].concat();
            prop_assert_eq!(None, read(&unroutable, length));
        }

        #[test]
        fn other_ids_are_other_words(a in prop::collection::vec(0u8.., 3), b in prop::collection::vec(0u8.., 3)) {
            prop_assert_eq!(a == b, words(&a) == words(&b));
        }

        #[test]
        fn any_bytes_do_no_harm(bytes: [u8; READ], length: u8) {
            let found = server_id(&bytes, length);
            prop_assert!(found.is_none() || (1..=15).contains(&length));
        }
    }
}
