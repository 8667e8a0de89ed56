//! IPv4 (RFC 791) with options (RFC 7126).

use super::{Cursor, Fragment, Packet, TCP, transport};
use crate::{Reason, addr};

/// Loose source and record route (RFC 791 3.1).
const OPTION_LSRR: u32 = 131;
/// Strict source and record route.
const OPTION_SSRR: u32 = 137;

#[inline(always)]
pub(super) fn parse<C: Cursor>(cursor: &mut C, packet: &mut Packet) -> Result<(), Reason> {
    let available = cursor.remaining();
    let header: [u8; 20] = cursor.take().ok_or(Reason::Malformed)?;
    let header_length = ((header[0] & 0x0f) as usize) * 4;
    let total = u16::from_be_bytes([header[2], header[3]]) as usize;
    if header[0] >> 4 != 4 || header_length < 20 || total < header_length || total > available {
        return Err(Reason::Malformed);
    }
    packet.version = 4;
    packet.ttl = header[8];
    packet.length = total as u32;
    packet.key.protocol = header[9];
    packet.key.source = addr::from_v4([header[12], header[13], header[14], header[15]]);
    packet.key.destination = addr::from_v4([header[16], header[17], header[18], header[19]]);
    packet.l4 = packet.l3 + header_length as u16;
    let mut sum = 0;
    let mut word = 0;
    while word < 10 {
        sum += u16::from_ne_bytes([header[2 * word], header[2 * word + 1]]) as u32;
        word += 1;
    }
    if header_length > 20 {
        // A walk of its own, and a single step over it: however the walk went, the verifier sees one state after it.
        let walked = options(&mut cursor.clone(), header_length - 20);
        if walked == MALFORMED {
            return Err(Reason::Malformed);
        }
        packet.source_route = walked & SOURCE_ROUTE != 0;
        sum += walked & !SOURCE_ROUTE;
        cursor.skip((header_length - 20) & 0x3f).ok_or(Reason::Malformed)?;
    }
    // At most 30 words: two folds are enough.
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    packet.bad_checksum = sum != 0xffff;
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let offset = fragment & 0x1fff;
    packet.dont_fragment = fragment & 0x4000 != 0;
    packet.fragment = match (offset, fragment & 0x2000) {
        (0, 0) => Fragment::No,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    if packet.fragment != Fragment::No {
        packet.identification = 4;
    }
    if packet.fragment == Fragment::Later {
        // RFC 3128: an offset of one unit could overwrite the flags of a TCP header that was already judged.
        return if offset == 1 && packet.key.protocol == TCP { Err(Reason::TinyFragment) } else { Ok(()) };
    }
    transport::parse(cursor, packet, total - header_length)
}

/// Where the next option stands once the list has ended: beyond any header.
const ENDED: u32 = 0x1000;

/// Answer of [`options`]: lengths do not fit.
const MALFORMED: u32 = u32::MAX;
/// Flag in the answer of [`options`]: a source route is among them.
const SOURCE_ROUTE: u32 = 1 << 31;

/// Walks the options: looks for source routes, refuses lengths that do not fit. Returns the sum of their words, for the
/// header's checksum.
///
/// Byte by byte, at offsets that are known when this is compiled: the verifier of the kernel would follow every
/// sequence of lengths that a walk from option to option could take. And each byte by [`Cursor::option_byte`], which the
/// programs make a function that the verifier looks at once; otherwise Linux 6.1 goes through more than a million instructions.
#[inline(never)]
fn options<C: Cursor>(cursor: &mut C, length: usize) -> u32 {
    let mut sum = 0;
    let mut walk = 0;
    let mut at = 0;
    while at < 40 && (at as usize) < length {
        let Some([a, b, c, d]) = cursor.take() else { return MALFORMED };
        sum += u16::from_ne_bytes([a, b]) as u32 + u16::from_ne_bytes([c, d]) as u32;
        walk = C::option_byte(walk, at, a as u32);
        walk = C::option_byte(walk, at + 1, b as u32);
        walk = C::option_byte(walk, at + 2, c as u32);
        walk = C::option_byte(walk, at + 3, d as u32);
        at += 4;
    }
    let next = walk & NEXT;
    if walk & (REFUSED | WANTS_SIZE) != 0 || (next != ENDED && next as usize > length) {
        return MALFORMED;
    }
    if walk & SOURCE_ROUTED != 0 { sum | SOURCE_ROUTE } else { sum }
}

/// Part of a walk's state: where the next option stands.
const NEXT: u32 = 0xffff;
/// Flag of a walk's state: the byte in hand is the size of the option that began before it.
const WANTS_SIZE: u32 = 1 << 16;
/// Flag of a walk's state: a source route was met.
const SOURCE_ROUTED: u32 = 1 << 17;
/// Flag of a walk's state: an option's length does not fit.
const REFUSED: u32 = 1 << 18;

/// A step of the walk over IPv4 options: the state after the byte at `at`, with the state before it. It begins with 0.
#[inline(always)]
#[must_use]
pub const fn option_byte(walk: u32, at: u32, byte: u32) -> u32 {
    let flags = walk & !(NEXT | WANTS_SIZE);
    if walk & WANTS_SIZE != 0 {
        let refused = if byte < 2 { REFUSED } else { 0 };
        flags | refused | (at.wrapping_sub(1).wrapping_add(byte) & NEXT)
    } else if at != walk & NEXT {
        walk
    } else if byte == 0 {
        flags | ENDED
    } else if byte == 1 {
        flags | (at + 1)
    } else if byte == OPTION_LSRR || byte == OPTION_SSRR {
        walk | WANTS_SIZE | SOURCE_ROUTED
    } else {
        walk | WANTS_SIZE
    }
}
