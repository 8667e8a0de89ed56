//! Rewriting headers in place, with their checksums.
//!
//! Headers are seen as native 32-bit words ([`Words`]): one load and one store a word on both sides of the kernel's
//! border. The ones' complement sum does not care about byte order (RFC 1071 1.2).

use crate::{
    abi::{Mode, Target},
    checksum::{self, Delta},
};

/// A header as 32-bit words in native byte order, as they lie in memory.
pub trait Words {
    /// The word at `index` (offset `4 * index` bytes).
    fn word(&self, index: usize) -> u32;
    /// Replaces the word at `index`.
    fn put(&mut self, index: usize, word: u32);
}

/// TTL and protocol of an IPv4 header, in one word with the checksum.
const IPV4_TTL: usize = 2;
const IPV4_SOURCE: usize = 3;
const IPV4_DESTINATION: usize = 4;
/// Payload length, next header and hop limit of an IPv6 header.
const IPV6_HOP_LIMIT: usize = 1;
const IPV6_SOURCE: usize = 2;
const IPV6_DESTINATION: usize = 6;

/// Puts new addresses into an IPv4 header, lowers its TTL by one (RFC 1812 5.3.1) and updates its checksum. Returns
/// what the transport checksum's pseudo-header has changed by. The caller has checked that the TTL is above 1.
#[inline(always)]
pub fn ipv4(header: &mut impl Words, source: u32, destination: u32) -> Delta {
    let addresses = Delta::NONE
        .word32(header.word(IPV4_SOURCE), source)
        .word32(header.word(IPV4_DESTINATION), destination);
    let [ttl, protocol, c0, c1] = header.word(IPV4_TTL).to_ne_bytes();
    let [c0, c1] = addresses.and(TTL_STEP).apply([c0, c1]);
    header.put(IPV4_TTL, u32::from_ne_bytes([ttl.wrapping_sub(1), protocol, c0, c1]));
    header.put(IPV4_SOURCE, source);
    header.put(IPV4_DESTINATION, destination);
    addresses
}

/// One less in the TTL, which changes the sum by the same amount whatever the TTL is.
const TTL_STEP: Delta = Delta::NONE.word([1, 0], [0, 0]);

/// What the checksums of an IPv4 packet of `old` change by when it leaves as `new` (source, destination, ports, as words that
/// lie in a packet): that of the IP header (its TTL, lower by one, included) in the low half, that of the transport header, as it
/// is [`checksum::kept`], in the high one.
#[inline(always)]
pub const fn deltas4(old: [u32; 3], new: [u32; 3], udp: bool) -> u32 {
    let addresses = Delta::NONE.word32(old[0], new[0]).word32(old[1], new[1]);
    let transport = addresses.word32(old[2], new[2]);
    addresses.and(TTL_STEP).folded() as u32 | (checksum::kept(transport.folded(), udp) as u32) << 16
}

/// What the transport checksum of an IPv6 packet changes by, as it is [`checksum::kept`], when it leaves as another one: words 0 to 3 of
/// `old` and `new` are source and destination, as they lie in a packet; `ports`: likewise, old and new.
#[inline(always)]
pub fn delta6(old: impl Fn(usize) -> u64, new: impl Fn(usize) -> u64, ports: (u32, u32), udp: bool) -> u16 {
    let mut delta = Delta::NONE.word32(ports.0, ports.1);
    let mut word = 0;
    while word < 4 {
        delta = delta.removed64(old(word)).added64(new(word));
        word += 1;
    }
    checksum::kept(delta.folded(), udp)
}

/// [`ipv4`] with the change that [`deltas4`] has found.
#[inline(always)]
pub fn ipv4_by(header: &mut impl Words, source: u32, destination: u32, deltas: u32) {
    let word = header.word(IPV4_TTL);
    let [ttl, protocol, c0, c1] = word.to_ne_bytes();
    let [c0, c1] = checksum::apply_folded(deltas as u16, u16::from_ne_bytes([c0, c1])).to_ne_bytes();
    header.put(IPV4_TTL, u32::from_ne_bytes([ttl.wrapping_sub(1), protocol, c0, c1]));
    header.put(IPV4_SOURCE, source);
    header.put(IPV4_DESTINATION, destination);
}

/// Puts new addresses into an IPv6 header and lowers its hop limit by one. Returns what the transport checksum's
/// pseudo-header has changed by. The caller has checked that the hop limit is above 1.
#[inline(always)]
pub fn ipv6(header: &mut impl Words, source: [u32; 4], destination: [u32; 4]) -> Delta {
    let delta = embedded_ipv6(header, source, destination);
    let [a, b, c, hop_limit] = header.word(IPV6_HOP_LIMIT).to_ne_bytes();
    header.put(IPV6_HOP_LIMIT, u32::from_ne_bytes([a, b, c, hop_limit.wrapping_sub(1)]));
    delta
}

/// What the addresses of a target add to the checksum of a packet on its way there, less what they take from it: the service's goes,
/// the target's comes, and, unless the client's stays, a source address that the host has on that way. An answer is
/// changed by the opposite. What is left is the client's address and the ports.
#[must_use]
pub fn target_sum(target: &Target) -> u16 {
    let sum = |delta: Delta, address: &[u8; 16], comes: bool| {
        address.chunks_exact(8).fold(delta, |delta, word| {
            let word =
                u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
            if comes { delta.added64(word) } else { delta.removed64(word) }
        })
    };
    let delta = sum(sum(Delta::NONE, &target.service, false), &target.address, true);
    if target.mode == Mode::Dnat as u8 { delta } else { sum(delta, &target.source, true) }.folded()
}

/// Lowers the TTL of an IPv4 header by one (RFC 1812 5.3.1) and updates its checksum. The caller has checked that it is above 0.
#[inline(always)]
pub fn age_ipv4(header: &mut impl Words) {
    let [ttl, protocol, c0, c1] = header.word(IPV4_TTL).to_ne_bytes();
    let [c0, c1] = Delta::NONE.word([1, 0], [0, 0]).apply([c0, c1]);
    header.put(IPV4_TTL, u32::from_ne_bytes([ttl.wrapping_sub(1), protocol, c0, c1]));
}

/// Lowers the hop limit of an IPv6 header by one. The caller has checked that it is above 0.
#[inline(always)]
pub fn age_ipv6(header: &mut impl Words) {
    let [a, b, c, hop_limit] = header.word(IPV6_HOP_LIMIT).to_ne_bytes();
    header.put(IPV6_HOP_LIMIT, u32::from_ne_bytes([a, b, c, hop_limit.wrapping_sub(1)]));
}

/// Puts new addresses into the header of an IPv4 packet inside an ICMP error, and updates its checksum. Returns what its
/// pseudo-header and what the whole header have changed by.
#[inline(always)]
pub fn embedded_ipv4(header: &mut impl Words, source: u32, destination: u32) -> (Delta, Delta) {
    let addresses = Delta::NONE
        .word32(header.word(IPV4_SOURCE), source)
        .word32(header.word(IPV4_DESTINATION), destination);
    header.put(IPV4_SOURCE, source);
    header.put(IPV4_DESTINATION, destination);
    let [ttl, protocol, c0, c1] = header.word(IPV4_TTL).to_ne_bytes();
    let [n0, n1] = addresses.apply([c0, c1]);
    header.put(IPV4_TTL, u32::from_ne_bytes([ttl, protocol, n0, n1]));
    (addresses, addresses.word([c0, c1], [n0, n1]))
}

/// Puts new addresses into the header of an IPv6 packet inside an ICMPv6 error. Returns what it has changed by.
#[inline(always)]
pub fn embedded_ipv6(header: &mut impl Words, source: [u32; 4], destination: [u32; 4]) -> Delta {
    let mut delta = Delta::NONE;
    let mut i = 0;
    while i < 4 {
        delta = delta.word32(header.word(IPV6_SOURCE + i), source[i]);
        delta = delta.word32(header.word(IPV6_DESTINATION + i), destination[i]);
        header.put(IPV6_SOURCE + i, source[i]);
        header.put(IPV6_DESTINATION + i, destination[i]);
        i += 1;
    }
    delta
}

/// Puts new ports into the first word of a TCP or UDP header and returns the whole change for its checksum.
#[inline(always)]
pub fn ports(header: &mut impl Words, new: u32, pseudo: Delta) -> Delta {
    let delta = pseudo.word32(header.word(0), new);
    header.put(0, new);
    delta
}

/// Puts a new identifier into the header of an ICMP or ICMPv6 query (as on the wire) and returns the whole change for its
/// checksum. ICMP over IPv4 has no pseudo-header.
#[inline(always)]
pub fn identifier(header: &mut impl Words, new: [u8; 2], pseudo: Delta) -> Delta {
    let [i0, i1, s0, s1] = header.word(1).to_ne_bytes();
    header.put(1, u32::from_ne_bytes([new[0], new[1], s0, s1]));
    pseudo.word([i0, i1], new)
}

/// Swaps the two addresses of an IPv4 header and sets its TTL, for an answer. The checksum changes by the TTL alone.
#[inline(always)]
pub fn reflect_ipv4(header: &mut impl Words, ttl: u8) {
    let (source, destination) = (header.word(IPV4_SOURCE), header.word(IPV4_DESTINATION));
    let [old, protocol, c0, c1] = header.word(IPV4_TTL).to_ne_bytes();
    let delta = checksum::ttl_delta(old, ttl);
    let [c0, c1] = checksum::apply_folded(delta, u16::from_ne_bytes([c0, c1])).to_ne_bytes();
    header.put(IPV4_TTL, u32::from_ne_bytes([ttl, protocol, c0, c1]));
    header.put(IPV4_SOURCE, destination);
    header.put(IPV4_DESTINATION, source);
}

/// Swaps the two addresses of an IPv6 header and sets its hop limit, for an answer.
#[inline(always)]
pub fn reflect_ipv6(header: &mut impl Words, hop_limit: u8) {
    let mut i = 0;
    while i < 4 {
        let (source, destination) = (header.word(IPV6_SOURCE + i), header.word(IPV6_DESTINATION + i));
        header.put(IPV6_SOURCE + i, destination);
        header.put(IPV6_DESTINATION + i, source);
        i += 1;
    }
    let [a, b, c, _] = header.word(IPV6_HOP_LIMIT).to_ne_bytes();
    header.put(IPV6_HOP_LIMIT, u32::from_ne_bytes([a, b, c, hop_limit]));
}

/// Bytes on the host.
#[cfg(any(test, feature = "user"))]
impl Words for [u8] {
    fn word(&self, index: usize) -> u32 {
        let at = 4 * index;
        u32::from_ne_bytes([self[at], self[at + 1], self[at + 2], self[at + 3]])
    }

    fn put(&mut self, index: usize, word: u32) {
        self[4 * index..4 * index + 4].copy_from_slice(&word.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::checksum::full;

    impl Words for Vec<u8> {
        fn word(&self, index: usize) -> u32 {
            self.as_slice().word(index)
        }

        fn put(&mut self, index: usize, word: u32) {
            self.as_mut_slice().put(index, word);
        }
    }

    fn native(a: [u8; 4]) -> u32 {
        u32::from_ne_bytes(a)
    }

    /// Whether the ones' complement sum over the parts, checksum included, is right.
    fn verifies(parts: &[&[u8]]) -> bool {
        full(parts) == [0, 0]
    }

    proptest! {
        #[test]
        fn ipv4_stays_right(mut header in prop::collection::vec(any::<u8>(), 20), udp in prop::collection::vec(any::<u8>(), 8..40), source in any::<[u8; 4]>(), destination in any::<[u8; 4]>(), ports_new in any::<[u8; 4]>()) {
            let mut udp = udp;
            if udp.len() % 2 == 1 { udp.pop(); }
            header[8] = header[8].max(2);
            header[10..12].copy_from_slice(&[0, 0]);
            let sum = full(&[&header]);
            header[10..12].copy_from_slice(&sum);
            udp[6..8].copy_from_slice(&[0, 0]);
            let pseudo = |h: &[u8]| h[12..20].to_vec();
            let sum = full(&[&pseudo(&header), &udp]);
            prop_assume!(sum != [0, 0]);
            udp[6..8].copy_from_slice(&sum);
            let ttl = header[8];

            let delta = ipv4(&mut header, native(source), native(destination));
            let delta = ports(&mut udp, native(ports_new), delta);
            let new = delta.apply_udp([udp[6], udp[7]]);
            udp[6..8].copy_from_slice(&new);

            prop_assert!(verifies(&[&header]));
            prop_assert!(verifies(&[&pseudo(&header), &udp]));
            prop_assert_eq!(header[8], ttl - 1);
            prop_assert_eq!(&header[12..16], &source);
            prop_assert_eq!(&header[16..20], &destination);
            prop_assert_eq!(&udp[..4], &ports_new);
            prop_assert!(udp[6..8] != [0, 0]);

            age_ipv4(&mut header);
            prop_assert!(verifies(&[&header]));
            prop_assert_eq!(header[8], ttl.wrapping_sub(2));

            reflect_ipv4(&mut header, 64);
            prop_assert!(verifies(&[&header]));
            prop_assert_eq!((header[8], &header[12..16], &header[16..20]), (64, &destination[..], &source[..]));
        }

        #[test]
        fn ipv6_stays_right(mut header in prop::collection::vec(any::<u8>(), 40), mut tcp in prop::collection::vec(any::<u8>(), 20), source in any::<[u8; 16]>(), destination in any::<[u8; 16]>(), ports_new in any::<[u8; 4]>()) {
            header[7] = header[7].max(2);
            tcp[16..18].copy_from_slice(&[0, 0]);
            let pseudo = |h: &[u8]| h[8..40].to_vec();
            let sum = full(&[&pseudo(&header), &tcp]);
            tcp[16..18].copy_from_slice(&sum);
            let hop_limit = header[7];
            let words = |a: [u8; 16]| core::array::from_fn(|i| native([a[4 * i], a[4 * i + 1], a[4 * i + 2], a[4 * i + 3]]));

            let delta = ipv6(&mut header, words(source), words(destination));
            let delta = ports(&mut tcp, native(ports_new), delta);
            let new = delta.apply([tcp[16], tcp[17]]);
            tcp[16..18].copy_from_slice(&new);

            prop_assert!(verifies(&[&pseudo(&header), &tcp]));
            prop_assert_eq!(header[7], hop_limit - 1);
            prop_assert_eq!(&header[8..24], &source);
            prop_assert_eq!(&header[24..40], &destination);
            reflect_ipv6(&mut header, 64);
            prop_assert_eq!((header[7], &header[8..24], &header[24..40]), (64, &destination[..], &source[..]));
        }
    }

    proptest! {
        #[test]
        fn changes_found_before_are_those_of_the_packet(
            header in prop::collection::vec(any::<u8>(), 20), mut udp in prop::collection::vec(any::<u8>(), 8),
            new: [u32; 3], nothing: bool,
        ) {
            let old = [header.word(3), header.word(4), udp.word(0)];
            let new @ [source, destination, new_ports] = if nothing { old } else { new };
            let deltas = deltas4(old, new, false);
            prop_assert_eq!(deltas4(old, new, true), deltas ^ 0xffff_0000);
            let (mut by, mut plain) = (header.clone(), header);
            let pseudo = ipv4(&mut plain, source, destination);
            ipv4_by(&mut by, source, destination, deltas);
            prop_assert_eq!(by, plain);
            let delta = ports(&mut udp, new_ports, pseudo);
            for checksum in [0, 1, 0x1234, 0xffff] {
                let transport = (deltas >> 16) as u16;
                prop_assert_eq!(delta.apply_word(checksum), checksum::apply_folded(transport, checksum));
                if checksum != 0 {
                    let kept = checksum::kept(transport, true);
                    prop_assert_eq!(delta.apply_udp_word(checksum), checksum::apply_kept_udp(kept, checksum));
                }
            }
        }

        #[test]
        fn changes_of_ipv6_are_those_of_its_words(old: [u64; 4], new: [u64; 4], ports: (u32, u32), checksum: u16) {
            let halves = |word: u64| [word as u32, (word >> 32) as u32];
            let delta = old.into_iter().zip(new).fold(Delta::NONE.word32(ports.0, ports.1), |delta, (old, new)| {
                let ([a, b], [c, d]) = (halves(old), halves(new));
                delta.word32(a, c).word32(b, d)
            });
            let by = |udp| delta6(|i| old[i], |i| new[i], ports, udp);
            prop_assert_eq!(delta.apply_word(checksum), checksum::apply_folded(by(false), checksum));
            if checksum != 0 {
                prop_assert_eq!(delta.apply_udp_word(checksum), checksum::apply_kept_udp(by(true), checksum));
            }
        }

        /// RFC 6864 4: the identification is not touched, DF is not cleared; nor is the rest (RFC 791, RFC 8200).
        #[test]
        fn nothing_else_of_the_header_changes(before4 in prop::collection::vec(any::<u8>(), 20), before6 in prop::collection::vec(any::<u8>(), 40), new in any::<[u8; 4]>()) {
            let mut header = before4.clone();
            ipv4(&mut header, native(new), native(new));
            prop_assert_eq!(&header[..8], &before4[..8]);
            prop_assert_eq!(header[9], before4[9]);
            let mut header = before6.clone();
            ipv6(&mut header, [native(new); 4], [native(new); 4]);
            prop_assert_eq!(&header[..7], &before6[..7]);
        }
    }
}
