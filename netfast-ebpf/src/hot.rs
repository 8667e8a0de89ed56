//! The hot program's way: a plain packet of a cached flow. No helper that is not inlined, no hash map, one cache line of
//! the flow cache. Whatever is not plain or not cached is left, untouched, to the slow program; so are frames whose IP
//! packet goes on in a second buffer (XDP multi-buffer: jumbo frames), for which the extra work is small beside their size.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use netfast_common::{
    Reason, Verdict,
    abi::{
        CacheLine4, CacheLine6, ECHO_COUNTERS, LineKind, Mode, NextHop, TARGET_COUNTERS, Target, tail_port,
    },
    checksum::{self, Delta},
    flow::{ORIGINAL, REPLY},
    rewrite,
    tunnel::Inner,
    wire::{TCP, UDP},
};

use crate::{
    account::{self, Mine, Outcome},
    cache::{self, Place},
    echo, egress,
    frame::{self, Header, load, store},
    maps::{CONFIG, FILTER_COUNTERS, NEXT_HOPS, TARGETS},
    plain::{Transport, find4, find6},
    run::{Run, Start},
    tunnel,
    verdict::NO_RULE,
};

/// Decides and counts the frame and returns the driver's answer, or returns `None` if it is not a plain packet of a cached
/// flow; then nothing was written. `cpu`: the one that this is.
#[inline(always)]
pub fn decide(ctx: &XdpContext, start: &Start, cpu: u32) -> Option<u32> {
    if !start.is_known() {
        return None;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    // Ethernet, IPv4, UDP: what is shorter is not for here.
    if data + 42 > end {
        return None;
    }
    let interface = core::ptr::from_ref(start.interface) as usize;
    // SAFETY: 42 bytes are there; an interface's element begins with its MAC address and has 16 bytes.
    let (to, ours, kind): (u64, u64, u32) = unsafe { (load(data), load(interface), load(data + 12)) };
    if (to ^ ours) & MAC != 0 {
        return None;
    }
    // The header's offset is a constant in each branch.
    let frame = |l3| Frame { ctx, start, cpu, data, end, l3 };
    if kind & PLAIN_IPV4_BITS == PLAIN_IPV4 {
        return ipv4(frame(14));
    }
    match kind as u16 {
        IPV6 => ipv6(frame(14)),
        // SAFETY: 42 bytes are there.
        TAG => match unsafe { load::<u32>(data + 16) } {
            kind if kind & PLAIN_IPV4_BITS == PLAIN_IPV4 => ipv4(frame(18)),
            kind if kind as u16 == IPV6 => ipv6(frame(18)),
            _ => None,
        },
        _ => None,
    }
}

/// Where a frame lies and what it came by. Taken apart by the compiler, whose functions here are all inlined.
#[derive(Clone, Copy)]
struct Frame<'a> {
    ctx: &'a XdpContext,
    start: &'a Start,
    /// The CPU that this is, as long as no call has come between.
    cpu: u32,
    /// Address of the first byte.
    data: usize,
    /// Address behind the last byte of the first buffer.
    end: usize,
    /// Offset of the IP header: 14, with a VLAN tag 18. A constant.
    l3: usize,
}

impl Frame<'_> {
    /// Address of the IP header.
    #[inline(always)]
    const fn ip(self) -> usize {
        self.data + self.l3
    }

    /// Bytes of the first buffer, which is all of the frame (see the module).
    #[inline(always)]
    const fn bytes(self) -> usize {
        self.end - self.data
    }
}

const IPV6: u16 = 0x86ddu16.to_be();
const TAG: u16 = 0x8100u16.to_be();
/// The six bytes of a MAC address in a word of eight.
const MAC: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);
/// The ether type of IPv4 and the first byte of a header without options; a service class follows.
const PLAIN_IPV4: u32 = u32::from_ne_bytes([0x08, 0x00, 0x45, 0]);
const PLAIN_IPV4_BITS: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);

#[inline(always)]
fn ipv4(frame: Frame<'_>) -> Option<u32> {
    let Frame { end, l3, .. } = frame;
    let ip = frame.ip();
    // With a tag; without one 42 bytes were checked.
    if l3 != 14 && ip + 28 > end {
        return None;
    }
    // SAFETY: 28 bytes from `ip` are there.
    let (total, word): (u16, u32) = unsafe { (load(ip + 2), load(ip + 6)) };
    // Fragment offset and flags, TTL, protocol. No fragment (the DF bit is nobody's business), a TTL to spend: 2 to 255 with
    // nothing above it.
    let protocol = word.to_ne_bytes()[3];
    if (u32::from_be(word) & 0x3fff_ff00).wrapping_sub(0x200) > 0xfd00 {
        return None;
    }
    let total = u16::from_be(total) as usize;
    // Compared as lengths: before it had bounds for swapped bytes, the verifier (6.1) refused to add one to an address.
    if total > end - ip {
        return None;
    }
    // Each with straight lines of its own.
    if protocol == UDP {
        transport4(frame, total, Transport { l4: ip + 20, udp: true })
    } else if protocol == TCP {
        transport4(frame, total, Transport { l4: ip + 20, udp: false })
    } else {
        None
    }
}

#[inline(always)]
fn transport4(frame: Frame<'_>, total: usize, transport: Transport) -> Option<u32> {
    let Frame { start, cpu, end, .. } = frame;
    if !transport.is_plain(end, total, 20) {
        return None;
    }
    let ip = frame.ip();
    let place = |cpu| {
        // SAFETY: 28 bytes from `ip` are there.
        CONFIG
            .get(0)
            .map(|config| Place::of4(config, cpu, unsafe { load(ip + 12) }, transport.ports(), transport.udp))
    };
    let found = match find4(start, place(cpu)?.first(), ip, transport) {
        Some(found) => found,
        None => find4(start, place(cache::cpu())?.second(), ip, transport)?,
    };
    let (line, run) = (found.line, &found.run);
    match found.kind {
        ORIGINAL_LINE => translate4(frame, run, total, transport, line, true),
        REPLY_LINE => translate4(frame, run, total, transport, line, false),
        ECHO_LINE => {
            // SAFETY: four bytes.
            let tag = unsafe { load(line.address.as_ptr() as usize) };
            let within_rate = echo::within_rate(run, line.target, tag);
            if within_rate {
                // SAFETY: 28 bytes from `ip` are there.
                unsafe {
                    let (ttl, sum): (u8, u16) = (load(ip + 8), load(ip + 10));
                    store(ip + 8, echo::ANSWER_TTL);
                    let delta = checksum::ttl_delta(ttl, echo::ANSWER_TTL);
                    store(ip + 10, checksum::apply_folded(delta, sum));
                    let (source, destination): (u32, u32) = (load(ip + 12), load(ip + 16));
                    store(ip + 12, destination);
                    store(ip + 16, source);
                }
            }
            reflected(frame, run, transport.l4, line.target, within_rate)
        }
        VERDICT_LINE => {
            let rule = u32::from_ne_bytes(line.address);
            verdict(frame, run, (line.deltas, line.next_hop), rule, line.tail)
        }
        kind => {
            // SAFETY: 28 bytes from `ip` are there.
            let inner = Inner { version: 4, class: unsafe { load(ip + 1) }, length: total as u16 };
            let line = Line { kind, target: line.target, hop: line.next_hop, hash: place(0)?.hash() };
            one_way(frame, run, &line, inner)
        }
    }
}

const ORIGINAL_LINE: u8 = LineKind::Original as u8;
const REPLY_LINE: u8 = LineKind::Reply as u8;
const ECHO_LINE: u8 = LineKind::Echo as u8;
const VERDICT_LINE: u8 = LineKind::Verdict as u8;

/// A packet of a translated flow. `original`: its direction, a constant.
#[inline(always)]
fn translate4(
    frame: Frame<'_>,
    run: &Run,
    total: usize,
    transport: Transport,
    line: &'static CacheLine4,
    original: bool,
) -> Option<u32> {
    let (target, hop) = way_out(line.target, line.next_hop, total)?;
    let (ip, line_at) = (frame.ip(), core::ptr::from_ref(line) as usize);
    // SAFETY: addresses have 16 or 4 bytes, a line 32; 28 bytes from `ip` are there, and more of TCP (`is_plain`).
    unsafe {
        transport.put_ports(original, &raw const line.tail as usize, target.port_delta);
        store::<u32>(ip + 16, load(line.address.as_ptr() as usize));
        if let Some(source) = new_source(original, target) {
            store::<u32>(ip + 12, load(source.as_ptr() as usize + 12));
        }
        let deltas = line_at + offset_of!(CacheLine4, deltas);
        let (ttl, sum): (u8, u16) = (load(ip + 8), load(ip + 10));
        store(ip + 8, ttl.wrapping_sub(1));
        store(ip + 10, checksum::apply_folded(load(deltas + LOW), sum));
        let (at, delta): (usize, u16) = (transport.checksum(), load(deltas + HIGH));
        let sum: u16 = load(at);
        if transport.udp {
            store(at, checksum::apply_folded_udp(delta, sum));
        } else {
            store(at, checksum::apply_folded(delta, sum));
        }
    }
    leave(frame, run, hop, original, line.target)
}

/// Offsets of the halves of a word.
const LOW: usize = if cfg!(target_endian = "little") { 0 } else { 2 };
const HIGH: usize = 2 - LOW;

#[inline(always)]
fn ipv6(frame: Frame<'_>) -> Option<u32> {
    let end = frame.end;
    let (ip, l4) = (frame.ip(), frame.ip() + 40);
    if l4 + 8 > end {
        return None;
    }
    // SAFETY: 48 bytes from `ip` are there.
    let (version, payload, protocol, ttl): (u8, u16, u8, u8) =
        unsafe { (load(ip), load(ip + 4), load(ip + 6), load(ip + 7)) };
    let payload = u16::from_be(payload) as usize;
    if version >> 4 != 6 || ttl <= 1 || 40 + payload > end - ip {
        return None;
    }
    if protocol == UDP {
        // SAFETY: as above.
        if unsafe { load::<u16>(l4 + 6) } == 0 {
            return None;
        }
        transport6(frame, payload, Transport { l4, udp: true })
    } else if protocol == TCP {
        transport6(frame, payload, Transport { l4, udp: false })
    } else {
        None
    }
}

#[inline(always)]
fn transport6(frame: Frame<'_>, payload: usize, transport: Transport) -> Option<u32> {
    let Frame { start, cpu, end, .. } = frame;
    if !transport.is_plain(end, payload, 0) {
        return None;
    }
    let (ip, l4) = (frame.ip(), transport.l4);
    let place = |cpu| {
        // SAFETY: 48 bytes from `ip` are there.
        let words: [u64; 4] = unsafe { [load(ip + 8), load(ip + 16), load(ip + 24), load(ip + 32)] };
        CONFIG.get(0).map(|config| Place::of6(config, cpu, words, transport.ports(), transport.udp))
    };
    let found = match find6(start, place(cpu)?.first(), ip, transport) {
        Some(found) => found,
        None => find6(start, place(cache::cpu())?.second(), ip, transport)?,
    };
    let (line, run) = (found.line, &found.run);
    match found.kind {
        ORIGINAL_LINE => translate6(frame, run, payload, transport, line, true),
        REPLY_LINE => translate6(frame, run, payload, transport, line, false),
        ECHO_LINE => {
            // SAFETY: as for IPv4.
            let (tag, mut header) =
                unsafe { (load(line.address.as_ptr() as usize + 12), Header::<40>::checked(ip)) };
            let within_rate = echo::within_rate(run, line.target, tag);
            if within_rate {
                rewrite::reflect_ipv6(&mut header, echo::ANSWER_TTL);
            }
            reflected(frame, run, l4, line.target, within_rate)
        }
        VERDICT_LINE => {
            let [_, _, ifindex, rule] = address_words(&line.address);
            verdict(frame, run, (ifindex, line.next_hop), rule, line.tail)
        }
        kind => {
            // SAFETY: 48 bytes from `ip` are there.
            let [a, b]: [u8; 2] = unsafe { load::<u16>(ip) }.to_ne_bytes();
            let inner = Inner { version: 6, class: a << 4 | b >> 4, length: payload as u16 + 40 };
            let line = Line { kind, target: line.target, hop: line.next_hop, hash: place(0)?.hash() };
            one_way(frame, run, &line, inner)
        }
    }
}

/// See [`translate4`].
#[inline(always)]
fn translate6(
    frame: Frame<'_>,
    run: &Run,
    payload: usize,
    transport: Transport,
    line: &'static CacheLine6,
    original: bool,
) -> Option<u32> {
    let (target, hop) = way_out(line.target, line.next_hop, payload + 40)?;
    let ip = frame.ip();
    let mut delta = Delta::of_folded(target.sum, !original);
    // SAFETY: addresses have 16 bytes; 48 bytes from `ip` are there, and 20 from `l4` of TCP (`is_plain`).
    unsafe {
        let destination = line.address.as_ptr() as usize;
        let (high, low): (u64, u64) = (load(destination), load(destination + 8));
        store(ip + 24, high);
        store(ip + 32, low);
        // The client's address.
        if target.mode != Mode::Dnat as u8 {
            delta = if original {
                delta.removed64(load(ip + 8)).removed64(load(ip + 16))
            } else {
                delta.added64(high).added64(low)
            };
        }
        if let Some(source) = new_source(original, target) {
            let source = source.as_ptr() as usize;
            store::<u64>(ip + 8, load(source));
            store::<u64>(ip + 16, load(source + 8));
        }
        let old = transport.ports();
        let [a, b] = transport.put_ports(original, &raw const line.tail as usize, target.port_delta);
        let delta = delta.word32(old, a as u32 | (b as u32) << 16);
        let hop_limit: u8 = load(ip + 7);
        store(ip + 7, hop_limit.wrapping_sub(1));
        let at = transport.checksum();
        let sum: u16 = load(at);
        store(at, if transport.udp { delta.apply_udp_word(sum) } else { delta.apply_word(sum) });
    }
    leave(frame, run, hop, original, line.target)
}

/// What a line of a kind beyond [`LineKind::Echo`] says.
struct Line {
    kind: u8,
    target: u16,
    hop: u16,
    /// Hash of its tuple.
    hash: u32,
}

/// A packet to a target that answers the client itself.
#[inline(always)]
fn one_way(frame: Frame<'_>, run: &Run, line: &Line, inner: Inner) -> Option<u32> {
    let Frame { ctx, l3, .. } = frame;
    let bytes = frame::linear(ctx);
    let outcome = if line.kind == LineKind::Direct as u8 {
        let (_, hop) = way_out(line.target, line.hop, inner.length as usize)?;
        egress::send(ctx, l3, hop, run.ifindex, Reason::Forwarded)
    } else if line.kind == LineKind::Tunnel as u8 {
        // An IPv6 packet may be so long that its length has wrapped; what must stay below the MTU is not.
        let (target, hop) = way_out(line.target, line.hop, 0)?;
        if !tunnel::fits(run, line.target, target, hop, inner.length as u32) {
            return None;
        }
        tunnel::wrap(ctx, run, l3, inner, target, hop, line.hash)
    } else {
        return None;
    };
    account::count(TARGET_COUNTERS, line.target as u32 * 2, bytes);
    Some(account::finish(run.row, bytes, outcome))
}

/// A 16-byte address as native words, by four loads.
#[inline(always)]
pub fn address_words(address: &[u8; 16]) -> [u32; 4] {
    let at = address.as_ptr() as usize;
    // SAFETY: an address has 16 bytes.
    unsafe { [load(at), load(at + 4), load(at + 8), load(at + 12)] }
}

/// Ends a packet as its line says, if it came by the same interface and VLAN (`place`).
#[inline(always)]
fn verdict(frame: Frame<'_>, run: &Run, place: (u32, u16), rule: u32, tail: u64) -> Option<u32> {
    let Frame { data, l3, .. } = frame;
    // SAFETY: the link header is there; a tag's identifier stands at offset 14.
    let vlan = if l3 == 18 { u16::from_be(unsafe { load(data + 14) }) & 0xfff } else { 0 };
    if place != (run.ifindex, vlan) {
        return None;
    }
    if rule != NO_RULE {
        account::add(&FILTER_COUNTERS, rule, frame.bytes());
    }
    Some(account::finish(run.row, frame.bytes(), Outcome::from_bits(tail_port(tail))))
}

/// The rest of an echo's answer, after the IP header, if it is within its rate.
#[inline(always)]
fn reflected(frame: Frame<'_>, run: &Run, l4: usize, index: u16, within_rate: bool) -> Option<u32> {
    let bytes = frame.bytes();
    if !within_rate {
        return Some(account::finish(run.row, bytes, Outcome::drop(Reason::EchoRate)));
    }
    // SAFETY: the caller has checked that the link header and 8 bytes from `l4` are there.
    let (macs, ports) = unsafe { (Header::checked(frame.data), Header::checked(l4)) };
    echo::swap(macs, ports);
    let Some(mine) = Mine::find() else { return Some(xdp_action::XDP_ABORTED) };
    mine.count(ECHO_COUNTERS, index as u32, bytes);
    Some(mine.finish_as(run.row, bytes, Outcome::new(Verdict::Transmit, Reason::Echoed)))
}

/// Target and next hop of a line, if a datagram of `length` bytes can leave that way.
#[inline(always)]
fn way_out(target: u16, hop: u16, length: usize) -> Option<(&'static Target, &'static NextHop)> {
    // SAFETY: array elements live as long as the program.
    let (target, hop) = unsafe { (&*TARGETS.get_ptr(target as u32)?, &*NEXT_HOPS.get_ptr(hop as u32)?) };
    let fits = hop.mtu == 0 || length <= hop.mtu as usize;
    if hop.flags & netfast_common::abi::HOP_VALID != 0 && fits { Some((target, hop)) } else { None }
}

/// The new source address, if it changes.
#[inline(always)]
fn new_source(original: bool, target: &'static Target) -> Option<&'static [u8; 16]> {
    if original {
        if target.mode == Mode::Dnat as u8 { None } else { Some(&target.source) }
    } else {
        // What comes in by source NAT keeps its source.
        if target.mode == Mode::Snat as u8 { None } else { Some(&target.service) }
    }
}

/// Sends the frame and counts it. Each end of the way has an exit of its own, so that what is counted is a constant there.
#[inline(always)]
fn leave(frame: Frame<'_>, run: &Run, hop: &NextHop, original: bool, target: u16) -> Option<u32> {
    let (Frame { ctx, data, l3, .. }, bytes) = (frame, frame.bytes());
    let (direction, reason) = if original { (ORIGINAL, Reason::Forwarded) } else { (REPLY, Reason::Reply) };
    // SAFETY: the link header is there.
    if l3 != 14 || !unsafe { egress::put_untagged(data, hop) } {
        account::count(TARGET_COUNTERS, target as u32 * 2 + direction as u32, bytes);
        return Some(account::finish(run.row, bytes, egress::send(ctx, l3, hop, run.ifindex, reason)));
    }
    // The frame is written: without counters, which each CPU has, it must not be anybody else's.
    let Some(mine) = Mine::find() else { return Some(xdp_action::XDP_ABORTED) };
    mine.count(TARGET_COUNTERS, target as u32 * 2 + direction as u32, bytes);
    if hop.ifindex == run.ifindex {
        return Some(mine.finish_as(run.row, bytes, Outcome::new(Verdict::Transmit, reason)));
    }
    Some(mine.finish(run.row, bytes, egress::transmit(hop, run.ifindex, reason)))
}
