//! Where every frame is counted, once.

use aya_ebpf::{bindings::xdp_action, btf_maps::PerCpuArray};
use netfast_common::{
    Reason, Verdict,
    abi::{self, CounterBlock, CounterPart, INTERFACE_COUNTERS, Traffic},
    answer::{self, Answer},
};

use crate::{cache, frame, maps::COUNTERS};

/// How a frame's way through a program ends: verdict and reason in one word, so that BPF functions can return it. Or
/// what the frame is to be answered with.
#[derive(Clone, Copy)]
pub struct Outcome(u32);

/// Marks an [`Outcome`] that `netfast_family` decides.
const FAMILY: u32 = 1 << 30;

/// Marks an [`Outcome`] that `netfast_fragment` makes.
const FRAGMENT: u32 = 1 << 29;

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

    /// Any verdict and a reason by its number, as a request holds it.
    #[inline(always)]
    pub const fn numbered(verdict: Verdict, reason: u32) -> Self {
        Self((reason & (Reason::SLOTS - 1)) * Verdict::COUNT + verdict as u32)
    }

    /// Verdict and reason as a number below 2^16, for a line of the flow cache.
    #[inline(always)]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// What [`Outcome::bits`] has given.
    #[inline(always)]
    pub const fn from_bits(bits: u16) -> Self {
        Self(bits as u32)
    }

    /// Whether the frame is dropped.
    #[inline(always)]
    pub const fn is_drop(self) -> bool {
        self.0 % Verdict::COUNT == Verdict::Drop as u32
    }

    /// Answered to its sender in place of being forwarded, by `netfast_error`: counted with `reason`, as sent or, where no
    /// answer may be made, as dropped. `value` is the MTU of [`Answer::TooBig`], else 0.
    #[inline(always)]
    pub const fn answer(answer: Answer, value: u16, reason: Reason) -> Self {
        Self(answer::request(answer, value, reason))
    }

    /// Sent on in the other IP version, by `netfast_family`.
    pub const FAMILY: Self = Self(FAMILY);

    /// Sent and noted for the fragments after it, by `netfast_fragment`: the first fragment of a datagram.
    pub const FRAGMENT: Self = Self(FRAGMENT);

    /// Whether it is [`Outcome::FRAGMENT`].
    #[inline(always)]
    pub const fn is_fragment(self) -> bool {
        self.0 == FRAGMENT
    }

    /// Whether it is [`Outcome::FAMILY`].
    #[inline(always)]
    pub const fn is_family(self) -> bool {
        self.0 == FAMILY
    }

    /// Whether it leaves the frame to the kernel.
    #[inline(always)]
    pub const fn is_pass(self) -> bool {
        self.0 < FRAGMENT && self.0 % Verdict::COUNT == Verdict::Pass as u32
    }

    /// The request to `netfast_error` (see [`Outcome::answer`]), if it is one.
    #[inline(always)]
    pub const fn request(self) -> Option<u32> {
        if self.0 & answer::REQUEST == 0 { None } else { Some(self.0) }
    }
}

/// Row of the counters for interfaces that the agent has not announced (yet): the one behind theirs.
pub const UNKNOWN_ROW: u32 = abi::MAX_INTERFACES;

/// Counters of this CPU.
#[derive(Clone, Copy)]
pub struct Mine(*mut CounterBlock);

impl Mine {
    /// Finds them.
    #[inline(always)]
    pub fn find() -> Option<Self> {
        COUNTERS.get_ptr_mut(cache::cpu()).map(Self)
    }

    /// Adds a packet of `bytes` to a counter.
    #[inline(always)]
    pub fn count(self, part: CounterPart, index: u32, bytes: usize) {
        // SAFETY: inside the block, which is this CPU's alone; a program does not interrupt itself.
        unsafe {
            let mut counter = self.0.cast::<Traffic>().add((index & (part.length - 1)) as usize);
            if part.at != 0 {
                // So far that an instruction's own offset does not reach it: one address for both numbers.
                counter = frame::opaque(counter.add(part.at as usize) as usize) as *mut Traffic;
            }
            (*counter).packets += 1;
            (*counter).bytes += bytes as u64;
        }
    }

    /// Counts a frame of `bytes` and gives the driver its answer.
    #[inline(always)]
    pub fn finish(self, row: u32, bytes: usize, outcome: Outcome) -> u32 {
        // Linux 6.1 knows no bound of a sum that was on the stack: the mask is to stay, also where the compiler knows one.
        let index = core::hint::black_box(row * Reason::SLOTS * Verdict::COUNT + outcome.0);
        self.count(INTERFACE_COUNTERS, index, bytes);
        answer(outcome)
    }

    /// [`Mine::finish`] for an outcome that is a constant where it is called.
    #[inline(always)]
    pub fn finish_as(self, row: u32, bytes: usize, outcome: Outcome) -> u32 {
        self.count(INTERFACE_COUNTERS, row * Reason::SLOTS * Verdict::COUNT + outcome.0, bytes);
        answer(outcome)
    }
}

/// What the driver is told.
#[inline(always)]
const fn answer(outcome: Outcome) -> u32 {
    const _: () = assert!(Verdict::Drop as u32 + 1 == xdp_action::XDP_DROP);
    const _: () = assert!(Verdict::Redirect as u32 + 1 == xdp_action::XDP_REDIRECT);
    outcome.0 % Verdict::COUNT + 1
}

/// Counts a frame of `bytes` and gives the driver its answer.
#[inline(always)]
pub fn finish(row: u32, bytes: usize, outcome: Outcome) -> u32 {
    match Mine::find() {
        Some(mine) => mine.finish(row, bytes, outcome),
        None => answer(outcome),
    }
}

/// Adds a packet of `bytes` to a counter of this CPU's block.
#[inline(always)]
pub fn count(part: CounterPart, index: u32, bytes: usize) {
    if let Some(mine) = Mine::find() {
        mine.count(part, core::hint::black_box(index), bytes);
    }
}

/// Adds a packet of `bytes` to a counter of a map of its own.
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
