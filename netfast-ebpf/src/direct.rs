//! Modes `dsr` and `ipip`: packets to targets that answer their clients themselves.
//!
//! No answer comes by here, so that a flow has one entry. It keeps the flow with its target where the forward's targets have
//! changed; a packet without one goes where the look-up table says. So a flow survives the loss of its entry, and
//! of the node that made it, unless its target has changed meanwhile. Two tables, both of which push out what was not seen
//! for longest: a flood of openings pushes out openings.

use aya_ebpf::{bindings::BPF_ANY, programs::XdpContext};
use netfast_common::{
    Reason,
    abi::{
        FRAGMENT_DIRECT, Flow, FlowKey, Forward, LineKind, MAX_FORWARDS, MAX_TARGETS, Mode, NextHop,
        ServiceKind, TARGET_COUNTERS, Target,
    },
    addr,
    answer::Answer,
    flow::{self, Fate, ORIGINAL, State},
    rewrite::Words,
    tunnel::{self as common, Inner},
    wire::{ACK, FIN, Fragment, Packet, RST, SYN, TCP, icmp},
};

use crate::{
    account::{self, Outcome},
    cache::{self, Fill},
    classify, egress, fragment,
    frame::{self, FrameCursor, Header},
    hops,
    maps::{DIRECT, DIRECT_NEW, FLOW_COUNTERS, FORWARDS, FRAGMENTS, PATH_MTU, SCRATCH, TARGETS},
    new,
    run::Run,
    scratch::{CHOSEN_NONE, Memory, STAGE_ERROR, STAGE_FRAGMENT, STAGE_NEW, STAGE_TUNNEL, Scratch},
    slow::{self, NO_SERVICE, Step},
    target, translate, tunnel,
};

/// Decides the packet in work, as the stage says that it is in.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: the element is this CPU's alone, and a program does not interrupt itself.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    let outcome = match scratch.stage {
        STAGE_FRAGMENT => Some(later(ctx, run, packet, scratch)),
        STAGE_ERROR => error(ctx, run, packet, scratch),
        STAGE_TUNNEL => note(ctx, run, packet, scratch),
        // Another rule set was published since the forward was found.
        _ if scratch.allowed != run.generation => None,
        _ => Some(forward(ctx, run, packet, scratch)),
    };
    match outcome {
        Some(outcome) => Step::Done(outcome),
        None => {
            scratch.stage = STAGE_NEW;
            Step::Filter
        }
    }
}

/// The tables in which a flow was found.
const NOWHERE: u32 = 0;
const NEW: u32 = 1;
const CONFIRMED: u32 = 2;

/// Copies the entry of `key` to `scratch.flow`, if it is one of a living flow of `forward`. Returns where it stands.
#[inline(always)]
fn find(run: &Run, key: &FlowKey, scratch_flow: &mut Flow, forward: &Forward, index: u32) -> u32 {
    let (entry, place) = match DIRECT.get_ptr(key) {
        Some(entry) => (entry, CONFIRMED),
        None => match DIRECT_NEW.get_ptr(key) {
            Some(entry) => (entry, NEW),
            None => return NOWHERE,
        },
    };
    // SAFETY: the element stays mapped while the program runs. Another CPU may push it out and use its memory for another
    // flow of the same table: the copy is then that one's, and a packet goes to another target of this forward or, because
    // of what is compared next, to its own one.
    *scratch_flow = unsafe { *entry };
    let lives = scratch_flow.forward_uid == forward.uid
        && scratch_flow.forward as u32 == index
        && !flow::is_expired(scratch_flow, run.now, &run.config.timeouts);
    if lives { place } else { NOWHERE }
}

/// The forward with that index, if its targets answer themselves.
#[inline(always)]
fn direct_forward(run: &Run, index: u32) -> Option<&'static Forward> {
    let index = run.slot() * MAX_FORWARDS + (index & (MAX_FORWARDS - 1));
    // SAFETY: array elements live as long as the program.
    let forward = unsafe { &*FORWARDS.get_ptr(index)? };
    if forward.uid != 0 && forward.mode >= Mode::Dsr as u8 { Some(forward) } else { None }
}

/// The target with that index, if it is one of the forward with index `forward`.
#[inline(always)]
fn target_of(index: u16, forward: u32) -> Option<&'static Target> {
    // SAFETY: array elements live as long as the program.
    let target = unsafe { &*TARGETS.get_ptr(index as u32)? };
    if target.forward as u32 == forward && target.mode >= Mode::Dsr as u8 { Some(target) } else { None }
}

/// A packet to a forward whose targets answer themselves.
#[inline(always)]
fn forward(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Outcome {
    let index = scratch.forward;
    let Some(forward) = direct_forward(run, index) else { return Outcome::drop(Reason::Internal) };
    let opens = packet.key.protocol == TCP && packet.flags & (SYN | ACK | RST | FIN) == SYN;
    let mut place = find(run, &packet.key, &mut scratch.flow, forward, index);
    let (mut chosen, mut displaces) = (None, false);
    if place != NOWHERE {
        let state = State::from_number(scratch.flow.state);
        chosen = target_of(scratch.flow.target, index).map(|target| (scratch.flow.target, target));
        let fate = chosen.map_or(Fate::Moves, |(_, target)| {
            flow::fate(target.state, ORIGINAL, packet.key.protocol, packet.flags, state, true)
        });
        if matches!(fate, Fate::Ends) {
            let _ = DIRECT.remove(&packet.key);
            let _ = DIRECT_NEW.remove(&packet.key);
            return Outcome::answer(Answer::Reset, 0, Reason::TargetEnded);
        }
        // Also a new connection on the ports of one that is over.
        if matches!(fate, Fate::Moves) {
            place = NOWHERE;
            chosen = None;
            displaces = true;
        }
    }
    let mut keeps = true;
    let (target_index, target) = match chosen {
        Some(chosen) => chosen,
        None => {
            keeps = new::within_quota(run, packet);
            // What only goes on may do so, but leaves no entry.
            if !keeps && (opens || packet.key.protocol != TCP) {
                return Outcome::drop(Reason::FlowQuota);
            }
            if forward.maglev_size == 0 && scratch.chosen >= MAX_TARGETS {
                return target::none(forward, packet);
            }
            let Some(chosen) = target::choose(run, forward, &packet.key, scratch.chosen) else {
                return Outcome::drop(Reason::Internal);
            };
            chosen
        }
    };
    let hop = match way(run, packet, target_index, target) {
        Ok(hop) => hop,
        Err(outcome) => return outcome,
    };
    if keeps {
        let state = if place == NOWHERE {
            describe(run, packet, scratch, forward, index, target_index, target);
            account::add(&FLOW_COUNTERS, index, 0);
            State::first_direct(packet.key.protocol, packet.flags)
        } else {
            State::from_number(scratch.flow.state).next_direct(packet.key.protocol, packet.flags)
        };
        let state = scratch.settle(state);
        keep(run, packet, scratch, place, state);
        // Where the filter has something to say about each packet there are no lines. A flow in the place of another one gets
        // its line at once: that one's may still act.
        let lasts = place != NOWHERE && state.is_confirmed() && !matches!(state, State::Reset);
        if (lasts || displaces) && !classify::asks_of_flows(run, packet.key.protocol, ACK) {
            let kind = if target.mode == Mode::Ipip as u8 { LineKind::Tunnel } else { LineKind::Direct };
            let next_hop = target.next_hop;
            let line = Fill {
                kind,
                address: cache::halves(&target.address),
                port: [0, 0],
                next_hop,
                target: target_index,
                deltas: 0,
            };
            cache::fill(run, packet.version, &packet.key, &line);
        }
    }
    let hash = cache::hash_of(run, packet.version, &packet.key);
    if packet.fragment == Fragment::First && fragment::identify(ctx, packet, scratch) {
        let noted = &mut scratch.fragment;
        noted.source = [0; 16];
        noted.destination = [0; 16];
        noted.made = run.now;
        noted.generation = run.generation;
        noted.target = target_index;
        noted.next_hop = target.next_hop;
        noted.direction = FRAGMENT_DIRECT;
        noted.hash = hash;
        noted.pad = 0;
        let _ = FRAGMENTS.insert(&scratch.fragment_key, &scratch.fragment, BPF_ANY as u64);
    }
    send(ctx, run, packet, target_index, target, hop, hash)
}

/// Makes the entry of a new flow, up to its state.
#[inline(always)]
fn describe(
    run: &Run,
    packet: &Packet,
    scratch: &mut Scratch,
    forward: &Forward,
    index: u32,
    target_index: u16,
    target: &Target,
) {
    // In place, a field at a time: see `new::packet`.
    let flow = &mut scratch.flow;
    flow.translated.source = packet.key.source;
    flow.translated.destination = target.address;
    flow.translated.source_port = packet.key.source_port;
    flow.translated.destination_port = packet.key.destination_port;
    flow.translated.protocol = packet.key.protocol;
    flow.translated.pad = [0; 3];
    flow.created = run.now;
    flow.forward_uid = forward.uid;
    flow.target = target_index;
    flow.next_hop = target.next_hop;
    flow.forward = index as u16;
    flow.direction = ORIGINAL;
}

/// Writes the entry in work, in state `state`, to the table where it belongs. Whole entries: what a pointer of a look-up leads
/// to may be another flow's by now.
#[inline(always)]
fn keep(run: &Run, packet: &Packet, scratch: &mut Scratch, place: u32, state: State) {
    scratch.flow.state = state as u8;
    scratch.flow.last_seen = run.now;
    scratch.flow.generation = run.generation;
    if place == CONFIRMED || (place == NEW && state.is_confirmed()) {
        let _ = DIRECT.insert(&packet.key, &scratch.flow, BPF_ANY as u64);
        if place == NEW {
            let _ = DIRECT_NEW.remove(&packet.key);
        }
    } else {
        if place == NOWHERE {
            // Of a flow that is over: it would be found first.
            let _ = DIRECT.remove(&packet.key);
        }
        let _ = DIRECT_NEW.insert(&packet.key, &scratch.flow, BPF_ANY as u64);
    }
}

/// Next hop towards a target, if the packet can go there; else what becomes of it.
#[inline(always)]
fn way(run: &Run, packet: &Packet, index: u16, target: &Target) -> Result<&'static NextHop, Outcome> {
    let through = target.mode == Mode::Ipip as u8;
    // On the way to a target on the same link a packet is not forwarded by a router (RFC 1812 5.3.1 is about those).
    if through && packet.ttl <= 1 {
        return Err(Outcome::answer(Answer::TimeExceeded, 0, Reason::TtlExpired));
    }
    let hop = hops::usable(target.next_hop).map_err(Outcome::drop)?;
    if through {
        if !tunnel::fits(run, index, target, hop, packet.length) {
            let mtu = tunnel::mtu(run, index, hop);
            return Err(translate::too_big(
                packet,
                common::inner_mtu(packet.version, addr::is_v4(&target.address), mtu),
            ));
        }
    } else if hop.mtu != 0 && packet.length > hop.mtu as u32 {
        return Err(translate::too_big(packet, hop.mtu));
    }
    Ok(hop)
}

/// Sends the packet to its target. `hash`: its flow's.
#[inline(always)]
fn send(
    ctx: &XdpContext,
    run: &Run,
    packet: &Packet,
    index: u16,
    target: &Target,
    hop: &NextHop,
    hash: u32,
) -> Outcome {
    let bytes = frame::length(ctx);
    let l3 = packet.l3 as usize & 0x1f;
    let outcome = if target.mode == Mode::Ipip as u8 {
        let Some(header) = Header::<4>::at(ctx, l3) else { return Outcome::drop(Reason::Internal) };
        let [a, b, _, _] = header.word(0).to_ne_bytes();
        let class = if packet.version == 4 { b } else { a << 4 | b >> 4 };
        let inner = Inner { version: packet.version, class, length: packet.length as u16 };
        tunnel::wrap(ctx, run, l3, inner, target, hop, hash)
    } else {
        egress::send(ctx, l3, hop, run.ifindex, Reason::Forwarded)
    };
    account::count(TARGET_COUNTERS, index as u32 * 2, bytes);
    outcome
}

/// A later fragment, as was noted of its first one.
#[inline(always)]
fn later(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &Scratch) -> Outcome {
    let noted = &scratch.fragment;
    // SAFETY: array elements live as long as the program.
    let Some(target) = TARGETS.get_ptr(noted.target as u32).map(|target| unsafe { &*target }) else {
        return Outcome::drop(Reason::Internal);
    };
    // Where it cannot go on nobody is told: `netfast_error` does not answer later fragments (RFC 1122 3.2.2).
    match way(run, packet, noted.target, target) {
        Ok(hop) => send(ctx, run, packet, noted.target, target, hop, noted.hash),
        Err(outcome) => outcome,
    }
}

/// The target of the flow `scratch.inner.key`, which is one of a client to a service.
#[inline(always)]
fn target_of_inner(run: &Run, scratch: &mut Scratch) -> Option<(u16, &'static Target)> {
    let found = slow::service(run, &scratch.inner);
    if found == NO_SERVICE || (found >> 16) as u8 != ServiceKind::Forward as u8 {
        return None;
    }
    let index = found & 0xffff;
    let forward = direct_forward(run, index)?;
    if find(run, &scratch.inner.key, &mut scratch.flow, forward, index) != NOWHERE {
        return Some((scratch.flow.target, target_of(scratch.flow.target, index)?));
    }
    if forward.maglev_size == 0 {
        return None;
    }
    target::choose(run, forward, &scratch.inner.key, CHOSEN_NONE)
}

/// An ICMP error to a service's address about a packet that its target has sent (RFC 7690): it goes to that target, as it is.
/// `scratch.reply_key` is the flow's key, as the client's packets have it. `None`: it is about something else.
#[inline(always)]
fn error(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Option<Outcome> {
    scratch.inner.key = scratch.reply_key;
    let (index, target) = target_of_inner(run, scratch)?;
    let hop = match way(run, packet, index, target) {
        Ok(hop) => hop,
        Err(outcome) => return Some(outcome),
    };
    let hash = cache::hash_of(run, packet.version, &scratch.inner.key);
    Some(send(ctx, run, packet, index, target, hop, hash))
}

/// An ICMP error about a packet in a tunnel, whose outer header is `scratch.inner`: if it tells the path's MTU, that is noted
/// (RFC 2003 5.1, RFC 2473 7.1), and the next packet that is too large is answered by it. `None`: it says something
/// else, or does not hold enough of the packet to know that there is such a flow.
#[inline(always)]
fn note(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Option<Outcome> {
    let outer_is_v4 = packet.version == 4;
    let head = Header::<8>::at(ctx, packet.l4 as usize)?;
    let kind: [u8; 2] = head.get(0);
    let mtu = if outer_is_v4 {
        if kind != [3, 4] {
            return None;
        }
        u32::from_be(head.word(1)) & 0xffff
    } else {
        if kind[0] != 2 {
            return None;
        }
        u32::from_be(head.word(1))
    };
    // RFC 1191 5: from a router that does not tell it.
    if mtu == 0 {
        return None;
    }
    let version = common::inside(scratch.inner.key.protocol);
    let destination = scratch.inner.key.destination;
    let at = scratch.inner.l4;
    scratch.inner = Packet::default();
    scratch.inner.l3 = at;
    icmp::embedded(&mut FrameCursor::at(ctx, at as usize), version, &mut scratch.inner)?;
    let (index, target) = target_of_inner(run, scratch)?;
    if target.mode != Mode::Ipip as u8 || target.address != destination {
        return None;
    }
    let element = PATH_MTU.get_ptr_mut(index as u32)?;
    // SAFETY: one aligned word; whoever writes last is right.
    unsafe { *element = common::noted(common::believed(outer_is_v4, mtu), run.stamp) };
    // The kernel may want to know, too.
    Some(Outcome::pass(Reason::TunnelMtu))
}
