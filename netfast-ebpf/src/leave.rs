//! How the hot program's packets end: by which way they leave, what is counted, what the driver is told.

use aya_ebpf::bindings::xdp_action;
use netfast_common::{
    Reason, Verdict,
    abi::{ECHO_COUNTERS, LineKind, NextHop, TARGET_COUNTERS, Target, tail_port},
    flow::{ORIGINAL, REPLY},
    tunnel::Inner,
};

use crate::{
    account::{self, Mine, Outcome},
    echo, egress,
    frame::{self, Header, load},
    hot::Frame,
    maps::{FILTER_COUNTERS, NEXT_HOPS, TARGETS},
    tunnel,
    verdict::NO_RULE,
};

/// Target and next hop of a line, if a datagram of `length` bytes, which is not 0, can leave that way.
#[inline(always)]
pub fn way_out(target: u16, hop: u16, length: usize) -> Option<(&'static Target, &'static NextHop)> {
    // SAFETY: array elements live as long as the program.
    let (target, hop) = unsafe { (&*TARGETS.get_ptr(target as u32)?, &*NEXT_HOPS.get_ptr(hop as u32)?) };
    if length as u64 > hop.longest as u64 {
        core::hint::cold_path();
        return None;
    }
    Some((target, hop))
}

/// Sends the frame and counts it. Each end of the way has an exit of its own, so that what is counted is a constant there.
#[inline(always)]
pub fn leave(frame: Frame<'_>, hop: &NextHop, original: bool, target: u16) -> Option<u32> {
    let (Frame { ctx, start, data, l3, .. }, bytes) = (frame, frame.bytes());
    let (direction, reason) = if original { (ORIGINAL, Reason::Forwarded) } else { (REPLY, Reason::Reply) };
    // SAFETY: the link header is there.
    if l3 != 14 || !unsafe { egress::put_untagged(data, hop) } {
        core::hint::cold_path();
        account::count(TARGET_COUNTERS, target as u32 * 2 + direction as u32, bytes);
        return Some(account::finish(
            start.known_row(),
            bytes,
            egress::send(ctx, l3, hop, start.known_ifindex(), reason),
        ));
    }
    // The frame is written: without counters, which each CPU has, it must not be anybody else's.
    let Some(mine) = Mine::find() else { return Some(xdp_action::XDP_ABORTED) };
    mine.count(TARGET_COUNTERS, target as u32 * 2 + direction as u32, bytes);
    if hop.ifindex == start.known_ifindex() {
        return Some(mine.finish_as(start.known_row(), bytes, Outcome::new(Verdict::Transmit, reason)));
    }
    Some(mine.finish(start.known_row(), bytes, egress::transmit(hop, start.known_ifindex(), reason)))
}
/// What a line of a kind beyond [`LineKind::Echo`] says.
pub struct Line {
    /// [`LineKind`].
    pub kind: u8,
    /// Index of the target.
    pub target: u16,
    /// Index of the next hop.
    pub hop: u16,
    /// Hash of its tuple.
    pub hash: u32,
}

/// A packet to a target that answers the client itself.
#[inline(always)]
pub fn one_way(frame: Frame<'_>, line: &Line, inner: Inner) -> Option<u32> {
    let Frame { ctx, start, l3, .. } = frame;
    let bytes = frame::linear(ctx);
    let outcome = if line.kind == LineKind::Direct as u8 {
        let (_, hop) = way_out(line.target, line.hop, inner.length as usize)?;
        egress::send(ctx, l3, hop, start.known_ifindex(), Reason::Forwarded)
    } else if line.kind == LineKind::Tunnel as u8 {
        // An IPv6 packet may be so long that its length has wrapped; what must stay below the MTU is not.
        let (target, hop) = way_out(line.target, line.hop, 1)?;
        let run = start.run_if(true)?;
        if !tunnel::fits(&run, line.target, target, hop, inner.length as u32) {
            core::hint::cold_path();
            return None;
        }
        tunnel::wrap(ctx, &run, l3, inner, target, hop, line.hash)
    } else {
        core::hint::cold_path();
        return None;
    };
    account::count(TARGET_COUNTERS, line.target as u32 * 2, bytes);
    Some(account::finish(start.known_row(), bytes, outcome))
}

/// Ends a packet as its line says, if it came by the same interface and VLAN (`place`).
#[inline(always)]
pub fn verdict(frame: Frame<'_>, place: (u32, u16), rule: u32, tail: u64) -> Option<u32> {
    let Frame { start, data, l3, .. } = frame;
    // SAFETY: the link header is there; a tag's identifier stands at offset 14.
    let vlan = if l3 == 18 { u16::from_be(unsafe { load(data + 14) }) & 0xfff } else { 0 };
    if place != (start.known_ifindex(), vlan) {
        core::hint::cold_path();
        return None;
    }
    if rule != NO_RULE {
        account::add(&FILTER_COUNTERS, rule, frame.bytes());
    }
    Some(account::finish(start.known_row(), frame.bytes(), Outcome::from_bits(tail_port(tail))))
}

/// The rest of an echo's answer, after the IP header, if it is within its rate.
#[inline(always)]
pub fn reflected(frame: Frame<'_>, l4: usize, index: u16, within_rate: bool) -> Option<u32> {
    let (start, bytes) = (frame.start, frame.bytes());
    if !within_rate {
        return Some(account::finish(start.known_row(), bytes, Outcome::drop(Reason::EchoRate)));
    }
    // SAFETY: the caller has checked that the link header and 8 bytes from `l4` are there.
    let (macs, ports) = unsafe { (Header::checked(frame.data), Header::checked(l4)) };
    echo::swap(macs, ports);
    let Some(mine) = Mine::find() else { return Some(xdp_action::XDP_ABORTED) };
    mine.count(ECHO_COUNTERS, index as u32, bytes);
    Some(mine.finish_as(start.known_row(), bytes, Outcome::new(Verdict::Transmit, Reason::Echoed)))
}
