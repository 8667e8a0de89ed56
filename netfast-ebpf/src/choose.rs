//! A target that the packet itself names: by the connection ID of QUIC.

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason,
    abi::{MAX_FORWARDS, MAX_TARGETS},
    quic,
};

use crate::{
    account::Outcome,
    frame::Header,
    maps::{FORWARDS, QUIC_IDS, SCRATCH},
    run::Run,
    scratch::{CHOSEN_NONE, Memory},
    slow::Step,
};

/// Notes which target the packet names, and goes back to where the flow is made.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: the element is this CPU's alone, and a program does not interrupt itself; the description was made by
    // `slow::read` for this frame.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    let index = run.slot() * MAX_FORWARDS + (scratch.forward & (MAX_FORWARDS - 1));
    scratch.chosen = CHOSEN_NONE;
    let Some(forward) = FORWARDS.get(index) else { return Step::New };
    // Behind the UDP header; a shorter datagram is no packet that names a target.
    let Some(header) = Header::<{ quic::READ }>::at(ctx, packet.l4 as usize + 8) else { return Step::New };
    let bytes: [u8; quic::READ] = header.get(0);
    let Some(id) = quic::server_id(&bytes, forward.quic_id) else { return Step::New };
    let key = quic::key(forward.uid, run.slot(), forward.quic_id, id);
    // SAFETY: the value is copied at once.
    if let Some(target) = unsafe { QUIC_IDS.get(&key) } {
        scratch.chosen = *target & (MAX_TARGETS - 1);
    }
    Step::New
}
