//! Packets of flows that are in the tables.

use aya_ebpf::{bindings::BPF_ANY, programs::XdpContext};
use netfast_common::{
    Reason,
    abi::{Flow, FlowKey, LineKind, MAX_FORWARDS, NextHop},
    answer::Answer,
    flow::{self, Fate, ORIGINAL, REPLY, State},
    snat::{Way, way as way_of},
    wire::{ACK, Packet, SYN, UDP},
};

use crate::{
    account::Outcome,
    cache, classify,
    half_open::{self, ORIGINAL_KEY, PACKET_KEY, REPLY_KEY},
    hops, log,
    maps::{FLOWS, FORWARDS, TARGETS},
    run::Run,
    scratch::{STAGE_RECHECKED, Scratch},
    snat,
    state::{self, Event},
    translate,
};

/// What the tables say.
pub enum Found {
    /// The packet belongs to a flow.
    Decided(Outcome),
    /// It belongs to a flow, and the filter has rules on TCP flags: they are to be asked.
    Asked,
    /// It belongs to a flow that another rule set allowed: the filter is to be asked again.
    Old,
    /// It belongs to a source NAT flow that the filter allows again: the ways are to be looked up anew.
    Renew,
    /// It belonged to a flow that has ended because its forward was removed; it is now a packet like any other.
    Ended,
    /// It belongs to no flow.
    Nothing,
}

/// Decides `packet` by the flow tables.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Found {
    let Some((entry, confirmed)) = lookup(&packet.key, PACKET_KEY, true) else { return Found::Nothing };
    if scratch.asked != run.generation && classify::asks_of_flows(run, packet.key.protocol, packet.flags) {
        return Found::Asked;
    }
    // SAFETY: the element stays mapped while the program runs. Another CPU may change it, or delete it and use its memory
    // for another flow: therefore its contents are copied once and checked against the other direction's entry.
    scratch.flow = unsafe { *entry };
    scratch.fades = 0;
    if scratch.flow.direction == ORIGINAL {
        original(ctx, run, packet, scratch, entry, confirmed)
    } else {
        reply(ctx, run, packet, scratch, entry, confirmed)
    }
}

#[inline(always)]
fn original(
    ctx: &XdpContext,
    run: &Run,
    packet: &Packet,
    scratch: &mut Scratch,
    entry: *mut Flow,
    confirmed: bool,
) -> Found {
    scratch.original_key = packet.key;
    scratch.reply_key = flow::reverse(&scratch.flow.translated);
    let state = State::from_number(scratch.flow.state);
    if flow::is_expired(&scratch.flow, run.now, &run.config.timeouts) {
        remove(scratch);
        return Found::Nothing;
    }
    let Some((twin, _)) = lookup(&scratch.reply_key, REPLY_KEY, confirmed) else {
        remove(scratch);
        return Found::Nothing;
    };
    // SAFETY: see `packet`.
    if flow::reverse(unsafe { &(*twin).translated }) != packet.key {
        // The reply entry was evicted and its source port has gone to another flow: this flow is dead, that one lives.
        half_open::remove(PACKET_KEY);
        let _ = FLOWS.remove(&packet.key);
        return Found::Nothing;
    }
    if packet.version == 6 && packet.key.protocol == UDP && packet.no_udp_checksum {
        return Found::Decided(Outcome::drop(Reason::UdpZeroChecksum));
    }
    let older = scratch.flow.generation != run.generation;
    if older {
        if !forward_exists(run, &scratch.flow) {
            remove(scratch);
            return Found::Ended;
        }
        if scratch.stage != STAGE_RECHECKED || scratch.allowed != run.generation {
            return Found::Old;
        }
        if snat::is_snat(scratch.flow.target) {
            return Found::Renew;
        }
    }
    if older || (flow::opens(packet.key.protocol, packet.flags) && !snat::is_snat(scratch.flow.target)) {
        let target = TARGETS.get(scratch.flow.target as u32);
        let condition = target.map_or(0, |target| target.state);
        match flow::fate(condition, ORIGINAL, packet.key.protocol, packet.flags, state, older) {
            Fate::Moves => {
                // It chooses its target anew. The reply entry stays for as long as a cached line of it may act, then the
                // agent takes it away; until then nobody gets its source port.
                // SAFETY: see `packet`.
                unsafe { (*twin).last_seen = run.now };
                let _ = FLOWS.remove(&packet.key);
                half_open::remove(PACKET_KEY);
                return Found::Nothing;
            }
            Fate::Ends => {
                // The entries stay, and with them the source port, as after any reset: who has not got this answer gets
                // another one.
                // SAFETY: see `packet`.
                unsafe {
                    (*entry).state = State::Reset as u8;
                    (*entry).last_seen = run.now;
                }
                return Found::Decided(Outcome::answer(Answer::Reset, 0, Reason::TargetEnded));
            }
            Fate::Stays | Fate::Fades => {}
        }
        if older && let Some(target) = target {
            scratch.flow.next_hop = target.next_hop;
        }
    }
    if older {
        let hop = hops::towards(ctx, run, packet, scratch, true);
        // SAFETY: see `packet`.
        unsafe {
            (*entry).next_hop = scratch.flow.next_hop;
            (*entry).generation = run.generation;
            if hop != 0 {
                (*twin).next_hop = hop;
            }
        }
    }
    let way = match translate::way(packet, &scratch.flow.translated.destination, scratch.flow.next_hop) {
        Ok(way) => way,
        Err(outcome) => return Found::Decided(outcome),
    };
    // A SYN on a closed flow opens it anew with the same translation: cached lines of it stay right.
    // SAFETY: see `packet`.
    let acknowledges = flow::acknowledges(packet.acknowledgement, unsafe { (*twin).created });
    let event = Event::new(packet, ORIGINAL, acknowledges);
    let next = state::advance(entry, event);
    if !mapping_lives(run, packet, scratch, next) {
        remove(scratch);
        return Found::Nothing;
    }
    // SAFETY: see `packet`.
    unsafe { (*entry).last_seen = run.now };
    if !confirmed && !confirm(scratch, entry, twin, event, next) {
        log::full(ctx, run, scratch);
        return Found::Decided(Outcome::drop(Reason::FlowTableFull));
    }
    Found::Decided(go_on(ctx, run, packet, scratch, way, next, LineKind::Original))
}

#[inline(always)]
fn reply(
    ctx: &XdpContext,
    run: &Run,
    packet: &Packet,
    scratch: &mut Scratch,
    entry: *mut Flow,
    confirmed: bool,
) -> Found {
    scratch.reply_key = packet.key;
    scratch.original_key = flow::reverse(&scratch.flow.translated);
    // SAFETY: see `packet`.
    let authority = lookup(&scratch.original_key, ORIGINAL_KEY, confirmed)
        .filter(|(original, _)| flow::reverse(unsafe { &(**original).translated }) == packet.key);
    let Some((authority, confirmed)) = authority else {
        // It leads nowhere, or its flow has another translation by now. Not while cached lines may act: nobody else is to
        // get its source port until then.
        if flow::elapsed(run.now, scratch.flow.last_seen) > run.line_jiffies() {
            half_open::remove(PACKET_KEY);
            let _ = FLOWS.remove(&packet.key);
        }
        return Found::Nothing;
    };
    // SAFETY: see `packet`.
    let original = unsafe { &*authority };
    if flow::is_expired(original, run.now, &run.config.timeouts) {
        remove(scratch);
        return Found::Nothing;
    }
    if packet.version == 6 && packet.key.protocol == UDP && packet.no_udp_checksum {
        return Found::Decided(Outcome::drop(Reason::UdpZeroChecksum));
    }
    if scratch.flow.generation != run.generation {
        if !forward_exists(run, &scratch.flow) {
            remove(scratch);
            return Found::Ended;
        }
        let condition = TARGETS.get(scratch.flow.target as u32).map_or(0, |target| target.state);
        match flow::fate(condition, REPLY, packet.key.protocol, packet.flags, State::Established, true) {
            Fate::Ends => return Found::Decided(Outcome::answer(Answer::Reset, 0, Reason::TargetEnded)),
            Fate::Fades => scratch.fades = 1,
            Fate::Stays | Fate::Moves => {}
        }
        // Towards the client the routing table is asked again; where it has no answer the old way stays.
        let hop = hops::towards(ctx, run, packet, scratch, false);
        if hop != 0 {
            scratch.flow.next_hop = hop;
        }
        // SAFETY: see `packet`.
        unsafe {
            (*entry).next_hop = scratch.flow.next_hop;
            if scratch.fades == 0 {
                (*entry).generation = run.generation;
            }
        }
    }
    let way = match translate::way(packet, &scratch.flow.translated.destination, scratch.flow.next_hop) {
        Ok(way) => way,
        Err(outcome) => return Found::Decided(outcome),
    };
    let event = Event::new(packet, REPLY, false);
    let fades = scratch.fades != 0;
    let next = if fades { state::after(original.state, event) } else { state::advance(authority, event) };
    if !mapping_lives(run, packet, scratch, next) {
        remove(scratch);
        return Found::Nothing;
    }
    // SAFETY: see `packet`.
    unsafe {
        if matches!(next, State::SynReceived) && packet.flags & SYN != 0 {
            // What the client's acknowledgement is held to. A target that makes its numbers anew (SYN cookies) may send another.
            (*entry).created = packet.sequence;
        }
        if !fades {
            (*authority).last_seen = run.now;
        }
    }
    if !confirmed && !fades && !confirm(scratch, authority, entry, event, next) {
        log::full(ctx, run, scratch);
        return Found::Decided(Outcome::drop(Reason::FlowTableFull));
    }
    // The original direction's filter verdict is older than this rule set: its reply must not be cached as decided anew,
    // but it may pass, for replies of an allowed flow do.
    Found::Decided(go_on(ctx, run, packet, scratch, way, next, LineKind::Reply))
}

/// Sends the packet as its flow says, and caches how.
#[inline(always)]
fn go_on(
    ctx: &XdpContext,
    run: &Run,
    packet: &Packet,
    scratch: &Scratch,
    way: &NextHop,
    state: State,
    kind: LineKind,
) -> Outcome {
    let flow = &scratch.flow;
    // Lines are for TCP and UDP.
    let (mut kind, mut cacheable) = (kind, packet.has_ports() && scratch.fades == 0);
    if snat::is_snat(flow.target) {
        // Who has opened the flow does not matter to a line: what leaves has its source changed, what comes in its
        // destination.
        match way_of(&packet.key, &flow.translated) {
            Way::Outward => kind = LineKind::Original,
            Way::Inward => kind = LineKind::Reply,
            Way::Hairpin => cacheable = false,
        }
    }
    // A half-open flow is never cached: its entries may be evicted at any time. Nor is one between the IP versions.
    let crosses = translate::crosses(packet, &flow.translated.destination);
    cacheable &= !classify::asks_of_flows(run, packet.key.protocol, ACK);
    if cacheable && state.is_confirmed() && !matches!(state, State::Reset) && !crosses {
        cache::fill_flow(run, packet, flow, kind);
    }
    let direction = if matches!(kind, LineKind::Original) { ORIGINAL } else { REPLY };
    translate::forward(ctx, run, packet, &flow.translated, way, flow.target, direction)
}

/// Whether the mapping of a source NAT flow, which is in state `next` from this packet on, lives on; true for other flows.
#[inline(always)]
fn mapping_lives(run: &Run, packet: &Packet, scratch: &mut Scratch, next: State) -> bool {
    !snat::is_snat(scratch.flow.target) || snat::touch(run, scratch, &packet.key, next as u8)
}

#[inline(always)]
pub fn forward_exists(run: &Run, flow: &Flow) -> bool {
    let index = run.slot() * MAX_FORWARDS + flow.forward as u32;
    FORWARDS.get(index).is_some_and(|forward| forward.uid == flow.forward_uid)
}

/// The entry of `key`, which stands at `place` of the working memory (`half_open::…_KEY`), and whether it is confirmed. `confirmed`:
/// where it should be. If another CPU is just confirming the flow it is in the other table, or was when that was looked at: an entry
/// comes into the table of confirmed flows before it leaves the other.
#[inline(always)]
pub fn lookup(key: &FlowKey, place: u32, confirmed: bool) -> Option<(*mut Flow, bool)> {
    if confirmed && let Some(entry) = FLOWS.get_ptr_mut(key) {
        return Some((entry, true));
    }
    if let Some(entry) = half_open::get(place) {
        return Some((entry, false));
    }
    FLOWS.get_ptr_mut(key).map(|entry| (entry, true))
}

/// Takes both directions out of both tables.
#[inline(always)]
fn remove(scratch: &Scratch) {
    let _ = FLOWS.remove(&scratch.original_key);
    let _ = FLOWS.remove(&scratch.reply_key);
    half_open::remove(ORIGINAL_KEY);
    half_open::remove(REPLY_KEY);
}

/// Does what follows when a packet was noted in a half-open flow, which is in state `next` since then: moves its entries to the table
/// of confirmed flows, if that confirms it. Another CPU may be moving them just now: then the packet is noted in the copy, too, or
/// whoever makes the copy sees it, for each of both looks after it has written. False: the table is full.
#[inline(always)]
fn confirm(scratch: &mut Scratch, original: *mut Flow, reply: *mut Flow, event: Event, next: State) -> bool {
    if next.is_confirmed() {
        return promote(scratch, original, reply);
    }
    if let Some(copy) = FLOWS.get_ptr_mut(&scratch.original_key) {
        state::advance(copy, event);
    }
    true
}

/// Moves both entries to the table of confirmed flows. They are never in neither table, so that no other flow can get
/// their source port meanwhile.
#[inline(always)]
fn promote(scratch: &mut Scratch, original: *mut Flow, reply: *mut Flow) -> bool {
    // Copied first, then checked: another CPU may have moved them already, and they may be another flow's by now.
    // SAFETY: both elements stay mapped while the program runs.
    unsafe {
        scratch.other = *original;
        scratch.reply = *reply;
    }
    if flow::reverse(&scratch.other.translated) != scratch.reply_key
        || flow::reverse(&scratch.reply.translated) != scratch.original_key
    {
        return true;
    }
    if FLOWS.insert(&scratch.reply_key, &scratch.reply, BPF_ANY as u64).is_err() {
        return false;
    }
    if FLOWS.insert(&scratch.original_key, &scratch.other, BPF_ANY as u64).is_err() {
        let _ = FLOWS.remove(&scratch.reply_key);
        return false;
    }
    // What another CPU has noted since the copy was made.
    let later = state::of(original);
    if later != scratch.other.state
        && let Some(copy) = FLOWS.get_ptr_mut(&scratch.original_key)
    {
        state::replace(copy, scratch.other.state, later);
    }
    half_open::remove(ORIGINAL_KEY);
    half_open::remove(REPLY_KEY);
    true
}
