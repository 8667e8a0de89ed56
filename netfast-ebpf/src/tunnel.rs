//! Mode `ipip` on the way out: the outer header, and how large a packet may be under it.

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason,
    abi::{NextHop, Target},
    addr,
    rewrite::{self, Words},
    tunnel::{self, Inner},
};

use crate::{
    account::Outcome,
    egress::{self, ETHERNET_IPV4, ETHERNET_IPV6},
    frame::Header,
    hot::address_words,
    maps::PATH_MTU,
    run::Run,
};

/// MTU of the way to the target with this index, by `hop` and by what ICMP errors have told, in bytes; 0: not known.
#[inline(always)]
pub fn mtu(run: &Run, index: u16, hop: &NextHop) -> u16 {
    let noted = PATH_MTU.get(index as u32).map_or(0, |element| tunnel::path_mtu(*element, run.stamp));
    if noted != 0 && (hop.mtu == 0 || noted < hop.mtu) { noted } else { hop.mtu }
}

/// Whether a packet of `length` bytes can go through the tunnel in one piece.
#[inline(always)]
pub fn fits(run: &Run, index: u16, target: &Target, hop: &NextHop, length: u32) -> bool {
    let length = length + tunnel::overhead(addr::is_v4(&target.address)) as u32;
    let mtu = mtu(run, index, hop) as u32;
    length <= tunnel::LONGEST && (mtu == 0 || length <= mtu)
}

/// Puts the outer header before the IP packet at `l3` and sends the frame. The caller has checked that it [`fits`] and that its
/// TTL is above 1. `hash`: of the inner flow.
#[inline(always)]
pub fn wrap(
    ctx: &XdpContext,
    run: &Run,
    l3: usize,
    inner: Inner,
    target: &Target,
    hop: &NextHop,
    hash: u32,
) -> Outcome {
    if put(ctx, l3, inner, target, hop, hash).is_some() {
        egress::transmit(hop, run.ifindex, Reason::Forwarded)
    } else {
        Outcome::drop(Reason::Internal)
    }
}

#[inline(always)]
fn put(ctx: &XdpContext, l3: usize, inner: Inner, target: &Target, hop: &NextHop, hash: u32) -> Option<()> {
    // RFC 2003 3.1, RFC 2473 3.1: the tunnel is one hop to the inner packet.
    if inner.version == 4 {
        rewrite::age_ipv4(&mut Header::<20>::at(ctx, l3)?);
    } else {
        rewrite::age_ipv6(&mut Header::<40>::at(ctx, l3)?);
    }
    let mut source = address_words(&target.source);
    source[3] = tunnel::spread_source(u32::from_be(source[3]), target.spread, hash).to_be();
    let destination = address_words(&target.address);
    if addr::is_v4(&target.address) {
        let l3 = egress::move_head(ctx, l3, hop, tunnel::OVERHEAD4 as usize)?;
        let mut header = Header::<20>::at(ctx, l3)?;
        put_words(&mut header, &inner.outer4(source[3], destination[3]));
        egress::label(ctx, hop, ETHERNET_IPV4).then_some(())
    } else {
        let l3 = egress::move_head(ctx, l3, hop, tunnel::OVERHEAD6 as usize)?;
        let mut header = Header::<40>::at(ctx, l3)?;
        put_words(&mut header, &inner.outer6(source, destination, hash));
        egress::label(ctx, hop, ETHERNET_IPV6).then_some(())
    }
}

#[inline(always)]
fn put_words<const N: usize>(header: &mut impl Words, words: &[u32; N]) {
    let mut i = 0;
    while i < N {
        header.put(i, words[i]);
        i += 1;
    }
}
