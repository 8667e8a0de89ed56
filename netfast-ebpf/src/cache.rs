//! The flow cache: per CPU, two ways a set, in BPF arrays whose look-up is inlined. `hot.rs` reads it.

use core::mem::offset_of;

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use netfast_common::{
    abi::{
        CacheLine4, CacheLine6, Config, Flow, FlowKey, LineKind, ORIGINAL_DELTA, ORIGINAL_PORTS, line_age,
        line_kind, line_tail, tail_generation, tail_upper,
    },
    hash, rewrite,
    wire::{Packet, UDP},
};

use crate::{
    frame::{self, load},
    maps::{CACHE4, CACHE6},
    run::Run,
};

/// What a line does, apart from its key.
#[derive(Clone, Copy)]
pub struct Fill {
    /// Kind of the line.
    pub kind: LineKind,
    /// New destination address, or what stands in its place, as two words that lie in a line. An IPv4 line has the last four bytes.
    pub address: [u64; 2],
    /// The port of the tail, as on the wire.
    pub port: [u8; 2],
    /// Index of the next hop.
    pub next_hop: u16,
    /// Index of the target or of the echo reflector.
    pub target: u16,
    /// What the checksums of IPv4 packets change by.
    pub deltas: u32,
}

/// Two words of four bytes as one of eight, in the order in which they lie in memory.
#[inline(always)]
pub const fn pair(first: u32, second: u32) -> u64 {
    let (first, second) = (first as u64, second as u64);
    if cfg!(target_endian = "little") { first | second << 32 } else { first << 32 | second }
}

/// The second word of a [`pair`].
#[inline(always)]
const fn second_of(pair: u64) -> u32 {
    if cfg!(target_endian = "little") { (pair >> 32) as u32 } else { pair as u32 }
}

/// An address as two words that lie in memory.
#[inline(always)]
pub fn halves(address: &[u8; 16]) -> [u64; 2] {
    let at = address.as_ptr() as usize;
    // SAFETY: an address has 16 bytes.
    unsafe { [load(at), load(at + 8)] }
}

/// Where a tuple may be cached: in either of two sets of this CPU's part. With one place and a quarter of the lines in use,
/// one flow in thirty would find its set full; with two, hardly any.
#[derive(Clone, Copy)]
pub struct Place {
    base: u32,
    hash: u32,
    mask: u32,
}

impl Place {
    /// The place of an IPv4 tuple in the part of a CPU.
    #[inline(always)]
    pub fn of4(config: &Config, cpu: u32, addresses: u64, ports: u32, udp: bool) -> Self {
        let hash = hash::tuple4(addresses, ports, udp, config.seed);
        Self { base: cpu * config.cache4_stride, hash, mask: config.cache4_mask }
    }

    /// The place of an IPv6 tuple in the part of a CPU.
    #[inline(always)]
    pub fn of6(config: &Config, cpu: u32, words: [u64; 4], ports: u32, udp: bool) -> Self {
        let hash = hash::tuple6(words, ports, udp, config.seed);
        Self { base: cpu * config.cache6_stride, hash, mask: config.cache6_mask }
    }

    /// The tuple's hash, the same on all CPUs.
    #[inline(always)]
    pub const fn hash(self) -> u32 {
        self.hash
    }

    /// Index of the first set.
    #[inline(always)]
    pub const fn first(self) -> u32 {
        self.base + (self.hash & self.mask)
    }

    /// Index of the second set.
    #[inline(always)]
    pub const fn second(self) -> u32 {
        self.base + (hash::second(self.hash) & self.mask)
    }
}

/// The hash of a tuple, as [`Place`] has it.
#[inline(always)]
pub fn hash_of(run: &Run, version: u8, key: &FlowKey) -> u32 {
    let udp = key.protocol == UDP;
    if version == 4 {
        let [source, destination, ports] = words4(key);
        hash::tuple4(u64::from(source) | u64::from(destination) << 32, ports, udp, run.config.seed)
    } else {
        let (_, native) = native_ports(key);
        hash::tuple6(words6(&key.source, &key.destination), native, udp, run.config.seed)
    }
}

/// The CPU that this is.
#[inline(always)]
pub fn cpu() -> u32 {
    // SAFETY: a helper without preconditions.
    unsafe { bpf_get_smp_processor_id() }
}

/// The kind of a line that matched by address and ports, if it may act now. Of one that is none it is [`LineKind::Empty`].
#[inline(always)]
pub fn live(config: &Config, now: u32, tail: &u64, udp: bool) -> Option<u8> {
    let at = core::ptr::from_ref(tail) as usize;
    // SAFETY: inside the tail: its generation stands in bytes 2 and 3, kind, protocol and stamp in its upper half (`line_tail`).
    let (generation, upper): (u16, u32) = unsafe { (load(at + 2), load(at + 4)) };
    // SAFETY: inside the settings: the lower half of the generation, which is all that a line has of it.
    let live_generation: u16 = unsafe { load(&raw const config.generation as usize + frame::LOW) };
    if line_age(upper, now) >= config.line_lifetime || generation != live_generation {
        core::hint::cold_path();
        return None;
    }
    // With the bit of the other protocol it is above 7.
    let kind = line_kind(upper) ^ ((udp as u8) << 3);
    if kind > 7 {
        core::hint::cold_path();
        return None;
    }
    Some(kind)
}

/// What it costs to take the way of a line: 0 if it will never act again, 1 if it is a verdict's, which flows go before, else 2.
#[inline(always)]
fn cost(run: &Run, tail: u64) -> u32 {
    netfast_line_cost(tail, run.generation, run.now, run.config.line_lifetime)
}

/// See [`cost`]. A global function: the verifier looks at it once, by itself. In its callers it would follow three ways for each of four
/// lines; and 6.18 gives up on one of them by a bug of its own ("verifier bug: stack slot 24, total slots 24").
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_line_cost(tail: u64, generation: u32, now: u32, lifetime: u32) -> u32 {
    let kind = line_kind(tail_upper(tail)) & 7;
    let age = line_age(tail_upper(tail), now);
    if kind == LineKind::Empty as u8 || tail_generation(tail) != generation as u16 || age >= lifetime {
        0
    } else if kind == LineKind::Verdict as u8 {
        1
    } else {
        2
    }
}

/// The IPv4 addresses and the ports of a key, as words that lie in a packet.
#[inline(always)]
fn words4(key: &FlowKey) -> [u32; 3] {
    let at = core::ptr::from_ref(key) as usize;
    const SOURCE: usize = offset_of!(FlowKey, source) + 12;
    const DESTINATION: usize = offset_of!(FlowKey, destination) + 12;
    const PORTS: usize = offset_of!(FlowKey, source_port);
    // SAFETY: the offsets are those of the key's own fields; the ports stand one after the other.
    unsafe { [load(at + SOURCE), load(at + DESTINATION), load(at + PORTS)] }
}

#[inline(always)]
fn native_ports(key: &FlowKey) -> ([u8; 4], u32) {
    let (s, d) = (key.source_port, key.destination_port);
    let ports = [s[0], s[1], d[0], d[1]];
    (ports, u32::from_ne_bytes(ports))
}

/// Puts a line of `kind` ([`LineKind`]: original or reply) for `packet` of `flow` into the cache of this CPU. Calls of their
/// own: Linux 6.1 counts the stack of the whole chain of calls, and `netfast_known` has none to spare.
#[inline(always)]
pub fn fill_flow(run: &Run, packet: &Packet, flow: &Flow, kind: LineKind) {
    if packet.version == 4 {
        fill_flow4(run, packet, flow, kind as u32);
    } else {
        fill_flow6(run, packet, flow, kind as u32);
    }
}

#[inline(never)]
fn fill_flow4(run: &Run, packet: &Packet, flow: &Flow, kind: u32) {
    let (old, new) = (words4(&packet.key), words4(&flow.translated));
    let mut line = line_of(flow, kind, rewrite::deltas4(old, new, packet.key.protocol == UDP));
    if matches!(line.kind, LineKind::Original) {
        const { assert!(ORIGINAL_PORTS == 0) };
        line.address = [0, pair(0, new[2])];
    }
    fill(run, 4, &packet.key, &line);
}

#[inline(never)]
fn fill_flow6(run: &Run, packet: &Packet, flow: &Flow, kind: u32) {
    let mut line = line_of(flow, kind, 0);
    if matches!(line.kind, LineKind::Original) {
        // SAFETY: a key begins with two addresses of 16 bytes.
        let word = |key: &FlowKey, i: usize| unsafe { load(core::ptr::from_ref(key) as usize + 8 * i) };
        let (old, new) = (&packet.key, &flow.translated);
        let ports = (native_ports(old).1, native_ports(new).1);
        let delta = rewrite::delta6(|i| word(old, i), |i| word(new, i), ports, old.protocol == UDP);
        const { assert!(ORIGINAL_PORTS == 0 && ORIGINAL_DELTA == 4) };
        let [a, b] = delta.to_ne_bytes();
        line.address = [pair(ports.1, u32::from_ne_bytes([a, b, 0, 0])), 0];
    }
    fill(run, 6, &packet.key, &line);
}

#[inline(always)]
fn line_of(flow: &Flow, kind: u32, deltas: u32) -> Fill {
    let new = &flow.translated;
    let (kind, port) = if kind == LineKind::Reply as u32 {
        (LineKind::Reply, new.destination_port)
    } else {
        (LineKind::Original, new.source_port)
    };
    Fill {
        kind,
        address: halves(&new.destination),
        port,
        next_hop: flow.next_hop,
        target: flow.target,
        deltas,
    }
}

/// Puts a line for `key` into the cache of this CPU; one of a verdict only if there is a free way.
#[inline(always)]
pub fn fill(run: &Run, version: u8, key: &FlowKey, fill: &Fill) {
    let udp = key.protocol == UDP;
    let port = u16::from_ne_bytes(fill.port);
    let tail = line_tail(fill.kind, udp, run.generation, port, run.now);
    if version == 4 { fill4(run, key, fill, udp, tail) } else { fill6(run, key, fill, udp, tail) }
}

#[inline(always)]
fn fill4(run: &Run, key: &FlowKey, fill: &Fill, udp: bool, tail: u64) {
    let [source, destination, native] = words4(key);
    let addresses = u64::from(source) | (u64::from(destination) << 32);
    let place = Place::of4(run.config, cpu(), addresses, native, udp);
    let (Some(first), Some(second)) = (CACHE4.get_ptr_mut(place.first()), CACHE4.get_ptr_mut(place.second()))
    else {
        return;
    };
    // SAFETY: the elements belong to this CPU, and a program does not interrupt itself. They may be the same element:
    // raw pointers, one write.
    unsafe {
        let ways: [*mut CacheLine4; 4] = [
            &raw mut (*first).ways[0],
            &raw mut (*first).ways[1],
            &raw mut (*second).ways[0],
            &raw mut (*second).ways[1],
        ];
        // A line begins with two addresses and two ports.
        let same =
            |way: *mut CacheLine4| *way.cast::<u64>() == addresses && *way.cast::<u32>().add(2) == native;
        let grown = run.config.cache4_mask.wrapping_add(1) == run.config.cache4_stride;
        let way = choose(run, ways, grown, same, |way| (*way).tail);
        if matches!(fill.kind, LineKind::Verdict) && cost(run, (*way).tail) == 2 {
            return;
        }
        *way.cast::<u64>() = addresses;
        *way.cast::<u32>().add(2) = native;
        *way.cast::<u32>().add(3) = second_of(fill.address[1]);
        (*way).next_hop = fill.next_hop;
        (*way).target = fill.target;
        (*way).deltas = fill.deltas;
        (*way).tail = tail;
    }
}

#[inline(always)]
fn fill6(run: &Run, key: &FlowKey, fill: &Fill, udp: bool, tail: u64) {
    let (ports, native) = native_ports(key);
    let place = Place::of6(run.config, cpu(), words6(&key.source, &key.destination), native, udp);
    let (Some(first), Some(second)) = (CACHE6.get_ptr_mut(place.first()), CACHE6.get_ptr_mut(place.second()))
    else {
        return;
    };
    // SAFETY: as in `fill4`.
    unsafe {
        let ways: [*mut CacheLine6; 4] = [
            &raw mut (*first).ways[0],
            &raw mut (*first).ways[1],
            &raw mut (*second).ways[0],
            &raw mut (*second).ways[1],
        ];
        let same = |way: *mut CacheLine6| {
            (*way).ports == ports && (*way).source == key.source && (*way).destination == key.destination
        };
        let grown = run.config.cache6_mask.wrapping_add(1) == run.config.cache6_stride;
        let way = choose(run, ways, grown, same, |way| (*way).tail);
        if matches!(fill.kind, LineKind::Verdict) && cost(run, (*way).tail) == 2 {
            return;
        }
        (*way).source = key.source;
        (*way).destination = key.destination;
        (&raw mut (*way).address).cast::<[u64; 2]>().write(fill.address);
        (*way).ports = ports;
        (*way).next_hop = fill.next_hop;
        (*way).target = fill.target;
        (*way).tail = tail;
    }
}

/// The way to write: the one that has the tuple, else a free one, else one of a verdict, each of the first set before the
/// second; else, by turns of the clock, one of the first set, whose flow finds another place when it comes again.
///
/// A packet whose line stands in its second set pays for a mispredicted branch and one more line of the CPU's cache. With a quarter
/// of the ways in use that is one flow in thirty; taking the emptier of both sets would make it one in six, and leave no more
/// flows without a way but while many come at once.
///
/// A cache that is `grown` to its full size may be filled to any degree. Three quarters full, the emptier set leaves 3 % of all
/// packets without a line, the first one 5 %, and each costs as much as ten that have one.
#[inline(always)]
fn choose<T>(
    run: &Run,
    ways: [*mut T; 4],
    grown: bool,
    same: impl Fn(*mut T) -> bool,
    tail: impl Fn(*mut T) -> u64,
) -> *mut T {
    let [a, b, c, d] = ways;
    if same(a) {
        return a;
    }
    if same(b) {
        return b;
    }
    if same(c) {
        return c;
    }
    if same(d) {
        return d;
    }
    let costs = [cost(run, tail(a)), cost(run, tail(b)), cost(run, tail(c)), cost(run, tail(d))];
    if grown && costs[2] | costs[3] == 0 && costs[0] | costs[1] != 0 {
        return c;
    }
    let least = costs[0].min(costs[1]).min(costs[2]).min(costs[3]);
    if least == 2 {
        return if run.now & 1 == 0 { a } else { b };
    }
    if costs[0] == least {
        a
    } else if costs[1] == least {
        b
    } else if costs[2] == least {
        c
    } else {
        d
    }
}

/// Two IPv6 addresses as the native words that the hash takes.
#[inline(always)]
pub fn words6(source: &[u8; 16], destination: &[u8; 16]) -> [u64; 4] {
    let word = |a: &[u8; 16], i: usize| {
        u64::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3], a[i + 4], a[i + 5], a[i + 6], a[i + 7]])
    };
    [word(source, 0), word(source, 8), word(destination, 0), word(destination, 8)]
}
