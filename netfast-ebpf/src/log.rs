//! Rare events of the slow program, into the agent's log. At most `Config::log_rate` lines a second and CPU.

use aya_ebpf::programs::XdpContext;
use netfast_common::abi::FlowKey;

use crate::{run::Run, scratch::Scratch};

/// Whether another line may be logged in this second.
#[inline(always)]
fn gate(run: &Run, scratch: &mut Scratch) -> bool {
    if scratch.log_second != run.stamp {
        scratch.log_second = run.stamp;
        scratch.log_count = 0;
    }
    scratch.log_count += 1;
    scratch.log_count <= run.config.log_rate
}

#[inline(always)]
fn port(key: &FlowKey) -> u16 {
    u16::from_be_bytes(key.destination_port)
}

/// The table of confirmed flows is full.
#[inline(always)]
pub fn full(ctx: &XdpContext, run: &Run, scratch: &mut Scratch) {
    if gate(run, scratch) {
        let port = port(&scratch.original_key);
        aya_log_ebpf::warn!(ctx, "flow table full: new flow to port {} refused; see [tables] flows", port);
    }
}

/// No free source port towards a target.
#[inline(always)]
pub fn exhausted(ctx: &XdpContext, run: &Run, scratch: &mut Scratch) {
    if gate(run, scratch) {
        let port = port(&scratch.original_key);
        aya_log_ebpf::warn!(ctx, "no free source port for a flow to port {}; see [nat] ports", port);
    }
}
