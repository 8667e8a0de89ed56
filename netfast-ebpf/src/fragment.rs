//! Fragments that follow the flow of their first one (`[policy] fragment = "follow"`). A later fragment has no ports: they are
//! never read out of it. It leaves with the addresses that the first one left with, if that came before it.

use aya_ebpf::{bindings::BPF_ANY, programs::XdpContext};
use netfast_common::{
    Reason,
    abi::{FRAGMENT_DIRECT, FRAGMENT_SECONDS, TARGET_COUNTERS},
    flow, rewrite,
    wire::{Fragment, Packet},
};

use crate::{
    account::{self, Outcome},
    egress,
    frame::{self, Header},
    hops,
    maps::{FRAGMENTS, SCRATCH},
    run::Run,
    scratch::{Memory, STAGE_FRAGMENT, Scratch},
    slow::Step,
    translate,
};

/// Sends a first fragment as the flow in the working memory says, and notes that; or a later one as was noted.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: the element is this CPU's alone, and a program does not interrupt itself.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    if !identify(ctx, packet, scratch) {
        return Step::Done(Outcome::drop(Reason::Internal));
    }
    if packet.fragment == Fragment::First {
        return Step::Done(first(ctx, run, packet, scratch));
    }
    // SAFETY: copied at once; another CPU's change gives one first fragment or the other.
    match unsafe { FRAGMENTS.get(&scratch.fragment_key) } {
        Some(noted) => scratch.fragment = *noted,
        None => return Step::Filter,
    }
    let noted = &scratch.fragment;
    if noted.generation != run.generation
        || flow::elapsed(run.now, noted.made) > run.config.hz * FRAGMENT_SECONDS
    {
        return Step::Filter;
    }
    if noted.direction == FRAGMENT_DIRECT {
        scratch.stage = STAGE_FRAGMENT;
        return Step::Direct;
    }
    Step::Done(later(ctx, run, packet, scratch))
}

/// Puts the datagram's key into the working memory.
#[inline(always)]
pub fn identify(ctx: &XdpContext, packet: &Packet, scratch: &mut Scratch) -> bool {
    let at = packet.l3 as usize + packet.identification as usize;
    let identification = if packet.version == 4 {
        Header::<2>::at(ctx, at).map(|bytes| bytes.get::<u16>(0) as u32)
    } else {
        Header::<4>::at(ctx, at).map(|bytes| bytes.get::<u32>(0))
    };
    let Some(identification) = identification else { return false };
    let key = &mut scratch.fragment_key;
    key.source = packet.key.source;
    key.destination = packet.key.destination;
    key.identification = identification;
    key.protocol = packet.key.protocol;
    key.pad = [0; 3];
    true
}

#[inline(always)]
fn first(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Outcome {
    let flow = &scratch.flow;
    let noted = &mut scratch.fragment;
    noted.source = flow.translated.source;
    noted.destination = flow.translated.destination;
    noted.made = run.now;
    noted.generation = run.generation;
    noted.target = flow.target;
    noted.next_hop = flow.next_hop;
    noted.direction = flow.direction as u32 & 1;
    noted.hash = 0;
    noted.pad = 0;
    let _ = FRAGMENTS.insert(&scratch.fragment_key, &scratch.fragment, BPF_ANY as u64);
    let l3 = packet.l3 as usize & 0x1f;
    let new = &scratch.flow.translated;
    let rewritten = if packet.version == 4 {
        translate::put4(ctx, packet, new, l3)
    } else {
        translate::put6(ctx, packet, new, l3)
    };
    if rewritten.is_none() {
        return Outcome::drop(Reason::Internal);
    }
    send(ctx, run, packet, scratch)
}

/// The addresses change, and nothing behind the IP header: the transport's checksum stands in the first fragment.
#[inline(always)]
fn later(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &Scratch) -> Outcome {
    if packet.ttl <= 1 {
        return Outcome::drop(Reason::TtlExpired);
    }
    let l3 = packet.l3 as usize & 0x1f;
    let noted = &scratch.fragment;
    // What cannot leave is left as it came.
    if let Err(reason) = hops::usable(noted.next_hop) {
        return Outcome::drop(reason);
    }
    let rewritten = if packet.version == 4 {
        Header::<20>::at(ctx, l3).map(|mut header| {
            rewrite::ipv4(&mut header, translate::word4(&noted.source), translate::word4(&noted.destination));
        })
    } else {
        Header::<40>::at(ctx, l3).map(|mut header| {
            rewrite::ipv6(&mut header, translate::words(&noted.source), translate::words(&noted.destination));
        })
    };
    if rewritten.is_none() {
        return Outcome::drop(Reason::Internal);
    }
    send(ctx, run, packet, scratch)
}

/// Sends it by the next hop that was noted.
#[inline(always)]
fn send(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &Scratch) -> Outcome {
    let noted = &scratch.fragment;
    let next_hop = match hops::usable(noted.next_hop) {
        Ok(next_hop) => next_hop,
        Err(reason) => return Outcome::drop(reason),
    };
    // Nobody is told: a later fragment is not answered (RFC 1122 3.2.2), and of a first one this was asked before.
    if next_hop.mtu != 0 && packet.length > next_hop.mtu as u32 {
        return Outcome::drop(Reason::MtuExceeded);
    }
    let length = frame::length(ctx);
    let reason = if noted.direction == 0 { Reason::Forwarded } else { Reason::Reply };
    let outcome = egress::send(ctx, packet.l3 as usize & 0x1f, next_hop, run.ifindex, reason);
    account::count(TARGET_COUNTERS, noted.target as u32 * 2 + (noted.direction & 1), length);
    outcome
}
