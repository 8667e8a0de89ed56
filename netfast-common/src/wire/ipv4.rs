//! IPv4 (RFC 791) with options (RFC 7126).

use super::{Cursor, Fragment, Packet, TCP, transport};
use crate::{Reason, addr};

/// Loose source and record route (RFC 791 3.1).
const OPTION_LSRR: u8 = 131;
/// Strict source and record route.
const OPTION_SSRR: u8 = 137;

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
/// sequence of lengths that a walk from option to option could take.
#[inline(never)]
fn options<C: Cursor>(cursor: &mut C, length: usize) -> u32 {
    let mut sum = 0;
    let mut walk = Walk { next: 0, wants_size: false, source_route: false, malformed: false };
    let mut at = 0;
    while at < 40 && (at as usize) < length {
        let Some([a, b, c, d]) = cursor.take() else { return MALFORMED };
        sum += u16::from_ne_bytes([a, b]) as u32 + u16::from_ne_bytes([c, d]) as u32;
        walk.byte(at, a);
        walk.byte(at + 1, b);
        walk.byte(at + 2, c);
        walk.byte(at + 3, d);
        at += 4;
    }
    if walk.malformed || walk.wants_size || (walk.next != ENDED && walk.next as usize > length) {
        return MALFORMED;
    }
    if walk.source_route { sum | SOURCE_ROUTE } else { sum }
}

/// The walk over the options.
struct Walk {
    /// Offset of the next option.
    next: u32,
    /// The byte in hand is the size of the option that began before it.
    wants_size: bool,
    source_route: bool,
    malformed: bool,
}

impl Walk {
    #[inline(always)]
    fn byte(&mut self, at: u32, byte: u8) {
        if self.wants_size {
            self.wants_size = false;
            self.malformed |= byte < 2;
            self.next = at.wrapping_sub(1).wrapping_add(byte as u32);
        } else if at == self.next {
            match byte {
                0 => self.next = ENDED,
                1 => self.next = at + 1,
                kind => {
                    self.source_route |= kind == OPTION_LSRR || kind == OPTION_SSRR;
                    self.wants_size = true;
                }
            }
        }
    }
}
