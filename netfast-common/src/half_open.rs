//! The table of half-open flows (map `HALF_OPEN`): found by hash, in sets, shared by all CPUs without a lock.
//!
//! A set is [`HALF_OPEN_SLOTS`] slots: a head, which is one line of the CPU's cache, and [`WAYS`] entries of two lines. The head has a
//! word for each entry and, in place 0, a counter of the set's insertions. So a look-up costs the head's line and that of the
//! entry, if there is one, and an insertion that pushes an old entry out costs no more than that: nothing links entries to each other.
//!
//! A word holds 16 bits of the key's hash (the *tag*; 0: the way is empty), the counter's low 15 bits as they were when the entry was made or
//! last used, and whether somebody is writing the entry (*busy*). The way of a new entry is the one whose number lies farthest
//! behind the counter: an empty one, since those are given a number half the range behind, or the one that was not used for
//! longest: under a flood the oldest, otherwise nobody. A way is taken by a compare-and-exchange of its word, and given to others by another one, after its entry was
//! written: an entry is seen whole or not at all by whoever sees its word for the first time.
//!
//! **No key has two entries.** Who has taken a way looks through the set for its tag once more, and gives the way back if another one
//! has the same key or is busy with the same tag. Of two CPUs at least one sees the other, since each looks after its exchange;
//! if both do, both give up, and their callers try again or try another key.
//!
//! **A pointer to an entry may outlive it.** The entry may be pushed out and written anew meanwhile, as an element of the kernel's LRU hash
//! may, which is preallocated and used again at once. So whoever reads one copies it and checks that the flow's two entries lead to each
//! other.

use crate::{
    abi::{FlowKey, HALF_OPEN_SLOTS},
    hash,
};

/// Ways of a set: its slots but the head.
pub const WAYS: u32 = HALF_OPEN_SLOTS - 1;

/// Bit of a word: the entry is being written.
const BUSY: u32 = 1;
/// Bits of a word below the tag.
const LOW: u32 = 0xffff;
/// Half of their range.
const HALF: u32 = 0x8000;
/// A word may be ahead of the counter as it was read, by as many insertions as other CPUs make meanwhile: such entries are young, not old.
const AHEAD: u32 = 256;
/// An entry is marked as used anew when so many others were made in its set since the last time: not with each packet.
const STALE: u32 = WAYS / 2;

/// A set as it is looked at for one key.
pub trait Set {
    /// Word of a way (1 to [`WAYS`]); of way 0: the counter.
    fn load(&self, way: u32) -> u32;
    /// Stores a word that nobody else writes now, or the counter, which may miss one.
    fn store(&self, way: u32, word: u32);
    /// Puts `to` in the place of `from`; tells whether that stood there. Nothing moves across it, neither before nor after.
    fn change(&self, way: u32, from: u32, to: u32) -> bool;
    /// Whether the entry of a way has the key.
    fn is_key(&self, way: u32) -> bool;
    /// The same number, of which compiler and verifier know nothing: else one makes branches of arithmetic, and the other
    /// follows each outcome to the end.
    #[inline(always)]
    fn opaque(&self, number: u32) -> u32 {
        number
    }
}

/// Sets for so many flows, each with two entries. Sets fill unevenly: with a quarter more ways than entries, three entries in a hundred
/// are pushed out before so many flows are there, and with half as many flows two in ten thousand.
pub const fn sets(flows: u32) -> u32 {
    (flows as u64 * 2 * 5).div_ceil(4 * WAYS as u64) as u32
}

/// Hash of a key. Seeded, so that nobody outside can aim at a set.
#[inline(always)]
pub fn hash_of(key: &FlowKey, seed: u32) -> u32 {
    let [a, b, c, d, e] = key.words();
    let h = hash::mix(seed as u64, a ^ c.rotate_left(32));
    hash::finish(hash::mix(hash::mix(h, b ^ d.rotate_left(23)), e))
}

/// Number of the set of a hash, below `sets` (0 if there are none).
#[inline(always)]
pub const fn set_of(hash: u32, sets: u32) -> u32 {
    ((hash as u64 * sets as u64) >> 32) as u32
}

/// Tag of a hash, never 0. The set's number is made of its other end.
#[inline(always)]
pub const fn tag_of(hash: u32) -> u32 {
    let tag = hash & 0xffff;
    if tag == 0 { 1 } else { tag }
}

/// Whether a word is that of an entry that may be read.
#[inline(always)]
pub const fn is_entry(word: u32) -> bool {
    word >> 16 != 0 && !is_busy(word)
}

/// Whether a word is that of an entry that is being written.
#[inline(always)]
pub const fn is_busy(word: u32) -> bool {
    word & BUSY != 0
}

/// Word of a way that is empty since the counter stood so: half the range behind an entry of the same time. 0 is such a word, too.
#[inline(always)]
pub const fn empty(counter: u32) -> u32 {
    (counter << 1) & LOW
}

#[inline(always)]
const fn word(tag: u32, counter: u32) -> u32 {
    tag << 16 | (counter << 1 ^ HALF) & LOW
}

/// Insertions since a word was written, and [`AHEAD`], all of it twice; of an empty way half the range more; odd: it is busy.
#[inline(always)]
const fn age(word: u32, counter: u32) -> u32 {
    (counter.wrapping_add(AHEAD) << 1 ^ HALF).wrapping_sub(word) & LOW
}

/// A bit for each way with that tag.
#[inline(always)]
const fn same(word: u32, tag: u32, way: u32) -> u32 {
    ((word >> 16 ^ tag).wrapping_sub(1) >> 31) << way
}

/// The way that has the key; 0: none.
#[inline(always)]
pub fn find(set: &impl Set, tag: u32) -> u32 {
    let mut way = 1;
    while way <= WAYS {
        if (set.load(way) ^ tag << 16) & !(LOW & !BUSY) == 0 && set.is_key(way) {
            return set.opaque(way) & WAYS;
        }
        way += 1;
    }
    0
}

/// Notes that the entry of a way is in use.
#[inline(always)]
pub fn touch(set: &impl Set, tag: u32, way: u32) {
    let (old, counter) = (set.load(way), set.load(0));
    if old >> 16 == tag && !is_busy(old) && age(old, counter) >= (STALE + AHEAD) << 1 {
        // Somebody else was faster: so be it.
        set.change(way, old, word(tag, counter));
    }
}

/// Whether one of `ways` has the key, or may be about to.
#[inline(always)]
fn is_taken(set: &impl Set, ways: u32) -> bool {
    let mut way = 1;
    while way <= WAYS {
        if ways >> way & 1 != 0 && (is_busy(set.load(way)) || set.is_key(way)) {
            return true;
        }
        way += 1;
    }
    false
}

/// Takes a way for a new entry: an empty one or the oldest, or the key's own with `replace`. 0: none, for the key has an entry (without
/// `replace`) or somebody else is busy. The entry is to be written, then [`publish`] shows it.
#[inline(always)]
pub fn reserve(set: &impl Set, tag: u32, replace: bool) -> u32 {
    let counter = set.load(0);
    let (mut best, mut matches, mut way) = (0u32, 0, 1);
    while way <= WAYS {
        let word = set.load(way);
        matches |= same(word, tag, way);
        let age = age(word, counter);
        // A busy one is never taken.
        let rank = (age << 4 | way) & set.opaque((age & 1).wrapping_sub(1));
        // The greater of both.
        let difference = best.wrapping_sub(rank);
        best = best.wrapping_sub(difference & set.opaque(((difference as i32) >> 31) as u32));
        way += 1;
    }
    let mut way = set.opaque(best) & WAYS;
    let mut old = set.load(way);
    // Another CPU may have filled the way since it was looked at: an entry made a moment ago is nobody's to push out, and it may
    // have the same key.
    let mut fits = (age(old, counter) << 4 | way) == best;
    if matches != 0 {
        let own = find(set, tag);
        if own != 0 && replace {
            way = own;
            old = set.load(way);
            fits = is_entry(old) && old >> 16 == tag && set.is_key(way);
        } else if own != 0 || is_taken(set, matches) {
            return 0;
        }
    }
    let counter = counter.wrapping_add(1);
    if way == 0 || !fits || !set.change(way, old, word(tag, counter) | BUSY) {
        return 0;
    }
    // Not backwards, if this CPU was held up: the entries made since then would be ahead.
    if counter.wrapping_sub(set.load(0)) <= LOW {
        set.store(0, counter);
    }
    let (mut matches, mut other) = (0, 1);
    while other <= WAYS {
        matches |= same(set.load(other), tag, other);
        other += 1;
    }
    matches &= !(1 << way);
    if matches != 0 && is_taken(set, matches) {
        set.store(way, empty(counter));
        return 0;
    }
    way
}

/// Shows an entry that was written to all.
#[inline(always)]
pub fn publish(set: &impl Set, way: u32) {
    let word = set.load(way);
    if is_busy(word) {
        set.change(way, word, word & !BUSY);
    }
}

/// Gives a way back whose entry is not to be.
#[inline(always)]
pub fn release(set: &impl Set, way: u32) {
    let word = set.load(way);
    if is_busy(word) {
        set.change(way, word, empty(set.load(0)));
    }
}

/// Takes the key's entry out, if there is one.
#[inline(always)]
pub fn remove(set: &impl Set, tag: u32) {
    let mut attempt = 0;
    while attempt < 2 {
        let way = find(set, tag);
        let word = set.load(way);
        if way == 0 || word >> 16 != tag || is_busy(word) || set.change(way, word, empty(set.load(0))) {
            return;
        }
        // Marked as used by another CPU just now.
        attempt += 1;
    }
}

#[cfg(test)]
mod tests;
