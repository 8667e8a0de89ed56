//! Every type and constant that the eBPF program and the agent share through maps.
//!
//! Rules of this folder: `repr(C)`, every pad byte named, no `usize`, no `bool`, sizes asserted beside the type. IP
//! addresses stand as 16 bytes in network order, IPv4 ones mapped (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2); ports and
//! protocol fields that come from the wire are network byte order in `[u8; 2]`. Plain integers are in host order.
//! A change here changes [`ABI_VERSION`] (checked by `cargo xtask lint`): the agent pins its maps under a directory
//! that carries the version, and so never reads a map of another layout.

pub mod bench;
mod claim;
mod config;
mod counters;
mod filter;
mod flow;
mod fragment;
mod hop;
mod quic;
mod rules;
mod snat;

pub use claim::{CLAIM_HELD, CLAIM_PROBING, Claim, ClaimKey, LOCAL_CLAIMED, LOCAL_OWN};
pub use config::{Config, Policy, PolicyClass, TcpTimeouts, Timeouts};
pub use counters::{
    COUNTERS, CounterBlock, CounterPart, ECHO_COUNTERS, Event, EventKind, INTERFACE_COUNTERS,
    TARGET_COUNTERS, Traffic,
};
pub use filter::{
    FILTER_ACTION_SHIFT, FILTER_ALLOW, FILTER_ASK, FILTER_ASK_SIDE, FILTER_BLOCKS, FILTER_COUNT, FILTER_DROP,
    FILTER_EXTRA, FILTER_KINDS, FILTER_LAST, FILTER_LEAF, FILTER_LIMIT, FILTER_NAT, FILTER_NEEDS,
    FILTER_PAGE, FILTER_PLACES, FILTER_PROTOCOL, FILTER_PROTOCOL_SHIFT, FILTER_RECORDS, FILTER_REJECT,
    FILTER_RULE_BITS, FILTER_SOURCE_BUCKETS, FILTER_TCP_ANY, FILTER_TCP_FLAGS, FILTER_TCP_PLAIN,
    FILTER_TCP_VARIES, FILTER_TREES, FILTER_VERDICTS, FilterCell, FilterEntry, FilterField, FilterHead,
    FilterRate, MAX_FILTER_LIMITS, MAX_FILTER_NUMBERS, REJECT_ADMIN, REJECT_PORT, REJECT_TCP_RESET,
    REJECT_USUAL,
};
pub use flow::{
    CacheLine4, CacheLine6, CacheSet4, CacheSet6, Flow, FlowKey, HALF_OPEN_SLOTS, HalfOpen, LINE_TICK,
    LineKind, ORIGINAL_DELTA, ORIGINAL_PORTS, line_age, line_end, line_kind, line_tail, tail_generation,
    tail_port, tail_upper,
};
pub use fragment::{FRAGMENT_DIRECT, FRAGMENT_SECONDS, FragmentFlow, FragmentKey};
pub use hop::{HopKey, HopKeyKind, Interface, InterfaceAddress, NextHop, VlanKey, VlanLink};
pub use quic::QuicKey;
pub use rules::{
    AllowEntry, Echo, FORWARD_BY_SOURCE, FORWARD_QUIC, FORWARD_REJECTS, Forward, MAGLEV_PER_CELL, MaglevCell,
    Mode, RuleSet, Service, ServiceKind, TARGET_ENDS, TARGET_LEAVES, Target,
};
pub use snat::{
    INSIDE, OUTSIDE, SNAT_DEPENDENT, SNAT_INDEPENDENT, SNAT_POOL, SnatKey, SnatMapping, SnatRule,
};

/// Version of the layout of everything in this folder; also part of the pin directory's name.
pub const ABI_VERSION: u32 = 1;

/// Interfaces that can be attached at once. The interface counters have a row for each and one for unknown ones.
pub const MAX_INTERFACES: u32 = 64;
/// Slots of the direct-mapped table from ifindex to [`Interface`] (index: `ifindex & (IFINDEX_SLOTS - 1)`).
pub const IFINDEX_SLOTS: u32 = 65_536;
/// Forwards in one rule set.
pub const MAX_FORWARDS: u32 = 4_096;
/// Targets over all forwards; a target's index is 16 bits wide in a cache line.
pub const MAX_TARGETS: u32 = 65_536;
/// Echo reflectors in one rule set.
pub const MAX_ECHOES: u32 = 1_024;
/// Allow-list prefixes over all echo reflectors of a rule set.
pub const MAX_ALLOW: u32 = 8_192;
/// Services (address, protocol, port range) in one rule set.
pub const MAX_SERVICES: u32 = 8_192;
/// Filter rules in one rule set; more are refused with the limit in words.
pub const MAX_FILTER_RULES: u32 = 200_000;
/// Cells of [`MAGLEV_PER_CELL`] look-up entries over all forwards of a rule set.
pub const MAX_MAGLEV_CELLS: u32 = 32_768;
/// Next hops; a next hop's index is 16 bits wide in a cache line. Index 0 is never used (it means "none").
pub const MAX_NEXT_HOPS: u32 = 65_536;
/// Next hops from this index on are given out by the program through the queue `HOP_FREE`; below it by the agent.
pub const FIRST_LEARNED_HOP: u32 = 32_768;
/// 64-bit words of the bitmap of echo ports in one rule set.
pub const ECHO_PORT_WORDS: u32 = 1_024;
/// Element of the map `PROGRAMS`: the program `netfast_slow`.
pub const TAIL_SLOW: u32 = 0;
/// Element of the map `PROGRAMS`: the program `netfast_known`.
pub const TAIL_KNOWN: u32 = 1;
/// Element of the map `PROGRAMS`: the program `netfast_filter`.
pub const TAIL_FILTER: u32 = 2;
/// Element of the map `PROGRAMS`: the program `netfast_new`.
pub const TAIL_NEW: u32 = 3;
/// Element of the map `PROGRAMS`: the program `netfast_icmp`.
pub const TAIL_ICMP: u32 = 4;
/// Element of the map `PROGRAMS`: the program `netfast_error`.
pub const TAIL_ERROR: u32 = 5;
/// Element of the map `PROGRAMS`: the program `netfast_snat`.
pub const TAIL_SNAT: u32 = 6;
/// Element of the map `PROGRAMS`: the program `netfast_family`.
pub const TAIL_FAMILY: u32 = 7;
/// Element of the map `PROGRAMS`: the program `netfast_fragment`.
pub const TAIL_FRAGMENT: u32 = 8;
/// Element of the map `PROGRAMS`: the program `netfast_direct`.
pub const TAIL_DIRECT: u32 = 9;
/// Element of the map `PROGRAMS`: the program `netfast_choose`.
pub const TAIL_CHOOSE: u32 = 12;
/// Element of the map `PROGRAMS`: the program `netfast_claim`.
pub const TAIL_CLAIM: u32 = 10;
/// Element of the map `PROGRAMS`: the program `netfast_stamp`.
pub const TAIL_STAMP: u32 = 11;
/// Element of the map `PROGRAMS`: the program `netfast_verdict`.
pub const TAIL_VERDICT: u32 = 13;
/// Elements of the map `PROGRAMS`.
pub const TAIL_SLOTS: u32 = 16;
/// The programs that tail calls lead to, with their elements of `PROGRAMS`.
pub const TAIL_CALLS: &[(u32, &str)] = &[
    (TAIL_SLOW, "netfast_slow"),
    (TAIL_KNOWN, "netfast_known"),
    (TAIL_FILTER, "netfast_filter"),
    (TAIL_NEW, "netfast_new"),
    (TAIL_ICMP, "netfast_icmp"),
    (TAIL_ERROR, "netfast_error"),
    (TAIL_SNAT, "netfast_snat"),
    (TAIL_FAMILY, "netfast_family"),
    (TAIL_FRAGMENT, "netfast_fragment"),
    (TAIL_DIRECT, "netfast_direct"),
    (TAIL_CLAIM, "netfast_claim"),
    (TAIL_STAMP, "netfast_stamp"),
    (TAIL_CHOOSE, "netfast_choose"),
    (TAIL_VERDICT, "netfast_verdict"),
];
/// Server IDs in QUIC connection IDs, over all forwards, in both slots together.
pub const MAX_QUIC_IDS: u32 = 131_072;
/// Claimed addresses, counted once for each link.
pub const MAX_CLAIMS: u32 = 4_096;
/// Inside prefixes over all source NAT rules.
pub const MAX_SNAT: u32 = 256;
/// Counters of mappings by inside address; addresses that share one (by hash) share a limit.
pub const SNAT_SOURCES: u32 = 32_768;
/// Buckets of the echo rate limiter.
pub const ECHO_BUCKETS: u32 = 16_384;
/// Buckets of the quota of new flows per source (16 bytes each).
pub const SOURCE_BUCKETS: u32 = 65_536;

/// Marks a `repr(C)` type without implicit padding, valid for any bit pattern, as aya's `Pod`.
macro_rules! pod {
    ($($t:ty => $size:expr),+ $(,)?) => {$(
        const _: () = assert!(core::mem::size_of::<$t>() == $size, concat!("size of ", stringify!($t)));
        // SAFETY: repr(C), every pad byte is a named field, and any bit pattern is a value of the type.
        #[cfg(feature = "user")]
        unsafe impl aya::Pod for $t {}
    )+};
}
pub(crate) use pod;
