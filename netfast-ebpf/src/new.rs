//! A flow's first packet: target, source port, two table entries.

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason,
    abi::{MAX_FORWARDS, MAX_TARGETS, Mode, PolicyClass, SOURCE_BUCKETS},
    echo::BUCKETS_PER_SET,
    flow::{self, ORIGINAL, PORT_TRIES, REPLY, State},
    hash, quota,
    wire::Packet,
};

use crate::{
    account::{self, Outcome},
    half_open, hops, log,
    maps::{FLOW_COUNTERS, FLOWS, FORWARDS, SOURCE_LIMIT},
    reclaim,
    run::Run,
    scratch::Scratch,
    slow, target, translate,
};

/// Opens a flow through forward `index`, if `packet` may.
#[inline(never)]
pub fn packet(ctx: &XdpContext, run: &Run, packet: &Packet, index: u16, scratch: &mut Scratch) -> Outcome {
    let Some(forward) = FORWARDS.get(run.slot() * MAX_FORWARDS + index as u32) else {
        return Outcome::drop(Reason::Internal);
    };
    let Some(state) = State::first(packet.key.protocol, packet.flags) else {
        return slow::by_policy(run, PolicyClass::TcpNoFlow, Reason::TcpNoFlow);
    };
    if !within_quota(run, packet) {
        return Outcome::drop(Reason::FlowQuota);
    }
    if forward.maglev_size == 0 && scratch.chosen >= MAX_TARGETS {
        return target::none(forward, packet);
    }
    let Some((target_index, target)) = target::choose(run, forward, &packet.key, scratch.chosen) else {
        return Outcome::drop(Reason::Internal);
    };
    let way = match translate::way(packet, &target.address, target.next_hop) {
        Ok(way) => way,
        Err(outcome) => return outcome,
    };
    let hop = hops::towards(ctx, run, packet, scratch, true);
    if hop == 0 {
        return Outcome::drop(Reason::NoRoute);
    }

    let port = packet.destination_port().wrapping_add(target.port_delta);
    scratch.original_key = packet.key;
    // In place, a field at a time: whole entries would be built on the stack, of which there is little left here.
    let flow = &mut scratch.flow;
    flow.translated.source = packet.key.source;
    flow.translated.destination = target.address;
    flow.translated.source_port = packet.key.source_port;
    flow.translated.destination_port = port.to_be_bytes();
    flow.translated.protocol = packet.key.protocol;
    flow.translated.pad = [0; 3];
    flow.last_seen = run.now;
    flow.created = run.now;
    flow.generation = run.generation;
    flow.forward_uid = forward.uid;
    flow.target = target_index;
    flow.next_hop = target.next_hop;
    flow.forward = index;
    flow.state = state as u8;
    flow.direction = ORIGINAL;
    scratch.reply = *flow;
    scratch.reply.translated = flow::reverse(&packet.key);
    scratch.reply.next_hop = hop;
    scratch.reply.direction = REPLY;
    // The original's slot first: its lines come from memory while a source port is looked for.
    let slot = half_open::take_original();
    if slot == 0 {
        return Outcome::drop(Reason::FlowConflict);
    }
    let taken = if target.mode == Mode::Nat as u8 {
        scratch.flow.translated.source = target.source;
        take_port(run, scratch)
    } else {
        scratch.reply_key.reverse_of(&scratch.flow.translated);
        take(scratch)
    };
    if taken == 0 {
        half_open::release(slot);
        if target.mode != Mode::Nat as u8 {
            return Outcome::drop(Reason::FlowConflict);
        }
        log::exhausted(ctx, run, scratch);
        return Outcome::drop(Reason::PortsExhausted);
    }
    half_open::set_source(slot, &scratch.flow.translated);
    half_open::show(taken);
    half_open::show(slot);
    account::add(&FLOW_COUNTERS, index as u32, 0);
    translate::forward(ctx, run, packet, &scratch.flow.translated, way, target_index, ORIGINAL)
}

/// Whether the packet's source may open another flow now.
#[inline(always)]
pub fn within_quota(run: &Run, packet: &Packet) -> bool {
    let config = run.config;
    if config.flow_rate == 0 {
        return true;
    }
    let tag = quota::tag(&packet.key.source, packet.version == 6, config.seed);
    let sets = SOURCE_BUCKETS / BUCKETS_PER_SET as u32;
    let Some(set) = SOURCE_LIMIT.get_ptr_mut((tag >> 1) & (sets - 1)) else { return true };
    // SAFETY: the element is shared between CPUs; a lost update lets a flow more or less through, nothing else.
    quota::admits(unsafe { &mut *set }, tag, run.now, config.hz, config.flow_rate, config.flow_burst)
}

/// Finds a source port that nobody uses towards this target, or one of a flow that gives way, and takes it: the slot of the reply's
/// entry, 0 if there is none.
#[inline(always)]
fn take_port(run: &Run, scratch: &mut Scratch) -> u32 {
    let (low, high) = (run.config.nat_port_low, run.config.nat_port_high);
    let hash = hash::key(&scratch.original_key, run.config.seed ^ run.now);
    let mut attempt = 0;
    while attempt < 2 * PORT_TRIES {
        let port = flow::port_candidate(hash, attempt % PORT_TRIES, low, high);
        scratch.flow.translated.source_port = port.to_be_bytes();
        scratch.reply_key.reverse_of(&scratch.flow.translated);
        if attempt < PORT_TRIES || reclaim::netfast_reclaim(run.now, run.line_jiffies()) != 0 {
            let slot = take(scratch);
            if slot != 0 {
                return slot;
            }
        }
        attempt += 1;
    }
    0
}

/// Takes the reply direction's tuple: its slot in the table of half-open flows, which nobody else gets who has the same tuple; 0: it
/// is somebody's. Whether a confirmed flow has it is looked up after that, because a flow that is being confirmed stands in both
/// tables for a moment. It is looked up before that, too: then the bucket and the slot's set come from memory at the same time, and
/// the exchange that takes the slot has not to wait for one after the other.
#[inline(always)]
pub fn take(scratch: &Scratch) -> u32 {
    if FLOWS.get_ptr(&scratch.reply_key).is_some() {
        return 0;
    }
    let slot = half_open::take_reply();
    if slot != 0 && FLOWS.get_ptr(&scratch.reply_key).is_some() {
        half_open::release(slot);
        return 0;
    }
    slot
}
