//! ICMP errors about flows: translated inside and out (RFC 5508 4). They neither keep a flow alive nor end it.

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason,
    abi::{Flow, FlowKey},
    addr,
    checksum::Delta,
    flow::{self, ORIGINAL},
    rewrite, tunnel,
    wire::{Packet, TCP, UDP, icmp},
};

use crate::{
    account::Outcome,
    egress,
    frame::{FrameCursor, Header},
    half_open::{self, ORIGINAL_KEY, REPLY_KEY},
    known,
    maps::FLOWS,
    run::Run,
    scratch::{STAGE_ERROR, STAGE_TUNNEL, Scratch},
    translate::{self, ports_of, word4, words},
};

/// Decides an ICMP message, if it is an error about a flow. The error is found by the packet inside, which has left in one
/// direction of the flow: the error belongs to the other one.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Option<Outcome> {
    let head = Header::<8>::at(ctx, packet.l4 as usize)?;
    let kind: u8 = head.get(0);
    if !icmp::is_error(packet.version, kind) {
        return None;
    }
    scratch.inner = Packet::default();
    let inner = &mut scratch.inner;
    inner.l3 = packet.l4 + icmp::HEADER as u16;
    let read = icmp::embedded(&mut FrameCursor::at(ctx, inner.l3 as usize), packet.version, inner);
    let end = packet.l3 as u32 + packet.length;
    if read.is_none() {
        // A packet in a tunnel to a target, which left with an address that the error has come to?
        if tunnel::inside(inner.key.protocol) != 0 && inner.key.source == packet.key.destination {
            scratch.stage = STAGE_TUNNEL;
        }
        return None;
    }
    // It goes to whom the packet inside came from, or somebody has made it up.
    if inner.l4 as u32 + 8 > end || inner.key.source != packet.key.destination {
        return None;
    }
    scratch.reply_key = flow::reverse(&inner.key);
    let (entry, confirmed) = match FLOWS.get_ptr_mut(&scratch.reply_key) {
        Some(entry) => (entry, true),
        None => match half_open::get(REPLY_KEY) {
            Some(entry) => (entry, false),
            None => {
                scratch.stage = STAGE_ERROR;
                return None;
            }
        },
    };
    // SAFETY: as in `known::packet`: copied once, and checked against the other direction's entry.
    scratch.flow = unsafe { *entry };
    if !is_alive(run, scratch, confirmed) {
        return None;
    }
    let flow = &scratch.flow;
    let same_family = addr::is_v4(&flow.translated.source) == (packet.version == 4)
        && addr::is_v4(&flow.translated.destination) == (packet.version == 4);
    if !same_family {
        return Some(Outcome::FAMILY);
    }
    // An error about an error is never sent, so that what `way` wants answered is dropped.
    let way = match translate::way(packet, &flow.translated.destination, flow.next_hop) {
        Ok(way) => way,
        Err(outcome) => return Some(outcome),
    };
    // The router that sent the error keeps its address, unless the flow hides what lies behind it: then the error comes from
    // where the flow's own packets come from.
    let hides = flow.translated.source != scratch.reply_key.source;
    let source = if hides { &flow.translated.source } else { &packet.key.source };
    scratch.original_key = flow::reverse(&flow.translated);
    let rewritten = if packet.version == 4 {
        put4(ctx, packet, &scratch.inner, &scratch.original_key, source)
    } else {
        put6(ctx, packet, &scratch.inner, &scratch.original_key, source)
    };
    if rewritten.is_none() {
        return Some(Outcome::drop(Reason::Internal));
    }
    Some(egress::send(ctx, packet.l3 as usize & 0x1f, way, run.ifindex, Reason::IcmpError))
}

/// Whether the flow of the entry in work, whose key is `scratch.reply_key`, is one that a packet would go on with.
#[inline(always)]
fn is_alive(run: &Run, scratch: &mut Scratch, confirmed: bool) -> bool {
    scratch.original_key = flow::reverse(&scratch.flow.translated);
    let Some((other, _)) = known::lookup(&scratch.original_key, ORIGINAL_KEY, confirmed) else {
        return false;
    };
    // SAFETY: as in `known::packet`.
    let other: &Flow = unsafe { &*other };
    if flow::reverse(&other.translated) != scratch.reply_key {
        return false;
    }
    let authority = if scratch.flow.direction == ORIGINAL { &scratch.flow } else { other };
    !flow::is_expired(authority, run.now, &run.config.timeouts) && known::forward_exists(run, &scratch.flow)
}

/// Puts `new` into the packet inside, and the addresses of the error itself: to the packet's sender, from `source`.
#[inline(always)]
fn put4(ctx: &XdpContext, packet: &Packet, inner: &Packet, new: &FlowKey, source: &[u8; 16]) -> Option<()> {
    let mut header = Header::<20>::at(ctx, inner.l3 as usize)?;
    let (pseudo, header) = rewrite::embedded_ipv4(&mut header, word4(&new.source), word4(&new.destination));
    let content = put_transport(ctx, packet, inner, new, pseudo, Delta::NONE)?;
    put_checksum(ctx, packet, header.and(content))?;
    let mut header = Header::<20>::at(ctx, packet.l3 as usize)?;
    rewrite::ipv4(&mut header, word4(source), word4(&new.source));
    Some(())
}

#[inline(always)]
fn put6(ctx: &XdpContext, packet: &Packet, inner: &Packet, new: &FlowKey, source: &[u8; 16]) -> Option<()> {
    let mut header = Header::<40>::at(ctx, inner.l3 as usize)?;
    let pseudo = rewrite::embedded_ipv6(&mut header, words(&new.source), words(&new.destination));
    let content = put_transport(ctx, packet, inner, new, pseudo, pseudo)?;
    let mut header = Header::<40>::at(ctx, packet.l3 as usize)?;
    let outer = rewrite::ipv6(&mut header, words(source), words(&new.source));
    put_checksum(ctx, packet, pseudo.and(content).and(outer))
}

/// Updates the error's own checksum.
#[inline(always)]
fn put_checksum(ctx: &XdpContext, packet: &Packet, delta: Delta) -> Option<()> {
    let mut header = Header::<4>::at(ctx, packet.l4 as usize)?;
    let checksum = delta.apply(header.get(2));
    header.set(2, checksum);
    Some(())
}

/// Ports or identifier and, if it is there, the checksum of the packet inside. Returns what its transport header has
/// changed by. `pseudo`: what the pseudo-header has changed by, `pseudo_icmp`: that of ICMP, which has none over IPv4.
#[inline(always)]
fn put_transport(
    ctx: &XdpContext,
    packet: &Packet,
    inner: &Packet,
    new: &FlowKey,
    pseudo: Delta,
    pseudo_icmp: Delta,
) -> Option<Delta> {
    let mut header = Header::<8>::at(ctx, inner.l4 as usize)?;
    if inner.key.protocol == UDP {
        let ports = rewrite::ports(&mut header, ports_of(new), Delta::NONE);
        let old: [u8; 2] = header.get(6);
        let field = ports.and(pseudo).apply_udp(old);
        header.set(6, field);
        return Some(ports.word(old, field));
    }
    if inner.key.protocol == TCP {
        let ports = rewrite::ports(&mut header, ports_of(new), Delta::NONE);
        // RFC 792 asks for no more than the first 8 bytes.
        if inner.l4 as u32 + 18 > packet.l3 as u32 + packet.length {
            return Some(ports);
        }
        let Some(mut header) = Header::<18>::at(ctx, inner.l4 as usize) else { return Some(ports) };
        let old: [u8; 2] = header.get(16);
        let field = ports.and(pseudo).apply(old);
        header.set(16, field);
        return Some(ports.word(old, field));
    }
    // An echo: its identifier stands with the side that asks.
    let [s0, s1] = new.source_port;
    let [d0, d1] = new.destination_port;
    let (old, new): ([u8; 2], [u8; 2]) = (header.get(4), [s0 | d0, s1 | d1]);
    let identifier = Delta::NONE.word(old, new);
    header.set(4, new);
    let sum: [u8; 2] = header.get(2);
    let field = identifier.and(pseudo_icmp).apply(sum);
    header.set(2, field);
    Some(identifier.word(sum, field))
}
