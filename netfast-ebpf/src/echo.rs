//! UDP echo (RFC 862) with its guards against loops and floods (CVE-2024-2169).

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason, Verdict,
    abi::{ECHO_BUCKETS, ECHO_COUNTERS, ECHO_PORT_WORDS, LineKind, MAX_ALLOW, MAX_ECHOES},
    addr,
    echo::{self, BUCKETS_PER_SET, Bucket, MAX_ALLOW_PER_ECHO},
    flow, hash, rewrite,
    wire::Packet,
};

use crate::{
    account::{self, Outcome},
    cache::{self, Fill},
    frame::{self, Header},
    maps::{ECHO_ALLOW, ECHO_LIMIT, ECHO_PORTS, ECHOES, LOCALS},
    run::Run,
};

/// TTL and hop limit of an answer (IANA's recommended default).
pub const ANSWER_TTL: u8 = 64;

/// Answers `packet` to reflector `index`, if its source may have an answer.
#[inline(never)]
pub fn packet(ctx: &XdpContext, run: &Run, packet: &Packet, index: u16) -> Outcome {
    if let Some(reason) = refuses(run, packet, index) {
        return Outcome::drop(reason);
    }
    let (high, low) = addr::words(&packet.key.source);
    let tag = source_tag(high, low, index, run.config.seed);
    // The line keeps the tag, so that the hot program need not make it.
    let line = Fill {
        kind: LineKind::Echo,
        address: [0, cache::pair(0, tag)],
        port: packet.key.source_port,
        next_hop: 0,
        target: index,
        deltas: 0,
    };
    cache::fill(run, packet.version, &packet.key, &line);
    answer(ctx, run, packet, index, tag)
}

/// Why reflector `index` answers this source not at all.
#[inline(always)]
pub fn refuses(run: &Run, packet: &Packet, index: u16) -> Option<Reason> {
    let port = packet.source_port();
    if echo::may_answer_an_answer(port) || is_echo_port(run, port) {
        return Some(Reason::EchoLoop);
    }
    // SAFETY: only presence counts.
    if unsafe { LOCALS.get(&packet.key.source) }.is_some() {
        return Some(Reason::EchoLoop);
    }
    if !is_allowed(run, &packet.key.source, index) {
        return Some(Reason::EchoNotAllowed);
    }
    None
}

/// What a source is called in the rate limiter.
#[inline(always)]
pub fn source_tag(high: u64, low: u64, index: u16, seed: u32) -> u32 {
    hash::finish(hash::mix(hash::mix(hash::mix(seed as u64, high), low), index as u64)) | 1
}

/// Sends the frame back with everything swapped, if its source is within its rate. Swapped words do not change a
/// checksum.
#[inline(always)]
fn answer(ctx: &XdpContext, run: &Run, packet: &Packet, index: u16, tag: u32) -> Outcome {
    if !within_rate(run, index, tag) {
        return Outcome::drop(Reason::EchoRate);
    }
    let (l3, l4) = (packet.l3 as usize & 0x1f, packet.l4 as usize);
    let reflected = if packet.version == 4 {
        Header::<20>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv4(&mut header, ANSWER_TTL))
    } else {
        Header::<40>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv6(&mut header, ANSWER_TTL))
    };
    let (Some(()), Some(macs), Some(ports)) = (reflected, Header::<12>::at(ctx, 0), Header::<4>::at(ctx, l4))
    else {
        return Outcome::drop(Reason::Internal);
    };
    swap(macs, ports);
    account::count(ECHO_COUNTERS, index as u32, frame::length(ctx));
    Outcome::new(Verdict::Transmit, Reason::Echoed)
}

/// Swaps the MAC addresses and the ports.
#[inline(always)]
pub fn swap(mut macs: Header<12>, mut ports: Header<4>) {
    let (source, destination): (u16, u16) = (ports.get(0), ports.get(2));
    ports.set(0, destination);
    ports.set(2, source);
    let (d0, d4, s0, s4): (u32, u16, u32, u16) = (macs.get(0), macs.get(4), macs.get(6), macs.get(10));
    macs.set(0, s0);
    macs.set(4, s4);
    macs.set(6, d0);
    macs.set(10, d4);
}

/// Takes a token of the source's bucket.
#[inline(always)]
pub fn within_rate(run: &Run, index: u16, tag: u32) -> bool {
    let sets = ECHO_BUCKETS / BUCKETS_PER_SET as u32;
    let Some(set) = ECHO_LIMIT.get_ptr_mut((tag >> 1) & (sets - 1)) else { return false };
    // SAFETY: the element is shared between CPUs; a lost update lets a packet more or less through, nothing else.
    let set = unsafe { &mut (*set).0 };
    let (now, hz) = (run.now, run.config.hz);
    let mut way = 0;
    while way < BUCKETS_PER_SET {
        if set[way].tag == tag {
            let bucket = &mut set[way];
            if bucket.refilled == now {
                return bucket.take_of_these(hz);
            }
            let Some((rate, burst)) = rate_of(run, index) else { return false };
            return bucket.take(now, hz, rate, burst);
        }
        way += 1;
    }
    let Some((rate, burst)) = rate_of(run, index) else { return false };
    // A source that is new here takes a free bucket or one that was idle for a second (its tokens have come back by then,
    // or it would have been refused all the same). With none it shares the last one: too little rather than too much.
    way = 0;
    while way < BUCKETS_PER_SET {
        if set[way].tag == 0 || flow::elapsed(now, set[way].refilled) > hz {
            set[way] = Bucket::fresh(tag, now, hz, burst);
            return set[way].take(now, hz, rate, burst);
        }
        way += 1;
    }
    set[BUCKETS_PER_SET - 1].take(now, hz, rate, burst)
}

/// Packets a second and packets at once of a reflector.
#[inline(always)]
fn rate_of(run: &Run, index: u16) -> Option<(u32, u32)> {
    ECHOES.get(run.slot() * MAX_ECHOES + index as u32).map(|echo| (echo.rate, echo.burst))
}

#[inline(always)]
fn is_echo_port(run: &Run, port: u16) -> bool {
    let word = run.slot() * ECHO_PORT_WORDS + (port as u32 >> 6);
    ECHO_PORTS.get(word).is_some_and(|bits| bits & (1 << (port & 63)) != 0)
}

#[inline(always)]
fn is_allowed(run: &Run, source: &[u8; 16], index: u16) -> bool {
    let Some(echo) = ECHOES.get(run.slot() * MAX_ECHOES + index as u32) else { return false };
    let (offset, count) = (echo.allow_offset, echo.allow_count);
    let mut position = 0;
    while position < MAX_ALLOW_PER_ECHO && position < count {
        let entry = run.slot() * MAX_ALLOW + ((offset + position) & (MAX_ALLOW - 1));
        let Some(prefix) = ECHO_ALLOW.get(entry) else { return false };
        if addr::in_prefix(source, &prefix.address, prefix.length) {
            return true;
        }
        position += 1;
    }
    false
}
