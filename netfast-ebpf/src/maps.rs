//! All maps. Who writes, who reads and how each is sized stands in ARCHITECTURE.md; the sizes given here are those of
//! a program that nobody sized (tools, tests): the agent sets the ones that depend on the host or on its configuration.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{Array, DevMapHash, HashMap, LruHashMap, PerCpuArray, ProgramArray, Queue, RingBuf},
    macros::btf_map,
};
use netfast_common::{
    Reason, Verdict,
    abi::{
        self, AllowEntry, CacheSet4, CacheSet6, Claim, ClaimKey, Config, Echo, Event, FilterCell,
        FilterEntry, FilterHead, FilterRate, Flow, FlowKey, Forward, FragmentFlow, FragmentKey, HopKey,
        Interface, InterfaceAddress, MaglevCell, NextHop, QuicKey, RuleSet, Service, SnatKey, SnatMapping,
        SnatRule, Target, Traffic, VlanKey, VlanLink,
    },
    echo::{BUCKETS_PER_SET, Bucket},
};

const MMAP: usize = BPF_F_MMAPABLE as usize;
// One row more than interfaces: for those that are not known.
const INTERFACE_COUNTER_ROWS: usize = ((abi::MAX_INTERFACES + 1) * Reason::SLOTS * Verdict::COUNT) as usize;

/// Live settings. Agent writes, program reads.
#[btf_map]
pub static CONFIG: Array<Config, 1, MMAP> = Array::new();

/// How much of each slot is in use. Agent writes, program reads; one element a slot.
#[btf_map]
pub static RULE_SETS: Array<RuleSet, 2, MMAP> = Array::new();

/// Services, sorted. Agent writes, program reads; two slots.
#[btf_map]
pub static SERVICES: Array<Service, { 2 * abi::MAX_SERVICES as usize }, MMAP> = Array::new();

/// Forwards by index. Agent writes, program reads; two slots.
#[btf_map]
pub static FORWARDS: Array<Forward, { 2 * abi::MAX_FORWARDS as usize }, MMAP> = Array::new();

/// Maglev look-up tables. Agent writes, program reads; two slots.
#[btf_map]
pub static MAGLEV: Array<MaglevCell, { 2 * abi::MAX_MAGLEV_CELLS as usize }, MMAP> = Array::new();

/// Echo reflectors by index. Agent writes, program reads; two slots.
#[btf_map]
pub static ECHOES: Array<Echo, { 2 * abi::MAX_ECHOES as usize }, MMAP> = Array::new();

/// Allow-lists of the echo reflectors. Agent writes, program reads; two slots.
#[btf_map]
pub static ECHO_ALLOW: Array<AllowEntry, { 2 * abi::MAX_ALLOW as usize }, MMAP> = Array::new();

/// Bitmap of the ports that echo reflectors listen on. Agent writes, program reads; two slots.
#[btf_map]
pub static ECHO_PORTS: Array<u64, { 2 * abi::ECHO_PORT_WORDS as usize }, MMAP> = Array::new();

/// The filter's trees. Agent writes, program reads; sized by the agent, which keeps pages of the live trees alone.
#[btf_map]
pub static FILTER_CELLS: Array<FilterCell, 65_536, MMAP> = Array::new();

/// Where the trees begin: `slot * FILTER_KINDS + kind`. Agent writes, program reads.
#[btf_map]
pub static FILTER_HEADS: Array<FilterHead, { 2 * abi::FILTER_KINDS as usize }, MMAP> = Array::new();

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

/// Targets by index. Agent writes, program reads.
#[btf_map]
pub static TARGETS: Array<Target, { abi::MAX_TARGETS as usize }, MMAP> = Array::new();

/// Next hops by index. Agent writes; the program writes those that it learns, once.
#[btf_map]
pub static NEXT_HOPS: Array<NextHop, { abi::MAX_NEXT_HOPS as usize }, MMAP> = Array::new();

/// From what a next hop is to its index. Agent and program write.
#[btf_map]
pub static HOP_INDEX: HashMap<HopKey, u32, { abi::MAX_NEXT_HOPS as usize }> = HashMap::new();

/// Free indexes for learned next hops. Agent fills, program takes.
#[btf_map]
pub static HOP_FREE: Queue<u32, { abi::MAX_NEXT_HOPS as usize }> = Queue::new();

/// Attached interfaces, direct-mapped by ifindex. Agent writes, program reads.
#[btf_map]
pub static INTERFACES: Array<Interface, { abi::IFINDEX_SLOTS as usize }, MMAP> = Array::new();

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
pub static HALF_OPEN: LruHashMap<FlowKey, Flow, 131_072> = LruHashMap::new();

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

/// Token buckets of the echo reflectors' sources. Program writes and reads.
#[btf_map]
pub static ECHO_LIMIT: Array<
    [Bucket; BUCKETS_PER_SET],
    { abi::ECHO_BUCKETS as usize / BUCKETS_PER_SET },
    MMAP,
> = Array::new();

/// Token buckets of the quota of new flows, by source. Program writes and reads.
#[btf_map]
pub static SOURCE_LIMIT: Array<
    [Bucket; BUCKETS_PER_SET],
    { abi::SOURCE_BUCKETS as usize / BUCKETS_PER_SET },
    MMAP,
> = Array::new();

/// Packets by interface, reason and verdict. Program writes, agent reads.
#[btf_map]
pub static INTERFACE_COUNTERS: PerCpuArray<Traffic, INTERFACE_COUNTER_ROWS> = PerCpuArray::new();

/// Packets that the flow cache did not decide, by row of the interface (in `packets`). Program writes, agent reads.
#[btf_map]
pub static CACHE_MISSES: PerCpuArray<Traffic, { abi::MAX_INTERFACES as usize + 1 }> = PerCpuArray::new();

/// Packets by target and direction. Program writes, agent reads.
#[btf_map]
pub static TARGET_COUNTERS: PerCpuArray<Traffic, { 2 * abi::MAX_TARGETS as usize }> = PerCpuArray::new();

/// Answers by echo reflector. Program writes, agent reads.
#[btf_map]
pub static ECHO_COUNTERS: PerCpuArray<Traffic, { abi::MAX_ECHOES as usize }> = PerCpuArray::new();

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
