//! The target of a new flow.

use netfast_common::{
    Reason,
    abi::{
        FORWARD_BY_SOURCE, FORWARD_REJECTS, FlowKey, Forward, MAGLEV_PER_CELL, MAX_MAGLEV_CELLS, MAX_TARGETS,
        Target,
    },
    answer::Answer,
    hash,
    wire::{Packet, TCP},
};

use crate::{
    account::Outcome,
    maps::{MAGLEV, TARGETS},
    run::Run,
};

/// The target of a new flow: its index, and itself. `chosen`: the one that the packet names, if it names one
/// (`scratch.chosen`), else it is the one that the forward's look-up table gives to the flow; nothing where the table is
/// empty (see [`none`]).
#[inline(always)]
pub fn choose(run: &Run, forward: &Forward, key: &FlowKey, chosen: u32) -> Option<(u16, &'static Target)> {
    if chosen < MAX_TARGETS {
        // SAFETY: array elements live as long as the program.
        return Some((chosen as u16, unsafe { &*TARGETS.get_ptr(chosen)? }));
    }
    // Read once: the compiler proves from it that nothing is divided by zero.
    let size = forward.maglev_size;
    if size == 0 {
        return None;
    }
    let hash = hash::of_choice(key, forward.flags & FORWARD_BY_SOURCE != 0);
    let entry = forward.maglev_offset + hash % size;
    let cell = run.slot() * MAX_MAGLEV_CELLS + (entry / MAGLEV_PER_CELL) % MAX_MAGLEV_CELLS;
    let index = MAGLEV.get(cell)?.targets[(entry % MAGLEV_PER_CELL) as usize];
    // SAFETY: array elements live as long as the program.
    Some((index, unsafe { &*TARGETS.get_ptr(index as u32)? }))
}

/// What becomes of a packet that would open a flow, where there is no target.
#[inline(always)]
pub fn none(forward: &Forward, packet: &Packet) -> Outcome {
    if forward.flags & FORWARD_REJECTS == 0 {
        return Outcome::drop(Reason::NoTarget);
    }
    let answer = if packet.key.protocol == TCP { Answer::Reset } else { Answer::PortUnreachable };
    Outcome::answer(answer, 0, Reason::NoTarget)
}
