//! TCP (RFC 9293), UDP (RFC 768).

use super::{Cursor, Fragment, Packet, TCP, UDP};
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
        _ => {}
    }
    Ok(())
}
