//! Matching a packet against the filter: the walk through the compiled trees.
//!
//! A tree is walked down its blocks (three levels of a binary tree each) to a leaf, whose records are compared in order.
//! Both loops have hard bounds, that the compiler keeps, too. The trees are walked by `bpf_loop` in the kernel: so its
//! verifier looks at one tree, not at every way through all of them. What one tree knows of the others stands in
//! [`Walk`], in map memory.

pub mod verdict;

use crate::{
    abi::{
        FILTER_ACTION_SHIFT, FILTER_BLOCKS, FILTER_EXTRA, FILTER_LAST, FILTER_LEAF, FILTER_NEEDS,
        FILTER_PROTOCOL, FILTER_PROTOCOL_SHIFT, FILTER_RECORDS, FILTER_RULE_BITS, FILTER_TCP_FLAGS,
        FILTER_TCP_PLAIN, FILTER_TREES, FilterCell, FilterEntry, FilterField, FilterHead,
    },
    wire::{ACK, FIN, Fragment, Packet, RST, SYN, TCP},
};

/// IP protocol number of ICMP.
const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
const ICMPV6: u8 = 58;

/// Word of a [`Subject`]: VLAN identifier.
const VLAN: usize = 12;
/// Word of a [`Subject`]: TCP flags.
const FLAGS: usize = 13;
/// Word of a [`Subject`]: [`FILTER_NEEDS`] if neither ports nor ICMP type were read.
const LACKS: usize = 14;
/// Word of a [`Subject`]: [`IS_TCP`] and [`HAS_PORTS`].
const FACTS: usize = 15;
/// TCP with its flags read.
const IS_TCP: u64 = 1;
/// TCP or UDP with its ports read.
const HAS_PORTS: u64 = 2;

/// What of a packet the filter compares: words by the number of their [`FilterField`]. They are 64 bits wide so that a
/// comparison is the sign of a difference, without a branch.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Subject {
    /// See the type.
    pub words: [u64; 16],
}

impl Subject {
    /// Describes `packet`, which came in by `ifindex`. `icmp`: type and code, if they were read.
    #[inline(always)]
    pub fn describe(&mut self, packet: &Packet, ifindex: u32, icmp: Option<[u8; 2]>) {
        let key = &packet.key;
        let mut lacks = false;
        let (source_port, destination_port) = if packet.has_ports() {
            (packet.source_port(), packet.destination_port())
        } else if let Some([kind, code]) = icmp {
            (kind as u16, code as u16)
        } else {
            lacks = true;
            (0, 0)
        };
        let words = &mut self.words;
        put(words, FilterField::Source as usize, &key.source, packet.version);
        put(words, FilterField::Destination as usize, &key.destination, packet.version);
        words[FilterField::SourcePort as usize] = source_port as u64;
        words[FilterField::DestinationPort as usize] = destination_port as u64;
        words[FilterField::Protocol as usize] = key.protocol as u64;
        words[FilterField::Interface as usize] = ifindex as u64;
        words[VLAN] = packet.vlan as u64;
        words[FLAGS] = packet.flags as u64;
        words[LACKS] = if lacks { FILTER_NEEDS as u64 } else { 0 };
        words[FACTS] = match (packet.has_ports(), key.protocol) {
            (true, TCP) => IS_TCP | HAS_PORTS,
            (true, _) => HAS_PORTS,
            (false, _) => 0,
        };
    }
}

/// Whether type and code stand at the packet's transport header.
#[inline(always)]
pub fn has_icmp(packet: &Packet) -> bool {
    matches!(packet.key.protocol, ICMP | ICMPV6) && !matches!(packet.fragment, Fragment::Later)
}

#[inline(always)]
fn put(words: &mut [u64; 16], at: usize, address: &[u8; 16], version: u8) {
    let word =
        |i: usize| u32::from_be_bytes([address[i], address[i + 1], address[i + 2], address[i + 3]]) as u64;
    // An IPv4 address has its word only: what the others hold does not matter.
    if version != 4 {
        words[at] = word(0);
        words[at + 1] = word(4);
        words[at + 2] = word(8);
    }
    words[at + 3] = word(12);
}

/// Which rules a packet is asked about: bit 1 those that [speak of flows](FilterEntry::speaks_of_flows), bit 0 the others.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Part {
    /// All of them: it belongs to no flow.
    #[default]
    All = 3,
    /// Those that speak of flows: it belongs to a flow, which was allowed. Where another rule is the first that matches, it
    /// passes.
    Flags = 2,
    /// The others: those have been asked, and let it pass.
    Rest = 1,
}

impl Part {
    /// Whether a rule is one of them.
    #[inline(always)]
    pub const fn includes(self, entry: &FilterEntry) -> bool {
        self as u32 >> (entry.speaks_of_flows() as u32) & 1 != 0
    }
}

/// Whether a TCP segment is one of those that the flow cache acts on: it has ACK, and neither SYN nor FIN nor RST.
#[inline(always)]
pub const fn is_plain_segment(flags: u8) -> bool {
    flags & (SYN | FIN | RST | ACK) == ACK
}

/// Whether a packet of a flow is to be asked about. `rules`: the rule set's `filter_flags`; `flags`: its TCP flags.
#[inline(always)]
pub const fn asks_of_flows(rules: u32, protocol: u8, flags: u8) -> bool {
    protocol == TCP
        && rules & FILTER_TCP_FLAGS != 0
        && (rules & FILTER_TCP_PLAIN != 0 || !is_plain_segment(flags))
}

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
    /// A rule that goes on matched. False ends the walk: the packet is over a limit.
    fn side(&mut self, _rule: u32) -> bool {
        true
    }
}

/// Walks tree number `number` of `head`. False: there is none, and none behind it. `V6` tells the records' form. Without
/// `SIDE`, `walk` holds the first rule that matches in this tree and those before it; `walk.order` is [`NOTHING`] at
/// first. With `SIDE`, every matching rule of an order below `walk.order` is given to [`Tables::side`].
#[inline(always)]
pub fn tree<const V6: bool, const SIDE: bool>(
    head: &FilterHead,
    number: u32,
    subject: &Subject,
    walk: &mut Walk,
    tables: &mut impl Tables,
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
        at = descend(cell, subject);
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
            if V6 { record6(cell, subject) } else { record4(cell, unit, subject) };
        if order >= walk.order {
            return true;
        }
        if difference == 0 {
            let rule = tail & ((1 << FILTER_RULE_BITS) - 1);
            let matches =
                tail & FILTER_EXTRA == 0 || tables.entry(rule).is_some_and(|entry| extra(entry, subject));
            if matches && SIDE {
                if !tables.side(rule) {
                    return false;
                }
            } else if matches {
                walk.order = order;
                walk.tail = tail;
                return true;
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

/// Walks all trees of `head`, on the host. The program does the same with a loop of the kernel's (`bpf_loop`).
#[cfg(any(test, feature = "user"))]
pub fn walk<const V6: bool, const SIDE: bool>(
    head: &FilterHead,
    subject: &Subject,
    walk: &mut Walk,
    tables: &mut impl Tables,
) {
    let mut number = 0;
    while tree::<V6, SIDE>(head, number, subject, walk, tables) {
        number += 1;
    }
}

/// Goes down the three levels of a block. Without a branch: the bits are as good as random.
#[inline(always)]
fn descend(cell: &FilterCell, subject: &Subject) -> u32 {
    let fields = cell.words[7];
    let above = |node: usize| -> usize {
        // Opaque, or LLVM proves the mask needless by what Linux 6.1 does not know, and it refuses the access.
        let threshold = cell.words[core::hint::black_box(node) & 7] as u64;
        let field = (fields >> (4 * node)) & 15;
        (threshold.wrapping_sub(subject.words[field as usize]) >> 63) as usize
    };
    let a = above(0);
    let b = above(1 + a);
    let c = above(3 + 2 * a + b);
    cell.words[8 + (core::hint::black_box(4 * a + 2 * b + c) & 7)]
}

/// 1 if a number is outside of a range. All are below 2^32.
#[inline(always)]
const fn outside(value: u64, low: u32, high: u32) -> u64 {
    (value.wrapping_sub(low as u64) | (high as u64).wrapping_sub(value)) >> 63
}

/// What does not fit of ports, protocol and needs; 0: all fits.
#[inline(always)]
fn rest(subject: &Subject, source: u32, destination: u32, tail: u32) -> u64 {
    let words = &subject.words;
    // All ones if the protocol counts.
    let mask = 0u64.wrapping_sub(((tail & FILTER_PROTOCOL) >> FILTER_PROTOCOL.trailing_zeros()) as u64);
    outside(words[FilterField::SourcePort as usize], source & 0xffff, source >> 16)
        | outside(words[FilterField::DestinationPort as usize], destination & 0xffff, destination >> 16)
        | (((tail >> FILTER_PROTOCOL_SHIFT) as u64 ^ words[FilterField::Protocol as usize]) & 0xff & mask)
        | (tail as u64 & words[LACKS])
}

/// Order and tail of an IPv4 record, and what does not fit (0: it matches).
#[inline(always)]
fn record4(cell: &FilterCell, unit: u32, subject: &Subject) -> (u32, u32, u64) {
    let at = (unit as usize & 1) * 8;
    let word = |i: usize| cell.words[(at + i) & 15];
    let tail = word(7);
    let difference = outside(subject.words[FilterField::Source as usize + 3], word(0), word(1))
        | outside(subject.words[FilterField::Destination as usize + 3], word(2), word(3))
        | rest(subject, word(4), word(5), tail);
    (word(6), tail, difference)
}

/// Likewise of an IPv6 record.
#[inline(always)]
fn record6(cell: &FilterCell, subject: &Subject) -> (u32, u32, u64) {
    let ignored = cell.words[12];
    let half = |word: usize, byte: u32| {
        let rule = (cell.words[word] as u64) << 32 | cell.words[word + 1] as u64;
        let packet = subject.words[word] << 32 | subject.words[word + 1];
        let shift = (ignored >> (8 * byte)) & 0x7f;
        // Twice at most 32: a shift by 64 is no shift.
        ((rule ^ packet) >> ((shift >> 1) & 63)) >> ((shift - (shift >> 1)) & 63)
    };
    let tail = cell.words[11];
    let difference =
        half(0, 0) | half(2, 1) | half(4, 2) | half(6, 3) | rest(subject, cell.words[8], cell.words[9], tail);
    (cell.words[10], tail, difference)
}

/// Whether the conditions hold that do not stand in the record.
#[inline(always)]
pub fn extra(entry: &FilterEntry, subject: &Subject) -> bool {
    let words = &subject.words;
    let interface = entry.ifindex == 0 || entry.ifindex as u64 == words[FilterField::Interface as usize];
    let vlan = (entry.vlan as u64 ^ words[VLAN]) & entry.vlan_mask as u64 == 0;
    let flags = entry.tcp_mask == 0
        || (words[FACTS] & IS_TCP != 0
            && (entry.tcp_flags as u64 ^ words[FLAGS]) & entry.tcp_mask as u64 == 0);
    let ports = entry.ports == 0 || words[FACTS] & HAS_PORTS != 0;
    interface && vlan && flags && ports
}
