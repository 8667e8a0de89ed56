//! Answers in place of frames that are not forwarded: ICMP errors and TCP resets, back to their senders.

use aya_ebpf::{
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use netfast_common::{
    Reason, Verdict,
    abi::InterfaceAddress,
    answer::{self, Answer, MOST_EMBEDDED4, MOST_EMBEDDED6, Segment},
    checksum::Delta,
    echo::Bucket,
    rewrite::Words,
    wire::{ICMP4, ICMP6, Packet, TCP},
};

use crate::{
    account::Outcome,
    frame::{self, Header, load},
    hops,
    maps::{ERROR_LIMIT, INTERFACE_ADDRESSES, LOCALS, REQUEST, SCRATCH},
    run::Run,
    scratch::Memory,
    slow::Step,
    translate::{word4, words},
};

/// Notes what the program `netfast_error` is to do (`Outcome::request`).
#[inline(always)]
pub fn ask(request: u32) {
    if let Some(element) = REQUEST.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's alone, and a program does not interrupt itself.
        unsafe { *element = request as u64 };
    }
}

/// Makes the answer that was asked for, if its sender may have one.
#[inline(always)]
pub fn answer(ctx: &XdpContext, run: &Run) -> Step {
    let (Some(memory), Some(request)) = (SCRATCH.get_ptr_mut(0), REQUEST.get_ptr_mut(0)) else {
        return Step::Done(Outcome::drop(Reason::Internal));
    };
    // SAFETY: as above; the description was made by `slow::read` for this frame.
    let (Memory { packet, scratch }, request) = unsafe { (&mut *memory, *request) };
    let (Some(kind), value, reason) = answer::read_request(request as u32) else {
        return Step::Done(Outcome::drop(Reason::Internal));
    };
    let made = may_answer(ctx, run, packet, kind)
        && within_rate(run)
        && match kind {
            Answer::Reset => reset(ctx, packet),
            _ => {
                source(run, packet, kind, &mut scratch.reply_key.source)
                    && icmp(ctx, packet, kind, value, &scratch.reply_key.source)
            }
        };
    let verdict = if made { Verdict::Transmit } else { Verdict::Drop };
    Step::Done(Outcome::numbered(verdict, reason))
}

#[inline(always)]
fn may_answer(ctx: &XdpContext, run: &Run, packet: &Packet, kind: Answer) -> bool {
    if packet.destination_mac != run.interface.mac || !answer::may_answer(packet, kind) {
        return false;
    }
    if packet.key.protocol != ICMP4 && packet.key.protocol != ICMP6 {
        return true;
    }
    Header::<4>::at(ctx, packet.l4 as usize)
        .is_some_and(|header| answer::is_query(packet.version, header.get(0)))
}

/// Takes a token of this CPU's bucket (RFC 1812 4.3.2.8, RFC 4443 2.4 f).
#[inline(always)]
pub fn within_rate(run: &Run) -> bool {
    let Some(bucket) = ERROR_LIMIT.get_ptr_mut(0) else { return false };
    let rate = run.config.error_rate;
    // SAFETY: the element is this CPU's alone.
    let bucket = unsafe { &mut *bucket };
    if bucket.tag == 0 {
        *bucket = Bucket::fresh(1, run.now, run.config.hz, answer::burst(rate));
    }
    bucket.take(run.now, run.config.hz, rate, answer::burst(rate))
}

/// The address that the answer comes from: the one that the packet was sent to, if it is the host's own (RFC 4443 2.2 a),
/// else the one of the interface that it came in by (RFC 1812 4.3.2.4). The other way round for Time Exceeded: netfast is
/// a hop on the way to a service, and a traceroute ends where the destination itself answers.
#[inline(always)]
fn source(run: &Run, packet: &Packet, kind: Answer, source: &mut [u8; 16]) -> bool {
    // SAFETY: only presence counts.
    let own = unsafe { LOCALS.get(&packet.key.destination) }.is_some();
    if own {
        *source = packet.key.destination;
        if !matches!(kind, Answer::TimeExceeded) {
            return true;
        }
    }
    let ifindex = hops::l3_interface(run.ifindex, packet.vlan);
    // SAFETY: the value is copied at once; a concurrent change gives one of the two.
    let Some(InterfaceAddress { v4, v6 }) = (unsafe { INTERFACE_ADDRESSES.get(&ifindex) }) else {
        return own;
    };
    let address = if packet.version == 4 { v4 } else { v6 };
    if words(address) == [0; 4] {
        return own;
    }
    *source = *address;
    true
}

/// Cuts the frame to `length` bytes.
#[inline(always)]
fn cut(ctx: &XdpContext, length: usize) -> bool {
    let more = frame::length(ctx) as i32 - length as i32;
    // SAFETY: the context is valid; all packet references are taken anew afterwards.
    more >= 0 && (more == 0 || unsafe { bpf_xdp_adjust_tail(ctx.ctx, -more) } == 0)
}

/// Puts the ICMP error `kind` before the packet, as much of which stays as it may hold.
#[inline(always)]
fn icmp(ctx: &XdpContext, packet: &Packet, kind: Answer, value: u16, source: &[u8; 16]) -> bool {
    let l3 = packet.l3 as usize & 0x1f;
    let (room, most) = if packet.version == 4 { (28, MOST_EMBEDDED4) } else { (48, MOST_EMBEDDED6) };
    let there = frame::linear(ctx).wrapping_sub(l3);
    let mut embedded = packet.length as usize;
    if embedded > there {
        embedded = there;
    }
    if embedded > most {
        embedded = most;
    }
    // SAFETY: the context is valid; all packet references are taken anew afterwards.
    if !cut(ctx, l3 + embedded) || unsafe { bpf_xdp_adjust_head(ctx.ctx, -room) } != 0 {
        return false;
    }
    if !put_link(ctx, l3, room as usize) {
        return false;
    }
    let payload = embedded as u16 + 8;
    let content = sum(ctx, l3 + room as usize, embedded);
    if packet.version == 4 {
        let Some(mut header) = Header::<20>::at(ctx, l3) else { return false };
        answer::put_ipv4(&mut header, word4(source), word4(&packet.key.source), ICMP4, payload);
        let Some(mut header) = Header::<8>::at(ctx, l3 + 20) else { return false };
        answer::put_icmp(&mut header, 4, kind, value, content);
    } else {
        let (from, to) = (words(source), words(&packet.key.source));
        let Some(mut header) = Header::<40>::at(ctx, l3) else { return false };
        answer::put_ipv6(&mut header, from, to, ICMP6, payload);
        let Some(mut header) = Header::<8>::at(ctx, l3 + 40) else { return false };
        let content = content.and(answer::pseudo6(from, to, ICMP6, payload));
        answer::put_icmp(&mut header, 6, kind, value, content);
    }
    true
}

/// Moves the link header (`l3` bytes) from offset `from` to the beginning, its addresses swapped, its tags kept.
#[inline(always)]
fn put_link(ctx: &XdpContext, l3: usize, from: usize) -> bool {
    let Some(old) = Header::<14>::at(ctx, from) else { return false };
    let (first, second, third) = swapped(&old);
    let kind: u16 = old.get(12);
    let Some(mut new) = Header::<14>::at(ctx, 0) else { return false };
    new.put(0, first);
    new.put(1, second);
    new.put(2, third);
    new.set(12, kind);
    // The rest of each tag: its identifier and the kind of what follows.
    let mut at = 14;
    while at < 22 && at < l3 {
        let (Some(old), Some(mut new)) = (Header::<4>::at(ctx, from + at), Header::<4>::at(ctx, at)) else {
            return false;
        };
        let tag: u32 = old.get(0);
        new.set(0, tag);
        at += 4;
    }
    true
}

/// The first three words of a link header with its addresses swapped.
#[inline(always)]
fn swapped<const N: usize>(header: &Header<N>) -> (u32, u32, u32) {
    let ([d0, d1, d2, d3], [d4, d5, s0, s1], [s2, s3, s4, s5]) =
        (header.word(0).to_ne_bytes(), header.word(1).to_ne_bytes(), header.word(2).to_ne_bytes());
    (
        u32::from_ne_bytes([s0, s1, s2, s3]),
        u32::from_ne_bytes([s4, s5, d0, d1]),
        u32::from_ne_bytes([d2, d3, d4, d5]),
    )
}

/// Bytes in a step of [`sum`].
const STEP: usize = 8;

/// Sum of the last `length` bytes of the frame (at most [`MOST_EMBEDDED6`]), which begin at `offset`.
#[inline(always)]
fn sum(ctx: &XdpContext, offset: usize, length: usize) -> Delta {
    let (start, end) = (ctx.data() + (offset & 0x7f), ctx.data_end());
    let mut sum = Delta::NONE;
    let mut step = 0;
    while step < MOST_EMBEDDED6.div_ceil(STEP) {
        let at = start + step * STEP;
        if at + STEP > end {
            break;
        }
        // SAFETY: the bytes lie before the end of the frame, as just checked.
        let [first, second]: [u32; 2] = unsafe { [load(at), load(at + 4)] };
        sum = sum.added(first).added(second);
        step += 1;
    }
    // What is left is found by the length: were it by the steps, the verifier would go on from here once for each of them.
    let mut position = offset + (length & !(STEP - 1));
    let left = length & (STEP - 1);
    if left & 4 != 0 {
        sum = sum.added(Header::<4>::at(ctx, position).map_or(0, |word| word.get(0)));
        position += 4;
    }
    if left & 2 != 0 {
        let pair: u16 = Header::<2>::at(ctx, position).map_or(0, |pair| pair.get(0));
        sum = sum.added(pair as u32);
        position += 2;
    }
    if left & 1 != 0 {
        // Two bytes that end with the last one: a check for one byte alone is nothing to the verifier.
        let [_, last]: [u8; 2] =
            Header::<2>::at(ctx, position.wrapping_sub(1)).map_or([0; 2], |pair| pair.get(0));
        sum = sum.added(u16::from_ne_bytes([last, 0]) as u32);
    }
    sum
}

/// Makes the frame a TCP reset to its sender.
#[inline(always)]
fn reset(ctx: &XdpContext, packet: &Packet) -> bool {
    let (l3, l4) = (packet.l3 as usize & 0x1f, packet.l4 as usize);
    let Some(header) = Header::<20>::at(ctx, l4) else { return false };
    let options: u8 = header.get(12);
    let headers = (l4 - packet.l3 as usize) as u32 + (options >> 4) as u32 * 4;
    let segment = Segment {
        ports: header.get(0),
        sequence: u32::from_be(header.get(4)),
        acknowledgement: u32::from_be(header.get(8)),
        flags: packet.flags,
        data: packet.length.wrapping_sub(headers),
    };
    let room = if packet.version == 4 { 20 } else { 40 };
    if !cut(ctx, l3 + room + 20) {
        return false;
    }
    let Some(mut link) = Header::<14>::at(ctx, 0) else { return false };
    let (first, second, third) = swapped(&link);
    link.put(0, first);
    link.put(1, second);
    link.put(2, third);
    let pseudo = if packet.version == 4 {
        let (from, to) = (word4(&packet.key.destination), word4(&packet.key.source));
        let Some(mut header) = Header::<20>::at(ctx, l3) else { return false };
        answer::put_ipv4(&mut header, from, to, TCP, 20);
        answer::pseudo4(from, to, TCP, 20)
    } else {
        let (from, to) = (words(&packet.key.destination), words(&packet.key.source));
        let Some(mut header) = Header::<40>::at(ctx, l3) else { return false };
        answer::put_ipv6(&mut header, from, to, TCP, 20);
        answer::pseudo6(from, to, TCP, 20)
    };
    let Some(mut header) = Header::<20>::at(ctx, l3 + room) else { return false };
    answer::put_reset(&mut header, &segment, pseudo);
    true
}
