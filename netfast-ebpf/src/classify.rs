//! The filter: trees of rules, the first that matches decides.

use core::{ffi::c_void, hint::black_box};

use aya_ebpf::{helpers::generated::bpf_loop, programs::XdpContext};
use netfast_common::{
    abi::{
        FILTER_ASK, FILTER_ASK_SIDE, FILTER_COUNT, FILTER_DROP, FILTER_KINDS, FILTER_REJECT, FILTER_TREES,
        FilterCell, FilterEntry,
    },
    classify::{self, NOTHING, Tables, Walk},
    wire::Packet,
};

use crate::{
    account, frame,
    maps::{FILTER_CELLS, FILTER_COUNTERS, FILTER_HEADS, FILTER_RULES, RULE_SETS, SCRATCH},
    run::Run,
    scratch::Scratch,
};

/// The maps, as the matcher sees them.
struct Maps {
    slot: u32,
    length: usize,
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
    fn side(&mut self, rule: u32) -> bool {
        let counts = self.entry(rule).is_some_and(|entry| entry.action == FILTER_COUNT);
        if counts {
            account::add(&FILTER_COUNTERS, rule, self.length);
        }
        true
    }
}

/// Whether the filter lets `packet` (`length` bytes) on. Counts it for the rule that decides, and for those before it that
/// count.
#[inline(always)]
pub fn allows(ctx: &XdpContext, run: &Run, packet: &Packet, length: usize, scratch: &mut Scratch) -> bool {
    let slot = run.slot();
    let Some(rules) = RULE_SETS.get(slot) else { return true };
    let flags = rules.filter_flags;
    scratch.walk = Walk { order: NOTHING, ..Walk::default() };
    if flags & FILTER_ASK == 0 {
        return true;
    }
    let icmp = if classify::has_icmp(packet) {
        frame::Header::<2>::at(ctx, packet.l4 as usize).map(|header| header.get::<u16>(0).to_ne_bytes())
    } else {
        None
    };
    scratch.subject.describe(packet, run.ifindex, icmp);
    scratch.filter = Question { slot, length: length as u32 };
    let v6 = packet.version == 6;
    // The trees' function finds this memory by itself: what is written must be there before, and what is read come after.
    let scratch = black_box(scratch);
    each_tree(if v6 { tree::<true, false> } else { tree::<false, false> });
    if flags & FILTER_ASK_SIDE != 0 {
        each_tree(if v6 { tree::<true, true> } else { tree::<false, true> });
    }
    let scratch = black_box(scratch);
    let walk = &scratch.walk;
    if !walk.found() {
        return true;
    }
    let rule = walk.rule();
    account::add(&FILTER_COUNTERS, rule, length);
    match walk.action() {
        0 => true,
        1 => false,
        _ => {
            let Some(entry) = FILTER_RULES.get(2 * rule + slot) else { return true };
            entry.action != FILTER_DROP && entry.action != FILTER_REJECT
        }
    }
}

/// What the trees are asked, beside the subject.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Question {
    slot: u32,
    length: u32,
}

/// Has the kernel call `tree` for each tree.
#[inline(always)]
fn each_tree(tree: unsafe extern "C" fn(u32, *mut c_void) -> i64) {
    // SAFETY: the callback takes nothing from its context; `tree` is a function of this program.
    unsafe { bpf_loop(FILTER_TREES as u32, tree as *mut c_void, core::ptr::null_mut(), 0) };
}

/// Walks a tree; 1 ends the loop. All that it knows stands in the working memory.
unsafe extern "C" fn tree<const V6: bool, const SIDE: bool>(number: u32, _context: *mut c_void) -> i64 {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return 1 };
    // SAFETY: the element is this CPU's alone; who called has no reference to these fields.
    let (subject, walk, question) = unsafe {
        let scratch = &raw mut (*memory).scratch;
        (&(*scratch).subject, &mut (*scratch).walk, (*scratch).filter)
    };
    let kind = V6 as u32 + 2 * SIDE as u32;
    let Some(head) = FILTER_HEADS.get(question.slot * FILTER_KINDS + kind) else { return 1 };
    let mut maps = Maps { slot: question.slot, length: question.length as usize };
    if classify::tree::<V6, SIDE>(head, number, subject, walk, &mut maps) { 0 } else { 1 }
}
