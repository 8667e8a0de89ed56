//! The compiled filter: decision trees in an array of 64-byte cells, and what the program knows of each rule.
//!
//! A *pointer* is 32 bits: 0 leads nowhere; bit 31 ([`FILTER_LEAF`]) says leaf or block; the rest counts units of 32
//! bytes from the beginning of the map `FILTER_CELLS`. A block is a cell (two units) that starts at an even unit.

use super::pod;

/// Filter rules with a counter; a rule's number has [`FILTER_RULE_BITS`] bits.
pub const MAX_FILTER_NUMBERS: u32 = 1 << FILTER_RULE_BITS;
/// Bits of a rule's number in a record's last word.
pub const FILTER_RULE_BITS: u32 = 18;
/// Trees of one kind that a rule set has at most.
pub const FILTER_TREES: usize = 8;
/// Blocks on the longest way through a tree.
pub const FILTER_BLOCKS: u32 = 16;
/// Records of a leaf.
pub const FILTER_RECORDS: u32 = 24;
/// Cells in a page. Records of one leaf stand in one page, so that a tree can be placed page by page.
pub const FILTER_PAGE: u32 = 256;
/// Set in a pointer to a leaf.
pub const FILTER_LEAF: u32 = 1 << 31;

/// A cell of the map `FILTER_CELLS`. What it is depends on the pointer that led here.
///
/// A *block* is three levels of a binary tree: words 0 to 6 are thresholds (of the first level, the two of the second,
/// the four of the third), word 7 has four bits for each of them, the number of the [`FilterField`] that is compared;
/// words 8 to 15 are pointers. A packet goes right where its field is above the threshold.
///
/// An IPv4 *record* has 8 words: first and last source address, first and last destination address, first and last
/// source port (low and high half), first and last destination port, order, tail.
///
/// An IPv6 record has 16: source address (4, most significant first), destination address (4), source ports,
/// destination ports, order, tail, and in word 12 four bytes: how many low bits do not count of the source's high half,
/// its low half, the destination's high half, its low half.
///
/// Order: the lower one is asked first. Tail: [`FILTER_RULE_BITS`] of the rule's number, then 8 of the protocol, then
/// the flags `FILTER_…` below.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FilterCell {
    /// See the type.
    pub words: [u32; 16],
}

/// Bits that a tail is shifted by to get the protocol.
pub const FILTER_PROTOCOL_SHIFT: u32 = FILTER_RULE_BITS;
/// In a tail: the protocol counts.
pub const FILTER_PROTOCOL: u32 = 1 << 26;
/// In a tail: the rule names ports or an ICMP type, and matches only packets in which they were read.
pub const FILTER_NEEDS: u32 = 1 << 27;
/// In a tail: the rule has conditions that stand in its [`FilterEntry`].
pub const FILTER_EXTRA: u32 = 1 << 28;
/// Bits that a tail is shifted by to get the action: 0 allow, 1 drop, 2 see [`FilterEntry::action`].
pub const FILTER_ACTION_SHIFT: u32 = 29;
/// In a tail: the leaf's last record.
pub const FILTER_LAST: u32 = 1 << 31;

/// What a threshold is compared with: number of a word of [`crate::classify::Subject`].
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterField {
    /// Source address: 0 to 3 are its 32-bit words, most significant first. An IPv4 address is the last one.
    Source = 0,
    /// Destination address, 4 to 7.
    Destination = 4,
    /// Source port, or ICMP type.
    SourcePort = 8,
    /// Destination port, or ICMP code.
    DestinationPort = 9,
    /// IP protocol.
    Protocol = 10,
    /// Index of the interface.
    Interface = 11,
}

/// Trees of one kind: element `slot * 4 + kind` of the map `FILTER_HEADS`, kind 0 IPv4, 1 IPv6, 2 IPv4 rules that go on
/// (count, limit), 3 IPv6 rules that go on.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterHead {
    /// Pointers to the trees; the used ones come first.
    pub roots: [u32; FILTER_TREES],
    /// The lowest order in each tree: a tree that can only say what comes later than what was found is not walked.
    pub first: [u32; FILTER_TREES],
}

/// Kinds of trees, see [`FilterHead`].
pub const FILTER_KINDS: u32 = 4;

/// [`FilterEntry::action`]: go on, the packet is allowed.
pub const FILTER_ALLOW: u8 = 0;
/// [`FilterEntry::action`]: drop.
pub const FILTER_DROP: u8 = 1;
/// [`FilterEntry::action`]: drop, and tell the sender.
pub const FILTER_REJECT: u8 = 2;
/// [`FilterEntry::action`]: count, and ask the next rule.
pub const FILTER_COUNT: u8 = 3;
/// [`FilterEntry::action`]: drop what is over the rate, else ask the next rule.
pub const FILTER_LIMIT: u8 = 4;

/// A rule: element `2 * number + slot` of the map `FILTER_RULES`. The number stays with the rule for life and is the index
/// of its counter, too.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterEntry {
    /// Interface index, 0: any.
    pub ifindex: u32,
    /// VLAN identifier (0: untagged).
    pub vlan: u16,
    /// All ones, or 0 for any VLAN.
    pub vlan_mask: u16,
    /// TCP flags under the mask.
    pub tcp_flags: u8,
    /// Which TCP flags count; 0: the rule does not ask for flags (and matches other protocols, too).
    pub tcp_mask: u8,
    /// `FILTER_ALLOW` and so on.
    pub action: u8,
    /// 1 while the number is in use.
    pub in_use: u8,
    /// What the action needs: kind of answer, index of the limit.
    pub argument: u32,
    /// 1: the rule names ports and no protocol, and matches only what has ports.
    pub ports: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

impl FilterEntry {
    /// Whether the rule is honoured for each packet that it speaks of, those of established flows, too: it asks for TCP flags and
    /// does something else than to allow.
    #[inline(always)]
    pub const fn speaks_of_flows(&self) -> bool {
        (self.tcp_mask != 0) & (self.action != FILTER_ALLOW)
    }
}

/// Buckets of limits that each source address has its own of.
pub const FILTER_SOURCE_BUCKETS: u32 = 65_536;
/// Rules with [`FILTER_LIMIT`] in a rule set.
pub const MAX_FILTER_LIMITS: u32 = 4_096;

/// [`FilterEntry::argument`] of [`FILTER_REJECT`]: TCP is reset, the rest told that the port is unreachable.
pub const REJECT_USUAL: u32 = 0;
/// [`FilterEntry::argument`]: TCP RST.
pub const REJECT_TCP_RESET: u32 = 1;
/// [`FilterEntry::argument`]: ICMP port unreachable.
pub const REJECT_PORT: u32 = 2;
/// [`FilterEntry::argument`]: ICMP administratively prohibited.
pub const REJECT_ADMIN: u32 = 3;

/// What a rule with [`FILTER_LIMIT`] lets through: element `slot * MAX_FILTER_LIMITS + argument` of the map
/// `FILTER_RATES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterRate {
    /// Packets or bytes a second.
    pub rate: u64,
    /// Packets or bytes that may come at once.
    pub burst: u64,
    /// Number of the rule: a bucket that was another rule's begins anew.
    pub number: u32,
    /// 1: bytes of frames, 0: packets.
    pub bytes: u8,
    /// 1: each source address has a bucket, 0: the rule has one.
    pub per_source: u8,
    /// Zero.
    pub pad: [u8; 2],
}

/// [`super::RuleSet::filter_flags`]: there are rules to ask.
pub const FILTER_ASK: u32 = 1;
/// There are rules that go on (count, limit).
pub const FILTER_ASK_SIDE: u32 = 2;
/// Some rule [speaks of flows](FilterEntry::speaks_of_flows): TCP packets of flows are asked for, too, and such a rule's answer
/// counts.
pub const FILTER_TCP_FLAGS: u32 = 4;
/// Such a rule can match segments with ACK and without SYN, FIN and RST: TCP flows are not cached.
pub const FILTER_TCP_PLAIN: u32 = 8;
/// Verdicts on packets of no flow may be cached: no forward in mode `dnat` and no source NAT rule, whose answers could come to
/// any address.
pub const FILTER_VERDICTS: u32 = 16;
/// There are forwards in mode `nat`: answers come to the ports of [`super::Config::nat_port_low`].
pub const FILTER_NAT: u32 = 32;
/// Some rule asks for TCP flags, whatever it does.
pub const FILTER_TCP_ANY: u32 = 64;
/// Some rule on TCP flags matches one segment with ACK and without SYN, FIN and RST, and another one not.
pub const FILTER_TCP_VARIES: u32 = 128;
/// Some rule asks for an interface or a VLAN.
pub const FILTER_PLACES: u32 = 256;

pod!(FilterCell => 64, FilterHead => 64, FilterEntry => 32, FilterRate => 24);
