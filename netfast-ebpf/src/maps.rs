//! All maps. Who writes, who reads and how each is sized stands in ARCHITECTURE.md; the sizes given here are those of
//! a program that nobody sized (tools, tests): the agent sets the ones that depend on the host or on its configuration.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, ProgramArray, Queue, RingBuf},
    macros::btf_map,
};
use netfast_common::{
    abi::{
        self, AllowEntry, CacheSet4, CacheSet6, Claim, ClaimKey, Config, Echo, Event, FilterCell,
        FilterEntry, FilterHead, FilterRate, Flow, FlowKey, Forward, FragmentFlow, FragmentKey, HalfOpen,
        HopKey, Interface, InterfaceAddress, MaglevCell, NextHop, QuicKey, RuleSet, Service, SnatKey,
        SnatMapping, SnatRule, Target, Traffic, VlanKey, VlanLink,
    },
    echo::{BUCKETS_PER_SET, Bucket},
};

const MMAP: usize = BPF_F_MMAPABLE as usize;

/// A table that is one value of a map: the kernel puts its address into the program, so that an element is found without a
/// look-up. `SIZE` is a power of two; an index is taken modulo it.
pub struct Table<T, const SIZE: usize>(*mut [T; SIZE]);

impl<T, const SIZE: usize> Table<T, SIZE> {
    /// An element. There is always one: it is an `Option` for the sake of whoever finds other tables by a look-up.
    #[inline(always)]
    pub fn get_ptr_mut(&self, index: u32) -> Option<*mut T> {
        const { assert!(SIZE.is_power_of_two()) };
        // SAFETY: inside the table.
        Some(unsafe { self.0.cast::<T>().add(index as usize & (SIZE - 1)) })
    }

    /// Likewise.
    #[inline(always)]
    pub fn get_ptr(&self, index: u32) -> Option<*const T> {
        self.get_ptr_mut(index).map(<*mut T>::cast_const)
    }

    /// Likewise.
    #[inline(always)]
    pub fn get(&self, index: u32) -> Option<&'static T> {
        // SAFETY: elements live as long as the program.
        self.get_ptr(index).map(|element| unsafe { &*element })
    }
}

/// Defines tables: a map of one value, and a symbol that the agent gives the value's address to when it loads the programs
/// (`datapath/values.rs`): `VALUE_OF_` and the map's name.
macro_rules! tables {
    ($($(#[$about:meta])* $name:ident = $value:ident: [$type:ty; $size:expr];)+) => {
        mod definitions {
            use super::*;
            $(
                #[btf_map]
                pub static $name: Array<[$type; $size], 1, MMAP> = Array::new();
            )+
        }
        unsafe extern "C" {
            $(static mut $value: [$type; $size];)+
        }
        $(
            $(#[$about])*
            pub const $name: Table<$type, { $size }> = Table(&raw mut $value);
        )+
    };
}

tables! {
    /// Live settings. Agent writes, program reads.
    CONFIG = VALUE_OF_CONFIG: [Config; 1];
    /// How much of each slot is in use. Agent writes, program reads; one element a slot.
    RULE_SETS = VALUE_OF_RULE_SETS: [RuleSet; 2];
    /// Where the filter's trees begin: `slot * FILTER_KINDS + kind`. Agent writes, program reads.
    FILTER_HEADS = VALUE_OF_FILTER_HEADS: [FilterHead; 2 * abi::FILTER_KINDS as usize];
    /// Attached interfaces, direct-mapped by ifindex. Agent writes, program reads.
    INTERFACES = VALUE_OF_INTERFACES: [Interface; abi::IFINDEX_SLOTS as usize];
    /// Targets by index. Agent writes, program reads.
    TARGETS = VALUE_OF_TARGETS: [Target; abi::MAX_TARGETS as usize];
    /// Next hops by index. Agent writes; the program writes those that it learns, once.
    NEXT_HOPS = VALUE_OF_NEXT_HOPS: [NextHop; abi::MAX_NEXT_HOPS as usize];
    /// Echo reflectors by index. Agent writes, program reads; two slots.
    ECHOES = VALUE_OF_ECHOES: [Echo; 2 * abi::MAX_ECHOES as usize];
    /// Token buckets of the echo reflectors' sources. Program writes and reads.
    ECHO_LIMIT = VALUE_OF_ECHO_LIMIT: [Buckets; abi::ECHO_BUCKETS as usize / BUCKETS_PER_SET];
}

/// An element of `ECHO_LIMIT`. A type of its own, since aya 0.14 takes an array of arrays for one of the inner array's length.
#[repr(transparent)]
pub struct Buckets(pub [Bucket; BUCKETS_PER_SET]);

/// Services, sorted. Agent writes, program reads; two slots.
#[btf_map]
pub static SERVICES: Array<Service, { 2 * abi::MAX_SERVICES as usize }, MMAP> = Array::new();

/// Forwards by index. Agent writes, program reads; two slots.
#[btf_map]
pub static FORWARDS: Array<Forward, { 2 * abi::MAX_FORWARDS as usize }, MMAP> = Array::new();

/// Maglev look-up tables. Agent writes, program reads; two slots.
#[btf_map]
pub static MAGLEV: Array<MaglevCell, { 2 * abi::MAX_MAGLEV_CELLS as usize }, MMAP> = Array::new();

/// Allow-lists of the echo reflectors. Agent writes, program reads; two slots.
#[btf_map]
pub static ECHO_ALLOW: Array<AllowEntry, { 2 * abi::MAX_ALLOW as usize }, MMAP> = Array::new();

/// Bitmap of the ports that echo reflectors listen on. Agent writes, program reads; two slots.
#[btf_map]
pub static ECHO_PORTS: Array<u64, { 2 * abi::ECHO_PORT_WORDS as usize }, MMAP> = Array::new();

/// The filter's trees. Agent writes, program reads; sized by the agent, which keeps pages of the live trees alone.
#[btf_map]
pub static FILTER_CELLS: Array<FilterCell, 65_536, MMAP> = Array::new();

/// Filter rules: `2 * number + slot`. Agent writes, program reads; sized by the agent.
#[btf_map]
pub static FILTER_RULES: Array<FilterEntry, 8192, MMAP> = Array::new();

/// Inside prefixes of source NAT rules in order. Agent writes, program reads; two slots.
#[btf_map]
pub static SNAT: Array<SnatRule, { 2 * abi::MAX_SNAT as usize }, MMAP> = Array::new();

/// Mappings of source NAT, both ends. Program writes, agent sweeps; sized by the agent. Memory is taken when it is needed.
#[btf_map]
pub static SNAT_MAPPINGS: HashMap<SnatKey, SnatMapping, 131_072, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Mappings made, by hash of the inside address. Program writes, agent reads.
#[btf_map]
pub static SNAT_MADE: Array<u32, { abi::SNAT_SOURCES as usize }, MMAP> = Array::new();

/// Mappings that have ended, likewise. Agent writes, program reads.
#[btf_map]
pub static SNAT_GONE: Array<u32, { abi::SNAT_SOURCES as usize }, MMAP> = Array::new();

/// Targets by the server IDs of QUIC connection IDs. Agent writes, program reads; both slots, told apart by the key.
#[btf_map]
pub static QUIC_IDS: HashMap<QuicKey, u32, { abi::MAX_QUIC_IDS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// From what a next hop is to its index. Agent and program write.
#[btf_map]
pub static HOP_INDEX: HashMap<HopKey, u32, { abi::MAX_NEXT_HOPS as usize }> = HashMap::new();

/// Free indexes for learned next hops. Agent fills, program takes.
#[btf_map]
pub static HOP_FREE: Queue<u32, { abi::MAX_NEXT_HOPS as usize }> = Queue::new();

/// The host's own addresses and the claimed ones, and which they are. Agent writes, program reads.
#[btf_map]
pub static LOCALS: HashMap<[u8; 16], u32, 4096> = HashMap::new();

/// Claimed addresses. Agent writes; the program notes when it told of one.
#[btf_map]
pub static CLAIMS: HashMap<ClaimKey, Claim, { abi::MAX_CLAIMS as usize }> = HashMap::new();

/// Addresses that answers come from, by interface as the routing table names it. Agent writes, program reads.
#[btf_map]
pub static INTERFACE_ADDRESSES: HashMap<u32, InterfaceAddress, 4096> = HashMap::new();

/// What `netfast_error` is asked for: see `account::Outcome::answer`. Program writes and reads.
#[btf_map]
pub static REQUEST: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Token bucket of the answers that this CPU makes. Program writes and reads.
#[btf_map]
pub static ERROR_LIMIT: PerCpuArray<Bucket, 1> = PerCpuArray::new();

/// From a tag on an interface to the VLAN interface. Agent writes, program reads.
#[btf_map]
pub static VLANS: HashMap<VlanKey, u32, 4096> = HashMap::new();

/// From a VLAN interface to interface and tag. Agent writes, program reads.
#[btf_map]
pub static VLAN_LINKS: HashMap<u32, VlanLink, 4096> = HashMap::new();

/// Interfaces that frames may be sent by. Agent writes, program redirects.
#[btf_map]
pub static DEVICES: DevMapHash<1024> = DevMapHash::new();

/// Confirmed flows, both directions. Program writes, agent sweeps; sized by the agent.
#[btf_map]
pub static FLOWS: HashMap<FlowKey, Flow, 524_288> = HashMap::new();

/// Flows that were seen one way only or whose handshake is not done. Program writes, agent sweeps; sized by the agent.
#[btf_map]
pub static HALF_OPEN: Array<HalfOpen, { 1024 * abi::HALF_OPEN_SLOTS as usize }, MMAP> = Array::new();

/// Fragmented datagrams on their way. Program writes and reads.
#[btf_map]
pub static FRAGMENTS: LruHashMap<FragmentKey, FragmentFlow, 16_384> = LruHashMap::new();

/// Flows to targets of the modes `dsr` and `ipip` whose client has sent more than once. Program writes, agent sweeps; sized by
/// the agent.
#[btf_map]
pub static DIRECT: LruHashMap<FlowKey, Flow, 131_072> = LruHashMap::new();

/// Such flows of which one packet was seen. Program writes, agent sweeps; sized by the agent.
#[btf_map]
pub static DIRECT_NEW: LruHashMap<FlowKey, Flow, 65_536> = LruHashMap::new();

/// What ICMP errors have told of the ways to targets of the mode `ipip`, by the target's index: `tunnel::noted`. Program
/// writes and reads.
#[btf_map]
pub static PATH_MTU: Array<u64, { abi::MAX_TARGETS as usize }, MMAP> = Array::new();

/// Flow cache, IPv4: a part per CPU. Program writes and reads; sized by the agent.
#[btf_map]
pub static CACHE4: Array<CacheSet4, 32_768, MMAP> = Array::new();

/// Flow cache, IPv6: a part per CPU. Program writes and reads; sized by the agent.
#[btf_map]
pub static CACHE6: Array<CacheSet6, 8_192, MMAP> = Array::new();

/// Rates of filter rules. Agent writes, program reads; two slots.
#[btf_map]
pub static FILTER_RATES: Array<FilterRate, { 2 * abi::MAX_FILTER_LIMITS as usize }, MMAP> = Array::new();

/// Token buckets of filter rules' rates. Program writes and reads.
#[btf_map]
pub static FILTER_BUCKETS: Array<Bucket, { abi::MAX_FILTER_LIMITS as usize }, MMAP> = Array::new();

/// Token buckets of filter rules' rates for each source. Program writes and reads.
#[btf_map]
pub static FILTER_SOURCES: Array<
    [Bucket; BUCKETS_PER_SET],
    { abi::FILTER_SOURCE_BUCKETS as usize / BUCKETS_PER_SET },
    MMAP,
> = Array::new();

/// Token buckets of the quota of new flows, by source. Program writes and reads.
#[btf_map]
pub static SOURCE_LIMIT: Array<
    [Bucket; BUCKETS_PER_SET],
    { abi::SOURCE_BUCKETS as usize / BUCKETS_PER_SET },
    MMAP,
> = Array::new();

/// Counters of packets by interface, target and reflector, a block for each CPU. Program writes, agent reads; sized by the agent.
#[btf_map]
pub static COUNTERS: Array<abi::CounterBlock, 1, MMAP> = Array::new();

/// Packets that the flow cache did not decide, by row of the interface (in `packets`). Program writes, agent reads.
#[btf_map]
pub static CACHE_MISSES: PerCpuArray<Traffic, { abi::MAX_INTERFACES as usize + 1 }> = PerCpuArray::new();

/// Packets by number of the filter rule that decided or counted. Program writes, agent reads; sized by the agent.
#[btf_map]
pub static FILTER_COUNTERS: PerCpuArray<Traffic, 4096> = PerCpuArray::new();

/// Flows made, by forward (in `packets`). Program writes, agent reads.
#[btf_map]
pub static FLOW_COUNTERS: PerCpuArray<Traffic, { abi::MAX_FORWARDS as usize }> = PerCpuArray::new();

/// What the program asks of the agent.
#[btf_map]
pub static EVENTS: RingBuf<Event, 262_144> = RingBuf::new();

/// Tail calls: `abi::TAIL_SLOW` and so on. Agent writes.
#[btf_map]
pub static PROGRAMS: ProgramArray<{ abi::TAIL_SLOTS as usize }> = ProgramArray::new();

/// Working memory of the slow program: what does not fit its 512 bytes of stack.
#[btf_map]
pub static SCRATCH: PerCpuArray<crate::scratch::Memory, 1> = PerCpuArray::new();

/// Two clocks read at once, by `netfast_clock`: jiffies and CLOCK_MONOTONIC in nanoseconds.
#[btf_map]
pub static CLOCK: Array<[u64; 2], 1> = Array::new();
