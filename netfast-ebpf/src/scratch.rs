//! Working memory of the slow program, per CPU: a BPF stack has 512 bytes.

use crate::classify::Question;
use aya_ebpf::bindings::bpf_fib_lookup;
use netfast_common::{
    abi::{ClaimKey, Flow, FlowKey, FragmentFlow, FragmentKey, HopKey, NextHop},
    classify::{Subject, Walk},
    flow::State,
    snat::Work,
    wire::Packet,
};

use crate::account::Outcome;

/// Bytes that are summed at once: the most that `bpf_csum_diff` took before kernel 6.14.
pub const CHUNK: usize = 512;
/// It belongs to no flow; the filter is asked.
pub const STAGE_NEW: u32 = 1;
/// It belongs to a flow that another rule set allowed; the filter is asked again.
pub const STAGE_RECHECK: u32 = 2;
/// The filter has allowed it again.
pub const STAGE_RECHECKED: u32 = 3;
/// It belongs to a flow; the filter is asked for rules on TCP flags.
pub const STAGE_FLAGS: u32 = 4;

/// A source NAT flow was found whose next hops another rule set has chosen.
pub const STAGE_REFRESH: u32 = 8;

/// `netfast_direct` is to send a later fragment as its first one was sent.
pub const STAGE_FRAGMENT: u32 = 16;
/// An ICMP error may be about an answer of a target of the modes `dsr` and `ipip`.
pub const STAGE_ERROR: u32 = 17;
/// An ICMP error may be about a packet in a tunnel to a target.
pub const STAGE_TUNNEL: u32 = 18;

/// The packet names no target.
pub const CHOSEN_NONE: u32 = u32::MAX;
/// Nobody has looked whether it names one.
pub const CHOSEN_UNASKED: u32 = u32::MAX - 1;

/// One CPU's working memory: the packet's description beside everything else, so that both can be borrowed.
#[repr(C)]
pub struct Memory {
    /// What stands in the frame.
    pub packet: Packet,
    /// Everything else.
    pub scratch: Scratch,
}

/// Working memory. Nothing in it outlives a packet, but the log gate.
#[repr(C)]
pub struct Scratch {
    /// Key of the reply direction of a flow that is being made or looked up.
    pub reply_key: FlowKey,
    /// Key of the original direction.
    pub original_key: FlowKey,
    /// Copy of the entry in work.
    pub flow: Flow,
    /// Entry of the reply direction of a flow that is being made.
    pub reply: Flow,
    /// The packet inside an ICMP error.
    pub inner: Packet,
    /// A next hop that is being learned.
    pub hop: NextHop,
    /// Its key.
    pub hop_key: HopKey,
    /// Question to the routing table, and its answer.
    pub fib: bpf_fib_lookup,
    /// A source NAT mapping.
    pub mapping: Work,
    /// A fragmented datagram.
    pub fragment_key: FragmentKey,
    /// What is noted of it.
    pub fragment: FragmentFlow,
    /// What [`crate::snat`] has decided.
    pub decided: Outcome,
    /// Position of the source NAT rule.
    pub position: u32,
    /// Copy of an entry that stands in the way.
    pub other: Flow,
    /// Key of its other direction.
    pub other_key: FlowKey,
    /// Bytes of the frame as it came in.
    pub bytes: u32,
    /// Where the packet is: `STAGE_…`.
    pub stage: u32,
    /// Index of the forward that the packet is for ([`crate::direct`]).
    pub forward: u32,
    /// Index of the target that the packet names, [`CHOSEN_NONE`] or [`CHOSEN_UNASKED`].
    pub chosen: u32,
    /// Generation under which the filter has allowed the packet.
    pub allowed: u32,
    /// Generation under which its rules on TCP flags were asked.
    pub asked: u32,
    /// Verdict that goes into the flow cache.
    pub verdict: Outcome,
    /// Counts the verdicts that could.
    pub turn: u32,
    /// 1: the packet's flow has just ended because its forward was removed.
    pub ended: u32,
    /// 1: the packet's flow takes no notice of it (`flow::Fate::Fades`).
    pub fades: u32,
    /// Reason of the unusual class that the packet is passed for, if the filter lets it; 0: it is a usual one.
    pub unusual: u32,
    /// What is asked of the claims: `claim::ASK_…`.
    pub claim: u32,
    /// What becomes of the packet that is no claim's.
    pub passed: Outcome,
    /// An address that may be claimed.
    pub claim_key: ClaimKey,
    /// Index of the STAMP reflector.
    pub reflector: u32,
    /// What the filter compares.
    pub subject: Subject,
    /// What its trees are asked beside that.
    pub filter: Question,
    /// What it has found.
    pub walk: Walk,
    /// See [`Scratch::settle`].
    pub state: u32,
    /// Part of a datagram whose checksum is made.
    pub chunk: [u64; CHUNK / 8],
    /// Second (in stamps) of the log gate.
    pub log_second: u32,
    /// Lines logged in that second.
    pub log_count: u32,
}

impl Scratch {
    /// Returns `state`, and makes the verifier forget which one it is: it would follow what comes after once for each
    /// state that a flow may have got into.
    #[inline(always)]
    pub fn settle(&mut self, state: State) -> State {
        self.state = state as u32;
        // SAFETY: a valid reference. Volatile, so that the compiler does not put in what it has just written.
        State::from_number(unsafe { core::ptr::read_volatile(&self.state) } as u8)
    }
}

/// Sets everything at `place` to zero, a word at a time. An assignment may become a call of `memset`, which has a stack of its
/// own: before Linux 6.9 one of 32 bytes.
///
/// # Safety
///
/// `place` is valid for writes and aligned to 4, zeros are a value of `T`, and its size is a multiple of 4.
#[inline(always)]
pub unsafe fn clear<T>(place: *mut T) {
    const { assert!(size_of::<T>().is_multiple_of(4)) };
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: as the caller says. Volatile, so that it stays what it is.
        unsafe { place.cast::<u32>().add(i).write_volatile(0) };
        i += 1;
    }
}

/// Copies `from` to `place`, a word at a time: see [`clear`].
///
/// # Safety
///
/// As for [`clear`]; `T` has no padding.
#[inline(always)]
pub unsafe fn copy<T: Copy>(place: *mut T, from: *const T) {
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    let mut i = 0;
    while i < size_of::<T>() / 4 {
        // SAFETY: as the caller says. Volatile, so that it stays what it is.
        unsafe { place.cast::<u32>().add(i).write_volatile(from.cast::<u32>().add(i).read()) };
        i += 1;
    }
}
