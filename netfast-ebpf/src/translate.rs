//! Applying a flow's translation to the frame and sending it, for the slow program.

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason,
    abi::{FlowKey, NextHop, TARGET_COUNTERS},
    addr,
    answer::Answer,
    checksum::Delta,
    family, rewrite,
    wire::{Fragment, Packet, UDP},
};

use crate::{
    account::{self, Outcome},
    egress,
    frame::{self, Header},
    hops,
    run::Run,
};

/// Whether a packet that leaves for `destination` leaves in the other IP version.
#[inline(always)]
pub fn crosses(packet: &Packet, destination: &[u8; 16]) -> bool {
    addr::is_v4(destination) != (packet.version == 4)
}

/// Next hop `hop`, if `packet` can go on by it to `destination`; else what becomes of the packet. Asked before a flow is made
/// or its state changes: what does not leave leaves no trace.
#[inline(always)]
pub fn way(packet: &Packet, destination: &[u8; 16], hop: u16) -> Result<&'static NextHop, Outcome> {
    let crosses = crosses(packet, destination);
    if crosses && !family::is_translatable(packet) {
        return Err(Outcome::drop(Reason::Untranslatable));
    }
    if packet.ttl <= 1 {
        return Err(Outcome::answer(Answer::TimeExceeded, 0, Reason::TtlExpired));
    }
    let next_hop = hops::usable(hop).map_err(Outcome::drop)?;
    let length = if crosses { family::length(packet) } else { packet.length };
    if next_hop.mtu != 0 && length > next_hop.mtu as u32 {
        let mtu = if crosses { family::mtu(packet.version, next_hop.mtu) } else { next_hop.mtu };
        return Err(too_big(packet, mtu));
    }
    Ok(next_hop)
}

/// What becomes of a packet that is larger than the `mtu` (in bytes, as its sender must see it) of the way out. One that
/// may be fragmented must not be answered (RFC 1812 4.3.2.7, 5.2.7.1), and an XDP program cannot make two frames of one.
#[inline(always)]
pub const fn too_big(packet: &Packet, mtu: u16) -> Outcome {
    if packet.dont_fragment {
        Outcome::answer(Answer::TooBig, mtu, Reason::MtuExceeded)
    } else {
        Outcome::drop(Reason::MtuExceeded)
    }
}

/// Sends `packet` with the addresses and ports of `new` by `next_hop`, which [`way`] has found. `direction`: see
/// `flow::ORIGINAL`. To another IP version `netfast_family` sends it, a fragment `netfast_fragment`, by what stands in
/// `scratch.flow`.
#[inline(always)]
pub fn forward(
    ctx: &XdpContext,
    run: &Run,
    packet: &Packet,
    new: &FlowKey,
    next_hop: &NextHop,
    target: u16,
    direction: u8,
) -> Outcome {
    if crosses(packet, &new.destination) {
        return Outcome::FAMILY;
    }
    if packet.fragment != Fragment::No {
        return Outcome::FRAGMENT;
    }
    let length = frame::length(ctx);
    let l3 = packet.l3 as usize & 0x1f;
    let rewritten = if packet.version == 4 { put4(ctx, packet, new, l3) } else { put6(ctx, packet, new, l3) };
    if rewritten.is_none() {
        return Outcome::drop(Reason::Internal);
    }
    let reason = if direction == 0 { Reason::Forwarded } else { Reason::Reply };
    let outcome = egress::send(ctx, l3, next_hop, run.ifindex, reason);
    account::count(TARGET_COUNTERS, target as u32 * 2 + direction as u32, length);
    outcome
}

/// The native word at `offset` of an address.
#[inline(always)]
const fn word(address: &[u8; 16], offset: usize) -> u32 {
    u32::from_ne_bytes([address[offset], address[offset + 1], address[offset + 2], address[offset + 3]])
}

/// A 16-byte address as four native words.
#[inline(always)]
pub const fn words(address: &[u8; 16]) -> [u32; 4] {
    [word(address, 0), word(address, 4), word(address, 8), word(address, 12)]
}

/// The IPv4 address in a 16-byte one, as a native word.
#[inline(always)]
pub const fn word4(address: &[u8; 16]) -> u32 {
    word(address, 12)
}

#[inline(always)]
pub fn ports_of(key: &FlowKey) -> u32 {
    let (s, d) = (key.source_port, key.destination_port);
    u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
}

/// New addresses and ports, TTL and checksums of an IPv4 packet.
#[inline(always)]
pub fn put4(ctx: &XdpContext, packet: &Packet, new: &FlowKey, l3: usize) -> Option<()> {
    let mut header = Header::<20>::at(ctx, l3)?;
    let pseudo = rewrite::ipv4(&mut header, word4(&new.source), word4(&new.destination));
    put_transport(ctx, packet, new, pseudo)
}

/// Likewise of IPv6.
#[inline(always)]
pub fn put6(ctx: &XdpContext, packet: &Packet, new: &FlowKey, l3: usize) -> Option<()> {
    let mut header = Header::<40>::at(ctx, l3)?;
    let pseudo = rewrite::ipv6(&mut header, words(&new.source), words(&new.destination));
    put_transport(ctx, packet, new, pseudo)
}

/// Ports and checksum of TCP and UDP, identifier and checksum of an ICMP query; `pseudo`: what the pseudo-header changes by.
#[inline(always)]
pub fn put_transport(ctx: &XdpContext, packet: &Packet, new: &FlowKey, pseudo: Delta) -> Option<()> {
    let (l4, ports) = (packet.l4 as usize, ports_of(new));
    if packet.key.protocol == UDP {
        let mut header = Header::<8>::at(ctx, l4)?;
        let delta = rewrite::ports(&mut header, ports, pseudo);
        header.set::<u16>(6, delta.apply_udp_word(header.get(6)));
    } else if packet.is_query {
        let mut header = Header::<8>::at(ctx, l4)?;
        // The identifier is one of the two ports, the other one is 0. ICMPv4 has no pseudo header.
        let [s0, s1, d0, d1] = ports.to_ne_bytes();
        let pseudo = if packet.version == 4 { Delta::NONE } else { pseudo };
        let delta = rewrite::identifier(&mut header, [s0 | d0, s1 | d1], pseudo);
        header.set(2, delta.apply(header.get(2)));
    } else {
        let mut header = Header::<18>::at(ctx, l4)?;
        let delta = rewrite::ports(&mut header, ports, pseudo);
        header.set::<u16>(16, delta.apply_word(header.get(16)));
    }
    Some(())
}
