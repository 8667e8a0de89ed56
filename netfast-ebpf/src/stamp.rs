//! The STAMP session-reflector (RFC 8762). Its guards are the echo reflector's.

use aya_ebpf::{helpers::generated::bpf_ktime_get_tai_ns, programs::XdpContext};
use netfast_common::{Reason, Verdict, abi::ECHO_COUNTERS, rewrite, stamp};

use crate::{
    account::{self, Outcome},
    echo,
    frame::{self, Header},
    maps::SCRATCH,
    run::Run,
    scratch::Memory,
    slow::Step,
};

/// Bytes of a UDP header.
const UDP_HEADER: usize = 8;

/// Answers the packet in work by reflector `Scratch::reflector`.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run) -> Step {
    // First of all: the time until here is the network's.
    // SAFETY: a helper without preconditions.
    let received = unsafe { bpf_ktime_get_tai_ns() };
    Step::Done(reflect(ctx, run, received))
}

#[inline(always)]
fn reflect(ctx: &XdpContext, run: &Run, received: u64) -> Outcome {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Outcome::drop(Reason::Internal) };
    // SAFETY: the element is this CPU's alone; the description was made by `slow::read` for this frame.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    let index = scratch.reflector as u16;
    // An answer has the form of a question: what comes from a reflector's port may be one.
    if packet.source_port() == stamp::PORT {
        return Outcome::drop(Reason::EchoLoop);
    }
    if let Some(reason) = echo::refuses(run, packet, index) {
        return Outcome::drop(reason);
    }
    let (l3, l4) = (packet.l3 as usize & 0x1f, packet.l4 as usize);
    let headers = (l4 - packet.l3 as usize + UDP_HEADER) as u32;
    if packet.length < headers + stamp::LENGTH as u32 {
        return Outcome::drop(Reason::StampShort);
    }
    let (high, low) = netfast_common::addr::words(&packet.key.source);
    if !echo::within_rate(run, index, echo::source_tag(high, low, index, run.config.seed)) {
        return Outcome::drop(Reason::EchoRate);
    }
    let reflected = if packet.version == 4 {
        Header::<20>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv4(&mut header, stamp::TTL))
    } else {
        Header::<40>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv6(&mut header, stamp::TTL))
    };
    let (Some(()), Some(macs), Some(ports)) = (reflected, Header::<12>::at(ctx, 0), Header::<4>::at(ctx, l4))
    else {
        return Outcome::drop(Reason::Internal);
    };
    echo::swap(macs, ports);
    let (Some(mut checksum), Some(mut body)) =
        (Header::<2>::at(ctx, l4 + 6), Header::<{ stamp::LENGTH }>::at(ctx, l4 + UDP_HEADER))
    else {
        return Outcome::drop(Reason::Internal);
    };
    let (offset, error) = (run.config.tai_offset, run.config.clock_error as u16);
    // SAFETY: as above.
    let sent = unsafe { bpf_ktime_get_tai_ns() };
    let (received, sent) = (stamp::ntp(received, offset), stamp::ntp(sent, offset));
    let delta = stamp::reflect(&mut body, packet.ttl, error, received, sent);
    checksum.set(0, delta.apply_udp_word(checksum.get(0)));
    account::count(ECHO_COUNTERS, index as u32, frame::length(ctx));
    Outcome::new(Verdict::Transmit, Reason::StampReflected)
}
