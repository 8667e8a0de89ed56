//! Mode `ipip`: the header that a packet gets in front of it, and what that means for MTUs (RFC 2003, RFC 2473, RFC 4213).
//!
//! Headers are native words, as in [`crate::rewrite`].

use crate::checksum::Delta;

/// Length in bytes of an outer IPv4 header.
pub const OVERHEAD4: u16 = 20;
/// Length in bytes of an outer IPv6 header.
pub const OVERHEAD6: u16 = 40;
/// TTL and hop limit of the outer header (RFC 2003 3.1, RFC 2473 6.3: the default of hosts).
pub const OUTER_TTL: u8 = 64;
/// IP protocol number of IPv4 inside (RFC 2003).
pub const IPV4_INSIDE: u8 = 4;
/// IP protocol number of IPv6 inside (RFC 2473, RFC 4213).
pub const IPV6_INSIDE: u8 = 41;
/// Longest IP packet in bytes that an outer IPv4 header can hold, header included.
pub const LONGEST: u32 = 0xffff;
/// Seconds for which a tunnel's path MTU is believed (RFC 1191 6.3, RFC 8201 5.3: 10 minutes).
pub const PATH_MTU_SECONDS: u32 = 600;
/// The smallest path MTU in bytes that an ICMP error is believed over IPv4: below, no path has been seen for decades, and
/// forged errors would make the inner packets tiny.
pub const LEAST_MTU4: u16 = 552;
/// The smallest MTU of an IPv6 link, in bytes (RFC 8200 5).
pub const LEAST_MTU6: u16 = 1280;

/// Bytes that a packet grows by.
#[inline(always)]
pub const fn overhead(outer_is_v4: bool) -> u16 {
    if outer_is_v4 { OVERHEAD4 } else { OVERHEAD6 }
}

/// Protocol number of the outer header for an inner packet of `version`.
#[inline(always)]
pub const fn protocol(version: u8) -> u8 {
    if version == 4 { IPV4_INSIDE } else { IPV6_INSIDE }
}

/// The IP version that an outer header's protocol number says is inside; 0: it is no tunnel's.
#[inline(always)]
pub const fn inside(protocol: u8) -> u8 {
    match protocol {
        IPV4_INSIDE => 4,
        IPV6_INSIDE => 6,
        _ => 0,
    }
}

/// The `mtu` (in bytes) of the tunnel's way as the sender of an inner packet of `version` must see it (RFC 2003 5.1, RFC 2473
/// 7.1). A sender of IPv6 is never told less than what each IPv6 link carries (RFC 8200 5).
#[inline(always)]
pub const fn inner_mtu(version: u8, outer_is_v4: bool, mtu: u16) -> u16 {
    let inner = mtu.saturating_sub(overhead(outer_is_v4));
    if version == 6 && inner < LEAST_MTU6 { LEAST_MTU6 } else { inner }
}

/// The path MTU (in bytes) that an ICMP error about an outer packet is believed to tell.
#[inline(always)]
pub const fn believed(outer_is_v4: bool, mtu: u32) -> u16 {
    let least = if outer_is_v4 { LEAST_MTU4 } else { LEAST_MTU6 };
    if mtu < least as u32 {
        least
    } else if mtu > 0xffff {
        0xffff
    } else {
        mtu as u16
    }
}

/// The lowest 32 bits of an outer source address (host order): its last `spread` bits come from the flow's hash, so that the
/// target's card spreads the flows over its queues by the addresses that it sees.
#[inline(always)]
pub const fn spread_source(low: u32, spread: u8, hash: u32) -> u32 {
    let mask = if spread >= 32 { u32::MAX } else { (1 << spread) - 1 };
    (low & !mask) | (hash & mask)
}

/// A path's MTU with the second (`stamp`) in which it was told, as the map `PATH_MTU` holds it.
#[inline(always)]
pub const fn noted(mtu: u16, stamp: u32) -> u64 {
    (mtu as u64) << 32 | stamp as u64
}

/// The path MTU of an element of the map `PATH_MTU`; 0: none that is still believed.
#[inline(always)]
pub const fn path_mtu(element: u64, stamp: u32) -> u16 {
    if stamp.wrapping_sub(element as u32) < PATH_MTU_SECONDS { (element >> 32) as u16 } else { 0 }
}

/// What of the inner packet the outer header says, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner {
    /// IP version.
    pub version: u8,
    /// Type of service or traffic class. It is copied: DSCP (RFC 2983, uniform model) and ECN (RFC 6040 4.1, normal mode).
    pub class: u8,
    /// Length of the packet in bytes, headers included.
    pub length: u16,
}

impl Inner {
    /// The outer IPv4 header between two addresses. Always with DF, so that its identification means nothing (RFC 6864 4) and
    /// the tunnel's MTU is learned (RFC 2003 5.1).
    #[inline(always)]
    pub const fn outer4(&self, source: u32, destination: u32) -> [u32; 5] {
        let [l0, l1] = self.length.wrapping_add(OVERHEAD4).to_be_bytes();
        let first = u32::from_ne_bytes([0x45, self.class, l0, l1]);
        let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
        let protocol = protocol(self.version);
        let third = u32::from_ne_bytes([OUTER_TTL, protocol, 0, 0]);
        let sum = Delta::NONE.added(first).added(second).added(third).added(source).added(destination);
        let [c0, c1] = sum.fresh();
        [first, second, u32::from_ne_bytes([OUTER_TTL, protocol, c0, c1]), source, destination]
    }

    /// The outer IPv6 header between two addresses. `hash`: of the flow, whose packets all have the same flow label and no
    /// other flow's, as far as 20 bits go (RFC 6438 3).
    #[inline(always)]
    pub const fn outer6(&self, source: [u32; 4], destination: [u32; 4], hash: u32) -> [u32; 10] {
        let [_, a, b, c] = hash.to_be_bytes();
        let [l0, l1] = self.length.to_be_bytes();
        let class = self.class;
        [
            u32::from_ne_bytes([0x60 | class >> 4, class << 4 | a & 0x0f, b, c]),
            u32::from_ne_bytes([l0, l1, protocol(self.version), OUTER_TTL]),
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
}

#[cfg(test)]
mod tests {
    use etherparse::{Ipv4Header, Ipv6Header};
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::full;

    fn bytes<const N: usize>(words: [u32; N]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn native(address: [u8; 4]) -> u32 {
        u32::from_ne_bytes(address)
    }

    proptest! {
        #[test]
        fn outer_ipv4_headers_are_read_as_meant(class: u8, length in 20_u16..=65_515, source: [u8; 4], destination: [u8; 4], six: bool) {
            let inner = Inner { version: if six { 6 } else { 4 }, class, length };
            let outer = bytes(inner.outer4(native(source), native(destination)));
            prop_assert_eq!([0, 0], full(&[&outer]));
            let (header, rest) = Ipv4Header::from_slice(&outer).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!((header.source, header.destination), (source, destination));
            prop_assert_eq!(header.total_len, length + 20);
            prop_assert_eq!((header.protocol.0, header.time_to_live), (if six { 41 } else { 4 }, 64));
            prop_assert!(header.dont_fragment && !header.more_fragments);
            prop_assert_eq!(outer[1], class);
        }

        #[test]
        fn outer_ipv6_headers_are_read_as_meant(class: u8, length in 20_u16.., source: [u8; 16], destination: [u8; 16], hash: u32, six: bool) {
            let words = |a: [u8; 16]| core::array::from_fn(|i| native([a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]]));
            let inner = Inner { version: if six { 6 } else { 4 }, class, length };
            let outer = bytes(inner.outer6(words(source), words(destination), hash));
            let (header, rest) = Ipv6Header::from_slice(&outer).unwrap();
            prop_assert!(rest.is_empty());
            prop_assert_eq!((header.source, header.destination), (source, destination));
            prop_assert_eq!(header.payload_length, length);
            prop_assert_eq!((header.next_header.0, header.hop_limit), (if six { 41 } else { 4 }, 64));
            prop_assert_eq!(header.flow_label.value(), hash & 0xf_ffff);
            prop_assert_eq!(outer[0] << 4 | outer[1] >> 4, class);
        }

        #[test]
        fn a_spread_source_stays_in_its_prefix(low: u32, spread in 0_u8..=40, hash: u32) {
            let source = spread_source(low, spread, hash);
            let bits = u32::from(spread.min(32));
            prop_assert_eq!(u64::from(source) >> bits, u64::from(low) >> bits);
            prop_assert_eq!((u64::from(source) ^ u64::from(hash)) & ((1 << bits) - 1), 0);
        }
    }

    #[test]
    fn what_a_sender_is_told() {
        assert_eq!(1480, inner_mtu(4, true, 1500));
        assert_eq!(1460, inner_mtu(4, false, 1500));
        assert_eq!(1480, inner_mtu(6, true, 1500));
        assert_eq!(1280, inner_mtu(6, false, 1300), "no sender of IPv6 goes below");
        assert_eq!(1260, inner_mtu(4, false, 1300));
        assert_eq!((552, 1280), (believed(true, 0), believed(false, 68)), "forged");
        assert_eq!((1400, 65_535), (believed(true, 1400), believed(false, 100_000)));
    }

    #[test]
    fn a_path_mtu_is_believed_for_a_while() {
        let element = noted(1400, u32::MAX - 1);
        assert_eq!(1400, path_mtu(element, u32::MAX - 1));
        assert_eq!(1400, path_mtu(element, PATH_MTU_SECONDS - 3), "the clock wraps");
        assert_eq!(0, path_mtu(element, PATH_MTU_SECONDS));
        assert_eq!(0, path_mtu(0, 5), "an element that nobody wrote");
    }

    #[test]
    fn protocols() {
        for version in [4, 6] {
            assert_eq!(version, inside(protocol(version)));
        }
        assert_eq!(0, inside(6));
    }
}
