//! The Internet checksum, updated incrementally (RFC 1624 equation 3): `HC' = ~(~HC + ~m + m')`.
//!
//! A [`Delta`] collects the change of all rewritten 16-bit words and is applied once per checksum field. Words are
//! read in native byte order: the ones' complement sum does not care as long as one order is kept (RFC 1071 1.2).

/// What rewritten fields add to a ones' complement sum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// Nothing changes.
    pub const NONE: Delta = Delta(0);

    /// A 16-bit word changes from `old` to `new` (bytes as on the wire).
    #[inline(always)]
    #[must_use]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Delta {
        Delta(self.0 + (!u16::from_ne_bytes(old)) as u64 + u16::from_ne_bytes(new) as u64)
    }

    /// A 32-bit word at an even offset changes; both in native byte order, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub const fn word32(self, old: u32, new: u32) -> Delta {
        Delta(self.0 + (!old) as u64 + new as u64)
    }

    /// A 32-bit word at an even offset of a packet that is made anew.
    #[inline(always)]
    #[must_use]
    pub const fn added(self, word: u32) -> Delta {
        Delta(self.0 + word as u64)
    }

    /// A 64-bit word at an even offset of a packet that is made anew; fewer than 2^13 of them.
    #[inline(always)]
    #[must_use]
    pub const fn added64(self, word: u64) -> Delta {
        Delta(self.0 + (word & 0xffff_ffff) + (word >> 32))
    }

    /// A 64-bit word at an even offset that is there no more.
    #[inline(always)]
    #[must_use]
    pub const fn removed64(self, word: u64) -> Delta {
        self.added64(!word)
    }

    /// What was [`folded`](Delta::folded) before, or its opposite.
    #[inline(always)]
    #[must_use]
    pub const fn of_folded(folded: u16, opposite: bool) -> Delta {
        Delta(if opposite { !folded } else { folded } as u64)
    }

    /// What another part of the same packet adds.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Delta) -> Delta {
        Delta(self.0 + other.0)
    }

    /// The checksum field of a packet that is made anew, of all words that were [`added`](Delta::added).
    #[inline(always)]
    #[must_use]
    pub const fn fresh(self) -> [u8; 2] {
        (!fold(self.0)).to_ne_bytes()
    }

    /// The checksum field after the change.
    #[inline(always)]
    #[must_use]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        self.apply_word(u16::from_ne_bytes(checksum)).to_ne_bytes()
    }

    /// [`Delta::apply`] for a field that was read as one native word.
    #[inline(always)]
    #[must_use]
    pub const fn apply_word(self, checksum: u16) -> u16 {
        !fold(self.0 + (!checksum) as u64)
    }

    /// The change in 16 bits, to be kept and applied by [`apply_folded`].
    #[inline(always)]
    #[must_use]
    pub const fn folded(self) -> u16 {
        fold(self.0)
    }

    /// The UDP checksum field after the change: over IPv4 none (0) stays none (RFC 768), and a computed 0 is sent as
    /// FFFF (RFC 768, RFC 8200 8.1).
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp(self, checksum: [u8; 2]) -> [u8; 2] {
        self.apply_udp_word(u16::from_ne_bytes(checksum)).to_ne_bytes()
    }

    /// [`Delta::apply_udp`] for a field that was read as one native word.
    #[inline(always)]
    #[must_use]
    pub const fn apply_udp_word(self, checksum: u16) -> u16 {
        udp_field(checksum, self.apply_word(checksum))
    }
}

/// A checksum field, read as one native word, after a change that was [`Delta::folded`] before.
#[inline(always)]
#[must_use]
pub const fn apply_folded(delta: u16, checksum: u16) -> u16 {
    // `!(!checksum + delta)` with its carry added is the difference with its borrow taken off, to the last bit: 0 and FFFF
    // come out as they do there.
    let difference = checksum as i32 - delta as i32;
    (difference + (difference >> 16)) as u16
}

/// A folded change as a cached line keeps it: for UDP its complement (see [`apply_kept_udp`]).
#[inline(always)]
#[must_use]
pub const fn kept(delta: u16, udp: bool) -> u16 {
    if udp { !delta } else { delta }
}

/// The UDP checksum field, which is not 0, after a change that was [`kept`]: a sum of what is not 0 is not 0 with its carry
/// added, so that a computed 0 comes out as FFFF by itself (RFC 768).
#[inline(always)]
#[must_use]
pub const fn apply_kept_udp(kept: u16, checksum: u16) -> u16 {
    // At most 1FFFE: the carry goes around once.
    let sum = checksum as u32 + kept as u32;
    (sum + (sum >> 16)) as u16
}

/// What another TTL changes the checksum of an IPv4 header by.
#[inline(always)]
#[must_use]
pub const fn ttl_delta(old: u8, new: u8) -> u16 {
    // Below 2^17 - 1: one carry.
    let sum = (!u16::from_ne_bytes([old, 0])) as u32 + u16::from_ne_bytes([new, 0]) as u32;
    (sum + (sum >> 16)) as u16
}

#[inline(always)]
const fn udp_field(old: u16, new: u16) -> u16 {
    if old == 0 {
        0
    } else if new == 0 {
        0xffff
    } else {
        new
    }
}

/// Folds a sum of 16- and 32-bit words (fewer than 2^15 of them) into 16 bits with end-around carry.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    // At most 2^32 + 2^15, 2^17, 2^16 + 1: so that the last carry is the last one.
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

/// The checksum over whole bytes, for the host's side (tests, tools).
#[cfg(any(test, feature = "user"))]
pub fn full(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    (!fold(sum)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1624 section 4's example: equation 3 gives 0000 where equation 2 would give FFFF.
    #[test]
    fn vector_of_rfc_1624() {
        let delta = Delta::NONE.word([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(delta.apply([0xdd, 0x2f]), [0x00, 0x00]);
    }

    #[test]
    fn udp_zero_is_no_checksum_and_never_comes_out() {
        let delta = Delta::NONE.word([0x55, 0x55], [0x32, 0x85]);
        assert_eq!(delta.apply_udp([0, 0]), [0, 0]);
        assert_eq!(delta.apply_udp([0xdd, 0x2f]), [0xff, 0xff]);
    }

    proptest! {
        #[test]
        fn a_ttl_changes_the_sum_by(old: u8, new: u8, protocol: u8, checksum: u16) {
            let plain = Delta::NONE.word([old, protocol], [new, protocol]).apply_word(checksum);
            let by = apply_folded(ttl_delta(old, new), checksum);
            prop_assert!(plain == by || (plain ^ by == 0xffff && plain.wrapping_add(1) < 2), "{plain:x} {by:x}");
        }

        #[test]
        fn wide_words_are_narrow_ones(old: [u64; 2], new: [u64; 2], checksum: u16) {
            let mut narrow = Delta::NONE;
            for (old, new) in old.into_iter().zip(new) {
                narrow = narrow.word32(old as u32, new as u32).word32((old >> 32) as u32, (new >> 32) as u32);
            }
            let wide = Delta::NONE.added64(new[0]).removed64(old[0]);
            let kept = Delta::of_folded(Delta::NONE.removed64(new[1]).added64(old[1]).folded(), true);
            prop_assert_eq!(narrow.apply_word(checksum), wide.and(kept).apply_word(checksum));
        }

        #[test]
        fn a_folded_change_is_the_same_change(old: [u32; 3], new: [u32; 3], checksum: u16) {
            let delta = old.iter().zip(new).fold(Delta::NONE, |d, (old, new)| d.word32(*old, new));
            prop_assert_eq!(delta.apply_word(checksum), apply_folded(delta.folded(), checksum));
            prop_assert_eq!(delta.apply_word(checksum), apply_folded(kept(delta.folded(), false), checksum));
            if checksum != 0 {
                prop_assert_eq!(delta.apply_udp_word(checksum), apply_kept_udp(kept(delta.folded(), true), checksum));
            }
        }

        #[test]
        fn incremental_equals_full(mut bytes in prop::collection::vec(any::<u8>(), 40), new in any::<[u8; 4]>(), port in any::<[u8; 2]>()) {
            let before = full(&[&bytes]);
            let old = u32::from_ne_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
            let delta = Delta::NONE.word32(old, u32::from_ne_bytes(new)).word([bytes[30], bytes[31]], port);
            bytes[8..12].copy_from_slice(&new);
            bytes[30..32].copy_from_slice(&port);
            let after = full(&[&bytes]);
            // 0000 and FFFF are the same sum; only an all-zero packet could tell them apart.
            let same = delta.apply(before) == after || (after == [0xff, 0xff] && delta.apply(before) == [0, 0]);
            prop_assert!(same, "{:?} {:?}", delta.apply(before), after);
        }
    }
}
