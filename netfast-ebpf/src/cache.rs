//! The flow cache: per CPU, two ways a set, in BPF arrays whose look-up is inlined. `hot.rs` reads it.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use netfast_common::{
    abi::{
        CacheLine4, CacheLine6, CacheSet4, CacheSet6, FlowKey, LineKind, line_tail, tail_kind, tail_stamp,
    },
    hash,
    wire::UDP,
};

use crate::{
    maps::{CACHE4, CACHE6},
    run::Run,
};

/// Bits of a tail that must be as expected: protocol and generation.
pub const TAIL_MATCH: u64 = 0x00ff_ff08;

/// What a line does, apart from its key.
#[derive(Clone, Copy)]
pub struct Fill {
    /// Kind of the line.
    pub kind: LineKind,
    /// New destination address.
    pub address: [u8; 16],
    /// The port of the tail, as on the wire.
    pub port: [u8; 2],
    /// Index of the next hop.
    pub next_hop: u16,
    /// Index of the target or of the echo reflector.
    pub target: u16,
}

/// The set of an IPv4 tuple on this CPU.
#[inline(always)]
pub fn set4(run: &Run, addresses: u64, ports: u32, udp: bool) -> Option<*mut CacheSet4> {
    let hash = hash::tuple4(addresses, ports, udp, run.config.seed);
    // SAFETY: a helper without preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    CACHE4.get_ptr_mut(cpu * run.config.cache4_stride + (hash & run.config.cache4_mask))
}

/// The set of an IPv6 tuple on this CPU.
#[inline(always)]
pub fn set6(run: &Run, words: [u64; 4], ports: u32, udp: bool) -> Option<*mut CacheSet6> {
    let hash = hash::tuple6(words, ports, udp, run.config.seed);
    // SAFETY: a helper without preconditions.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    CACHE6.get_ptr_mut(cpu * run.config.cache6_stride + (hash & run.config.cache6_mask))
}

/// Whether a line that matched by address and ports may act now.
#[inline(always)]
pub fn is_live(run: &Run, tail: u64, udp: bool) -> bool {
    let expected = line_tail(LineKind::Empty, udp, run.generation, 0, 0);
    (tail ^ expected) & TAIL_MATCH == 0
        && tail_kind(tail) & 7 != LineKind::Empty as u8
        && age(run, tail) < run.config.line_lifetime
}

#[inline(always)]
fn age(run: &Run, tail: u64) -> u32 {
    run.stamp.wrapping_sub(tail_stamp(tail)) & 0xff_ffff
}

/// Whether the first way is the one to give up: it is empty, of another generation, or the older one.
#[inline(always)]
fn replace_first(run: &Run, first: u64, second: u64) -> bool {
    let dead = |tail: u64| {
        tail_kind(tail) & 7 == LineKind::Empty as u8
            || netfast_common::abi::tail_generation(tail) != run.generation as u16
    };
    dead(first) || (!dead(second) && age(run, first) > age(run, second))
}

#[inline(always)]
fn tail4(address: &[u8; 16]) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

#[inline(always)]
fn native_ports(key: &FlowKey) -> ([u8; 4], u32) {
    let (s, d) = (key.source_port, key.destination_port);
    let ports = [s[0], s[1], d[0], d[1]];
    (ports, u32::from_ne_bytes(ports))
}

/// Puts a line for `key` into the cache of this CPU.
#[inline(always)]
pub fn fill(run: &Run, version: u8, key: &FlowKey, fill: &Fill) {
    let udp = key.protocol == UDP;
    let port = u16::from_ne_bytes(fill.port);
    let tail = line_tail(fill.kind, udp, run.generation, port, run.stamp);
    if version == 4 { fill4(run, key, fill, udp, tail) } else { fill6(run, key, fill, udp, tail) }
}

#[inline(always)]
fn fill4(run: &Run, key: &FlowKey, fill: &Fill, udp: bool, tail: u64) {
    let (ports, native) = native_ports(key);
    let (source, destination) = (tail4(&key.source), tail4(&key.destination));
    let addresses =
        u64::from(u32::from_ne_bytes(source)) | (u64::from(u32::from_ne_bytes(destination)) << 32);
    let Some(set) = set4(run, addresses, native, udp) else { return };
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set = unsafe { &mut *set };
    let same =
        |line: &CacheLine4| line.source == source && line.destination == destination && line.ports == ports;
    let line = CacheLine4 {
        source,
        destination,
        ports,
        address: tail4(&fill.address),
        next_hop: fill.next_hop,
        target: fill.target,
        pad: 0,
        tail,
    };
    if same(&set.ways[0]) || (!same(&set.ways[1]) && replace_first(run, set.ways[0].tail, set.ways[1].tail)) {
        set.ways[0] = line;
    } else {
        set.ways[1] = line;
    }
}

#[inline(always)]
fn fill6(run: &Run, key: &FlowKey, fill: &Fill, udp: bool, tail: u64) {
    let (ports, native) = native_ports(key);
    let Some(set) = set6(run, words6(&key.source, &key.destination), native, udp) else { return };
    // SAFETY: the element belongs to this CPU, and a program does not interrupt itself.
    let set = unsafe { &mut *set };
    let same = |line: &CacheLine6| {
        line.ports == ports && line.source == key.source && line.destination == key.destination
    };
    let first =
        same(&set.ways[0]) || (!same(&set.ways[1]) && replace_first(run, set.ways[0].tail, set.ways[1].tail));
    let line = if first { &mut set.ways[0] } else { &mut set.ways[1] };
    line.source = key.source;
    line.destination = key.destination;
    line.address = fill.address;
    line.ports = ports;
    line.next_hop = fill.next_hop;
    line.target = fill.target;
    line.tail = tail;
}

/// Two IPv6 addresses as the native words that the hash takes.
#[inline(always)]
pub fn words6(source: &[u8; 16], destination: &[u8; 16]) -> [u64; 4] {
    let word = |a: &[u8; 16], i: usize| {
        u64::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3], a[i + 4], a[i + 5], a[i + 6], a[i + 7]])
    };
    [word(source, 0), word(source, 8), word(destination, 0), word(destination, 8)]
}
