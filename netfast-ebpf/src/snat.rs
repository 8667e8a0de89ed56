//! Source NAT: packets of no flow and no service, and flows whose ways are to be looked up anew. The decisions are
//! `netfast_common::snat`'s.

mod table;

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason,
    abi::{FlowKey, INSIDE, MAX_FORWARDS, MAX_SNAT, Mode, SNAT_INDEPENDENT, SNAT_POOL, SnatKey, SnatMapping},
    flow::{ORIGINAL, REPLY, State},
    snat::{self, Subject},
    wire::{Packet, UDP},
};

use crate::{
    account::{self, Outcome},
    half_open::{self, ORIGINAL_KEY, OTHER_KEY, REPLY_KEY},
    hops, known,
    maps::{FLOW_COUNTERS, FLOWS, FORWARDS, LOCALS, RULE_SETS, SNAT, SNAT_MAPPINGS, TARGETS},
    new,
    run::Run,
    scratch::{STAGE_RECHECK, STAGE_REFRESH, Scratch},
    slow::Step,
    translate,
};

/// Answer of [`find`]: no rule.
const NONE: u32 = u32::MAX;

/// Decides a packet that the filter allows and that belongs to no flow, or renews its flow's ways.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Step {
    let renew = scratch.stage == STAGE_REFRESH;
    if scratch.allowed != run.generation {
        if renew {
            scratch.stage = STAGE_RECHECK;
        }
        return Step::Filter;
    }
    if renew {
        return refresh(ctx, run, packet, scratch);
    }
    // By steps, since each function has a stack of its own.
    let next = whither(ctx, run, packet, scratch);
    let decided = next == DECIDED || (next == MAP && !outward(ctx, run, packet, scratch));
    Step::Done(if decided { scratch.decided } else { open(ctx, run, packet, scratch) })
}

/// Answer of [`whither`]: `scratch.decided` says what becomes of the packet.
const DECIDED: u32 = 0;
/// Answer of [`whither`]: it goes on with [`outward`].
const MAP: u32 = 1;
/// Answer of [`whither`]: it goes on with [`open`].
const OPEN: u32 = 2;

/// Where a packet is going, and so how it goes on.
#[inline(never)]
fn whither(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> u32 {
    // SAFETY: only presence counts.
    let local = unsafe { LOCALS.get(&packet.key.destination) }.is_some();
    let next = if !(packet.is_query && local || snat::is_routable(&packet.key.source, packet.version)) {
        Next::Done(not_ours(packet, scratch))
    } else if local {
        inbound(ctx, run, packet, scratch)
    } else {
        outbound(ctx, run, packet, scratch)
    };
    match next {
        Next::Done(outcome) => {
            scratch.decided = outcome;
            DECIDED
        }
        Next::Map => MAP,
        Next::Open => OPEN,
    }
}

/// How a packet goes on.
enum Next {
    /// It is decided.
    Done(Outcome),
    /// With [`outward`].
    Map,
    /// With [`open`].
    Open,
}

/// What is not netfast's goes to the kernel.
#[inline(always)]
fn not_ours(packet: &Packet, scratch: &Scratch) -> Outcome {
    Outcome::pass(if scratch.ended != 0 {
        Reason::ForwardRemoved
    } else if packet.has_ports() {
        Reason::NoService
    } else {
        Reason::NotTcpUdp
    })
}

/// From the inside to an outside destination.
#[inline(always)]
fn outbound(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Next {
    let key = &packet.key;
    if !snat::is_routable(&key.destination, packet.version) {
        return Next::Done(not_ours(packet, scratch));
    }
    let came_by = hops::l3_interface(run.ifindex, packet.vlan);
    let source = Subject::new(&key.source, packet.version).from(came_by);
    if find(run, &source) == NONE || find(run, &Subject::new(&key.destination, packet.version)) != NONE {
        return Next::Done(not_ours(packet, scratch));
    }
    scratch.flow.translated = packet.key;
    let hop = hops::ahead(ctx, run, packet, scratch);
    if hop == 0 {
        // The kernel has no route either, or does not forward: it says so to the sender.
        return Next::Done(Outcome::pass(Reason::NoRoute));
    }
    let position = find(run, &source.to(scratch.hop_key.ifindex));
    if position == NONE {
        return Next::Done(not_ours(packet, scratch));
    }
    scratch.position = position;
    scratch.flow.next_hop = hop;
    Next::Map
}

/// To an address of this host: to a mapping's external end, or not netfast's.
#[inline(always)]
fn inbound(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Next {
    let key = &packet.key;
    scratch.mapping.set_outside(key.protocol, &key.destination, key.destination_port);
    let Some(mapping) = SNAT_MAPPINGS.get_ptr(&scratch.mapping.outside_key) else {
        return Next::Done(not_ours(packet, scratch));
    };
    // SAFETY: the element stays mapped while the program runs; copied once.
    scratch.mapping.outside = unsafe { *mapping };
    let Some(filtering) = rule_of(run, &scratch.mapping.outside) else {
        return Next::Done(not_ours(packet, scratch));
    };
    begin(run, scratch);
    scratch.flow.translated.source = key.source;
    scratch.flow.translated.source_port = key.source_port;
    scratch.flow.translated.destination = scratch.mapping.outside.peer;
    scratch.flow.translated.destination_port = scratch.mapping.outside.peer_port;
    scratch.flow.translated.protocol = key.protocol;
    scratch.flow.forward_uid = scratch.mapping.outside.uid;
    scratch.flow.target = scratch.mapping.outside.target;
    scratch.flow.forward = scratch.mapping.outside.forward;
    let came_by = hops::l3_interface(run.ifindex, packet.vlan);
    let position = find(run, &Subject::new(&key.source, packet.version).from(came_by));
    let hairpin = position != NONE;
    if !hairpin && !packet.has_ports() {
        // An answer to a query that no inside host has sent, or not to this peer. The host may have.
        return Next::Done(not_ours(packet, scratch));
    }
    // Hairpinned packets are not filtered (RFC 4787 REQ-9): inside hosts reach each other directly, too.
    if !hairpin && filtering != SNAT_INDEPENDENT {
        return Next::Done(Outcome::drop(Reason::SnatFiltered));
    }
    let hop = hops::ahead(ctx, run, packet, scratch);
    if hop == 0 {
        return Next::Done(Outcome::drop(Reason::NoRoute));
    }
    scratch.flow.next_hop = hop;
    if hairpin {
        scratch.position = position;
        return Next::Map;
    }
    let Some(state) = State::first(key.protocol, packet.flags) else {
        return Next::Done(Outcome::drop(Reason::SnatFiltered));
    };
    if !new::within_quota(run, packet) {
        return Next::Done(Outcome::drop(Reason::FlowQuota));
    }
    scratch.flow.state = state as u8;
    Next::Open
}

/// Gives a packet from the inside its mapping. `scratch.flow` has destination and next hop, `scratch.position` is the rule's.
/// False: `scratch.decided` says what becomes of it.
#[inline(never)]
fn outward(_ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> bool {
    match try_outward(run, packet, scratch) {
        Ok(()) => true,
        Err(outcome) => {
            scratch.decided = outcome;
            false
        }
    }
}

#[inline(always)]
fn try_outward(run: &Run, packet: &Packet, scratch: &mut Scratch) -> Result<(), Outcome> {
    let key = &packet.key;
    let Some(rule) = SNAT.get(run.slot() * MAX_SNAT + (scratch.position & (MAX_SNAT - 1))) else {
        return Err(Outcome::drop(Reason::Internal));
    };
    let Some(state) = State::first(key.protocol, packet.flags) else {
        // To the kernel it would leave with its inside address.
        return Err(Outcome::drop(Reason::TcpNoFlow));
    };
    if packet.is_query && key.destination_port != [0; 2] {
        // An answer to a query that never came by here.
        return Err(Outcome::drop(Reason::SnatFiltered));
    }
    if packet.version == 6 && key.protocol == UDP && packet.no_udp_checksum {
        return Err(Outcome::drop(Reason::UdpZeroChecksum));
    }
    // Asked before a mapping is made: what does not leave leaves no trace.
    translate::way(packet, &scratch.flow.translated.destination, scratch.flow.next_hop)?;
    if !new::within_quota(run, packet) {
        return Err(Outcome::drop(Reason::FlowQuota));
    }
    let target = rule.targets[snat::pool_index(&key.source, rule.pool) as usize % SNAT_POOL];
    let Some(pool) = TARGETS.get(target as u32) else { return Err(Outcome::drop(Reason::Internal)) };
    let work = &mut scratch.mapping;
    work.inside_key.address = key.source;
    work.inside_key.port = key.source_port;
    work.inside_key.protocol = key.protocol;
    work.inside_key.side = INSIDE;
    work.outside.uid = rule.uid;
    work.outside.target = target;
    work.outside.forward = rule.forward;
    work.outside.holder = 0;
    work.outside.created = run.now;
    work.outside.expires = run.now.wrapping_add(snat::lifetime(key.protocol, state, &run.config.timeouts));
    table::map(run, work, rule, &pool.source).map_err(Outcome::drop)?;
    begin(run, scratch);
    scratch.flow.translated.source = pool.source;
    scratch.flow.translated.source_port = scratch.mapping.outside_key.port;
    scratch.flow.forward_uid = rule.uid;
    scratch.flow.target = target;
    scratch.flow.forward = rule.forward;
    scratch.flow.state = state as u8;
    Ok(())
}

/// What every new flow begins with.
#[inline(always)]
fn begin(run: &Run, scratch: &mut Scratch) {
    scratch.flow.last_seen = run.now;
    scratch.flow.created = run.now;
    scratch.flow.generation = run.generation;
    scratch.flow.direction = ORIGINAL;
}

/// Makes the flow `scratch.flow` of `packet`, and sends the packet.
#[inline(never)]
fn open(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Outcome {
    let way = match translate::way(packet, &scratch.flow.translated.destination, scratch.flow.next_hop) {
        Ok(way) => way,
        Err(outcome) => return outcome,
    };
    let back = hops::towards(ctx, run, packet, scratch, true);
    if back == 0 {
        return Outcome::drop(Reason::NoRoute);
    }
    scratch.original_key = packet.key;
    scratch.reply_key.reverse_of(&scratch.flow.translated);
    scratch.reply = scratch.flow;
    scratch.reply.translated.reverse_of(&packet.key);
    scratch.reply.next_hop = back;
    scratch.reply.direction = REPLY;
    // An endpoint that sends to its own mapping has one entry for both directions.
    let itself = scratch.reply_key == scratch.original_key;
    match if itself { Taken::New(0) } else { take(scratch) } {
        Taken::New(reply) => {
            let slot = half_open::take_original();
            if slot == 0 {
                half_open::release(reply);
                return Outcome::drop(Reason::FlowConflict);
            }
            half_open::show(reply);
            half_open::show(slot);
            account::add(&FLOW_COUNTERS, scratch.flow.forward as u32, 0);
        }
        // Another CPU was faster with the same flow.
        Taken::Same => {}
        Taken::Not => return Outcome::drop(Reason::FlowConflict),
    }
    let target = scratch.flow.target;
    let direction = direction(&packet.key, &scratch.flow.translated);
    translate::forward(ctx, run, packet, &scratch.flow.translated, way, target, direction)
}

/// What became of [`take`].
#[derive(Clone, Copy)]
enum Taken {
    /// It is this flow's: the slot of its reply entry.
    New(u32),
    /// The flow is there.
    Same,
    /// It is somebody else's.
    Not,
}

/// Takes the reply direction's tuple. A flow that has it although its mapping is another endpoint's by now has ended.
#[inline(always)]
fn take(scratch: &mut Scratch) -> Taken {
    let mut attempt = 0;
    while attempt < 2 {
        attempt += 1;
        let slot = new::take(scratch);
        if slot != 0 {
            return Taken::New(slot);
        }
        let Some((other, _)) = known::lookup(&scratch.reply_key, REPLY_KEY, false) else { continue };
        // SAFETY: the element stays mapped while the program runs; copied once.
        scratch.other = unsafe { *other };
        scratch.other_key.reverse_of(&scratch.other.translated);
        if scratch.other_key == scratch.original_key {
            return Taken::Same;
        }
        if !is_snat(scratch.other.target) {
            return Taken::Not;
        }
        let _ = FLOWS.remove(&scratch.other_key);
        half_open::remove(OTHER_KEY);
        let _ = FLOWS.remove(&scratch.reply_key);
        half_open::remove(REPLY_KEY);
    }
    Taken::Not
}

/// Looks up both next hops of the flow that `known` has found, under the rules of now.
#[inline(always)]
fn refresh(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Step {
    let ahead = hops::ahead(ctx, run, packet, scratch);
    let back = hops::towards(ctx, run, packet, scratch, true);
    if let Some((entry, _)) = known::lookup(&scratch.original_key, ORIGINAL_KEY, false) {
        // SAFETY: the element stays mapped while the program runs; words that are read whole.
        unsafe {
            (*entry).next_hop = ahead;
            (*entry).generation = run.generation;
        }
    }
    if back != 0
        && let Some((entry, _)) = known::lookup(&scratch.reply_key, REPLY_KEY, false)
    {
        // SAFETY: as above.
        unsafe { (*entry).next_hop = back };
    }
    Step::Known
}

/// Whether the target is a pool address of a source NAT rule.
#[inline(always)]
pub fn is_snat(target: u16) -> bool {
    TARGETS.get(target as u32).is_some_and(|target| target.mode == Mode::Snat as u8)
}

/// Direction that a packet is counted under: out of the inside, or into it.
#[inline(always)]
pub fn direction(received: &FlowKey, translated: &FlowKey) -> u8 {
    if matches!(snat::way(received, translated), snat::Way::Inward) { REPLY } else { ORIGINAL }
}

/// A packet with `key` of the flow `scratch.flow` has come, which is in `state` now: its mapping lives on. False: it does
/// not, and so the flow has ended.
#[inline(never)]
pub fn touch(run: &Run, scratch: &mut Scratch, key: &FlowKey, state: u8) -> bool {
    let state = State::from_number(state);
    let translated = &scratch.flow.translated;
    let way = snat::way(key, translated);
    let raise = state.is_confirmed() || !matches!(way, snat::Way::Inward);
    if !matches!(way, snat::Way::Inward) {
        scratch.mapping.set_outside(key.protocol, &translated.source, translated.source_port);
        let holder = snat::holder(&key.destination, key.destination_port);
        let inside = (&key.source, key.source_port);
        if !touch_one(run, &scratch.mapping.outside_key, inside, holder, state, raise) {
            return false;
        }
    }
    if !matches!(way, snat::Way::Outward) {
        scratch.mapping.set_outside(key.protocol, &key.destination, key.destination_port);
        let holder = snat::holder(&translated.source, translated.source_port);
        let inside = (&translated.destination, translated.destination_port);
        if !touch_one(run, &scratch.mapping.outside_key, inside, holder, state, raise) {
            return false;
        }
    }
    true
}

#[inline(always)]
fn touch_one(
    run: &Run,
    key: &SnatKey,
    inside: (&[u8; 16], [u8; 2]),
    holder: u32,
    state: State,
    raise: bool,
) -> bool {
    let Some(entry) = SNAT_MAPPINGS.get_ptr_mut(key) else { return false };
    // SAFETY: the element stays mapped while the program runs.
    let mapping = unsafe { &*entry };
    if !snat::is_of(mapping, inside.0, inside.1) || rule_of(run, mapping).is_none() {
        return false;
    }
    if raise {
        let timeouts = &run.config.timeouts;
        let (expires, holder) = snat::touched(mapping, key.protocol, holder, state, run.now, timeouts);
        // SAFETY: as above; words that are read whole.
        unsafe {
            (*entry).expires = expires;
            (*entry).holder = holder;
        }
    }
    true
}

/// The filtering of a mapping's rule, if both are alive.
#[inline(always)]
fn rule_of(run: &Run, mapping: &SnatMapping) -> Option<u8> {
    if snat::is_dead(mapping, run.now) {
        return None;
    }
    let rule = FORWARDS.get(run.slot() * MAX_FORWARDS + mapping.forward as u32 % MAX_FORWARDS)?;
    if rule.uid == mapping.uid { Some(rule.filtering) } else { None }
}

/// Position of the first rule that speaks of `subject`.
#[inline(never)]
fn find(run: &Run, subject: &Subject) -> u32 {
    let slot = run.slot();
    let Some(rules) = RULE_SETS.get(slot) else { return NONE };
    let count = rules.snats;
    let mut position = 0;
    while position < MAX_SNAT && position < count {
        let Some(rule) = SNAT.get(slot * MAX_SNAT + position) else { return NONE };
        if snat::matches(rule, subject) {
            return position;
        }
        position += 1;
    }
    NONE
}
