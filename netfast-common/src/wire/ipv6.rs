//! IPv6 (RFC 8200) with its extension headers (RFC 7045 2.1).

use super::{Cursor, Fragment, MAX_EXTENSIONS, Packet, TCP, transport};
use crate::Reason;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION: u8 = 60;
const MOBILITY: u8 = 135;
const HIP: u8 = 139;
const SHIM6: u8 = 140;
const EXPERIMENT_1: u8 = 253;
const EXPERIMENT_2: u8 = 254;

#[inline(always)]
pub(super) fn parse<C: Cursor>(cursor: &mut C, packet: &mut Packet) -> Result<(), Reason> {
    let available = cursor.remaining();
    let header: [u8; 40] = cursor.take().ok_or(Reason::Malformed)?;
    let payload = u16::from_be_bytes([header[4], header[5]]) as usize;
    // A payload length of 0 with content would be a jumbogram (RFC 2675): no link of ours carries one.
    if header[0] >> 4 != 6 || payload + 40 > available {
        return Err(Reason::Malformed);
    }
    packet.version = 6;
    packet.ttl = header[7];
    copy16(&mut packet.key.source, &header, 8);
    copy16(&mut packet.key.destination, &header, 24);
    packet.l4 = packet.l3 + 40;

    let mut next = header[6];
    let mut left = payload;
    let mut seen = 0;
    let mut tiny = false;
    while seen < MAX_EXTENSIONS {
        let length = match next {
            HOP_BY_HOP | ROUTING | DESTINATION | MOBILITY | HIP | SHIM6 | EXPERIMENT_1 | EXPERIMENT_2 => {
                let head: [u8; 4] = cursor.take().ok_or(Reason::Malformed)?;
                // A hop-by-hop header stands first or nowhere (RFC 8200 4.1).
                if next == HOP_BY_HOP && seen > 0 {
                    return Err(Reason::Malformed);
                }
                if next == ROUTING && head[3] != 0 {
                    return Err(Reason::SourceRoute);
                }
                next = head[0];
                (head[1] as usize + 1) * 8
            }
            AUTHENTICATION => {
                let head: [u8; 4] = cursor.take().ok_or(Reason::Malformed)?;
                next = head[0];
                (head[1] as usize + 2) * 4
            }
            FRAGMENT => {
                let head: [u8; 4] = cursor.take().ok_or(Reason::Malformed)?;
                next = head[0];
                let offset = u16::from_be_bytes([head[2], head[3]]);
                packet.fragment = match (offset & 0xfff8, offset & 1) {
                    // An atomic fragment (RFC 6946) is a whole datagram.
                    (0, 0) => packet.fragment,
                    (0, _) => Fragment::First,
                    _ => Fragment::Later,
                };
                tiny = offset & 0xfff8 == 8;
                8
            }
            _ => break,
        };
        if length > left {
            return Err(Reason::Malformed);
        }
        left -= length;
        cursor.skip((length - 4) & 0x7ff).ok_or(Reason::Malformed)?;
        packet.l4 += length as u16;
        seen += 1;
        if packet.fragment == Fragment::Later {
            break;
        }
    }
    packet.key.protocol = next;
    if packet.fragment == Fragment::Later {
        return if tiny && next == TCP { Err(Reason::TinyFragment) } else { Ok(()) };
    }
    if is_extension(next) {
        return Err(Reason::Ipv6Extensions);
    }
    transport::parse(cursor, packet, left)
}

/// Whether a next-header value, met after the last header that was walked, hides what follows: an extension header
/// beyond the limit.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP
            | ROUTING
            | FRAGMENT
            | AUTHENTICATION
            | DESTINATION
            | MOBILITY
            | HIP
            | SHIM6
            | EXPERIMENT_1
            | EXPERIMENT_2
    )
}

#[inline(always)]
fn copy16(to: &mut [u8; 16], header: &[u8; 40], from: usize) {
    let mut i = 0;
    while i < 16 {
        to[i] = header[from + i];
        i += 1;
    }
}
