//! The target of a new flow.

use netfast_common::{
    abi::{FORWARD_BY_SOURCE, FlowKey, Forward, MAGLEV_PER_CELL, MAX_MAGLEV_CELLS, Target},
    hash,
};

use crate::{
    maps::{MAGLEV, TARGETS},
    run::Run,
};

/// The target that the forward's look-up table gives to the flow: its index, and itself. The forward has one
/// (`maglev_size` is not 0).
#[inline(always)]
pub fn choose(run: &Run, forward: &Forward, key: &FlowKey) -> Option<(u16, &'static Target)> {
    let hash = hash::of_choice(key, forward.flags & FORWARD_BY_SOURCE != 0);
    let entry = forward.maglev_offset + hash % forward.maglev_size;
    let cell = run.slot() * MAX_MAGLEV_CELLS + (entry / MAGLEV_PER_CELL) % MAX_MAGLEV_CELLS;
    let index = MAGLEV.get(cell)?.targets[(entry % MAGLEV_PER_CELL) as usize];
    // SAFETY: array elements live as long as the program.
    Some((index, unsafe { &*TARGETS.get_ptr(index as u32)? }))
}
