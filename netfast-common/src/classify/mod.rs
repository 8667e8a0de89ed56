//! Matching a packet against the filter: the walk through the compiled trees.
//!
//! A tree is walked down its blocks (three levels of a binary tree each) to a leaf, whose records are compared in order.
//! Both loops have hard bounds, that the compiler keeps, too. See [`walk`].

pub mod verdict;
pub mod walk;

pub use walk::{NOTHING, Tables, Walk, decide, tree};

use crate::{
    abi::{FILTER_NEEDS, FILTER_TCP_FLAGS, FILTER_TCP_PLAIN, FilterEntry, FilterField},
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
/// Word of a [`Subject`]: [`NOT_TCP`] and [`NO_PORTS`].
const FACTS: usize = 15;
/// It is no TCP with its flags read. All bits of a mask of flags.
const NOT_TCP: u64 = 0xff;
/// It is neither TCP nor UDP with its ports read.
const NO_PORTS: u64 = 1 << NO_PORTS_SHIFT;
const NO_PORTS_SHIFT: u32 = 8;

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
            (true, TCP) => 0,
            (true, _) => NOT_TCP,
            (false, _) => NOT_TCP | NO_PORTS,
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

/// Whether the conditions hold that do not stand in the record. One comparison, for the verifier follows both sides of each.
#[inline(always)]
pub fn extra(entry: &FilterEntry, subject: &Subject) -> bool {
    let words = &subject.words;
    // All ones if the rule names an interface.
    let named = 0u64.wrapping_sub(0u64.wrapping_sub(entry.ifindex as u64) >> 63);
    let difference = (entry.ifindex as u64 ^ words[FilterField::Interface as usize]) & named
        | (entry.vlan as u64 ^ words[VLAN]) & entry.vlan_mask as u64
        | ((entry.tcp_flags as u64 ^ words[FLAGS]) | words[FACTS]) & entry.tcp_mask as u64
        | (entry.ports as u64) << NO_PORTS_SHIFT & words[FACTS];
    difference == 0
}
