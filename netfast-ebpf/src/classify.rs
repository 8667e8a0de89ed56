//! The filter: trees of rules, the first that matches decides.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{helpers::generated::bpf_loop, programs::XdpContext};
use netfast_common::{
    Reason,
    abi::{
        FILTER_ASK, FILTER_ASK_SIDE, FILTER_COUNT, FILTER_DROP, FILTER_EXTRA, FILTER_KINDS, FILTER_LIMIT,
        FILTER_REJECT, FILTER_TREES, FilterCell, FilterEntry, REJECT_ADMIN, REJECT_PORT, REJECT_TCP_RESET,
    },
    answer::Answer,
    classify::{self, NOTHING, Part, Tables, Walk},
    wire::{Fragment, Packet, TCP},
};

use crate::{
    account::{self, Outcome},
    frame, limit,
    maps::{FILTER_CELLS, FILTER_COUNTERS, FILTER_HEADS, FILTER_RULES, RULE_SETS, SCRATCH},
    run::Run,
    scratch::Scratch,
};

/// The maps, as the matcher sees them.
struct Maps {
    slot: u32,
    length: usize,
    part: Part,
    /// The packet is over a limit.
    over: bool,
    /// Some rule has counted it, or held it to its rate.
    met: bool,
}

impl Tables for Maps {
    #[inline(always)]
    fn cell(&self, index: u32) -> Option<&FilterCell> {
        FILTER_CELLS.get(index)
    }

    #[inline(always)]
    fn entry(&self, rule: u32) -> Option<&FilterEntry> {
        FILTER_RULES.get(2 * rule + self.slot)
    }

    #[inline(always)]
    fn opaque(value: u64) -> u64 {
        frame::opaque(value as usize) as u64
    }

    #[inline(always)]
    fn side(&mut self, rule: u32) -> bool {
        let Some(entry) = self.entry(rule) else { return true };
        if !self.part.includes(entry) {
            return true;
        }
        let over = entry.action == FILTER_LIMIT && !limit::within(self.slot, entry.argument);
        // A limit counts what it drops.
        if over || entry.action == FILTER_COUNT {
            account::add(&FILTER_COUNTERS, rule, self.length);
        }
        self.met = true;
        self.over |= over;
        !over
    }
}

/// Whether the packet's rule set has something to say about packets of flows like this one.
#[inline(always)]
pub fn asks_of_flows(run: &Run, protocol: u8, flags: u8) -> bool {
    RULE_SETS
        .get(run.slot())
        .is_some_and(|rules| classify::asks_of_flows(rules.filter_flags, protocol, flags))
}

/// What becomes of `packet` if the filter does not let it on. Counts it for the rule that decides, and for
/// those before it that count: those of them that are in `scratch.filter.part`.
#[inline(always)]
pub fn refuses(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Option<Outcome> {
    let slot = run.slot();
    let rules = RULE_SETS.get(slot)?;
    let flags = rules.filter_flags;
    scratch.walk = Walk { order: NOTHING, ..Walk::default() };
    scratch.filter.side = 0;
    scratch.filter.over = 0;
    if flags & FILTER_ASK == 0 {
        return None;
    }
    let icmp = if classify::has_icmp(packet) {
        frame::Header::<2>::at(ctx, packet.l4 as usize).map(|header| header.get::<u16>(0).to_ne_bytes())
    } else {
        None
    };
    scratch.subject.describe(packet, run.ifindex, icmp);
    let v6 = packet.version == 6;
    // The function finds this memory by itself: what is written must be there before, and what is read come after.
    let scratch = black_box(scratch);
    netfast_decide(slot, v6 as u32);
    let scratch = black_box(scratch);
    let length = scratch.bytes;
    let scratch = if flags & FILTER_ASK_SIDE == 0 { scratch } else { ask_side(run, length, v6, scratch) };
    if scratch.filter.over != 0 {
        return Some(Outcome::drop(Reason::FilterLimit));
    }
    let walk = &scratch.walk;
    if !walk.found() {
        return None;
    }
    let rule = walk.rule();
    if matches!(scratch.filter.part, Part::Flags) {
        // Conditions on flags stand in the entry.
        let speaks = walk.tail & FILTER_EXTRA != 0
            && FILTER_RULES.get(2 * rule + slot).is_some_and(FilterEntry::speaks_of_flows);
        if !speaks {
            return None;
        }
    }
    account::add(&FILTER_COUNTERS, rule, length as usize);
    match walk.action() {
        0 => None,
        1 => Some(Outcome::drop(Reason::FilterDrop)),
        _ => {
            let entry = FILTER_RULES.get(2 * rule + slot)?;
            match entry.action {
                FILTER_DROP => Some(Outcome::drop(Reason::FilterDrop)),
                FILTER_REJECT => {
                    Some(Outcome::answer(rejection(entry.argument, packet), 0, Reason::FilterReject))
                }
                _ => None,
            }
        }
    }
}

/// Finds the rule that decides. A global function: the verifier looks at it once, by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_decide(slot: u32, v6: u32) -> u32 {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return 0 };
    // SAFETY: the element is this CPU's alone; who called has no reference to these fields.
    let (subject, walk) = unsafe {
        let scratch = &raw mut (*memory).scratch;
        (&(*scratch).subject, &mut (*scratch).walk)
    };
    let Some(head) = FILTER_HEADS.get(slot * FILTER_KINDS + v6) else { return 0 };
    let maps = Maps { slot, length: 0, part: Part::All, over: false, met: false };
    classify::decide(head, v6 != 0, subject, walk, &maps);
    0
}

/// Asks the rules that go on.
#[inline(always)]
fn ask_side<'a>(run: &Run, length: u32, v6: bool, scratch: &'a mut Scratch) -> &'a mut Scratch {
    // Field by field, for the part stands there already. As an argument it would be three known numbers to the verifier, which
    // would look at all of this three times.
    scratch.filter.slot = run.slot();
    scratch.filter.length = length;
    scratch.filter.now = run.now;
    scratch.filter.hz = run.config.hz;
    scratch.filter.seed = run.config.seed;
    // The trees' function finds this memory by itself: what is written must be there before, and what is read come after.
    let scratch = black_box(scratch);
    each_tree(if v6 { tree::<true> } else { tree::<false> });
    black_box(scratch)
}

/// The answer to a packet that is refused.
#[inline(always)]
fn rejection(how: u32, packet: &Packet) -> Answer {
    match how {
        REJECT_ADMIN => Answer::Prohibited,
        REJECT_PORT => Answer::PortUnreachable,
        REJECT_TCP_RESET => Answer::Reset,
        _ if packet.key.protocol == TCP && !matches!(packet.fragment, Fragment::Later) => Answer::Reset,
        _ => Answer::PortUnreachable,
    }
}

/// What the trees of rules that go on are asked, beside the subject.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Question {
    /// Slot of the rule set.
    pub slot: u32,
    /// Bytes of the frame.
    pub length: u32,
    /// 1: the packet is over a limit.
    pub over: u32,
    /// 1: a rule that goes on has counted it, or held it to its rate.
    pub side: u32,
    /// Which rules it is about.
    pub part: Part,
    /// Jiffies.
    pub now: u32,
    /// Jiffies in a second.
    pub hz: u32,
    /// Seed of hashes.
    pub seed: u32,
}

/// Has the kernel call `tree` for each tree.
#[inline(always)]
fn each_tree(tree: unsafe extern "C" fn(u32, *mut c_void) -> i64) {
    // SAFETY: the callback takes nothing from its context; `tree` is a function of this program.
    unsafe { bpf_loop(FILTER_TREES as u32, tree as *mut c_void, core::ptr::null_mut(), 0) };
}

/// Walks a tree; 1 ends the loop. All that it knows stands in the working memory.
unsafe extern "C" fn tree<const V6: bool>(number: u32, _context: *mut c_void) -> i64 {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: the element is this CPU's alone; who called has no reference to these fields.
    let (subject, walk, question) = unsafe {
        let scratch = &raw mut (*memory).scratch;
        (&(*scratch).subject, &mut (*scratch).walk, (*scratch).filter)
    };
    let kind = 2 + V6 as u32;
    let Some(head) = FILTER_HEADS.get(question.slot * FILTER_KINDS + kind) else { return 1 };
    let mut maps = Maps {
        slot: question.slot,
        length: question.length as usize,
        part: question.part,
        over: false,
        met: false,
    };
    let goes_on = classify::tree::<V6, Maps>(head, number, subject, walk, &mut maps);
    if maps.met {
        // SAFETY: as above.
        unsafe { (*memory).scratch.filter.side = 1 };
    }
    if maps.over {
        // SAFETY: as above.
        unsafe { (*memory).scratch.filter.over = 1 };
        return 1;
    }
    if goes_on { 0 } else { 1 }
}
