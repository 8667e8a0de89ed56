//! UDP echo (RFC 862) with its guards against loops and floods (CVE-2024-2169).

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason, Verdict,
    abi::{ECHO_BUCKETS, ECHO_PORT_WORDS, LineKind, MAX_ALLOW, MAX_ECHOES},
    addr,
    echo::{self, BUCKETS_PER_SET, Bucket, MAX_ALLOW_PER_ECHO},
    flow, hash,
    rewrite::{self, Words},
    wire::Packet,
};

use crate::{
    account::{self, Outcome},
    cache::{self, Fill},
    frame::{self, Header},
    maps::{ECHO_ALLOW, ECHO_COUNTERS, ECHO_LIMIT, ECHO_PORTS, ECHOES, LOCALS},
    run::Run,
};

/// TTL and hop limit of an answer (IANA's recommended default).
const ANSWER_TTL: u8 = 64;

/// Answers `packet` to reflector `index`, if its source may have an answer.
#[inline(never)]
pub fn packet(ctx: &XdpContext, run: &Run, packet: &Packet, index: u16) -> Outcome {
    let port = packet.source_port();
    if echo::may_answer_an_answer(port) || is_echo_port(run, port) {
        return Outcome::drop(Reason::EchoLoop);
    }
    // SAFETY: only presence counts.
    if unsafe { LOCALS.get(&packet.key.source) }.is_some() {
        return Outcome::drop(Reason::EchoLoop);
    }
    if !is_allowed(run, &packet.key.source, index) {
        return Outcome::drop(Reason::EchoNotAllowed);
    }
    let line = Fill {
        kind: LineKind::Echo,
        address: packet.key.source,
        port: packet.key.source_port,
        next_hop: 0,
        target: index,
    };
    cache::fill(run, packet.version, &packet.key, &line);
    let (high, low) = addr::words(&packet.key.source);
    let tag = source_tag(high, low, index, run.config.seed);
    let length = frame::length(ctx);
    answer(ctx, run, packet.version, packet.l3 as usize & 0x1f, packet.l4 as usize, index, tag, length)
}

/// What a source is called in the rate limiter.
#[inline(always)]
pub fn source_tag(high: u64, low: u64, index: u16, seed: u32) -> u32 {
    hash::finish(hash::mix(hash::mix(hash::mix(seed as u64, high), low), index as u64)) | 1
}

/// Sends the frame back with everything swapped, if its source is within its rate. Swapped words do not change a
/// checksum. `length`: bytes of the whole frame.
#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "inlined; the hot program has them in registers")]
pub fn answer(
    ctx: &XdpContext,
    run: &Run,
    version: u8,
    l3: usize,
    l4: usize,
    index: u16,
    tag: u32,
    length: usize,
) -> Outcome {
    if !within_rate(run, index, tag) {
        return Outcome::drop(Reason::EchoRate);
    }
    let reflected = if version == 4 {
        Header::<20>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv4(&mut header, ANSWER_TTL))
    } else {
        Header::<40>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv6(&mut header, ANSWER_TTL))
    };
    let (Some(()), Some(mut ports), Some(mut macs)) =
        (reflected, Header::<4>::at(ctx, l4), Header::<12>::at(ctx, 0))
    else {
        return Outcome::drop(Reason::Internal);
    };
    ports.put(0, rewrite::swap_ports(ports.word(0)));
    let (destination, shared, source) = (macs.word(0), macs.word(1), macs.word(2));
    let ([d4, d5, s0, s1], [s2, s3, s4, s5]) = (shared.to_ne_bytes(), source.to_ne_bytes());
    let [d0, d1, d2, d3] = destination.to_ne_bytes();
    macs.put(0, u32::from_ne_bytes([s0, s1, s2, s3]));
    macs.put(1, u32::from_ne_bytes([s4, s5, d0, d1]));
    macs.put(2, u32::from_ne_bytes([d2, d3, d4, d5]));
    account::add(&ECHO_COUNTERS, index as u32, length);
    Outcome::new(Verdict::Transmit, Reason::Echoed)
}

/// Takes a token of the source's bucket.
#[inline(always)]
fn within_rate(run: &Run, index: u16, tag: u32) -> bool {
    let Some(echo) = ECHOES.get(run.slot() * MAX_ECHOES + index as u32) else { return false };
    let sets = ECHO_BUCKETS / BUCKETS_PER_SET as u32;
    let Some(set) = ECHO_LIMIT.get_ptr_mut((tag >> 1) & (sets - 1)) else { return false };
    // SAFETY: the element is shared between CPUs; a lost update lets a packet more or less through, nothing else.
    let set = unsafe { &mut *set };
    let (now, hz) = (run.now, run.config.hz);
    let mut way = 0;
    while way < BUCKETS_PER_SET {
        if set[way].tag == tag {
            return set[way].take(now, hz, echo.rate, echo.burst);
        }
        way += 1;
    }
    // A source that is new here takes a free bucket or one that was idle for a second (its tokens have come back by then,
    // or it would have been refused all the same). With none it shares the last one: too little rather than too much.
    way = 0;
    while way < BUCKETS_PER_SET {
        if set[way].tag == 0 || flow::elapsed(now, set[way].refilled) > hz {
            set[way] = Bucket::fresh(tag, now, hz, echo.burst);
            return set[way].take(now, hz, echo.rate, echo.burst);
        }
        way += 1;
    }
    set[BUCKETS_PER_SET - 1].take(now, hz, echo.rate, echo.burst)
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
