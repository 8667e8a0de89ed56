//! Packets of flows whose client and target speak different IP versions (RFC 7915). They are never cached: the frame's
//! head has to be moved, and what the hot program has in registers is for one version.

use aya_ebpf::{
    helpers::generated::{bpf_csum_diff, bpf_get_prandom_u32, bpf_xdp_load_bytes},
    programs::XdpContext,
};
use netfast_common::{
    Reason,
    abi::{FlowKey, NextHop, TARGET_COUNTERS},
    checksum::Delta,
    family::{self, Common, IPV4, IPV6},
    rewrite::Words,
    wire::{ICMP4, ICMP6, Packet, UDP},
};

use crate::{
    account::{self, Outcome},
    egress, family_icmp,
    frame::{self, Header},
    hops,
    maps::SCRATCH,
    run::Run,
    scratch::{CHUNK, Memory, Scratch},
    slow::Step,
    translate,
};

/// Most parts of a datagram whose checksum is made.
const MOST_CHUNKS: usize = 65_536 / CHUNK;

/// Sends the packet in work in the other IP version, as the flow in the working memory says.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: the element is this CPU's alone, and a program does not interrupt itself.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    let length = frame::length(ctx);
    let hop = match hops::usable(scratch.flow.next_hop) {
        Ok(hop) => hop,
        Err(reason) => return Step::Done(Outcome::drop(reason)),
    };
    let new = scratch.flow.translated;
    if packet.key.protocol == ICMP4 || packet.key.protocol == ICMP6 {
        return Step::Done(match family_icmp::translate(ctx, packet, &new, hop) {
            Ok(()) => egress::transmit(hop, run.ifindex, Reason::IcmpError),
            Err(reason) => Outcome::drop(reason),
        });
    }
    let (target, direction) = (scratch.flow.target as u32, scratch.flow.direction as u32 & 1);
    let translated = if packet.version == 4 {
        to_ipv6(ctx, packet, &new, hop, scratch)
    } else {
        to_ipv4(ctx, packet, &new, hop)
    };
    if translated.is_none() {
        return Step::Done(Outcome::drop(Reason::Internal));
    }
    account::count(TARGET_COUNTERS, target * 2 + direction, length);
    let reason = if direction == 0 { Reason::Forwarded } else { Reason::Reply };
    Step::Done(egress::transmit(hop, run.ifindex, reason))
}

#[inline(always)]
fn to_ipv6(
    ctx: &XdpContext,
    packet: &Packet,
    new: &FlowKey,
    hop: &NextHop,
    scratch: &mut Scratch,
) -> Option<()> {
    let l3 = packet.l3 as usize & 0x1f;
    let old = Header::<IPV4>::at(ctx, l3)?;
    let mut common = Common::of_ipv4([old.word(0), old.word(1), old.word(2)]);
    common.ttl = common.ttl.wrapping_sub(1);
    let ipv6 = common.ipv6(translate::words(&new.source), translate::words(&new.destination));
    let pseudo = family::pseudo(&[old.word(3), old.word(4)], &ipv6[2..]);
    translate::put_transport(ctx, packet, new, pseudo)?;
    if packet.key.protocol == UDP && packet.no_udp_checksum {
        // IPv6 asks for one (RFC 8200 8.1, RFC 7915 4.5).
        make_checksum(ctx, packet, family::added(Delta::NONE, &ipv6[2..]), scratch)?;
    }
    let l3 = egress::move_head(ctx, l3 + IPV4, hop, IPV6)?;
    let mut header = Header::<IPV6>::at(ctx, l3)?;
    let mut i = 0;
    while i < 10 {
        header.put(i, ipv6[i]);
        i += 1;
    }
    egress::label(ctx, hop, egress::ETHERNET_IPV6).then_some(())
}

#[inline(always)]
fn to_ipv4(ctx: &XdpContext, packet: &Packet, new: &FlowKey, hop: &NextHop) -> Option<()> {
    let l3 = packet.l3 as usize & 0x1f;
    let old = Header::<IPV6>::at(ctx, l3)?;
    let mut common = Common::of_ipv6([old.word(0), old.word(1)]);
    common.ttl = common.ttl.wrapping_sub(1);
    // SAFETY: a helper without preconditions.
    let random = unsafe { bpf_get_prandom_u32() } as u16;
    let ipv4 = common.ipv4(translate::word4(&new.source), translate::word4(&new.destination), random);
    let addresses = [
        old.word(2),
        old.word(3),
        old.word(4),
        old.word(5),
        old.word(6),
        old.word(7),
        old.word(8),
        old.word(9),
    ];
    translate::put_transport(ctx, packet, new, family::pseudo(&addresses, &ipv4[3..]))?;
    let l3 = egress::move_head(ctx, l3 + IPV6, hop, IPV4)?;
    let mut header = Header::<IPV4>::at(ctx, l3)?;
    let mut i = 0;
    while i < 5 {
        header.put(i, ipv4[i]);
        i += 1;
    }
    egress::label(ctx, hop, egress::ETHERNET_IPV4).then_some(())
}

/// Makes the checksum of a UDP datagram that has none. `pseudo`: the addresses' part of the pseudo-header.
#[inline(always)]
fn make_checksum(ctx: &XdpContext, packet: &Packet, pseudo: Delta, scratch: &mut Scratch) -> Option<()> {
    let l4 = packet.l4 as usize;
    let [l0, l1]: [u8; 2] = Header::<8>::at(ctx, l4)?.get(4);
    let datagram = u16::from_be_bytes([l0, l1]) as usize;
    let mut delta = pseudo.word([0xff, 0xff], [l0, l1]).word([0xff, 0xff], [0, UDP]);
    let (mut at, mut chunks) = (0, 0);
    while chunks < MOST_CHUNKS && at + CHUNK <= datagram {
        delta = delta.word32(0, part(ctx, l4 + at, CHUNK, scratch)?);
        at += CHUNK;
        chunks += 1;
    }
    let left = datagram - at;
    if left != 0 && left < CHUNK {
        // From 1 to `CHUNK` by arithmetic: older kernels forget a comparison on the way to the call.
        let left = (core::hint::black_box(left - 1) & (CHUNK - 1)) + 1;
        // What is behind the last byte must not be of the part before. Volatile, or it becomes a loop over bytes.
        let mut i = 0;
        while i < CHUNK / 8 {
            // SAFETY: an element of an array that is borrowed.
            unsafe { core::ptr::write_volatile(&raw mut scratch.chunk[i], 0) };
            i += 1;
        }
        delta = delta.word32(0, part(ctx, l4 + at, left, scratch)?);
    }
    let sum = delta.apply([0xff, 0xff]);
    Header::<8>::at(ctx, l4)?.set(6, if sum == [0, 0] { [0xff, 0xff] } else { sum });
    Some(())
}

/// Loads `length` bytes (1 to [`CHUNK`]) at `offset` into the buffer; the sum of all that is in it then.
#[inline(always)]
fn part(ctx: &XdpContext, offset: usize, length: usize, scratch: &mut Scratch) -> Option<u32> {
    let chunk: *mut u32 = scratch.chunk.as_mut_ptr().cast();
    // SAFETY: the buffer holds `CHUNK` bytes, and `length` is no more.
    let loaded = unsafe { bpf_xdp_load_bytes(ctx.ctx, offset as u32, chunk.cast(), length as u32) };
    if loaded != 0 {
        return None;
    }
    // SAFETY: as above.
    Some(unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, chunk, CHUNK as u32, 0) } as u32)
}
