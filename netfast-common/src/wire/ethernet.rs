//! Ethernet II, IEEE 802.1Q and 802.1ad tags.

use network_types::eth::EtherType;

use super::{Cursor, MAX_TAGS, Packet};
use crate::Reason;

/// What follows the link header.
pub(super) enum Kind {
    Ipv4,
    Ipv6,
}

const IPV4: u16 = (EtherType::Ipv4 as u16).swap_bytes();
const IPV6: u16 = (EtherType::Ipv6 as u16).swap_bytes();
const TAG_8021Q: u16 = (EtherType::Ieee8021q as u16).swap_bytes();
const TAG_8021AD: u16 = (EtherType::Ieee8021ad as u16).swap_bytes();
/// The pre-standard outer tag that some switches still send.
const TAG_QINQ: u16 = 0x9100;

#[inline(always)]
const fn is_tag(kind: u16) -> bool {
    matches!(kind, TAG_8021Q | TAG_8021AD | TAG_QINQ)
}

#[inline(always)]
pub(super) fn parse<C: Cursor>(cursor: &mut C, packet: &mut Packet) -> Result<Kind, Reason> {
    packet.destination_mac = cursor.take().ok_or(Reason::Malformed)?;
    packet.source_mac = cursor.take().ok_or(Reason::Malformed)?;
    let mut kind = u16::from_be_bytes(cursor.take().ok_or(Reason::Malformed)?);
    packet.l3 = 14;
    while packet.tags < MAX_TAGS && is_tag(kind) {
        let tag: [u8; 4] = cursor.take().ok_or(Reason::Malformed)?;
        packet.vlan = u16::from_be_bytes([tag[0] & 0x0f, tag[1]]);
        kind = u16::from_be_bytes([tag[2], tag[3]]);
        packet.tags += 1;
        packet.l3 += 4;
    }
    match kind {
        IPV4 => Ok(Kind::Ipv4),
        IPV6 => Ok(Kind::Ipv6),
        kind if is_tag(kind) => Err(Reason::DeepVlan),
        _ => Err(Reason::NotIp),
    }
}
