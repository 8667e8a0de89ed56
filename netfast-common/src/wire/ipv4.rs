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
    packet.key.protocol = header[9];
    packet.key.source = addr::from_v4([header[12], header[13], header[14], header[15]]);
    packet.key.destination = addr::from_v4([header[16], header[17], header[18], header[19]]);
    packet.l4 = packet.l3 + header_length as u16;
    if header_length > 20 {
        options(cursor, header_length - 20)?;
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    let offset = fragment & 0x1fff;
    packet.fragment = match (offset, fragment & 0x2000) {
        (0, 0) => Fragment::No,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    if packet.fragment == Fragment::Later {
        // RFC 3128: an offset of one unit could overwrite the flags of a TCP header that was already judged.
        return if offset == 1 && packet.key.protocol == TCP { Err(Reason::TinyFragment) } else { Ok(()) };
    }
    transport::parse(cursor, packet, total - header_length)
}

/// Walks the options: looks for source routes, refuses lengths that do not fit.
#[inline(always)]
fn options<C: Cursor>(cursor: &mut C, length: usize) -> Result<(), Reason> {
    let mut left = length;
    // At most 40 bytes, so at most 40 options.
    let mut steps = 0;
    let mut source_route = false;
    while left > 0 && steps < 40 {
        steps += 1;
        let [kind] = cursor.take().ok_or(Reason::Malformed)?;
        left -= 1;
        if kind == 0 {
            break;
        }
        if kind == 1 {
            continue;
        }
        if left == 0 {
            return Err(Reason::Malformed);
        }
        let [size] = cursor.take().ok_or(Reason::Malformed)?;
        left -= 1;
        if size < 2 || (size - 2) as usize > left {
            return Err(Reason::Malformed);
        }
        source_route |= kind == OPTION_LSRR || kind == OPTION_SSRR;
        let body = (size - 2) as usize & 0x3f;
        cursor.skip(body).ok_or(Reason::Malformed)?;
        left -= body;
    }
    if source_route {
        return Err(Reason::SourceRoute);
    }
    cursor.skip(left & 0x3f).ok_or(Reason::Malformed)
}
