//! The walk through the compiled trees: to the first rule that matches ([`decide`]), and to those before it that go on
//! ([`tree`]).
//!
//! What a packet pays for in a tree is waiting: each block is loaded by what the block before it has said, and each leaf by
//! the last block. So [`decide`] goes down [`LANES`] trees at once, without a branch that tells them apart; while one waits
//! for memory, the others go on. Leaves are compared one after the other, the one with the lowest order first.
//!
//! A call of a function costs a packet some 8 ns where returns are guarded against speculation, `bpf_loop` one for each
//! round: all of [`decide`] is one function, in the kernel a global one, which the verifier looks at by itself.

use super::{LACKS, Subject, extra};
use crate::abi::{
    FILTER_ACTION_SHIFT, FILTER_BLOCKS, FILTER_EXTRA, FILTER_LAST, FILTER_LEAF, FILTER_PROTOCOL,
    FILTER_PROTOCOL_SHIFT, FILTER_RECORDS, FILTER_RULE_BITS, FILTER_TREES, FilterCell, FilterEntry,
    FilterField, FilterHead,
};

/// Trees that are walked at once.
pub const LANES: usize = 2;

/// What a walk has found.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Walk {
    /// Order of the best rule; [`NOTHING`] at first.
    pub order: u32,
    /// The best rule's tail, see [`FilterCell`].
    pub tail: u32,
    /// Steps taken; counted on the host only.
    pub steps: u32,
    /// Zero.
    pub pad: u32,
}

/// Order of no rule.
pub const NOTHING: u32 = u32::MAX;

impl Walk {
    /// The number of the rule that was found.
    #[inline(always)]
    pub const fn rule(&self) -> u32 {
        self.tail & ((1 << FILTER_RULE_BITS) - 1)
    }

    /// What the found rule's tail says of its action: 0 allow, 1 drop, 2 its entry tells.
    #[inline(always)]
    pub const fn action(&self) -> u32 {
        (self.tail >> FILTER_ACTION_SHIFT) & 3
    }

    /// Whether a rule was found.
    #[inline(always)]
    pub const fn found(&self) -> bool {
        self.order != NOTHING
    }
}

/// Where the trees are.
pub trait Tables {
    /// Cell `index`.
    fn cell(&self, index: u32) -> Option<&FilterCell>;
    /// The rule with number `rule`.
    fn entry(&self, rule: u32) -> Option<&FilterEntry>;
    /// The value, of which the compiler knows nothing any more: it makes a branch of a mask, or leaves one out that Linux 6.1
    /// needs to see.
    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        value
    }
    /// A rule that goes on matched. False ends the walk: the packet is over a limit.
    fn side(&mut self, _rule: u32) -> bool {
        true
    }
}

/// Finds the first rule that matches `subject`. `v6` tells the records' form. `walk.order` is [`NOTHING`] at first.
#[inline(always)]
pub fn decide<T: Tables>(head: &FilterHead, v6: bool, subject: &Subject, walk: &mut Walk, tables: &T) {
    if head.roots[1] == 0 {
        // One tree has no use for a second lane; most small sets are one.
        let Some(at) = follow(head.roots[0], subject, walk, tables) else { return };
        if at & FILTER_LEAF != 0 {
            if v6 {
                leaf::<true, T>(at, subject, walk, tables);
            } else {
                leaf::<false, T>(at, subject, walk, tables);
            }
        }
        return;
    }
    let mut first = 0;
    while first < FILTER_TREES {
        // Trees stand by their lowest order: behind one that comes too late all do.
        if head.roots[first] == 0 || head.first[first] > walk.order {
            return;
        }
        let roots = [head.roots[first], head.roots[first + 1]];
        let Some([mut a, mut b]) = leaves(roots, subject, walk, tables) else { return };
        let mut lane = 0;
        while lane < LANES {
            if a & FILTER_LEAF != 0 && head.first[first + lane] <= walk.order {
                if v6 {
                    leaf::<true, T>(a, subject, walk, tables);
                } else {
                    leaf::<false, T>(a, subject, walk, tables);
                }
            }
            (a, b) = (b, 0);
            lane += 1;
        }
        first += LANES;
    }
}

/// The leaf that `subject` gets to from a pointer; 0 where the tree has none for it.
#[inline(always)]
fn follow<T: Tables>(mut at: u32, subject: &Subject, walk: &mut Walk, tables: &T) -> Option<u32> {
    let mut blocks = 0;
    while blocks < FILTER_BLOCKS {
        if ended(at) >> 31 != 0 {
            break;
        }
        at = descend::<T>(tables.cell(at >> 1)?, subject) as u32;
        step(walk);
        blocks += 1;
    }
    Some(at)
}

/// The leaves that `subject` gets to from these pointers, in the same order; 0 where a tree has none for it.
#[inline(always)]
fn leaves<T: Tables>(
    roots: [u32; LANES],
    subject: &Subject,
    walk: &mut Walk,
    tables: &T,
) -> Option<[u32; LANES]> {
    let [mut a, mut b] = roots;
    let mut blocks = 0;
    while blocks < FILTER_BLOCKS {
        if (ended(a) & ended(b)) >> 31 != 0 {
            break;
        }
        a = down(a, subject, walk, tables)?;
        b = down(b, subject, walk, tables)?;
        blocks += 1;
    }
    Some([a, b])
}

/// A word whose highest bit says that the pointer leads to no block: it is a leaf's, or 0.
#[inline(always)]
const fn ended(pointer: u32) -> u32 {
    pointer.wrapping_sub(1) | pointer
}

/// Where the block at `pointer` leads. What has ended stays where it is: its cell is loaded (a leaf's will be needed) and what
/// it says as a block is masked.
#[inline(always)]
fn down<T: Tables>(pointer: u32, subject: &Subject, walk: &mut Walk, tables: &T) -> Option<u32> {
    let stays = T::opaque(0u64.wrapping_sub((ended(pointer) >> 31) as u64));
    let cell = tables.cell((pointer & !FILTER_LEAF) >> 1)?;
    if stays == 0 {
        step(walk);
    }
    Some(((pointer as u64 & stays) | (descend::<T>(cell, subject) & !stays)) as u32)
}

/// Goes down the three levels of a block. Without a branch: the bits are as good as random.
#[inline(always)]
fn descend<T: Tables>(cell: &FilterCell, subject: &Subject) -> u64 {
    let fields = cell.words[7] as u64;
    let above = |threshold: u32, field: u64| -> u64 {
        (threshold as u64).wrapping_sub(subject.words[(field & 15) as usize]) >> 63
    };
    let a = above(cell.words[0], fields);
    let b = above(cell.words[T::opaque(1 + a) as usize & 7], fields >> (4 + 4 * a));
    let c = above(cell.words[T::opaque(3 + 2 * a + b) as usize & 7], fields >> (12 + 8 * a + 4 * b));
    cell.words[8 + (T::opaque(4 * a + 2 * b + c) as usize & 7)] as u64
}

/// Compares the records of a leaf. `walk` holds the first rule that matches here and what it held before.
#[inline(always)]
fn leaf<const V6: bool, T: Tables>(pointer: u32, subject: &Subject, walk: &mut Walk, tables: &T) {
    let mut unit = pointer & !FILTER_LEAF;
    let mut records = 0;
    while records < FILTER_RECORDS {
        records += 1;
        step(walk);
        let Some(cell) = tables.cell(unit >> 1) else { return };
        let (order, tail, difference) =
            if V6 { record6::<T>(cell, subject) } else { record4::<T>(cell, unit, subject) };
        if order >= walk.order {
            return;
        }
        if difference == 0 {
            let rule = tail & ((1 << FILTER_RULE_BITS) - 1);
            if tail & FILTER_EXTRA == 0 || tables.entry(rule).is_some_and(|entry| extra(entry, subject)) {
                walk.order = order;
                walk.tail = tail;
                return;
            }
        }
        if tail & FILTER_LAST != 0 {
            return;
        }
        unit += if V6 { 2 } else { 1 };
    }
}

/// Walks tree number `number` of `head`, whose rules go on. False: there is none, and none behind it, or a rule said so.
/// Every matching rule of an order below `walk.order` is given to [`Tables::side`]. The kernel's `bpf_loop` calls this for each
/// tree, so that its verifier looks at one.
#[inline(always)]
pub fn tree<const V6: bool, T: Tables>(
    head: &FilterHead,
    number: u32,
    subject: &Subject,
    walk: &mut Walk,
    tables: &mut T,
) -> bool {
    if number >= FILTER_TREES as u32 {
        return false;
    }
    let number = number as usize & (FILTER_TREES - 1);
    let mut at = head.roots[number];
    if at == 0 {
        return false;
    }
    if head.first[number] > walk.order {
        return true;
    }
    let mut blocks = 0;
    while blocks < FILTER_BLOCKS {
        if at & FILTER_LEAF != 0 || at == 0 {
            break;
        }
        let Some(cell) = tables.cell(at >> 1) else { return true };
        at = descend::<T>(cell, subject) as u32;
        blocks += 1;
        step(walk);
    }
    if at & FILTER_LEAF == 0 {
        return true;
    }
    let mut unit = at & !FILTER_LEAF;
    let mut records = 0;
    while records < FILTER_RECORDS {
        records += 1;
        step(walk);
        let Some(cell) = tables.cell(unit >> 1) else { return true };
        let (order, tail, difference) =
            if V6 { record6::<T>(cell, subject) } else { record4::<T>(cell, unit, subject) };
        if order >= walk.order {
            return true;
        }
        if difference == 0 {
            let rule = tail & ((1 << FILTER_RULE_BITS) - 1);
            let matches =
                tail & FILTER_EXTRA == 0 || tables.entry(rule).is_some_and(|entry| extra(entry, subject));
            if matches && !tables.side(rule) {
                return false;
            }
        }
        if tail & FILTER_LAST != 0 {
            return true;
        }
        unit += if V6 { 2 } else { 1 };
    }
    true
}

/// Counts a step on the host.
#[inline(always)]
fn step(walk: &mut Walk) {
    #[cfg(any(test, feature = "user"))]
    {
        walk.steps += 1;
    }
    let _ = walk;
}

/// Walks all trees of rules that go on, on the host.
#[cfg(any(test, feature = "user"))]
pub fn side<const V6: bool, T: Tables>(
    head: &FilterHead,
    subject: &Subject,
    walk: &mut Walk,
    tables: &mut T,
) {
    let mut number = 0;
    while tree::<V6, T>(head, number, subject, walk, tables) {
        number += 1;
    }
}

/// 1 if a number is outside of a range. All are below 2^32.
#[inline(always)]
const fn outside(value: u64, low: u32, high: u32) -> u64 {
    (value.wrapping_sub(low as u64) | (high as u64).wrapping_sub(value)) >> 63
}

/// What does not fit of ports, protocol and needs; 0: all fits.
#[inline(always)]
fn rest<T: Tables>(subject: &Subject, source: u32, destination: u32, tail: u32) -> u64 {
    let words = &subject.words;
    // All ones if the protocol counts.
    let counts = (tail & FILTER_PROTOCOL) >> FILTER_PROTOCOL.trailing_zeros();
    let mask = 0u64.wrapping_sub(T::opaque(counts as u64));
    outside(words[FilterField::SourcePort as usize], source & 0xffff, source >> 16)
        | outside(words[FilterField::DestinationPort as usize], destination & 0xffff, destination >> 16)
        | (((tail >> FILTER_PROTOCOL_SHIFT) as u64 ^ words[FilterField::Protocol as usize]) & 0xff & mask)
        | (tail as u64 & words[LACKS])
}

/// Order and tail of an IPv4 record, and what does not fit (0: it matches).
#[inline(always)]
fn record4<T: Tables>(cell: &FilterCell, unit: u32, subject: &Subject) -> (u32, u32, u64) {
    let at = (unit as usize & 1) * 8;
    let word = |i: usize| cell.words[(at + i) & 15];
    let tail = word(7);
    let difference = outside(subject.words[FilterField::Source as usize + 3], word(0), word(1))
        | outside(subject.words[FilterField::Destination as usize + 3], word(2), word(3))
        | rest::<T>(subject, word(4), word(5), tail);
    (word(6), tail, difference)
}

/// Likewise of an IPv6 record.
#[inline(always)]
fn record6<T: Tables>(cell: &FilterCell, subject: &Subject) -> (u32, u32, u64) {
    let ignored = cell.words[12];
    let half = |word: usize, byte: u32| {
        let rule = (cell.words[word] as u64) << 32 | cell.words[word + 1] as u64;
        let packet = subject.words[word] << 32 | subject.words[word + 1];
        let shift = (ignored >> (8 * byte)) & 0x7f;
        // Twice at most 32: a shift by 64 is no shift.
        ((rule ^ packet) >> ((shift >> 1) & 63)) >> ((shift - (shift >> 1)) & 63)
    };
    let tail = cell.words[11];
    let difference = half(0, 0)
        | half(2, 1)
        | half(4, 2)
        | half(6, 3)
        | rest::<T>(subject, cell.words[8], cell.words[9], tail);
    (cell.words[10], tail, difference)
}
