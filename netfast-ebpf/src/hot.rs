//! The hot program's way: a plain packet of a cached flow. No helper that is not inlined, no hash map, one cache line of
//! the flow cache. Whatever is not plain or not cached is left, untouched, to the slow program; so are frames whose IP
//! packet goes on in a second buffer (XDP multi-buffer: jumbo frames), for which the extra work is small beside their size.

use core::mem::offset_of;

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    abi::{CacheLine4, CacheLine6, LineKind, Mode, ORIGINAL_DELTA, ORIGINAL_PORTS, Target},
    checksum::{self, Delta},
    rewrite,
    tunnel::Inner,
    wire::{TCP, UDP},
};

use crate::{
    cache::{self, Place},
    echo,
    frame::{self, Header, load, store},
    leave::{Line, leave, one_way, reflected, verdict, way_out},
    maps::CONFIG,
    plain::{Transport, find4, find6},
    run::Start,
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
pub struct Frame<'a> {
    /// The program's context.
    pub ctx: &'a XdpContext,
    /// What is known before the frame is read.
    pub start: &'a Start,
    /// The CPU that this is, as long as no call has come between.
    pub cpu: u32,
    /// Address of the first byte.
    pub data: usize,
    /// Address behind the last byte of the first buffer.
    pub end: usize,
    /// Offset of the IP header: 14, with a VLAN tag 18. A constant.
    pub l3: usize,
}

impl Frame<'_> {
    /// Address of the IP header.
    #[inline(always)]
    pub const fn ip(self) -> usize {
        self.data + self.l3
    }

    /// Bytes of the first buffer, which is all of the frame (see the module).
    #[inline(always)]
    pub const fn bytes(self) -> usize {
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

/// A 16-byte address as native words, by four loads.
#[inline(always)]
pub fn address_words(address: &[u8; 16]) -> [u32; 4] {
    let at = address.as_ptr() as usize;
    // SAFETY: an address has 16 bytes.
    unsafe { [load(at), load(at + 4), load(at + 8), load(at + 12)] }
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
