//! Maglev hashing: the table by which new flows are spread over a forward's targets (D. Eisenbud et al., "Maglev: A
//! Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! The table is a pure function of the targets' addresses, ports and weights, of the seed and of its size. So every node with the
//! same rules makes the same table, whatever order the targets were entered in and whatever indexes they have there.
//! The builder runs in the agent only; the program merely looks up `table[hash % size]`.

/// Sizes of a table: primes, as the permutations ask for, each a little below a power of two so that a table wastes
/// next to nothing of its last [`crate::abi::MaglevCell`].
pub const SIZES: [u32; 10] = [31, 251, 509, 1021, 2039, 4093, 8191, 16381, 32749, 65521];

/// Entries per unit of weight that keep the shares within about one percent of the weights (section 5.3).
pub const ENTRIES_PER_UNIT: u64 = 100;

/// Position of a flow in a table of `size` entries (not 0).
#[inline(always)]
pub const fn position(hash: u32, size: u32) -> u32 {
    hash % size
}

/// The smallest size with `entries_per_unit` entries for each of `units` units of weight; the largest size if even
/// that has fewer.
pub fn size_for(units: u64, entries_per_unit: u64) -> u32 {
    let wanted = units.saturating_mul(entries_per_unit);
    let largest = SIZES[SIZES.len() - 1];
    SIZES.iter().copied().find(|size| u64::from(*size) >= wanted).unwrap_or(largest)
}

#[cfg(any(test, feature = "user"))]
pub use builder::{Candidate, build, units};

#[cfg(any(test, feature = "user"))]
mod builder {
    /// A target, as the table's builder sees it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Candidate {
        /// Address in the ABI's form.
        pub address: [u8; 16],
        /// First port, host order.
        pub port: u16,
        /// Share relative to the others'; a weight of 0 gets nothing.
        pub weight: u16,
        /// What the table holds for it.
        pub index: u16,
    }

    /// Units of weight over all candidates: the sum of the weights, reduced by their greatest common divisor. 1 for
    /// a single candidate, whose table may be as short as one likes.
    pub fn units(candidates: &[Candidate]) -> u64 {
        let divisor = candidates.iter().fold(0, |divisor, c| gcd(divisor, u64::from(c.weight)));
        let sum: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
        sum.checked_div(divisor).unwrap_or(0)
    }

    fn gcd(a: u64, b: u64) -> u64 {
        if b == 0 { a } else { gcd(b, a % b) }
    }

    /// A candidate's permutation of the table's positions: `offset`, `offset + skip`, ... (mod the table's size).
    struct Permutation {
        next: u32,
        skip: u32,
        index: u16,
        weight: u32,
        credit: u32,
    }

    /// Fills `table`, whose length is one of [`super::SIZES`] (any prime does).
    ///
    /// Returns false, and leaves the table alone, if it or every weight is empty.
    pub fn build(candidates: &[Candidate], seed: u64, table: &mut [u16]) -> bool {
        let size = table.len() as u32;
        let mut sorted: Vec<Candidate> = candidates.iter().copied().filter(|c| c.weight > 0).collect();
        sorted.sort_unstable_by_key(|c| (c.address, c.port));
        let Some(heaviest) = sorted.iter().map(|c| u32::from(c.weight)).max() else { return false };
        if size < 2 {
            table.fill(sorted[0].index);
            return size == 1;
        }
        let mut permutations: Vec<Permutation> = sorted
            .iter()
            .map(|c| {
                let name = name(c, seed);
                Permutation {
                    next: (mix(name) % u64::from(size)) as u32,
                    skip: (mix(name ^ 0x5bd1_e995_9d1b_54a5) % u64::from(size - 1)) as u32 + 1,
                    index: c.index,
                    weight: u32::from(c.weight),
                    credit: 0,
                }
            })
            .collect();
        let mut taken = vec![false; table.len()];
        let mut filled = 0;
        // A turn each, as in the paper; a lighter target sits turns out until its credit is as much as the heaviest's
        // weight, so that shares come out in proportion all along and not only at the end.
        loop {
            for permutation in &mut permutations {
                permutation.credit += permutation.weight;
                if permutation.credit < heaviest {
                    continue;
                }
                permutation.credit -= heaviest;
                // Ends: `skip` is no multiple of the prime `size`, so every position is visited, and one is free.
                while taken[permutation.next as usize] {
                    permutation.next = (permutation.next + permutation.skip) % size;
                }
                taken[permutation.next as usize] = true;
                table[permutation.next as usize] = permutation.index;
                filled += 1;
                if filled == size {
                    return true;
                }
            }
        }
    }

    /// What stands for the target's name in the paper: its address and port, never its index.
    fn name(candidate: &Candidate, seed: u64) -> u64 {
        let (high, low) = crate::addr::words(&candidate.address);
        mix(mix(mix(seed ^ high) ^ low) ^ u64::from(candidate.port))
    }

    /// The finaliser of SplitMix64 (G. Steele et al., OOPSLA 2014): every input bit reaches every output bit.
    fn mix(x: u64) -> u64 {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::addr;

    fn candidates(count: u16) -> Vec<Candidate> {
        (0..count)
            .map(|n| Candidate {
                address: addr::from_v4([10, 0, (n >> 8) as u8, n as u8]),
                port: 8080,
                weight: 1,
                index: n,
            })
            .collect()
    }

    fn table(candidates: &[Candidate], seed: u64, size: u32) -> Vec<u16> {
        let mut table = vec![u16::MAX; size as usize];
        assert!(build(candidates, seed, &mut table));
        table
    }

    fn share(table: &[u16], index: u16) -> f64 {
        table.iter().filter(|entry| **entry == index).count() as f64 / table.len() as f64
    }

    #[test]
    fn sizes_are_primes_and_fit_their_cells() {
        for size in SIZES {
            assert!((2..size).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size} is not a prime");
        }
        assert_eq!(size_for(1, ENTRIES_PER_UNIT), 251);
        assert_eq!(size_for(100, ENTRIES_PER_UNIT), 16381);
        assert_eq!(size_for(u64::MAX, ENTRIES_PER_UNIT), 65521);
    }

    #[test]
    fn nothing_to_choose_from() {
        assert!(!build(&[], 1, &mut [0; 31]));
        assert!(!build(&[Candidate { weight: 0, ..candidates(1)[0] }], 1, &mut [0; 31]));
        assert_eq!(units(&[]), 0);
    }

    /// Section 5.3: with a table of more than 100 x N entries the shares differ by about a percent.
    #[test]
    fn shares_are_even() {
        let all = candidates(100);
        let table = table(&all, 7, size_for(units(&all), ENTRIES_PER_UNIT));
        for c in &all {
            let ratio = share(&table, c.index) * 100.0;
            assert!((0.98..=1.02).contains(&ratio), "target {} has {ratio} of its share", c.index);
        }
    }

    /// One of 100 targets goes: its own hundredth moves, and few entries beside it.
    #[test]
    fn loss_of_a_target_moves_little_else() {
        let all = candidates(100);
        let size = 65521;
        let before = table(&all, 7, size);
        for gone in [0_usize, 42, 99] {
            let mut rest = all.clone();
            rest.remove(gone);
            let after = table(&rest, 7, size);
            let moved = before.iter().zip(&after).filter(|(b, a)| b != a && usize::from(**b) != gone).count()
                as f64
                / f64::from(size);
            assert!(moved < 0.02, "{:.2} % of the entries of other targets moved", moved * 100.0);
            assert!(after.iter().all(|entry| usize::from(*entry) != gone));
        }
    }

    /// The same over flows, as the program finds them in tables that have the size that the agent gives them.
    #[test]
    fn loss_of_a_target_moves_few_of_a_million_flows() {
        let all = candidates(100);
        let size = size_for(units(&all), ENTRIES_PER_UNIT);
        let before = table(&all, 7, size);
        let gone = 42;
        let mut rest = all;
        rest.remove(gone);
        let after = table(&rest, 7, size);
        let (mut others, mut moved) = (0_u32, 0_u32);
        for flow in 0..1_000_000_u32 {
            let [a, b, c, d] = flow.wrapping_mul(0x9e37_79b1).to_be_bytes();
            let key = crate::abi::FlowKey {
                source: addr::from_v4([198, 18 + (a & 1), b, c]),
                destination: addr::from_v4([192, 0, 2, 10]),
                source_port: [c ^ a | 4, d],
                destination_port: [1, 187],
                protocol: 6,
                pad: [0; 3],
            };
            let at = position(crate::hash::key(&key, crate::hash::TARGET_SEED), size) as usize;
            if usize::from(before[at]) != gone {
                others += 1;
                moved += u32::from(before[at] != after[at]);
            }
        }
        let share = f64::from(moved) / f64::from(others);
        assert!((985_000..995_000).contains(&others), "{others} flows are the others'");
        assert!(share < 0.02, "{:.2} % of the flows of other targets moved", share * 100.0);
    }

    #[test]
    fn known_table() {
        // A change of this table means that nodes of two versions would send one flow to two targets: do not let it
        // pass unseen.
        let table = table(&candidates(3), 0, 31);
        assert_eq!(table.iter().filter(|e| **e == 0).count(), 11);
        let digest = table.iter().fold(0_u64, |d, e| d.wrapping_mul(3).wrapping_add(u64::from(*e)));
        assert_eq!(digest, KNOWN_DIGEST);
    }

    const KNOWN_DIGEST: u64 = 372_639_908_190_624;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn order_and_indexes_do_not_matter(
            weights in prop::collection::vec(1_u16..=256, 1..20), seed: u64, turn in 0_usize..20,
        ) {
            let mut all = candidates(weights.len() as u16);
            for (c, weight) in all.iter_mut().zip(&weights) {
                c.weight = *weight;
            }
            let first = table(&all, seed, 2039);
            all.rotate_left(turn % weights.len());
            prop_assert_eq!(&first, &table(&all, seed, 2039));
            for c in &mut all {
                c.index += 1000;
            }
            let shifted: Vec<u16> = first.iter().map(|index| index + 1000).collect();
            prop_assert_eq!(shifted, table(&all, seed, 2039));
        }

        #[test]
        fn shares_follow_the_weights(weights in prop::collection::vec(1_u16..=256, 1..12), seed: u64) {
            let mut all = candidates(weights.len() as u16);
            for (c, weight) in all.iter_mut().zip(&weights) {
                c.weight = *weight;
            }
            let table = table(&all, seed, 65521);
            let sum: f64 = weights.iter().map(|w| f64::from(*w)).sum();
            for c in &all {
                let wanted = f64::from(c.weight) / sum * 65521.0;
                let got = share(&table, c.index) * 65521.0;
                // Turns are exact; only the last, broken round is off, by an entry a target.
                prop_assert!((wanted - got).abs() <= 1.0 + weights.len() as f64, "wanted {}, got {}", wanted, got);
            }
        }
    }
}
