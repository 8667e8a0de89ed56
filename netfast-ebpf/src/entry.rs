//! The programs. Each frame is counted here, once, and nowhere else.
//!
//! All are multi-buffer capable (`frags`): the kernel's tail calls go only between programs of one kind. In such a program
//! `data..data_end` is the first buffer, which may be shorter than the frame.

use core::arch::asm;

use aya_ebpf::{
    bindings::xdp_action,
    helpers::generated::{bpf_jiffies64, bpf_ktime_get_ns},
    macros::xdp,
    programs::XdpContext,
};
use netfast_common::{
    Reason,
    abi::{
        TAIL_CHOOSE, TAIL_CLAIM, TAIL_DIRECT, TAIL_ERROR, TAIL_FAMILY, TAIL_FILTER, TAIL_FRAGMENT, TAIL_ICMP,
        TAIL_KNOWN, TAIL_NEW, TAIL_SLOW, TAIL_SNAT, TAIL_STAMP, TAIL_VERDICT,
    },
};

use crate::{
    account::{self, Outcome, UNKNOWN_ROW},
    cache, choose, claim, direct, error, family, fragment, frame, hot,
    maps::{CLOCK, PROGRAMS, SCRATCH},
    run::{self, Run, Start},
    slow::{self, Step},
    stamp, verdict,
};

/// Entry, attached to interfaces: packets of cached flows; the rest by tail call to [`netfast_slow`].
#[xdp(frags)]
#[inline(always)]
pub fn netfast(ctx: XdpContext) -> u32 {
    let cpu = cache::cpu();
    let Some(start) = Start::new(&ctx) else { return xdp_action::XDP_PASS };
    if let Some(answer) = hot::decide(&ctx, &start, cpu) {
        return answer;
    }
    let outcome = follow::<TAIL_SLOW>(&ctx);
    account::finish(UNKNOWN_ROW, frame::length(&ctx), outcome)
}

/// Reads what [`netfast`] leaves.
#[xdp(frags)]
pub fn netfast_slow(ctx: XdpContext) -> u32 {
    let bytes = frame::length(&ctx);
    counted(&ctx, bytes, |ctx, run| slow::read(ctx, run, bytes))
}

/// Packets that may belong to a flow in the tables.
#[xdp(frags)]
pub fn netfast_known(ctx: XdpContext) -> u32 {
    go_on(&ctx, slow::known_packet)
}

/// The filter: for packets that belong to no flow, and for flows that were allowed by another rule set.
#[xdp(frags)]
pub fn netfast_filter(ctx: XdpContext) -> u32 {
    go_on(&ctx, slow::filter)
}

/// Packets that belong to no flow and that the filter allows.
#[xdp(frags)]
pub fn netfast_new(ctx: XdpContext) -> u32 {
    go_on(&ctx, slow::new_packet)
}

/// ICMP errors, which may be about a flow.
#[xdp(frags)]
pub fn netfast_icmp(ctx: XdpContext) -> u32 {
    go(&ctx, slow::icmp_error)
}

/// Source NAT: packets that belong to no flow and no service.
#[xdp(frags)]
pub fn netfast_snat(ctx: XdpContext) -> u32 {
    go(&ctx, slow::snat_packet)
}

/// Answers a frame that is not forwarded.
#[xdp(frags)]
pub fn netfast_error(ctx: XdpContext) -> u32 {
    go(&ctx, error::answer)
}

/// Packets of flows between the IP versions.
#[xdp(frags)]
pub fn netfast_family(ctx: XdpContext) -> u32 {
    go(&ctx, family::packet)
}

/// Packets that may name their target.
#[xdp(frags)]
pub fn netfast_choose(ctx: XdpContext) -> u32 {
    go(&ctx, choose::packet)
}

/// Fragments that follow the flow of their first one.
#[xdp(frags)]
pub fn netfast_fragment(ctx: XdpContext) -> u32 {
    go(&ctx, fragment::packet)
}

/// Packets to targets of the modes `dsr` and `ipip`, and ICMP errors about them.
#[xdp(frags)]
pub fn netfast_direct(ctx: XdpContext) -> u32 {
    go(&ctx, direct::packet)
}

/// Claimed addresses: ARP, neighbour discovery, and packets that would find nobody.
#[xdp(frags)]
pub fn netfast_claim(ctx: XdpContext) -> u32 {
    go(&ctx, claim::packet)
}

/// STAMP test packets.
#[xdp(frags)]
pub fn netfast_stamp(ctx: XdpContext) -> u32 {
    go(&ctx, stamp::packet)
}

/// Packets of no flow whose verdict goes into the flow cache.
#[xdp(frags)]
pub fn netfast_verdict(ctx: XdpContext) -> u32 {
    go_on(&ctx, |_, run| verdict::packet(run))
}

/// Takes a step, and goes on as it says.
#[inline(always)]
fn go(ctx: &XdpContext, step: impl FnOnce(&XdpContext, &Run) -> Step) -> u32 {
    counted(ctx, frame::length(ctx), step)
}

/// The same with a frame of `bytes`.
#[inline(always)]
fn counted(ctx: &XdpContext, bytes: usize, step: impl FnOnce(&XdpContext, &Run) -> Step) -> u32 {
    let Some(run) = run::begin(ctx) else { return xdp_action::XDP_PASS };
    let outcome = outcome(ctx, step(ctx, &run));
    account::finish(run.row, bytes, outcome)
}

/// [`go`] for a program behind `netfast_slow`, which has noted the frame's length: to ask for it is a call that the kernel
/// does not inline.
#[inline(always)]
fn go_on(ctx: &XdpContext, step: impl FnOnce(&XdpContext, &Run) -> Step) -> u32 {
    let Some(run) = run::begin(ctx) else { return xdp_action::XDP_PASS };
    let outcome = outcome(ctx, step(ctx, &run));
    // SAFETY: the element is this CPU's alone, and nobody writes it now.
    let bytes = SCRATCH.get_ptr(0).map_or(0, |memory| unsafe { (*memory).scratch.bytes });
    account::finish(run.row, bytes as usize, outcome)
}

/// Goes on as a step says. Comes back with what becomes of the frame.
#[inline(always)]
fn outcome(ctx: &XdpContext, step: Step) -> Outcome {
    match step {
        Step::Done(outcome) => match outcome.request() {
            None if outcome.is_family() => follow::<TAIL_FAMILY>(ctx),
            None if outcome.is_fragment() => follow::<TAIL_FRAGMENT>(ctx),
            None => outcome,
            Some(request) => {
                error::ask(request);
                follow::<TAIL_ERROR>(ctx)
            }
        },
        Step::Known => follow::<TAIL_KNOWN>(ctx),
        Step::Filter => follow::<TAIL_FILTER>(ctx),
        Step::New => follow::<TAIL_NEW>(ctx),
        Step::Icmp => follow::<TAIL_ICMP>(ctx),
        Step::Choose => follow::<TAIL_CHOOSE>(ctx),
        Step::Snat => follow::<TAIL_SNAT>(ctx),
        Step::Fragment => follow::<TAIL_FRAGMENT>(ctx),
        Step::Direct => follow::<TAIL_DIRECT>(ctx),
        Step::Claim => follow::<TAIL_CLAIM>(ctx),
        Step::Stamp => follow::<TAIL_STAMP>(ctx),
        Step::Verdict => follow::<TAIL_VERDICT>(ctx),
    }
}

/// Goes on in another program. Comes back only where no agent has set up the array: then nothing is netfast's.
///
/// The call is written out, for the compiler makes one of several, with the program's number in a register; where the kernel's JIT
/// knows the number it jumps, and else it calls indirectly, which costs some 8 ns where indirect calls are guarded.
#[inline(always)]
fn follow<const PROGRAM: u32>(ctx: &XdpContext) -> Outcome {
    // SAFETY: bpf_tail_call (helper 12) with the program's context and a map of programs; a call leaves r0 to r5 undefined.
    unsafe {
        asm!(
            "r2 = {programs} ll",
            "r3 = {program}",
            "call 12",
            programs = sym PROGRAMS,
            program = const PROGRAM,
            inout("r1") ctx.ctx => _,
            lateout("r0") _,
            out("r2") _,
            out("r3") _,
            lateout("r4") _,
            lateout("r5") _,
        );
    }
    Outcome::pass(Reason::Internal)
}

/// Never attached: run by the agent to learn how many jiffies a second has.
#[xdp(frags)]
pub fn netfast_clock(_ctx: XdpContext) -> u32 {
    if let Some(clock) = CLOCK.get_ptr_mut(0) {
        // SAFETY: helpers without preconditions; the element is written whole before the agent reads it.
        unsafe { *clock = [bpf_jiffies64(), bpf_ktime_get_ns()] };
    }
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
