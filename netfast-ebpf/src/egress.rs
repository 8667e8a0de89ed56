//! The way out: link header, transmit or redirect.

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use netfast_common::{Reason, Verdict, abi::NextHop};

use crate::{
    account::Outcome,
    frame::{Header, load},
    maps::DEVICES,
};

const TAG_8021Q: u16 = 0x8100u16.to_be();

/// Gives the frame the link header of `hop` and sends it. `l3`: offset of the IP header; `reason`: why it is sent.
#[inline(always)]
pub fn send(ctx: &XdpContext, l3: usize, hop: &NextHop, ingress: u32, reason: Reason) -> Outcome {
    if l3 == 14 && hop.vlan == 0 {
        let Some(mut header) = Header::<12>::at(ctx, 0) else { return Outcome::drop(Reason::Internal) };
        put_macs(&mut header, hop);
    } else if !relabel(ctx, l3, hop) {
        return Outcome::drop(Reason::Internal);
    }
    if hop.ifindex == ingress {
        return Outcome::new(Verdict::Transmit, reason);
    }
    match DEVICES.redirect(hop.ifindex, 0) {
        Ok(action) if action == xdp_action::XDP_REDIRECT => Outcome::new(Verdict::Redirect, reason),
        _ => Outcome::drop(Reason::RedirectFailed),
    }
}

/// Destination and source. Typed loads: arrays of bytes would be read byte by byte.
#[inline(always)]
fn put_macs<const N: usize>(header: &mut Header<N>, hop: &NextHop) {
    let (to, from) = (hop.destination.as_ptr() as usize, hop.source.as_ptr() as usize);
    // SAFETY: both arrays have six bytes.
    let (t0, t4, f0, f4): (u32, u16, u32, u16) =
        unsafe { (load(to), load(to + 4), load(from), load(from + 4)) };
    header.set(0, t0);
    header.set(4, t4);
    header.set(6, f0);
    header.set(10, f4);
}

/// Link header with other tags than the frame came with: moves the head of the frame and writes it anew.
#[inline(always)]
fn relabel(ctx: &XdpContext, l3: usize, hop: &NextHop) -> bool {
    let Some(kind) = Header::<2>::at(ctx, (l3 & 0x1f).wrapping_sub(2)) else { return false };
    let kind: u16 = kind.get(0);
    let wanted = if hop.vlan == 0 { 14 } else { 18 };
    let delta = l3 as i32 - wanted;
    // SAFETY: the context is valid; all packet references are taken anew afterwards.
    if delta != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) } != 0 {
        return false;
    }
    if hop.vlan == 0 {
        let Some(mut header) = Header::<14>::at(ctx, 0) else { return false };
        put_macs(&mut header, hop);
        header.set(12, kind);
    } else {
        let Some(mut header) = Header::<18>::at(ctx, 0) else { return false };
        put_macs(&mut header, hop);
        header.set(12, TAG_8021Q);
        header.set(14, hop.vlan.to_be());
        header.set(16, kind);
    }
    true
}
