//! Source NAT (RFC 4787, 5382, 5508): which rule, which external address and port, and how long.
//!
//! A mapping belongs to an inside endpoint (protocol, address, port) and is used towards all destinations
//! (endpoint-independent mapping, RFC 4787 REQ-1). It has an entry for each end in one table, the external end's being the
//! authority:
//!
//! * It is made by an insert that fails if somebody has the external port. So no port is ever shared (REQ-3).
//! * The external ends that a service listens at have an entry of the agent's own ([`RESERVED`]), so that they are taken.
//! * From the moment at which it expires it is dead, and nothing revives it: an inside endpoint whose mapping is dead gets
//!   another. Only the agent takes a dead one away, after a grace period that is longer than any program runs and any cached
//!   line lives. So its port cannot be another endpoint's while anything acts by it.
//! * Each packet that reaches the flow tables raises the expiry of its flow's mapping to that of the flow. A flow whose
//!   mapping is dead or another endpoint's has ended.

use crate::{
    abi::{FlowKey, INSIDE, OUTSIDE, SnatKey, SnatMapping, SnatRule, Timeouts},
    addr,
    flow::{self, State},
    hash,
    wire::{TCP, UDP},
};

/// What of a packet a rule is compared with.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Inside address.
    pub address: [u64; 2],
    /// IP version.
    pub version: u8,
    /// Interface that the packet came in by, as the routing table names it.
    pub in_ifindex: u32,
    /// Interface that the packet goes out by, likewise.
    pub out_ifindex: u32,
    /// All ones, or 0: whatever the rule says of the way in.
    pub in_mask: u32,
    /// All ones, or 0: whatever the rule says of the way out.
    pub out_mask: u32,
}

impl Subject {
    /// An inside address, by whatever interfaces.
    #[inline(always)]
    pub const fn new(address: &[u8; 16], version: u8) -> Self {
        let address = native(address);
        Self { address, version, in_ifindex: 0, out_ifindex: 0, in_mask: 0, out_mask: 0 }
    }

    /// It came in by `ifindex`.
    #[inline(always)]
    #[must_use]
    pub const fn from(self, ifindex: u32) -> Self {
        Self { in_ifindex: ifindex, in_mask: u32::MAX, ..self }
    }

    /// It goes out by `ifindex`.
    #[inline(always)]
    #[must_use]
    pub const fn to(self, ifindex: u32) -> Self {
        Self { out_ifindex: ifindex, out_mask: u32::MAX, ..self }
    }
}

/// An address as native words: for equality under a mask any order does.
#[inline(always)]
const fn native(a: &[u8; 16]) -> [u64; 2] {
    [
        u64::from_ne_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]),
        u64::from_ne_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]),
    ]
}

/// Whether the rule speaks of the packet: prefix and both interfaces. Without branches, as the search for a
/// service: the kernel's verifier follows both sides of each branch.
#[inline(always)]
pub fn matches(rule: &SnatRule, subject: &Subject) -> bool {
    let (prefix, mask) = (native(&rule.prefix), native(&rule.mask));
    let difference = ((subject.address[0] ^ prefix[0]) & mask[0])
        | ((subject.address[1] ^ prefix[1]) & mask[1])
        | (subject.version ^ rule.version) as u64
        | ((subject.in_ifindex ^ rule.in_ifindex) & rule.in_mask & subject.in_mask) as u64
        | ((subject.out_ifindex ^ rule.out_ifindex) & rule.out_mask & subject.out_mask) as u64;
    difference == 0
}

/// Whether an address is one that packets are routed to from a LAN: no multicast, broadcast, link-local or unspecified one.
#[inline(always)]
pub const fn is_routable(address: &[u8; 16], version: u8) -> bool {
    let a = address;
    if version == 4 {
        !(a[12] == 0 || a[12] == 127 || a[12] >= 224 || (a[12] == 169 && a[13] == 254))
    } else {
        let (high, low) = addr::words(a);
        !(a[0] == 0xff || (a[0] == 0xfe && a[1] & 0xc0 == 0x80) || (high == 0 && low <= 1))
    }
}

/// Which of `count` pool addresses an inside address uses: always the same one, for all protocols (paired pooling, RFC 4787
/// REQ-2).
#[inline(always)]
pub fn pool_index(inside: &[u8; 16], count: u16) -> u16 {
    // A seed that never changes: the choice outlives restarts and is the same on every node.
    let hash = source_hash(inside, hash::TARGET_SEED);
    if count == 0 { 0 } else { (hash % count as u32) as u16 }
}

/// Hash of an inside address.
#[inline(always)]
pub const fn source_hash(inside: &[u8; 16], seed: u32) -> u32 {
    let (high, low) = addr::words(inside);
    hash::finish(hash::mix(hash::mix(seed as u64, high), low))
}

/// How many ports are tried before `ports_exhausted` is the answer.
pub const PORT_TRIES: u32 = 48;

/// The `attempt`-th external port to try: the inside port itself if it is in the range (RFC 4787 4.2.1 allows it, and it
/// keeps ports as unpredictable as the inside host has made them), then others.
#[inline(always)]
pub const fn candidate(inside_port: u16, hash: u32, attempt: u32, range: [u16; 2]) -> u16 {
    if attempt == 0 && inside_port >= range[0] && inside_port <= range[1] {
        return inside_port;
    }
    flow::port_candidate(hash, attempt, range[0] as u32, range[1] as u32)
}

/// How long a mapping lives from a packet on whose flow is now in `state`, in jiffies: as long as that flow. A UDP mapping
/// lives as long whether or not anybody has answered (RFC 4787 REQ-5: at least 2 min).
#[inline(always)]
pub const fn lifetime(protocol: u8, state: State, timeouts: &Timeouts) -> u32 {
    let flow = state.timeout(timeouts);
    let least = if protocol == TCP {
        timeouts.tcp.opening
    } else if protocol == UDP {
        timeouts.udp
    } else {
        timeouts.icmp
    };
    if flow > least { flow } else { least }
}

/// [`SnatMapping::uid`] of an entry that only keeps an external end from being taken: no rule's.
pub const RESERVED: u32 = u32::MAX;

/// Whether a mapping is dead.
#[inline(always)]
pub const fn is_dead(mapping: &SnatMapping, now: u32) -> bool {
    (now.wrapping_sub(mapping.expires) as i32) > 0
}

/// [`SnatMapping::holder`]: several flows hold the mapping.
const SEVERAL: u32 = 1;

/// A flow's name in [`SnatMapping::holder`]: a hash of its outside peer, neither 0 nor 1.
#[inline(always)]
pub const fn holder(address: &[u8; 16], port: [u8; 2]) -> u32 {
    let (high, low) = addr::words(address);
    let port = u16::from_be_bytes(port) as u64;
    hash::finish(hash::mix(hash::mix(hash::mix(0x736e_6174, high), low), port)) | 2
}

/// `mapping` after a packet of `flow` (its [`holder`]), which is now in `state`. Expiry is only raised, with one exception:
/// when a connection ends that alone has kept the mapping beyond what a handshake may take, the port is not kept for the
/// hours that an established one may be idle.
///
/// Two CPUs may do this at once for two flows of a mapping, and one of the updates be lost. What is lost is at most the
/// difference between two lifetimes that are both at least [`least`](lifetime), and the next packet of the other flow makes up
/// for it.
#[inline(always)]
pub fn touched(
    mapping: &SnatMapping,
    protocol: u8,
    flow: u32,
    state: State,
    now: u32,
    timeouts: &Timeouts,
) -> (u32, u32) {
    let wanted = now.wrapping_add(lifetime(protocol, state, timeouts));
    let SnatMapping { mut expires, mut holder, .. } = *mapping;
    if protocol != TCP {
        return (later(expires, wanted), holder);
    }
    let closed = matches!(state, State::BothClosed | State::Reset);
    let short = now.wrapping_add(lifetime(TCP, State::SynSent, timeouts));
    if closed && holder == flow {
        expires = later(short, wanted);
        holder = 0;
    } else {
        if !closed && matches!(state, State::Established) && holder != flow {
            // Nobody holds it, or he who did let it run down to what anybody gets.
            let free = holder == 0 || later(expires, short) == short;
            holder = if free { flow } else { SEVERAL };
        }
        expires = later(expires, wanted);
    }
    (expires, holder)
}

/// The later of two moments less than half the counter's range apart.
#[inline(always)]
const fn later(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) > 0 { a } else { b }
}

/// Key of an inside endpoint.
#[inline(always)]
pub const fn inside(protocol: u8, address: [u8; 16], port: [u8; 2]) -> SnatKey {
    SnatKey { address, port, protocol, side: INSIDE, pad: [0; 4] }
}

/// Key of an external endpoint.
#[inline(always)]
pub const fn outside(protocol: u8, address: [u8; 16], port: [u8; 2]) -> SnatKey {
    SnatKey { address, port, protocol, side: OUTSIDE, pad: [0; 4] }
}

/// Which way a packet of a source NAT flow goes, by what its translation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// From inside to outside: its source changes.
    Outward,
    /// From outside to inside: its destination changes.
    Inward,
    /// From inside to inside by an external address: both change.
    Hairpin,
}

/// See [`Way`].
#[inline(always)]
pub fn way(received: &FlowKey, translated: &FlowKey) -> Way {
    if received.destination == translated.destination
        && received.destination_port == translated.destination_port
    {
        Way::Outward
    } else if received.source == translated.source && received.source_port == translated.source_port {
        Way::Inward
    } else {
        Way::Hairpin
    }
}

/// Whether the mapping is the one of the inside endpoint.
#[inline(always)]
pub fn is_of(mapping: &SnatMapping, address: &[u8; 16], port: [u8; 2]) -> bool {
    mapping.peer == *address && mapping.peer_port == port
}

/// What came of an insert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insert {
    /// It is there now.
    Done,
    /// Somebody was faster.
    Taken,
    /// Nothing fits any more.
    Full,
}

/// The table of mappings, and what else a mapping depends on. In the kernel: maps.
pub trait Table {
    /// A copy of an entry, into `value`; false if there is none.
    fn read(&self, key: &SnatKey, value: &mut SnatMapping) -> bool;
    /// Inserts an entry that is not there.
    fn insert_new(&mut self, key: &SnatKey, value: &SnatMapping) -> Insert;
    /// Inserts an entry or puts it in the place of the one that is there.
    fn insert(&mut self, key: &SnatKey, value: &SnatMapping) -> bool;
    /// Takes an entry out.
    fn remove(&mut self, key: &SnatKey);
    /// Counts a mapping for an inside address that has fewer than `limit`.
    fn admit(&mut self, inside: &[u8; 16], limit: u32) -> bool;
    /// Takes back an [`admit`](Self::admit).
    fn dismiss(&mut self, inside: &[u8; 16]);
}

/// A mapping in the making: in the kernel in memory that is no stack.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Work {
    /// The inside end.
    pub inside_key: SnatKey,
    /// The external end.
    pub outside_key: SnatKey,
    /// The inside end's entry.
    pub inside: SnatMapping,
    /// The external end's entry.
    pub outside: SnatMapping,
    /// What a new one's is to be.
    pub new: SnatMapping,
}

impl Work {
    /// Sets the external end's key. Field by field: a key that is made on the stack and copied would take its room there.
    #[inline(always)]
    pub fn set_outside(&mut self, protocol: u8, address: &[u8; 16], port: [u8; 2]) {
        self.outside_key.address = *address;
        self.outside_key.port = port;
        self.outside_key.protocol = protocol;
        self.outside_key.side = OUTSIDE;
        self.outside_key.pad = [0; 4];
    }
}

/// Why there is no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No port of the external address is free.
    Exhausted,
    /// The inside address has as many mappings as it may have.
    Quota,
    /// The table is full.
    Full,
}

/// Finds the mapping of the inside endpoint `work.inside_key` or makes one. `work.outside` holds what a new one is to be
/// (rule, pool address, times), `external` its address, `ports` its range of ports. Afterwards `work.outside_key` is the external end.
#[inline(always)]
pub fn find_or_make<T: Table>(
    table: &mut T,
    work: &mut Work,
    rule: &SnatRule,
    ports: [u16; 2],
    external: &[u8; 16],
    seed: u32,
    now: u32,
) -> Result<(), Refusal> {
    work.new = work.outside;
    let had = table.read(&work.inside_key, &mut work.inside);
    if had && adopt(table, work, now) {
        return Ok(());
    }
    work.outside = work.new;
    if !table.admit(&work.inside_key.address, rule.per_source) {
        return Err(Refusal::Quota);
    }
    work.outside.peer = work.inside_key.address;
    work.outside.peer_port = work.inside_key.port;
    work.set_outside(work.inside_key.protocol, external, [0; 2]);
    work.inside = work.outside;
    work.inside.peer = *external;
    let hash = source_hash(&work.inside_key.address, seed ^ now);
    let port = u16::from_be_bytes(work.inside_key.port);
    let mut taken = Insert::Taken;
    let mut attempt = 0;
    while attempt < PORT_TRIES && matches!(taken, Insert::Taken) {
        work.outside_key.port = candidate(port, hash, attempt, ports).to_be_bytes();
        attempt += 1;
        taken = table.insert_new(&work.outside_key, &work.outside);
    }
    if !matches!(taken, Insert::Done) {
        table.dismiss(&work.inside_key.address);
        return Err(if matches!(taken, Insert::Full) { Refusal::Full } else { Refusal::Exhausted });
    }
    work.inside.peer_port = work.outside_key.port;
    // A dead entry of the inside end is overwritten: its external end stays until the agent takes it away. Where there was
    // none, another CPU may be making the same mapping: then that one is it.
    let done = if had {
        table.insert(&work.inside_key, &work.inside)
    } else {
        table.insert_new(&work.inside_key, &work.inside) == Insert::Done
    };
    if done {
        return Ok(());
    }
    table.remove(&work.outside_key);
    table.dismiss(&work.inside_key.address);
    let there = table.read(&work.inside_key, &mut work.inside) && adopt(table, work, now);
    if there { Ok(()) } else { Err(Refusal::Full) }
}

/// Takes the mapping that `work.inside` leads to, if it is alive, of the same rule and the inside endpoint's own.
#[inline(always)]
fn adopt<T: Table>(table: &T, work: &mut Work, now: u32) -> bool {
    let uid = work.outside.uid;
    let (peer, port) = (work.inside.peer, work.inside.peer_port);
    work.set_outside(work.inside_key.protocol, &peer, port);
    table.read(&work.outside_key, &mut work.outside)
        && work.outside.uid == uid
        && !is_dead(&work.outside, now)
        && is_of(&work.outside, &work.inside_key.address, work.inside_key.port)
}

#[cfg(test)]
mod tests;
