//! Answers that netfast makes in place of a packet that it does not forward: ICMP errors and TCP resets.

use crate::{
    Reason,
    checksum::Delta,
    rewrite::Words,
    wire::{ACK, FIN, Fragment, ICMP4, Packet, RST, SYN, TCP},
};

/// Most bytes of an IPv4 packet that an ICMP error about it holds: the error is at most 576 bytes long (RFC 1812 4.3.2.3).
pub const MOST_EMBEDDED4: usize = 576 - 28;
/// Most bytes of an IPv6 packet that an ICMPv6 error about it holds: the error is at most 1280 bytes long (RFC 4443 2.4 c).
pub const MOST_EMBEDDED6: usize = 1280 - 48;
/// TTL and hop limit of an answer (IANA's recommended default).
pub const ANSWER_TTL: u8 = 64;
/// Type of service of an ICMP error: internetwork control (RFC 1812 4.3.2.5).
const CONTROL: u8 = 0xc0;

/// What an answer says. The ICMP type and code follow from it and from the packet's IP version.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// TTL or hop limit used up (RFC 792, RFC 4443 3.3).
    TimeExceeded = 1,
    /// Fragmentation Needed or Packet Too Big; goes with the MTU in bytes (RFC 1191 4, RFC 4443 3.2).
    TooBig = 2,
    /// Nobody listens at the port (RFC 1122 3.2.2.1, RFC 4443 3.1).
    PortUnreachable = 3,
    /// Refused by a filter (RFC 1812 5.2.7.1, RFC 4443 3.1).
    Prohibited = 4,
    /// The host cannot be reached (RFC 1812 5.2.7.1, RFC 4443 3.1).
    HostUnreachable = 5,
    /// TCP RST (RFC 9293 3.10.7.1).
    Reset = 6,
}

impl Answer {
    /// The answer of a number.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Option<Answer> {
        match number {
            1 => Some(Self::TimeExceeded),
            2 => Some(Self::TooBig),
            3 => Some(Self::PortUnreachable),
            4 => Some(Self::Prohibited),
            5 => Some(Self::HostUnreachable),
            6 => Some(Self::Reset),
            _ => None,
        }
    }

    /// ICMPv4 type and code; none for a reset.
    #[inline(always)]
    pub const fn icmp4(self) -> [u8; 2] {
        match self {
            Self::TimeExceeded => [11, 0],
            Self::TooBig => [3, 4],
            Self::PortUnreachable => [3, 3],
            Self::Prohibited => [3, 13],
            Self::HostUnreachable => [3, 1],
            Self::Reset => [0, 0],
        }
    }

    /// ICMPv6 type and code; none for a reset.
    #[inline(always)]
    pub const fn icmp6(self) -> [u8; 2] {
        match self {
            Self::TimeExceeded => [3, 0],
            Self::TooBig => [2, 0],
            Self::PortUnreachable => [1, 4],
            Self::Prohibited => [1, 1],
            Self::HostUnreachable => [1, 3],
            Self::Reset => [0, 0],
        }
    }
}

/// Marks a request for an answer, to tell it from a verdict.
pub const REQUEST: u32 = 1 << 31;

/// What the program `netfast_error` is asked for, in one word. `value`: the MTU of [`Answer::TooBig`], else 0; `reason`: what
/// the packet is counted with.
#[inline(always)]
pub const fn request(answer: Answer, value: u16, reason: Reason) -> u32 {
    REQUEST | (answer as u32) << 24 | (reason as u32) << 16 | value as u32
}

/// What a request says: the answer, its value and the number of the reason.
#[inline(always)]
pub const fn read_request(request: u32) -> (Option<Answer>, u16, u32) {
    (Answer::from_number((request >> 24) as u8 & 0x7f), request as u16, request >> 16 & 0xff)
}

/// Whether `packet` may be answered with `answer` at all (RFC 1122 3.2.2, RFC 1812 4.3.2.7, RFC 4443 2.4 e): not a later
/// fragment, not a group or broadcast on either layer, nothing whose source is not one station. ICMP is another matter:
/// see [`is_query`].
#[inline(always)]
pub fn may_answer(packet: &Packet, answer: Answer) -> bool {
    let group = (packet.source_mac[0] | packet.destination_mac[0]) & 1 != 0;
    let destination = &packet.key.destination;
    let to_many = if packet.version == 4 {
        // The broadcast addresses of networks are not known here; packets to them come with a group's MAC address.
        destination[12] >= 224 || destination[12] == 0
    } else {
        destination[0] == 0xff
    };
    if group || to_many || packet.is_martian() || packet.is_unspecified() {
        return false;
    }
    match answer {
        Answer::Reset => {
            packet.key.protocol == TCP && packet.flags & RST == 0 && packet.fragment == Fragment::No
        }
        _ => packet.fragment != Fragment::Later,
    }
}

/// Whether an ICMP message of this type may be answered with an error: those that are known to be none themselves.
#[inline(always)]
pub const fn is_query(version: u8, kind: u8) -> bool {
    if version == 4 {
        matches!(kind, 0 | 8 | 13..=18)
    } else {
        // RFC 4443 2.1: error messages have the highest bit clear. Redirects (137) are never answered either (2.4 e.2).
        kind >= 128 && kind != 137
    }
}

/// Burst of a limiter of `rate` answers a second: an eighth of a second's, and enough for a traceroute.
#[inline(always)]
pub const fn burst(rate: u32) -> u32 {
    if rate == 0 {
        0
    } else if rate < 128 {
        16
    } else {
        rate / 8
    }
}

/// Writes an IPv4 header without options before `payload` bytes.
#[inline(always)]
pub fn put_ipv4(header: &mut impl Words, source: u32, destination: u32, protocol: u8, payload: u16) {
    let [t0, t1] = (payload + 20).to_be_bytes();
    let service = if protocol == ICMP4 { CONTROL } else { 0 };
    let first = u32::from_ne_bytes([0x45, service, t0, t1]);
    // Atomic (RFC 6864 4): its identification means nothing.
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([ANSWER_TTL, protocol, 0, 0]);
    let sum = Delta::NONE.added(first).added(second).added(third).added(source).added(destination);
    let [c0, c1] = sum.fresh();
    header.put(0, first);
    header.put(1, second);
    header.put(2, u32::from_ne_bytes([ANSWER_TTL, protocol, c0, c1]));
    header.put(3, source);
    header.put(4, destination);
}

/// Writes an IPv6 header before `payload` bytes.
#[inline(always)]
pub fn put_ipv6(
    header: &mut impl Words,
    source: [u32; 4],
    destination: [u32; 4],
    protocol: u8,
    payload: u16,
) {
    let [p0, p1] = payload.to_be_bytes();
    header.put(0, u32::from_ne_bytes([0x60, 0, 0, 0]));
    header.put(1, u32::from_ne_bytes([p0, p1, protocol, ANSWER_TTL]));
    let mut i = 0;
    while i < 4 {
        header.put(2 + i, source[i]);
        header.put(6 + i, destination[i]);
        i += 1;
    }
}

/// The pseudo-header of a packet over IPv4 (RFC 9293 3.1).
#[inline(always)]
pub const fn pseudo4(source: u32, destination: u32, protocol: u8, payload: u16) -> Delta {
    let [p0, p1] = payload.to_be_bytes();
    Delta::NONE.added(source).added(destination).added(u32::from_ne_bytes([0, protocol, p0, p1]))
}

/// The pseudo-header of a packet over IPv6 (RFC 8200 8.1).
#[inline(always)]
pub const fn pseudo6(source: [u32; 4], destination: [u32; 4], protocol: u8, payload: u16) -> Delta {
    let [p0, p1] = payload.to_be_bytes();
    let mut sum =
        Delta::NONE.added(u32::from_ne_bytes([0, 0, p0, p1])).added(u32::from_ne_bytes([0, 0, 0, protocol]));
    let mut i = 0;
    while i < 4 {
        sum = sum.added(source[i]).added(destination[i]);
        i += 1;
    }
    sum
}

/// Writes the header of an ICMP error. `sum`: what the embedded packet and, for ICMPv6, the pseudo-header add. `value`:
/// the MTU of [`Answer::TooBig`], else 0.
#[inline(always)]
pub fn put_icmp(header: &mut impl Words, version: u8, answer: Answer, value: u16, sum: Delta) {
    let [kind, code] = if version == 4 { answer.icmp4() } else { answer.icmp6() };
    let [v0, v1] = value.to_be_bytes();
    // RFC 1191 4: the lower half of the second word; RFC 4443 3.2: all of it.
    let second = u32::from_ne_bytes([0, 0, v0, v1]);
    let [c0, c1] = sum.added(u32::from_ne_bytes([kind, code, 0, 0])).added(second).fresh();
    header.put(0, u32::from_ne_bytes([kind, code, c0, c1]));
    header.put(1, second);
}

/// What of a TCP segment decides about the reset that answers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Source port and destination port, one native word as they lie in memory.
    pub ports: u32,
    /// Sequence number, host order.
    pub sequence: u32,
    /// Acknowledgement number, host order.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: u8,
    /// Bytes of data.
    pub data: u32,
}

/// Writes the TCP header of the reset that a closed port sends (RFC 9293 3.10.7.1). `pseudo`: the pseudo-header, of 20
/// bytes of payload.
#[inline(always)]
pub fn put_reset(header: &mut impl Words, segment: &Segment, pseudo: Delta) {
    let length = segment.data + (segment.flags & SYN != 0) as u32 + (segment.flags & FIN != 0) as u32;
    let (sequence, acknowledgement, flags) = if segment.flags & ACK != 0 {
        (segment.acknowledgement, 0, RST)
    } else {
        (0, segment.sequence.wrapping_add(length), RST | ACK)
    };
    let words = [
        segment.ports.rotate_left(16),
        sequence.to_be(),
        acknowledgement.to_be(),
        u32::from_ne_bytes([0x50, flags, 0, 0]),
    ];
    let mut sum = pseudo;
    let mut i = 0;
    while i < words.len() {
        sum = sum.added(words[i]);
        header.put(i, words[i]);
        i += 1;
    }
    let [c0, c1] = sum.fresh();
    header.put(4, u32::from_ne_bytes([c0, c1, 0, 0]));
}

#[cfg(test)]
mod tests;
