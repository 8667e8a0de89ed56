//! ICMP errors about packets that were translated between the IP versions (RFC 7915 4.2 to 4.4, 5.2 to 5.4): path MTU
//! discovery works through such a forward, and a traceroute sees what is behind it.

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason,
    abi::{FlowKey, NextHop},
    checksum::Delta,
    family::{self, Common, GROWTH, IPV4, IPV6, icmp::Error},
    rewrite::Words,
    wire::{ICMP4, ICMP6, Packet, TCP, UDP},
};

use crate::{
    egress,
    frame::Header,
    translate::{ports_of, word4, words},
};

/// Length of an ICMP error's own header.
const ICMP: usize = 8;

/// What the embedded packet's transport header is rewritten with.
struct Embedded {
    /// Offset of its transport header.
    l4: usize,
    /// Its protocol.
    protocol: u8,
    /// Its ports, as its sender knows them.
    ports: u32,
    /// Whether more than the first 8 bytes of it are there.
    long: bool,
}

/// Makes the ICMP error in work one of the other IP version, ready to be sent by `hop`. `new`: what a packet leaves with that
/// answers the embedded one; so the error goes to where the embedded packet came from, and the embedded packet becomes
/// the one that was sent there. It comes from the flow's own address: what its sender is called is unknown on the other
/// side (RFC 7915 4.1 leaves that to the translator).
#[inline(always)]
pub fn translate(ctx: &XdpContext, packet: &Packet, new: &FlowKey, hop: &NextHop) -> Result<(), Reason> {
    if packet.ttl <= 1 {
        return Err(Reason::TtlExpired);
    }
    let header = packet.l4.wrapping_sub(packet.l3) as u32;
    let message = packet.length.wrapping_sub(header);
    let (outer, message) = if packet.version == 4 {
        (IPV6 as u32, message + GROWTH as u32)
    } else {
        (IPV4 as u32, message.wrapping_sub(GROWTH as u32))
    };
    if message > 0xffff - IPV4 as u32 || hop.mtu != 0 && message + outer > hop.mtu as u32 {
        return Err(Reason::MtuExceeded);
    }
    let done = if packet.version == 4 {
        to_ipv6(ctx, packet, new, hop, message as u16)
    } else {
        to_ipv4(ctx, packet, new, hop, message as u16)
    };
    done.ok_or(Reason::Untranslatable)
}

#[inline(always)]
fn to_ipv6(ctx: &XdpContext, packet: &Packet, new: &FlowKey, hop: &NextHop, message: u16) -> Option<()> {
    let (l3, l4) = (packet.l3 as usize & 0x1f, packet.l4 as usize);
    let old = Header::<IPV4>::at(ctx, l3)?;
    let mut common = Common::of_ipv4([old.word(0), old.word(1), old.word(2)]);
    common.ttl = common.ttl.wrapping_sub(1);
    common.payload = message;
    common.protocol = ICMP6;

    let old = Header::<{ ICMP + IPV4 }>::at(ctx, l4)?;
    let embedded = [old.word(2), old.word(3), old.word(4), old.word(5), old.word(6)];
    let [version, _, t0, t1] = embedded[0].to_ne_bytes();
    let [_, _, f0, f1] = embedded[1].to_ne_bytes();
    if version != 0x45 || f0 & 0x1f != 0 || f1 != 0 {
        return None;
    }
    let old_error = [old.word(0), old.word(1)];
    let length = u16::from_be_bytes([t0, t1]);
    let error = read(old_error).to_icmp6(length, hop.mtu)?;
    // What the embedded packet's sender sent: addresses the other way round.
    let inner = Common::of_ipv4([embedded[0], embedded[1], embedded[2]])
        .ipv6(words(&new.destination), words(&new.source));
    let old_addresses = [embedded[3], embedded[4]];
    let place = place(packet, new, l4 + ICMP + IPV4);
    let delta = put_embedded(ctx, &place, family::pseudo(&old_addresses, &inner[2..]))?;

    let ipv6 = common.ipv6(words(&new.source), words(&new.destination));
    let delta = family::added(family::removed(delta, &embedded), &inner);
    let [m0, m1] = message.to_be_bytes();
    // The pseudo-header, which ICMPv4 does not have (RFC 4443 2.3).
    let delta = family::added(delta, &ipv6[2..]).word([0xff, 0xff], [m0, m1]).word([0xff, 0xff], [0, ICMP6]);
    let error = replaced(old_error, error, delta);

    let l3 = egress::move_head(ctx, place.l4, hop, IPV6 + ICMP + IPV6)?;
    let mut header = Header::<{ IPV6 + ICMP + IPV6 }>::at(ctx, l3)?;
    put(&mut header, 0, &ipv6);
    put(&mut header, IPV6 / 4, &error);
    put(&mut header, (IPV6 + ICMP) / 4, &inner);
    egress::label(ctx, hop, egress::ETHERNET_IPV6).then_some(())
}

#[inline(always)]
fn to_ipv4(ctx: &XdpContext, packet: &Packet, new: &FlowKey, hop: &NextHop, message: u16) -> Option<()> {
    let (l3, l4) = (packet.l3 as usize & 0x1f, packet.l4 as usize);
    let old = Header::<IPV6>::at(ctx, l3)?;
    let mut common = Common::of_ipv6([old.word(0), old.word(1)]);
    common.ttl = common.ttl.wrapping_sub(1);
    common.payload = message;
    common.protocol = ICMP4;
    let mut delta = Delta::NONE;
    let mut i = 2;
    while i < 10 {
        delta = delta.word32(old.word(i), 0);
        i += 1;
    }
    let [m0, m1] = message.wrapping_add(GROWTH).to_be_bytes();
    delta = delta.word([m0, m1], [0, 0]).word([0, ICMP6], [0, 0]);

    let old = Header::<{ ICMP + IPV6 }>::at(ctx, l4)?;
    let [version, ..] = old.word(2).to_ne_bytes();
    let inner = Common::of_ipv6([old.word(2), old.word(3)]);
    if version >> 4 != 6 || inner.protocol != new.protocol {
        return None;
    }
    let old_error = [old.word(0), old.word(1)];
    let error = read(old_error).to_icmp4(hop.mtu)?;
    let inner = inner.ipv4(word4(&new.destination), word4(&new.source), 0);
    let addresses = [
        old.word(4),
        old.word(5),
        old.word(6),
        old.word(7),
        old.word(8),
        old.word(9),
        old.word(10),
        old.word(11),
    ];
    delta = delta.word32(old.word(2), 0).word32(old.word(3), 0);
    let delta = family::added(family::removed(delta, &addresses), &inner);
    let place = place(packet, new, l4 + ICMP + IPV6);
    let transport = put_embedded(ctx, &place, family::pseudo(&addresses, &inner[3..]))?;
    let error = replaced(old_error, error, delta.and(transport));

    let ipv4 = common.ipv4(word4(&new.source), word4(&new.destination), 0);
    let l3 = egress::move_head(ctx, place.l4, hop, IPV4 + ICMP + IPV4)?;
    let mut header = Header::<{ IPV4 + ICMP + IPV4 }>::at(ctx, l3)?;
    put(&mut header, 0, &ipv4);
    put(&mut header, IPV4 / 4, &error);
    put(&mut header, (IPV4 + ICMP) / 4, &inner);
    egress::label(ctx, hop, egress::ETHERNET_IPV4).then_some(())
}

#[inline(always)]
fn place(packet: &Packet, new: &FlowKey, l4: usize) -> Embedded {
    let [s0, s1, d0, d1] = ports_of(new).to_ne_bytes();
    let end = packet.l3 as usize + packet.length as usize;
    Embedded { l4, protocol: new.protocol, ports: u32::from_ne_bytes([d0, d1, s0, s1]), long: end >= l4 + 18 }
}

/// Puts ports and checksum of the embedded packet; what the sum over it changes by.
#[inline(always)]
fn put_embedded(ctx: &XdpContext, place: &Embedded, pseudo: Delta) -> Option<Delta> {
    let mut header = Header::<8>::at(ctx, place.l4)?;
    let old = header.word(0);
    header.put(0, place.ports);
    let transport = pseudo.word32(old, place.ports);
    let delta = Delta::NONE.word32(old, place.ports);
    if place.protocol == UDP {
        let old: [u8; 2] = header.get(6);
        let new = transport.apply_udp(old);
        header.set(6, new);
        return Some(delta.word(old, new));
    }
    // Few more than 8 bytes need be there (RFC 792).
    if place.protocol == TCP
        && place.long
        && let Some(mut header) = Header::<18>::at(ctx, place.l4)
    {
        let old: [u8; 2] = header.get(16);
        let new = transport.apply(old);
        header.set(16, new);
        return Some(delta.word(old, new));
    }
    Some(delta)
}

#[inline(always)]
const fn read(words: [u32; 2]) -> Error {
    let [kind, code, _, _] = words[0].to_ne_bytes();
    Error { kind, code, rest: words[1].to_ne_bytes() }
}

/// The error's own header: `delta` is what else has changed under its checksum.
#[inline(always)]
const fn replaced(old: [u32; 2], new: Error, delta: Delta) -> [u32; 2] {
    let [kind, code, c0, c1] = old[0].to_ne_bytes();
    let rest = u32::from_ne_bytes(new.rest);
    let [c0, c1] = delta.word([kind, code], [new.kind, new.code]).word32(old[1], rest).apply([c0, c1]);
    [u32::from_ne_bytes([new.kind, new.code, c0, c1]), rest]
}

#[inline(always)]
fn put<const N: usize>(header: &mut Header<N>, at: usize, words: &[u32]) {
    let mut i = 0;
    while i < words.len() {
        header.put(at + i, words[i]);
        i += 1;
    }
}
