//! Claimed addresses: answers to ARP and neighbour discovery, and to what is sent to a claimed address and no service wants.

use aya_ebpf::{
    helpers::generated::{bpf_xdp_adjust_head, bpf_xdp_adjust_tail},
    programs::XdpContext,
};
use netfast_common::{
    Reason, Verdict,
    abi::{CLAIM_HELD, CLAIM_PROBING, Claim, EventKind, LOCAL_CLAIMED},
    addr,
    answer::{self, Answer},
    claim::{self, ADVERTISEMENT, ADVERTISEMENT_LENGTH, ALL_NODES, ARP_LENGTH, SOLICITATION},
    flow,
    rewrite::{self, Words},
    wire::{Fragment, ICMP4, ICMP6, Packet, TCP, UDP},
};

use crate::{
    account::Outcome,
    echo, error,
    frame::{self, FrameCursor, Header},
    maps::{CLAIMS, EVENTS, LOCALS, SCRATCH},
    run::Run,
    scratch::{self, Memory, Scratch},
    slow::{self, Step},
    translate::words,
};

/// What is in the frame is no IP; it may be ARP.
pub const ASK_ARP: u32 = 1;
/// It may be neighbour discovery.
pub const ASK_NEIGHBOUR: u32 = 2;
/// It is to go to the kernel (`Scratch::passed`), unless it is to a claimed address.
pub const ASK_PASSED: u32 = 3;

/// Whether a packet may be neighbour discovery: by what was read of it.
#[inline(always)]
pub fn may_be_neighbour(packet: &Packet) -> bool {
    packet.key.protocol == ICMP6 && packet.version == 6 && packet.ttl == claim::HOP_LIMIT && !packet.is_query
}

/// Decides a frame by the claims, as `Scratch::claim` asks.
#[inline(always)]
pub fn packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: the element is this CPU's alone; the description was made by `slow::read` for this frame.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    match scratch.claim {
        ASK_ARP => Step::Done(arp(ctx, run, packet, scratch)),
        ASK_NEIGHBOUR => {
            if neighbour(ctx, run, packet, scratch) {
                Step::Done(Outcome::new(Verdict::Transmit, Reason::ClaimAnswered))
            } else {
                slow::icmp_or_filter(run, packet)
            }
        }
        _ => Step::Done(unserved(ctx, run, packet, scratch)),
    }
}

/// The claim of the address in `scratch.claim_key`, on the link that the frame came in by.
#[inline(always)]
fn find(run: &Run, packet: &Packet, scratch: &mut Scratch) -> Option<&'static mut Claim> {
    scratch.claim_key.ifindex = run.ifindex;
    scratch.claim_key.vlan = packet.vlan as u32;
    let claim = CLAIMS.get_ptr_mut(&scratch.claim_key)?;
    // SAFETY: valid until the program ends (RCU); `told` may be written by two CPUs, and then one event is lost.
    Some(unsafe { &mut *claim })
}

/// Tells the agent that a station other than this one uses a claimed address or asks for it: at most once a second for each.
#[inline(always)]
fn tell(run: &Run, packet: &Packet, scratch: &Scratch, claim: &mut Claim, mac: [u8; 6]) {
    if mac == run.interface.mac || flow::elapsed(run.now, claim.told) < run.config.hz {
        return;
    }
    let Some(mut event) = EVENTS.reserve(0) else { return };
    claim.told = run.now;
    let to = event.as_mut_ptr();
    // SAFETY: the record is as large as its type, and is written whole before it is submitted.
    unsafe {
        scratch::clear(to);
        (&raw mut (*to).kind).write(EventKind::ClaimSeen as u32);
        (&raw mut (*to).key.ifindex).write(run.ifindex);
        (&raw mut (*to).key.address).write(scratch.claim_key.address);
        (&raw mut (*to).mac).write(mac);
        (&raw mut (*to).vlan).write(packet.vlan);
    }
    event.submit(0);
}

/// Whether a frame is one that this station hears: to itself or to a group.
#[inline(always)]
fn is_heard(run: &Run, packet: &Packet) -> bool {
    packet.tags <= 1
        && packet.source_mac[0] & 1 == 0
        && (packet.destination_mac[0] & 1 != 0 || packet.destination_mac == run.interface.mac)
}

/// ARP (RFC 826). What is not answered goes to the kernel, as it would without claims.
#[inline(always)]
fn arp(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> Outcome {
    let pass = Outcome::pass(Reason::NotIp);
    let l3 = packet.l3 as usize & 0x1f;
    let (Some(kind), Some(mut header)) =
        (Header::<2>::at(ctx, l3 - 2), Header::<{ ARP_LENGTH }>::at(ctx, l3))
    else {
        return pass;
    };
    if u16::from_be(kind.get(0)) != claim::ARP || !is_heard(run, packet) {
        return pass;
    }
    let Some(arp) = claim::arp(&header) else { return pass };
    scratch.claim_key.address = addr::from_v4(arp.sender);
    if let Some(claim) = find(run, packet, scratch) {
        // Somebody else has it or takes it (RFC 5227 2.4); whatever is asked for, the answer would go to the wrong one.
        tell(run, packet, scratch, claim, arp.sender_mac);
        return pass;
    }
    if !arp.is_request {
        return pass;
    }
    scratch.claim_key.address = addr::from_v4(arp.target);
    let Some(claim) = find(run, packet, scratch) else { return pass };
    if claim.state != CLAIM_HELD {
        // A probe of another station that is about to take it (RFC 5227 2.1.1).
        if claim.state == CLAIM_PROBING && arp.sender == [0; 4] {
            tell(run, packet, scratch, claim, arp.sender_mac);
        }
        return pass;
    }
    let mac = run.interface.mac;
    claim::put_arp(&mut header, false, (mac, arp.target), (arp.sender_mac, arp.sender));
    let Some(mut link) = Header::<12>::at(ctx, 0) else { return Outcome::drop(Reason::Internal) };
    put_macs(&mut link, arp.sender_mac, mac);
    Outcome::new(Verdict::Transmit, Reason::ClaimAnswered)
}

/// Writes destination and source of a link header.
#[inline(always)]
fn put_macs<const N: usize>(link: &mut Header<N>, to: [u8; 6], from: [u8; 6]) {
    link.put(0, u32::from_ne_bytes([to[0], to[1], to[2], to[3]]));
    link.put(1, u32::from_ne_bytes([to[4], to[5], from[0], from[1]]));
    link.put(2, u32::from_ne_bytes([from[2], from[3], from[4], from[5]]));
}

/// Neighbour discovery (RFC 4861): whether the frame is an answer now. What is not goes on as any other packet.
#[inline(always)]
fn neighbour(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &mut Scratch) -> bool {
    let (l3, l4) = (packet.l3 as usize & 0x1f, packet.l4 as usize);
    if packet.fragment != Fragment::No || l4 != l3 + 40 || !is_heard(run, packet) {
        return false;
    }
    let length = (packet.length as usize).wrapping_sub(40);
    let (source, destination) = (words(&packet.key.source), words(&packet.key.destination));
    let pseudo = answer::pseudo6(source, destination, ICMP6, length as u16);
    // What the comparison above tells the compiler, Linux 6.1 does not know: without the box there would be no mask.
    let mut cursor = FrameCursor::at(ctx, core::hint::black_box(l4) & 0x7f);
    let Some(message) = claim::neighbour(&mut cursor, length, pseudo, &mut scratch.claim_key.address) else {
        return false;
    };
    let Some(claim) = find(run, packet, scratch) else { return false };
    let asks = source == [0; 4];
    if message.kind == ADVERTISEMENT {
        tell(run, packet, scratch, claim, packet.source_mac);
        return false;
    }
    // RFC 4861 7.1.1: duplicate address detection asks the group, and has no address to be found at.
    if asks && (message.has_source_link || !claim::is_solicited_node(&packet.key.destination)) {
        return false;
    }
    if claim.state != CLAIM_HELD {
        if claim.state == CLAIM_PROBING && asks && message.kind == SOLICITATION {
            tell(run, packet, scratch, claim, packet.source_mac);
        }
        return false;
    }
    advertise(ctx, run, packet, scratch, asks)
}

/// Makes the frame the advertisement that answers it (RFC 4861 7.2.4). `to_all`: the one that asks has no address yet.
#[inline(always)]
fn advertise(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &Scratch, to_all: bool) -> bool {
    let l3 = packet.l3 as usize & 0x1f;
    let Some(tag) = Header::<4>::at(ctx, 12).map(|tag| tag.word(0)) else { return false };
    let grow = (l3 + 40 + ADVERTISEMENT_LENGTH) as i32 - frame::length(ctx) as i32;
    let adjusted = if grow > 0 {
        // At the front, where every driver has room. Everything is written anew.
        // SAFETY: the context is valid; all packet references are taken anew afterwards.
        unsafe { bpf_xdp_adjust_head(ctx.ctx, -grow) }
    } else if grow < 0 {
        // SAFETY: as above.
        unsafe { bpf_xdp_adjust_tail(ctx.ctx, grow) }
    } else {
        0
    };
    if adjusted != 0 {
        return false;
    }
    let (target, source) = (words(&scratch.claim_key.address), words(&packet.key.source));
    let mac = run.interface.mac;
    let (destination, to) =
        if to_all { (words(&ALL_NODES), claim::group_mac(ALL_NODES)) } else { (source, packet.source_mac) };
    let Some(mut link) = Header::<14>::at(ctx, 0) else { return false };
    put_macs(&mut link, to, mac);
    let [t0, t1, t2, t3] = tag.to_ne_bytes();
    const IPV6: u16 = 0x86dd_u16.to_be();
    if packet.tags == 0 {
        link.set(12, IPV6);
    } else {
        let Some(mut link) = Header::<18>::at(ctx, 0) else { return false };
        link.put(3, u32::from_ne_bytes([t0, t1, t2, t3]));
        link.set(16, IPV6);
    }
    let Some(mut header) = Header::<40>::at(ctx, l3) else { return false };
    answer::put_ipv6(&mut header, target, destination, ICMP6, ADVERTISEMENT_LENGTH as u16);
    header.set(7, claim::HOP_LIMIT);
    let Some(mut message) = Header::<{ ADVERTISEMENT_LENGTH }>::at(ctx, l3 + 40) else { return false };
    claim::put_advertisement(&mut message, target, destination, target, mac, !to_all);
    true
}

/// A packet that no service wants, and that is to go to the kernel. To a claimed address it would find nobody there: the kernel
/// would look for the address on the link. So netfast answers as the owner of an address does.
#[inline(always)]
fn unserved(ctx: &XdpContext, run: &Run, packet: &Packet, scratch: &Scratch) -> Outcome {
    // SAFETY: the value is copied at once.
    let local = unsafe { LOCALS.get(&packet.key.destination) };
    if local.is_none_or(|kind| *kind != LOCAL_CLAIMED) {
        return scratch.passed;
    }
    match packet.key.protocol {
        ICMP4 | ICMP6 if packet.is_query => echo_reply(ctx, run, packet),
        TCP => Outcome::answer(Answer::Reset, 0, Reason::ClaimRefused),
        UDP => Outcome::answer(Answer::PortUnreachable, 0, Reason::ClaimRefused),
        _ => Outcome::drop(Reason::ClaimRefused),
    }
}

/// Answers an echo request (RFC 1122 3.2.2.6, RFC 4443 4.2), at the rate of all answers.
#[inline(always)]
fn echo_reply(ctx: &XdpContext, run: &Run, packet: &Packet) -> Outcome {
    let (l3, l4) = (packet.l3 as usize & 0x1f, packet.l4 as usize);
    let refused = Outcome::drop(Reason::ClaimRefused);
    if packet.fragment != Fragment::No || packet.has_options() || packet.is_unspecified() {
        return refused;
    }
    if !error::within_rate(run) {
        return Outcome::drop(Reason::ClaimEchoed);
    }
    let Some(mut message) = Header::<4>::at(ctx, l4) else { return Outcome::drop(Reason::Internal) };
    if !claim::echo_reply(&mut message, packet.version) {
        return refused;
    }
    let reflected = if packet.version == 4 {
        Header::<20>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv4(&mut header, echo::ANSWER_TTL))
    } else {
        Header::<40>::at(ctx, l3).map(|mut header| rewrite::reflect_ipv6(&mut header, echo::ANSWER_TTL))
    };
    let (Some(()), Some(mut link)) = (reflected, Header::<12>::at(ctx, 0)) else {
        return Outcome::drop(Reason::Internal);
    };
    put_macs(&mut link, packet.source_mac, packet.destination_mac);
    Outcome::new(Verdict::Transmit, Reason::ClaimEchoed)
}
