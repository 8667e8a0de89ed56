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
    packet.length = payload as u32 + 40;
    packet.dont_fragment = true;
    copy16(&mut packet.key.source, &header, 8);
    copy16(&mut packet.key.destination, &header, 24);
    packet.l4 = packet.l3 + 40;

    packet.key.protocol = header[6];
    if !is_extension(header[6]) {
        return transport::parse(cursor, packet, payload);
    }
    // A walk of its own, and a single step over it: however the walk went, the verifier sees one state after it.
    extensions(&mut cursor.clone(), packet, payload)?;
    if packet.fragment == Fragment::Later {
        return Ok(());
    }
    let length = (packet.l4 - packet.l3 - 40) as usize & MAX_LENGTH;
    cursor.skip(length).ok_or(Reason::Malformed)?;
    if length > payload {
        return Err(Reason::Malformed);
    }
    transport::parse(cursor, packet, payload - length)
}

/// Most bytes of extension headers that are walked.
pub(super) const MAX_LENGTH: usize = 0x7ff;

/// Walks the extension headers; puts the transport header's place, its protocol and the fragmentation into `packet`.
#[inline(never)]
pub(super) fn extensions<C: Cursor>(
    cursor: &mut C,
    packet: &mut Packet,
    payload: usize,
) -> Result<(), Reason> {
    let mut next = packet.key.protocol;
    let mut walked = 0;
    let mut seen = 0;
    let mut tiny = false;
    while seen < MAX_EXTENSIONS && is_extension(next) {
        // A hop-by-hop header stands first or nowhere (RFC 8200 4.1).
        if next == HOP_BY_HOP && seen > 0 {
            return Err(Reason::Malformed);
        }
        let head: [u8; 4] = cursor.take().ok_or(Reason::Malformed)?;
        let mut length = (head[1] as usize + 1) * 8;
        if next == ROUTING && head[3] != 0 {
            packet.source_route = true;
        } else if next == AUTHENTICATION {
            length = (head[1] as usize + 2) * 4;
        } else if next == FRAGMENT {
            length = 8;
            let offset = u16::from_be_bytes([head[2], head[3]]);
            // An atomic fragment (RFC 6946) is a whole datagram.
            if offset & 0xfff8 != 0 {
                packet.fragment = Fragment::Later;
                tiny = offset & 0xfff8 == 8;
            } else if offset & 1 != 0 {
                packet.fragment = Fragment::First;
            }
            packet.identification = 44 + walked as u16;
        }
        walked += length;
        next = head[0];
        seen += 1;
        if walked > payload {
            return Err(Reason::Malformed);
        }
        if walked > MAX_LENGTH {
            return Err(Reason::Ipv6Extensions);
        }
        if packet.fragment == Fragment::Later {
            break;
        }
        cursor.skip((length - 4) & MAX_LENGTH).ok_or(Reason::Malformed)?;
    }
    packet.key.protocol = next;
    packet.l4 += walked as u16;
    if packet.fragment == Fragment::Later {
        return if tiny && next == TCP { Err(Reason::TinyFragment) } else { Ok(()) };
    }
    if is_extension(next) { Err(Reason::Ipv6Extensions) } else { Ok(()) }
}

/// Whether a next-header value is that of an extension header.
#[inline(always)]
pub(super) const fn is_extension(next: u8) -> bool {
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
pub(super) fn copy16(to: &mut [u8; 16], header: &[u8; 40], from: usize) {
    let mut i = 0;
    while i < 16 {
        to[i] = header[from + i];
        i += 1;
    }
}
