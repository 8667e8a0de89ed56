//! Translation between IPv4 and IPv6 (RFC 7915): what a header of one version becomes in the other.
//!
//! The addresses are not translated by an algorithm (RFC 6052) but are those of a flow, as with any other forward.

pub mod icmp;

use crate::{
    checksum::Delta,
    wire::{Fragment, Packet},
};

/// Length of an IPv4 header without options, in bytes.
pub const IPV4: usize = 20;
/// Length of an IPv6 header without extension headers, in bytes.
pub const IPV6: usize = 40;
/// What a packet grows by on its way from IPv4 to IPv6, in bytes.
pub const GROWTH: u16 = (IPV6 - IPV4) as u16;
/// Smallest MTU of an IPv6 link, in bytes (RFC 8200 5).
pub const IPV6_MTU: u16 = 1280;
/// Most payload of an IPv6 packet that an IPv4 packet holds, in bytes.
const LONGEST_PAYLOAD: u32 = 0xffff - IPV4 as u32;

/// Whether the packet can be translated as a whole: no IPv4 options and no IPv6 extension headers between the headers (RFC
/// 7915 4.1, 5.1 would take most of them away), no fragment, not too long for the other version.
#[inline(always)]
pub fn is_translatable(packet: &Packet) -> bool {
    let header = if packet.version == 4 { IPV4 } else { IPV6 } as u16;
    packet.l4.wrapping_sub(packet.l3) == header
        && packet.fragment == Fragment::No
        && packet.length <= LONGEST_PAYLOAD + header as u32
}

/// Length in bytes of the packet in the other version.
#[inline(always)]
pub const fn length(packet: &Packet) -> u32 {
    if packet.version == 4 {
        packet.length + GROWTH as u32
    } else {
        packet.length.saturating_sub(GROWTH as u32)
    }
}

/// The `mtu` (in bytes) of the way out as it concerns a sender of `version` whose packets are translated (RFC 7915 4.1,
/// 5.1). A sender of IPv6 is never told less than what each IPv6 link carries: up to there the translated packets
/// are left to be fragmented on their way.
#[inline(always)]
pub const fn mtu(version: u8, mtu: u16) -> u16 {
    if version == 4 {
        mtu.saturating_sub(GROWTH)
    } else {
        let mtu = mtu.saturating_add(GROWTH);
        if mtu < IPV6_MTU { IPV6_MTU } else { mtu }
    }
}

/// What is common to the headers of both versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Common {
    /// Traffic class, in IPv4 the type of service (RFC 2474).
    pub class: u8,
    /// Length of what follows the header, in bytes.
    pub payload: u16,
    /// Protocol, in IPv6 the next header.
    pub protocol: u8,
    /// TTL, in IPv6 the hop limit.
    pub ttl: u8,
}

impl Common {
    /// Of an IPv4 header without options, as its first three native words.
    #[inline(always)]
    pub const fn of_ipv4(words: [u32; 3]) -> Self {
        let [_, class, l0, l1] = words[0].to_ne_bytes();
        let [ttl, protocol, _, _] = words[2].to_ne_bytes();
        let total = u16::from_be_bytes([l0, l1]);
        Self { class, payload: total.wrapping_sub(IPV4 as u16), protocol, ttl }
    }

    /// Of an IPv6 header, as its first two native words.
    #[inline(always)]
    pub const fn of_ipv6(words: [u32; 2]) -> Self {
        let [a, b, _, _] = words[0].to_ne_bytes();
        let [l0, l1, protocol, ttl] = words[1].to_ne_bytes();
        Self { class: a << 4 | b >> 4, payload: u16::from_be_bytes([l0, l1]), protocol, ttl }
    }

    /// The IPv6 header (RFC 7915 4.1), as native words: the flow label is zero.
    #[inline(always)]
    pub const fn ipv6(&self, source: [u32; 4], destination: [u32; 4]) -> [u32; 10] {
        let [l0, l1] = self.payload.to_be_bytes();
        [
            u32::from_ne_bytes([0x60 | self.class >> 4, self.class << 4, 0, 0]),
            u32::from_ne_bytes([l0, l1, self.protocol, self.ttl]),
            source[0],
            source[1],
            source[2],
            source[3],
            destination[0],
            destination[1],
            destination[2],
            destination[3],
        ]
    }

    /// The IPv4 header (RFC 7915 5.1), as native words. A packet of up to 1260 bytes may be fragmented on its way, since its
    /// sender need not know of smaller MTUs than 1280; it gets `identification` (RFC 6864 4: one that is not
    /// used again soon). A longer one may not, and has none.
    #[inline(always)]
    pub const fn ipv4(&self, source: u32, destination: u32, identification: u16) -> [u32; 5] {
        let total = self.payload.wrapping_add(IPV4 as u16);
        let [l0, l1] = total.to_be_bytes();
        let atomic = total > IPV6_MTU - GROWTH;
        let [i0, i1] = if atomic { [0, 0] } else { identification.to_be_bytes() };
        let words = [
            u32::from_ne_bytes([0x45, self.class, l0, l1]),
            u32::from_ne_bytes([i0, i1, if atomic { 0x40 } else { 0 }, 0]),
            u32::from_ne_bytes([self.ttl, self.protocol, 0, 0]),
            source,
            destination,
        ];
        let sum = added(added(Delta::NONE, &words), &[]).apply([0xff, 0xff]);
        let [ttl, protocol, _, _] = words[2].to_ne_bytes();
        [words[0], words[1], u32::from_ne_bytes([ttl, protocol, sum[0], sum[1]]), source, destination]
    }
}

/// `delta` with words that were not there before.
#[inline(always)]
#[must_use]
pub const fn added(delta: Delta, words: &[u32]) -> Delta {
    let (mut delta, mut i) = (delta, 0);
    while i < words.len() {
        delta = delta.word32(0, words[i]);
        i += 1;
    }
    delta
}

/// `delta` without words that were there.
#[inline(always)]
#[must_use]
pub const fn removed(delta: Delta, words: &[u32]) -> Delta {
    let (mut delta, mut i) = (delta, 0);
    while i < words.len() {
        delta = delta.word32(words[i], 0);
        i += 1;
    }
    delta
}

/// What a transport checksum changes by where the pseudo-header's addresses change from IPv4 to IPv6 ones, or the other way
/// round; its length and protocol are the same numbers in both (RFC 768, RFC 9293 3.1, RFC 8200 8.1).
#[inline(always)]
pub const fn pseudo(old: &[u32], new: &[u32]) -> Delta {
    added(removed(Delta::NONE, old), new)
}

#[cfg(test)]
mod tests;
