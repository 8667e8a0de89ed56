//! ICMP and ICMPv6 errors (RFC 792, RFC 4443) and the packets inside them (RFC 5508 4).

use super::{Cursor, Fragment, ICMP4, ICMP6, Packet, TCP, UDP, ipv6};
use crate::addr;

/// Bytes of an ICMP error's own header; the packet that it is about follows.
pub const HEADER: usize = 8;

/// Whether an ICMP message of this type is an error that has a packet inside: unreachable, too big, source quench (which
/// RFC 6633 deprecates), time exceeded, parameter problem. Not redirects: they are about this link.
#[inline(always)]
pub const fn is_error(version: u8, kind: u8) -> bool {
    if version == 4 { matches!(kind, 3 | 4 | 11 | 12) } else { matches!(kind, 1..=4) }
}

/// Reads the packet inside an error of IP version `version`, as far as its first 8 bytes after the IP headers: `cursor` stands
/// at its IP header, whose offset `inner.l3` holds. `None` for what belongs to no flow: other protocols, later
/// fragments, what is cut off before the ports. The lengths that its headers tell are those of the whole packet, of which an
/// error holds the beginning only.
#[inline(always)]
pub fn embedded<C: Cursor>(cursor: &mut C, version: u8, inner: &mut Packet) -> Option<()> {
    inner.version = version;
    if version == 4 {
        let header: [u8; 20] = cursor.take()?;
        let length = ((header[0] & 0x0f) as usize) * 4;
        let fragment = u16::from_be_bytes([header[6], header[7]]);
        if header[0] >> 4 != 4 || length < 20 || fragment & 0x1fff != 0 {
            return None;
        }
        inner.key.protocol = header[9];
        inner.key.source = addr::from_v4([header[12], header[13], header[14], header[15]]);
        inner.key.destination = addr::from_v4([header[16], header[17], header[18], header[19]]);
        inner.l4 = inner.l3 + length as u16;
        cursor.skip((length - 20) & 0x3f)?;
    } else {
        let header: [u8; 40] = cursor.take()?;
        if header[0] >> 4 != 6 {
            return None;
        }
        ipv6::copy16(&mut inner.key.source, &header, 8);
        ipv6::copy16(&mut inner.key.destination, &header, 24);
        inner.key.protocol = header[6];
        inner.l4 = inner.l3 + 40;
        if ipv6::is_extension(header[6]) {
            let payload = u16::from_be_bytes([header[4], header[5]]) as usize;
            ipv6::extensions(&mut cursor.clone(), inner, payload).ok()?;
            cursor.skip((inner.l4 - inner.l3 - 40) as usize & ipv6::MAX_LENGTH)?;
        }
    }
    if inner.fragment == Fragment::Later {
        return None;
    }
    let start: [u8; 8] = cursor.take()?;
    match inner.key.protocol {
        TCP | UDP => {
            inner.key.source_port = [start[0], start[1]];
            inner.key.destination_port = [start[2], start[3]];
        }
        // An echo's identifier is the port of the side that asks (RFC 5508 3).
        protocol if protocol == if version == 4 { ICMP4 } else { ICMP6 } => match (version, start[0]) {
            (4, 8) | (6, 128) => inner.key.source_port = [start[4], start[5]],
            (4, 0) | (6, 129) => inner.key.destination_port = [start[4], start[5]],
            _ => return None,
        },
        _ => return None,
    }
    Some(())
}
