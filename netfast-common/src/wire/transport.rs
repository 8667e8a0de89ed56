//! TCP (RFC 9293), UDP (RFC 768), queries of ICMP (RFC 792) and ICMPv6 (RFC 4443 4).

use super::{Cursor, Fragment, ICMP4, ICMP6, Packet, TCP, UDP};
use crate::Reason;

/// Reads the ports. `length`: bytes that the IP header gives to the transport layer.
#[inline(always)]
pub(super) fn parse<C: Cursor>(cursor: &mut C, packet: &mut Packet, length: usize) -> Result<(), Reason> {
    let short = if packet.fragment == Fragment::First { Reason::TinyFragment } else { Reason::Malformed };
    match packet.key.protocol {
        TCP => {
            if length < 20 {
                return Err(short);
            }
            let header: [u8; 20] = cursor.take().ok_or(short)?;
            let header_length = (header[12] >> 4) as usize * 4;
            if header_length < 20 {
                return Err(Reason::Malformed);
            }
            if header_length > length {
                return Err(short);
            }
            packet.key.source_port = [header[0], header[1]];
            packet.key.destination_port = [header[2], header[3]];
            packet.flags = header[13];
            packet.sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            packet.acknowledgement = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
        }
        UDP => {
            if length < 8 {
                return Err(short);
            }
            let header: [u8; 8] = cursor.take().ok_or(short)?;
            let datagram = u16::from_be_bytes([header[4], header[5]]) as usize;
            if datagram < 8 || (packet.fragment == Fragment::No && datagram > length) {
                return Err(Reason::Malformed);
            }
            packet.key.source_port = [header[0], header[1]];
            packet.key.destination_port = [header[2], header[3]];
            packet.no_udp_checksum = header[6] == 0 && header[7] == 0;
        }
        ICMP4 | ICMP6 if length >= 8 => {
            let header: [u8; 8] = cursor.take().ok_or(short)?;
            let (request, reply) = if packet.key.protocol == ICMP4 { (8, 0) } else { (128, 129) };
            // The identifier tells queries apart as ports do (RFC 5508 3): it is the asking side's port.
            if header[0] == request && header[1] == 0 {
                packet.is_query = true;
                packet.key.source_port = [header[4], header[5]];
            } else if header[0] == reply && header[1] == 0 {
                packet.is_query = true;
                packet.key.destination_port = [header[4], header[5]];
            }
        }
        _ => {}
    }
    Ok(())
}
