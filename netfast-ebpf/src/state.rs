//! A flow's state, which packets on several CPUs change at once: both ends may close in the same moment, and who writes what
//! he made of the state that he read would undo what the other one wrote meanwhile.

use core::mem::offset_of;

use netfast_common::{
    abi::Flow,
    flow::{ORIGINAL, State},
    wire::Packet,
};

use crate::shared::exchange;

/// The aligned word of an entry that has the state in it.
const WORD: usize = offset_of!(Flow, state) & !3;
/// Where in that word, in bits.
const SHIFT: u32 = if cfg!(target_endian = "little") {
    8 * (offset_of!(Flow, state) - WORD) as u32
} else {
    24 - 8 * (offset_of!(Flow, state) - WORD) as u32
};
const MASK: u32 = 0xff << SHIFT;
/// How often a state is read again because another CPU was faster. Each time the flow has gone on by one, and it has few states.
const TRIES: u32 = 4;

/// A packet as a flow's state takes it.
#[derive(Clone, Copy)]
pub struct Event(u32);

impl Event {
    /// `acknowledges`: see [`State::next`].
    #[inline(always)]
    pub fn new(packet: &Packet, direction: u8, acknowledges: bool) -> Self {
        let [direction, acknowledges] = [direction as u32, acknowledges as u32];
        Self(packet.flags as u32 | (packet.key.protocol as u32) << 8 | direction << 16 | acknowledges << 17)
    }
}

/// [`State::next`] of a stored state and an [`Event`]. A global function: the verifier looks at it once, and does not follow its callers
/// for each state.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn netfast_next_state(state: u32, event: u32) -> u32 {
    let direction = if event & 1 << 16 == 0 { ORIGINAL } else { ORIGINAL ^ 1 };
    let acknowledges = event & 1 << 17 != 0;
    State::from_number(state as u8).next(direction, (event >> 8) as u8, event as u8, acknowledges) as u32
}

/// What the state is after a packet. Nothing is written.
#[inline(always)]
pub fn after(state: u8, event: Event) -> State {
    State::from_number(netfast_next_state(state as u32, event.0) as u8)
}

#[inline(always)]
fn word(flow: *mut Flow) -> *mut u32 {
    // SAFETY: inside the entry.
    unsafe { flow.byte_add(WORD).cast() }
}

/// The state that an entry is in.
#[inline(always)]
pub fn of(flow: *mut Flow) -> u8 {
    // SAFETY: the element stays mapped while the program runs. Volatile: other CPUs change it.
    (unsafe { word(flow).read_volatile() } >> SHIFT) as u8
}

/// Notes a packet in its flow's authority; returns the state that the flow is in now. (After [`TRIES`] other CPUs have had their say, and this
/// packet has not.)
#[inline(always)]
pub fn advance(flow: *mut Flow, event: Event) -> State {
    let mut attempt = 0;
    loop {
        // SAFETY: see `of`.
        let seen = unsafe { word(flow).read_volatile() };
        let next = netfast_next_state(seen >> SHIFT & 0xff, event.0) & 0xff;
        attempt += 1;
        let changed = seen & !MASK | next << SHIFT;
        // SAFETY: a word of the entry, as `of` reads it.
        if changed == seen || unsafe { exchange(word(flow), seen, changed) } || attempt == TRIES {
            return State::from_number(next as u8);
        }
    }
}

/// Puts one state in the place of another one; nothing if the flow is in a third one.
#[inline(always)]
pub fn replace(flow: *mut Flow, from: u8, to: u8) {
    // SAFETY: see `of`.
    let seen = unsafe { word(flow).read_volatile() };
    if seen >> SHIFT & 0xff == u32::from(from) {
        // SAFETY: as in `advance`.
        unsafe { exchange(word(flow), seen, seen & !MASK | u32::from(to) << SHIFT) };
    }
}
