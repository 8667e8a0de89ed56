//! The way out: link header, transmit or redirect.

use aya_ebpf::{bindings::xdp_action, helpers::generated::bpf_xdp_adjust_head, programs::XdpContext};
use netfast_common::{Reason, Verdict, abi::NextHop};

use crate::{
    account::Outcome,
    frame::{Header, load, store},
    maps::DEVICES,
};

const TAG_8021Q: u16 = 0x8100u16.to_be();
/// Ether type of IPv4, as on the wire.
pub const ETHERNET_IPV4: u16 = 0x0800u16.to_be();
/// Ether type of IPv6, as on the wire.
pub const ETHERNET_IPV6: u16 = 0x86ddu16.to_be();

/// Gives the frame the link header of `hop` and sends it. `l3`: offset of the IP header; `reason`: why it is sent.
#[inline(always)]
pub fn send(ctx: &XdpContext, l3: usize, hop: &NextHop, ingress: u32, reason: Reason) -> Outcome {
    if l3 == 14 && hop.vlan == 0 {
        let Some(mut header) = Header::<12>::at(ctx, 0) else { return Outcome::drop(Reason::Internal) };
        put_macs(&mut header, hop);
    } else if !relabel(ctx, l3, hop) {
        return Outcome::drop(Reason::Internal);
    }
    transmit(hop, ingress, reason)
}

/// Sends a frame whose link header is done.
#[inline(always)]
pub fn transmit(hop: &NextHop, ingress: u32, reason: Reason) -> Outcome {
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

/// Both MAC addresses of an untagged frame at `data`, if `hop` has no tag.
///
/// # Safety
///
/// The caller has checked that the link header is there.
#[inline(always)]
pub unsafe fn put_untagged(data: usize, hop: &NextHop) -> bool {
    let at = core::ptr::from_ref(hop) as usize;
    // SAFETY: an entry begins with a MAC address and the VLAN, then comes the other address and the MTU: 16 bytes.
    let (to, from): (u64, u64) = unsafe { (load(at), load(at + 8)) };
    if to >> 48 != 0 {
        return false;
    }
    // SAFETY: the frame has 12 bytes. The first word is two bytes too long for its address.
    unsafe {
        store(data, to);
        store(data + 6, from as u32);
        store(data + 10, (from >> 32) as u16);
    }
    true
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
    label(ctx, hop, kind)
}

/// Moves the head of the frame so that its link header and `length` bytes of IP header fit before `end`, the
/// offset of what is kept. Returns the offset of the IP header; link and IP header are to be written anew, and all
/// references into the packet to be taken anew.
#[inline(always)]
pub fn move_head(ctx: &XdpContext, end: usize, hop: &NextHop, length: usize) -> Option<usize> {
    let l3 = if hop.vlan == 0 { 14 } else { 18 };
    let delta = end as i32 - (l3 + length) as i32;
    // SAFETY: the context is valid.
    if delta != 0 && unsafe { bpf_xdp_adjust_head(ctx.ctx, delta) } != 0 {
        return None;
    }
    Some(l3)
}

/// Writes the link header at the beginning of the frame; `kind`: its ether type.
#[inline(always)]
pub fn label(ctx: &XdpContext, hop: &NextHop, kind: u16) -> bool {
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
