//! The hot program's way: a plain packet of a cached flow. No helper that is not inlined, no hash map, one cache line of
//! the flow cache. Whatever is not plain or not cached is left, untouched, to the slow program; so are frames whose IP
//! packet goes on in a second buffer (XDP multi-buffer: jumbo frames), for which the extra work is small beside their size.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_action, programs::XdpContext};
use netfast_common::{
    Reason, Verdict,
    abi::{
        CacheLine4, CacheLine6, ECHO_COUNTERS, LineKind, Mode, NextHop, ORIGINAL_DELTA, ORIGINAL_PORTS,
        TARGET_COUNTERS, Target, tail_port,
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
    run::Start,
    tunnel,
    verdict::NO_RULE,
};

/// Decides and counts the frame and returns the driver's answer, or returns `None` if it is not a plain packet of a cached
/// flow; then nothing was written. `cpu`: the one that this is.
#[inline(always)]
pub fn decide(ctx: &XdpContext, start: &Start, cpu: u32) -> Option<u32> {
    if !start.is_known() {
        core::hint::cold_path();
        return None;
    }
    let (data, end) = (ctx.data(), ctx.data_end());
    // Ethernet, IPv4, UDP: what is shorter is not for here.
    if data + 42 > end {
        core::hint::cold_path();
        return None;
    }
    let interface = core::ptr::from_ref(start.interface) as usize;
    // SAFETY: 42 bytes are there; an interface's element begins with its MAC address and has 16 bytes.
    let (to, ours, kind): (u64, u64, u32) = unsafe { (load(data), load(interface), load(data + 12)) };
    if !frame::same_six(to, ours) {
        core::hint::cold_path();
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
            _ => {
                core::hint::cold_path();
                None
            }
        },
        _ => {
            core::hint::cold_path();
            None
        }
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
/// The ether type of IPv4 and the first byte of a header without options; a service class follows.
const PLAIN_IPV4: u32 = u32::from_ne_bytes([0x08, 0x00, 0x45, 0]);
const PLAIN_IPV4_BITS: u32 = u32::from_ne_bytes([0xff, 0xff, 0xff, 0]);

#[inline(always)]
fn ipv4(frame: Frame<'_>) -> Option<u32> {
    let Frame { end, l3, .. } = frame;
    let ip = frame.ip();
    // With a tag; without one 42 bytes were checked.
    if l3 != 14 && ip + 28 > end {
        core::hint::cold_path();
        return None;
    }
    // SAFETY: 28 bytes from `ip` are there.
    let (total, word): (u16, u32) = unsafe { (load(ip + 2), load(ip + 6)) };
    // Fragment offset and flags, TTL, protocol. No fragment (the DF bit is nobody's business), a TTL to spend: 2 to 255 with
    // nothing above it.
    let protocol = word.to_ne_bytes()[3];
    if (u32::from_be(word) & 0x3fff_ff00).wrapping_sub(0x200) > 0xfd00 {
        core::hint::cold_path();
        return None;
    }
    let total = u16::from_be(total) as usize;
    // Compared as lengths: before it had bounds for swapped bytes, the verifier (6.1) refused to add one to an address.
    if total > end - ip {
        core::hint::cold_path();
        return None;
    }
    // Each with straight lines of its own.
    if protocol == UDP {
        transport4(frame, total, Transport { l4: ip + 20, udp: true })
    } else if protocol == TCP {
        transport4(frame, total, Transport { l4: ip + 20, udp: false })
    } else {
        core::hint::cold_path();
        None
    }
}

#[inline(always)]
fn transport4(frame: Frame<'_>, total: usize, transport: Transport) -> Option<u32> {
    let Frame { start, cpu, end, .. } = frame;
    if !transport.is_plain(end, total, 20) {
        core::hint::cold_path();
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
        None => {
            core::hint::cold_path();
            find4(start, place(cache::cpu())?.second(), ip, transport)?
        }
    };
    let line = found.line;
    match found.kind {
        ORIGINAL_LINE => translate4(frame, total, transport, line, true),
        REPLY_LINE => translate4(frame, total, transport, line, false),
        ECHO_LINE => {
            // SAFETY: four bytes.
            let tag = unsafe { load(line.address.as_ptr() as usize) };
            let within_rate = echo::within_rate(&start.run_if(true)?, line.target, tag);
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
            reflected(frame, transport.l4, line.target, within_rate)
        }
        VERDICT_LINE => {
            let rule = u32::from_ne_bytes(line.address);
            verdict(frame, (line.deltas, line.next_hop), rule, line.tail)
        }
        kind => {
            // SAFETY: 28 bytes from `ip` are there.
            let (class, total): (u8, u16) =
                unsafe { (load(ip + 1), ((ip + 2) as *const u16).read_volatile()) };
            let inner = Inner { version: 4, class, length: u16::from_be(total) };
            let line = Line { kind, target: line.target, hop: line.next_hop, hash: place(0)?.hash() };
            one_way(frame, &line, inner)
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
    total: usize,
    transport: Transport,
    line: &'static CacheLine4,
    original: bool,
) -> Option<u32> {
    let (target, hop) = way_out(line.target, line.next_hop, total)?;
    let (ip, line_at) = (frame.ip(), core::ptr::from_ref(line) as usize);
    let address = line.address.as_ptr() as usize;
    // SAFETY: addresses have 16 or 4 bytes, a line 32; 28 bytes from `ip` are there, and more of TCP (`is_plain`).
    unsafe {
        let mode = target.mode;
        if original {
            store::<u32>(transport.l4, load(address + ORIGINAL_PORTS));
            if let Some(destination) = new_destination(target, mode) {
                store::<u32>(ip + 16, load(destination.as_ptr() as usize + 12));
            }
        } else {
            transport.put_reply_ports(&raw const line.tail as usize, target.port_delta);
            store::<u32>(ip + 16, load(address));
        }
        if let Some(source) = new_source(original, target, mode) {
            store::<u32>(ip + 12, load(source.as_ptr() as usize + 12));
        }
        let deltas = line_at + offset_of!(CacheLine4, deltas);
        let (ttl, sum): (u8, u16) = (load(ip + 8), load(ip + 10));
        store(ip + 8, ttl.wrapping_sub(1));
        store(ip + 10, checksum::apply_folded(load(deltas + frame::LOW), sum));
        let (at, kept): (usize, u16) = (transport.checksum(), load(deltas + frame::HIGH));
        let sum: u16 = load(at);
        if !transport.udp {
            store(at, checksum::apply_folded(kept, sum));
        } else if sum != 0 {
            store(at, checksum::apply_kept_udp(kept, sum));
        }
    }
    leave(frame, hop, original, line.target)
}

#[inline(always)]
fn ipv6(frame: Frame<'_>) -> Option<u32> {
    let end = frame.end;
    let (ip, l4) = (frame.ip(), frame.ip() + 40);
    if l4 + 8 > end {
        core::hint::cold_path();
        return None;
    }
    // SAFETY: 48 bytes from `ip` are there.
    let (version, payload, protocol, ttl): (u8, u16, u8, u8) =
        unsafe { (load(ip), load(ip + 4), load(ip + 6), load(ip + 7)) };
    let payload = u16::from_be(payload) as usize;
    if version >> 4 != 6 || ttl <= 1 || 40 + payload > end - ip {
        core::hint::cold_path();
        return None;
    }
    if protocol == UDP {
        // SAFETY: as above.
        if unsafe { load::<u16>(l4 + 6) } == 0 {
            core::hint::cold_path();
            return None;
        }
        transport6(frame, payload, Transport { l4, udp: true })
    } else if protocol == TCP {
        transport6(frame, payload, Transport { l4, udp: false })
    } else {
        core::hint::cold_path();
        None
    }
}

#[inline(always)]
fn transport6(frame: Frame<'_>, payload: usize, transport: Transport) -> Option<u32> {
    let Frame { start, cpu, end, .. } = frame;
    if !transport.is_plain(end, payload, 0) {
        core::hint::cold_path();
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
        None => {
            core::hint::cold_path();
            find6(start, place(cache::cpu())?.second(), ip, transport)?
        }
    };
    let line = found.line;
    match found.kind {
        ORIGINAL_LINE => translate6(frame, payload, transport, line, true),
        REPLY_LINE => translate6(frame, payload, transport, line, false),
        ECHO_LINE => {
            // SAFETY: as for IPv4.
            let (tag, mut header) =
                unsafe { (load(line.address.as_ptr() as usize + 12), Header::<40>::checked(ip)) };
            let within_rate = echo::within_rate(&start.run_if(true)?, line.target, tag);
            if within_rate {
                rewrite::reflect_ipv6(&mut header, echo::ANSWER_TTL);
            }
            reflected(frame, l4, line.target, within_rate)
        }
        VERDICT_LINE => {
            let [_, _, ifindex, rule] = address_words(&line.address);
            verdict(frame, (ifindex, line.next_hop), rule, line.tail)
        }
        kind => {
            // SAFETY: 48 bytes from `ip` are there.
            let [a, b]: [u8; 2] = unsafe { load::<u16>(ip) }.to_ne_bytes();
            let inner = Inner { version: 6, class: a << 4 | b >> 4, length: payload as u16 + 40 };
            let line = Line { kind, target: line.target, hop: line.next_hop, hash: place(0)?.hash() };
            one_way(frame, &line, inner)
        }
    }
}

/// See [`translate4`].
#[inline(always)]
fn translate6(
    frame: Frame<'_>,
    payload: usize,
    transport: Transport,
    line: &'static CacheLine6,
    original: bool,
) -> Option<u32> {
    let (target, hop) = way_out(line.target, line.next_hop, payload + 40)?;
    let ip = frame.ip();
    // SAFETY: addresses have 16 bytes; 48 bytes from `ip` are there, and 20 from `l4` of TCP (`is_plain`).
    unsafe {
        let hop_limit: u8 = load(ip + 7);
        store(ip + 7, hop_limit.wrapping_sub(1));
        let (at, address) = (transport.checksum(), line.address.as_ptr() as usize);
        let (sum, mode): (u16, u8) = (load(at), target.mode);
        if original {
            if let Some(destination) = new_destination(target, mode) {
                copy16(destination.as_ptr() as usize, ip + 24);
            }
            store::<u32>(transport.l4, load(address + ORIGINAL_PORTS));
            let kept = load(address + ORIGINAL_DELTA);
            let apply = if transport.udp { checksum::apply_kept_udp } else { checksum::apply_folded };
            store(at, apply(kept, sum));
        } else {
            // The client's address takes all of the line, so what the checksum changes by is found anew.
            copy16(address, ip + 24);
            let mut delta = Delta::of_folded(target.sum, true);
            if mode != Mode::Dnat as u8 {
                delta = delta.added64(load(address)).added64(load(address + 8));
            }
            let old = transport.ports();
            let [a, b] = transport.put_reply_ports(&raw const line.tail as usize, target.port_delta);
            let delta = delta.word32(old, a as u32 | (b as u32) << 16);
            store(at, if transport.udp { delta.apply_udp_word(sum) } else { delta.apply_word(sum) });
        }
        if let Some(source) = new_source(original, target, mode) {
            copy16(source.as_ptr() as usize, ip + 8);
        }
    }
    leave(frame, hop, original, line.target)
}

/// Copies 16 bytes.
///
/// # Safety
///
/// As for [`load`] and [`store`].
#[inline(always)]
unsafe fn copy16(from: usize, to: usize) {
    // SAFETY: see above.
    unsafe {
        store::<u64>(to, load(from));
        store::<u64>(to + 8, load(from + 8));
    }
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
fn one_way(frame: Frame<'_>, line: &Line, inner: Inner) -> Option<u32> {
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

/// A 16-byte address as native words, by four loads.
#[inline(always)]
pub fn address_words(address: &[u8; 16]) -> [u32; 4] {
    let at = address.as_ptr() as usize;
    // SAFETY: an address has 16 bytes.
    unsafe { [load(at), load(at + 4), load(at + 8), load(at + 12)] }
}

/// Ends a packet as its line says, if it came by the same interface and VLAN (`place`).
#[inline(always)]
fn verdict(frame: Frame<'_>, place: (u32, u16), rule: u32, tail: u64) -> Option<u32> {
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
fn reflected(frame: Frame<'_>, l4: usize, index: u16, within_rate: bool) -> Option<u32> {
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

/// Target and next hop of a line, if a datagram of `length` bytes, which is not 0, can leave that way.
#[inline(always)]
fn way_out(target: u16, hop: u16, length: usize) -> Option<(&'static Target, &'static NextHop)> {
    // SAFETY: array elements live as long as the program.
    let (target, hop) = unsafe { (&*TARGETS.get_ptr(target as u32)?, &*NEXT_HOPS.get_ptr(hop as u32)?) };
    if length as u64 > hop.longest as u64 {
        core::hint::cold_path();
        return None;
    }
    Some((target, hop))
}

/// The new destination address of the original direction, if it changes. `mode`: the target's.
#[inline(always)]
fn new_destination(target: &'static Target, mode: u8) -> Option<&'static [u8; 16]> {
    // What goes out by source NAT keeps its destination.
    if mode == Mode::Snat as u8 { None } else { Some(&target.address) }
}

/// The new source address, if it changes. `mode`: the target's, read once.
#[inline(always)]
fn new_source(original: bool, target: &'static Target, mode: u8) -> Option<&'static [u8; 16]> {
    if original {
        if mode == Mode::Dnat as u8 { None } else { Some(&target.source) }
    } else {
        // What comes in by source NAT keeps its source.
        if mode == Mode::Snat as u8 { None } else { Some(&target.service) }
    }
}

/// Sends the frame and counts it. Each end of the way has an exit of its own, so that what is counted is a constant there.
#[inline(always)]
fn leave(frame: Frame<'_>, hop: &NextHop, original: bool, target: u16) -> Option<u32> {
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
