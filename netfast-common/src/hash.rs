//! The hash of a flow: multiply-and-fold over 64-bit words, seeded. Not cryptographic; the seed is random per host so
//! that nobody outside can aim at a set of the cache.

const K1: u64 = 0x9e37_79b9_7f4a_7c15;
const K2: u64 = 0xd6e8_feb8_6659_fd93;

/// Mixes a word into a hash.
#[inline(always)]
pub const fn mix(hash: u64, word: u64) -> u64 {
    let h = (hash ^ word).wrapping_mul(K1);
    h ^ (h >> 32)
}

/// Finishes a hash: every input bit reaches the low bits.
#[inline(always)]
pub const fn finish(hash: u64) -> u32 {
    let h = hash.wrapping_mul(K2);
    (h ^ (h >> 32)) as u32
}

/// Hash of an IPv4 five-tuple. `addresses`: source and destination as they lie in the header, read as one native
/// word; `ports` likewise.
#[inline(always)]
pub const fn tuple4(addresses: u64, ports: u32, udp: bool, seed: u32) -> u32 {
    spread(mix((seed ^ udp as u32) as u64, addresses) ^ ports as u64)
}

/// The last step for what [`mix`] has made: every bit of the lower half, and of the higher one by way of the lower, reaches
/// the low bits. Without the fold ports that follow each other would fall on a lattice: of 1,024 answers 38 % had to go to
/// their second place in place of 17 %.
#[inline(always)]
const fn spread(hash: u64) -> u32 {
    let h = (hash.wrapping_mul(K2) >> 32) as u32;
    h ^ (h >> 15)
}

/// Hash of an IPv6 five-tuple; `words`: source and destination as they lie in the header, as four native words.
#[inline(always)]
pub const fn tuple6(words: [u64; 4], ports: u32, udp: bool, seed: u32) -> u32 {
    let h = mix((seed ^ udp as u32) as u64, words[0] ^ words[2].rotate_left(32));
    spread(mix(h, words[1] ^ words[3].rotate_left(23)) ^ ports as u64)
}

/// A second place for what `hash` gives a first one: independent enough that flows which share the first rarely share
/// the second.
#[inline(always)]
pub const fn second(hash: u32) -> u32 {
    let h = (hash ^ (hash >> 15)).wrapping_mul(0x85eb_ca6b);
    h ^ (h >> 13)
}

/// Seed of the hash that chooses targets: the same on every node, so that all choose alike.
pub const TARGET_SEED: u32 = 0x6e66_0001;

/// Hash of a flow key, for the choice of a target and of a first source port.
#[inline(always)]
pub fn key(key: &crate::abi::FlowKey, seed: u32) -> u32 {
    let (sh, sl) = crate::addr::words(&key.source);
    let (dh, dl) = crate::addr::words(&key.destination);
    let ports = u32::from_be_bytes([
        key.source_port[0],
        key.source_port[1],
        key.destination_port[0],
        key.destination_port[1],
    ]);
    let h = mix(mix(mix(mix(seed as u64, sh), sl), dh), dl);
    finish(mix(h, ports as u64 | ((key.protocol as u64) << 32)))
}

/// Hash that chooses the target of a new flow; `by_source`: all flows of a source address have the same.
#[inline(always)]
pub fn of_choice(flow: &crate::abi::FlowKey, by_source: bool) -> u32 {
    if !by_source {
        return key(flow, TARGET_SEED);
    }
    let (high, low) = crate::addr::words(&flow.source);
    finish(mix(mix(TARGET_SEED as u64, high), low))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Sequential ports and addresses, as a load generator makes them, must spread over the low bits.
    #[test]
    fn sequential_tuples_spread() {
        for step in [1u64, 256, 1 << 32] {
            let sets: HashSet<u32> = (0..4096u64)
                .map(|i| tuple4(0x0100_000a_0200_000a + i * step, 0x5000_1234, false, 7) & 4095)
                .collect();
            assert!(sets.len() > 2400, "{} of 4096 sets with step {step}", sets.len());
        }
        let sets: HashSet<u32> = (0..4096u32).map(|i| tuple4(99, i << 8, true, 7) & 4095).collect();
        assert!(sets.len() > 2400, "{}", sets.len());
    }

    /// Of `count` flows, each with a packet in its turn, those whose packet of the third round finds no line; and in per mille
    /// those whose line is in their second set. `sets`: sets of two ways, each flow with two places.
    fn homeless(count: u32, sets: u32, hash: impl Fn(u32) -> u32) -> (u32, u32) {
        let mask = sets - 1;
        let mut ways = vec![[None; 2]; sets as usize];
        let (mut misses, mut seconds) = (0, 0);
        for round in 0..3 {
            (misses, seconds) = (0, 0);
            for flow in 0..count {
                let hash = hash(flow);
                let (a, b) = ((hash & mask) as usize, (second(hash) & mask) as usize);
                if ways[a].contains(&Some(flow)) {
                    continue;
                }
                if ways[b].contains(&Some(flow)) {
                    seconds += 1;
                    continue;
                }
                misses += 1;
                // As the flow cache fills: a free way, of the first set before the second; else one of the first set, whose
                // flow looks for another when it comes again.
                if let Some(free) = ways[a].iter().position(Option::is_none) {
                    ways[a][free] = Some(flow);
                } else if let Some(free) = ways[b].iter().position(Option::is_none) {
                    ways[b][free] = Some(flow);
                } else {
                    ways[a][(flow as usize + round) & 1] = Some(flow);
                }
            }
        }
        (misses, seconds * 1000 / count)
    }

    #[test]
    fn two_places_are_enough() {
        for seed in [7, 0x1234_5678, 0xdead_beef] {
            for count in [1024u32, 32_768] {
                let clients = |n: u32| u64::from((0x1200_00c6 + (n >> 15)).swap_bytes());
                let by_source_port = |n: u32| {
                    tuple4(
                        clients(n) | 0x0a02_00c0 << 32,
                        (16_384 + n).swap_bytes() >> 16 | 0x3500 << 16,
                        true,
                        seed,
                    )
                };
                let by_destination_port = |n: u32| {
                    tuple4(0x0200_000a | 0x0000_010a << 32, 0xe914 | (16_384 + n).swap_bytes(), true, seed)
                };
                // A half, a quarter, an eighth of the ways in use: one miss in so many, and so many per mille in the second set.
                for (sets, rare, most) in [(count, 50, 150), (2 * count, 200, 55), (4 * count, 1000, 25)] {
                    for (name, (misses, seconds)) in [
                        ("source", homeless(count, sets, by_source_port)),
                        ("destination", homeless(count, sets, by_destination_port)),
                    ] {
                        let case = format!("{count} flows by {name} port, {sets} sets, seed {seed:#x}");
                        assert!(misses * rare < count, "{misses} misses of {case}");
                        assert!(seconds <= most, "{seconds} per mille in their second set of {case}");
                    }
                }
            }
        }
    }
}
