//! Where every frame is counted, once.

use aya_ebpf::{bindings::xdp_action, btf_maps::PerCpuArray};
use netfast_common::{
    Reason, Verdict,
    abi::{self, Traffic},
};

use crate::maps::INTERFACE_COUNTERS;

/// How a frame's way through a program ends: verdict and reason in one word, so that BPF functions can return it.
#[derive(Clone, Copy)]
pub struct Outcome(u32);

impl Outcome {
    /// Any verdict.
    #[inline(always)]
    pub const fn new(verdict: Verdict, reason: Reason) -> Self {
        Self((reason as u32) * Verdict::COUNT + verdict as u32)
    }

    /// Unchanged to the kernel.
    #[inline(always)]
    pub const fn pass(reason: Reason) -> Self {
        Self::new(Verdict::Pass, reason)
    }

    /// Dropped.
    #[inline(always)]
    pub const fn drop(reason: Reason) -> Self {
        Self::new(Verdict::Drop, reason)
    }
}

/// Row of the counters for interfaces that the agent has not announced (yet): the one behind theirs.
pub const UNKNOWN_ROW: u32 = abi::MAX_INTERFACES;

/// Counts a frame of `bytes` and gives the driver its answer.
#[inline(always)]
pub fn finish(row: u32, bytes: usize, outcome: Outcome) -> u32 {
    add(&INTERFACE_COUNTERS, row * Reason::SLOTS * Verdict::COUNT + outcome.0, bytes);
    const PASS: u32 = Verdict::Pass as u32;
    const DROP: u32 = Verdict::Drop as u32;
    const TRANSMIT: u32 = Verdict::Transmit as u32;
    match outcome.0 % Verdict::COUNT {
        PASS => xdp_action::XDP_PASS,
        DROP => xdp_action::XDP_DROP,
        TRANSMIT => xdp_action::XDP_TX,
        _ => xdp_action::XDP_REDIRECT,
    }
}

/// Adds a packet of `bytes` to a counter.
#[inline(always)]
pub fn add<const N: usize>(counters: &PerCpuArray<Traffic, N>, index: u32, bytes: usize) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: the element is this CPU's alone and a program does not interrupt itself.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }
}
