//! Answers for claimed addresses: ARP (RFC 826, RFC 5227), neighbour discovery (RFC 4861), echo (RFC 792, RFC 4443).

use crate::{
    answer,
    checksum::Delta,
    rewrite::Words,
    wire::{Cursor, ICMP6},
};

/// Ethernet type of ARP.
pub const ARP: u16 = 0x0806;
/// Bytes of an ARP packet for Ethernet and IPv4.
pub const ARP_LENGTH: usize = 28;
/// ICMPv6 type of a neighbour solicitation.
pub const SOLICITATION: u8 = 135;
/// ICMPv6 type of a neighbour advertisement.
pub const ADVERTISEMENT: u8 = 136;
/// Bytes of a solicitation or advertisement without options.
pub const NEIGHBOUR_LENGTH: usize = 24;
/// Bytes of an advertisement as [`put_advertisement`] makes it: with the target's link-layer address.
pub const ADVERTISEMENT_LENGTH: usize = 32;
/// Hop limit that neighbour discovery must have: nobody has forwarded it (RFC 4861 7.1.1).
pub const HOP_LIMIT: u8 = 255;
/// Most options, in units of 8 bytes, of a neighbour discovery message that is read.
const MOST_OPTIONS: usize = 12;

/// Hardware type Ethernet, protocol type IPv4, and the lengths of their addresses (RFC 826).
const ARP_KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// ARP operation of a question.
const REQUEST: u8 = 1;
/// ARP operation of an answer.
const REPLY: u8 = 2;
/// Option of neighbour discovery: the sender's link-layer address (RFC 4861 4.6.1).
const SOURCE_LINK: u8 = 1;
/// Option of neighbour discovery: the target's link-layer address.
const TARGET_LINK: u8 = 2;
/// Flag "solicited" of an advertisement (RFC 4861 4.4).
const SOLICITED: u8 = 0x40;
/// Flag "override".
const OVERRIDE: u8 = 0x20;

/// What an ARP packet says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arp {
    /// It is a question; otherwise an answer.
    pub is_request: bool,
    /// The sender's MAC address.
    pub sender_mac: [u8; 6],
    /// The sender's address, 0 in a probe (RFC 5227 1.1).
    pub sender: [u8; 4],
    /// The address that is asked for.
    pub target: [u8; 4],
}

/// Reads an ARP packet of [`ARP_LENGTH`] bytes. `None`: not one about IPv4 on Ethernet, or one whose sender is a group.
#[inline(always)]
pub fn arp(packet: &(impl Words + ?Sized)) -> Option<Arp> {
    let [a, b, c, d] = packet.word(0).to_ne_bytes();
    let [e, f, o0, o1] = packet.word(1).to_ne_bytes();
    if [a, b, c, d, e, f] != ARP_KIND || o0 != 0 || (o1 != REQUEST && o1 != REPLY) {
        return None;
    }
    let [m0, m1, m2, m3] = packet.word(2).to_ne_bytes();
    let [m4, m5, s0, s1] = packet.word(3).to_ne_bytes();
    let [s2, s3, _, _] = packet.word(4).to_ne_bytes();
    if m0 & 1 != 0 {
        return None;
    }
    Some(Arp {
        is_request: o1 == REQUEST,
        sender_mac: [m0, m1, m2, m3, m4, m5],
        sender: [s0, s1, s2, s3],
        target: packet.word(6).to_ne_bytes(),
    })
}

/// Writes an ARP packet of [`ARP_LENGTH`] bytes: `is_request` by `mac` with the address `sender`, about `target`, whose MAC
/// address, as far as it is known, is `target_mac`.
#[inline(always)]
pub fn put_arp(
    packet: &mut (impl Words + ?Sized),
    is_request: bool,
    (mac, sender): ([u8; 6], [u8; 4]),
    (target_mac, target): ([u8; 6], [u8; 4]),
) {
    let [a, b, c, d, e, f] = ARP_KIND;
    let operation = if is_request { REQUEST } else { REPLY };
    packet.put(0, u32::from_ne_bytes([a, b, c, d]));
    packet.put(1, u32::from_ne_bytes([e, f, 0, operation]));
    packet.put(2, u32::from_ne_bytes([mac[0], mac[1], mac[2], mac[3]]));
    packet.put(3, u32::from_ne_bytes([mac[4], mac[5], sender[0], sender[1]]));
    packet.put(4, u32::from_ne_bytes([sender[2], sender[3], target_mac[0], target_mac[1]]));
    packet.put(5, u32::from_ne_bytes([target_mac[2], target_mac[3], target_mac[4], target_mac[5]]));
    packet.put(6, u32::from_ne_bytes(target));
}

/// What a neighbour solicitation or advertisement says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// ICMPv6 type: [`SOLICITATION`] or [`ADVERTISEMENT`].
    pub kind: u8,
    /// It has the option of the sender's link-layer address.
    pub has_source_link: bool,
}

/// Reads a solicitation or advertisement of `length` bytes at which the cursor stands, writes the address that it is about to
/// `target`. `pseudo`: its pseudo-header. `None` for other messages and for what a receiver has to discard (RFC 4861 7.1.1,
/// 7.1.2): wrong checksum or code, a target that is a group, options that do not fit or of length 0; also for more options
/// than anybody sends. Hop limit and addresses are the caller's.
#[inline(always)]
pub fn neighbour<C: Cursor>(
    cursor: &mut C,
    length: usize,
    pseudo: Delta,
    target: &mut [u8; 16],
) -> Option<Neighbour> {
    let units = length.wrapping_sub(NEIGHBOUR_LENGTH) / 8;
    if length < NEIGHBOUR_LENGTH || !length.is_multiple_of(8) || units > MOST_OPTIONS {
        return None;
    }
    let mut sum = pseudo;
    let head: [u8; 8] = cursor.take()?;
    sum = added(sum, &head);
    if (head[0] != SOLICITATION && head[0] != ADVERTISEMENT) || head[1] != 0 {
        return None;
    }
    let first: [u8; 8] = cursor.take()?;
    sum = added(sum, &first);
    let second: [u8; 8] = cursor.take()?;
    sum = added(sum, &second);
    if first[0] == 0xff {
        return None;
    }
    let [a, b, c, d, e, f, g, h] = first;
    let [i, j, k, l, m, n, o, p] = second;
    *target = [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p];
    // Units of the present option that are still to come.
    let (mut left, mut has_source_link) = (0u8, false);
    let mut unit = 0;
    while unit < MOST_OPTIONS {
        if unit >= units {
            break;
        }
        let part: [u8; 8] = cursor.take()?;
        sum = added(sum, &part);
        if left == 0 {
            left = part[1];
            has_source_link |= part[0] == SOURCE_LINK;
            if left == 0 {
                return None;
            }
        }
        left -= 1;
        unit += 1;
    }
    if left != 0 || sum.fresh() != [0, 0] {
        return None;
    }
    Some(Neighbour { kind: head[0], has_source_link })
}

#[inline(always)]
const fn added(sum: Delta, part: &[u8; 8]) -> Delta {
    let [a, b, c, d, e, f, g, h] = *part;
    sum.added(u32::from_ne_bytes([a, b, c, d])).added(u32::from_ne_bytes([e, f, g, h]))
}

/// Writes a neighbour advertisement of [`ADVERTISEMENT_LENGTH`] bytes from `source` to `destination`: `target` is at `mac`. It
/// overrides what is known (the address is netfast's alone, no anycast: RFC 4861 7.2.4) and is no router's, as no host
/// routes by a service's address. `solicited`: it answers a solicitation that has a source.
#[inline(always)]
pub fn put_advertisement(
    message: &mut (impl Words + ?Sized),
    source: [u32; 4],
    destination: [u32; 4],
    target: [u32; 4],
    mac: [u8; 6],
    solicited: bool,
) {
    let flags = if solicited { SOLICITED | OVERRIDE } else { OVERRIDE };
    let words = [
        u32::from_ne_bytes([ADVERTISEMENT, 0, 0, 0]),
        u32::from_ne_bytes([flags, 0, 0, 0]),
        target[0],
        target[1],
        target[2],
        target[3],
        u32::from_ne_bytes([TARGET_LINK, 1, mac[0], mac[1]]),
        u32::from_ne_bytes([mac[2], mac[3], mac[4], mac[5]]),
    ];
    let mut sum = answer::pseudo6(source, destination, ICMP6, ADVERTISEMENT_LENGTH as u16);
    let mut i = 0;
    while i < words.len() {
        sum = sum.added(words[i]);
        message.put(i, words[i]);
        i += 1;
    }
    let [c0, c1] = sum.fresh();
    message.put(0, u32::from_ne_bytes([ADVERTISEMENT, 0, c0, c1]));
}

/// Writes a neighbour solicitation without options, of [`NEIGHBOUR_LENGTH`] bytes, from the unspecified address to
/// `destination`: the question of duplicate address detection (RFC 4862 5.4.2).
#[inline(always)]
pub fn put_probe(message: &mut (impl Words + ?Sized), destination: [u32; 4], target: [u32; 4]) {
    let mut sum = answer::pseudo6([0; 4], destination, ICMP6, NEIGHBOUR_LENGTH as u16)
        .added(u32::from_ne_bytes([SOLICITATION, 0, 0, 0]));
    message.put(1, 0);
    let mut i = 0;
    while i < target.len() {
        sum = sum.added(target[i]);
        message.put(2 + i, target[i]);
        i += 1;
    }
    let [c0, c1] = sum.fresh();
    message.put(0, u32::from_ne_bytes([SOLICITATION, 0, c0, c1]));
}

/// The solicited-node group of an address (RFC 4291 2.7.1).
#[inline(always)]
pub const fn solicited_node(address: [u8; 16]) -> [u8; 16] {
    let [.., a, b, c] = address;
    [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c]
}

/// Whether an address is a solicited-node group.
#[inline(always)]
pub const fn is_solicited_node(address: &[u8; 16]) -> bool {
    matches!(address, [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}

/// The MAC address of an IPv6 group (RFC 2464 7).
#[inline(always)]
pub const fn group_mac(address: [u8; 16]) -> [u8; 6] {
    let [.., a, b, c, d] = address;
    [0x33, 0x33, a, b, c, d]
}

/// All nodes on the link (RFC 4291 2.7.1).
pub const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// Makes an echo request the reply to it; its data, and a checksum that is right, stay right. False, and nothing changed, if
/// it is another message.
#[inline(always)]
pub fn echo_reply(header: &mut (impl Words + ?Sized), version: u8) -> bool {
    let [kind, code, c0, c1] = header.word(0).to_ne_bytes();
    let reply = match (version, kind) {
        (4, 8) => 0,
        (6, 128) => 129,
        _ => return false,
    };
    let [c0, c1] = Delta::NONE.word([kind, code], [reply, code]).apply([c0, c1]);
    header.put(0, u32::from_ne_bytes([reply, code, c0, c1]));
    true
}

#[cfg(test)]
mod tests;
