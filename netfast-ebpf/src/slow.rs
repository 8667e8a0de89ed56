//! The slow programs: everything that is not a cached flow's plain packet. Several, so that the verifier looks at each
//! alone: the parser, known flows, the filter, new packets (services, new flows).

use aya_ebpf::programs::XdpContext;
use netfast_common::{
    Reason, Verdict,
    abi::{FORWARD_QUIC, MAX_FORWARDS, MAX_SERVICES, Mode, Policy, PolicyClass, ServiceKind},
    classify::Part,
    services,
    wire::{self, Fragment, Packet, UDP},
};

use crate::{
    account::{self, Outcome},
    claim, classify, echo, frame, icmp, known,
    maps::{CACHE_MISSES, FORWARDS, RULE_SETS, SCRATCH, SERVICES},
    new,
    run::Run,
    scratch::{
        CHOSEN_UNASKED, Memory, STAGE_FLAGS, STAGE_NEW, STAGE_RECHECK, STAGE_RECHECKED, STAGE_REFRESH,
        Scratch,
    },
    snat, verdict,
};

/// Where a frame goes on.
pub enum Step {
    /// Nowhere: it is decided.
    Done(Outcome),
    /// To [`known_packet`].
    Known,
    /// To [`filter`].
    Filter,
    /// To [`new_packet`].
    New,
    /// To [`icmp_error`].
    Icmp,
    /// To [`crate::choose::packet`].
    Choose,
    /// To [`snat_packet`].
    Snat,
    /// To [`crate::fragment::packet`].
    Fragment,
    /// To [`crate::direct::packet`].
    Direct,
    /// To [`crate::claim::packet`].
    Claim,
    /// To [`crate::stamp::packet`].
    Stamp,
    /// To [`verdict::packet`].
    Verdict,
}

/// Reads a frame of `bytes`, and describes it in the working memory for the programs that go on.
#[inline(always)]
pub fn read(ctx: &XdpContext, run: &Run, bytes: usize) -> Step {
    if !run.is_known() {
        return Step::Done(Outcome::pass(Reason::Unattached));
    }
    account::add(&CACHE_MISSES, run.row, 0);
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: the element is this CPU's alone, and a program does not interrupt itself.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    *packet = Packet::default();
    scratch.bytes = bytes as u32;
    scratch.ended = 0;
    scratch.asked = 0;
    scratch.stage = STAGE_NEW;
    scratch.chosen = CHOSEN_UNASKED;
    let mut cursor = frame::FrameCursor::new(ctx);
    if let Err(reason) = wire::parse(&mut cursor, packet) {
        if run.config.claims != 0 && matches!(reason, Reason::NotIp) {
            scratch.claim = claim::ASK_ARP;
            return Step::Claim;
        }
        return Step::Done(unreadable(run, if cursor.is_short() { Reason::HeadersSplit } else { reason }));
    }
    scratch.unusual = 0;
    if let Some(reason) = packet.unusual() {
        match policy_of(run, packet, reason) {
            DROP => return Step::Done(Outcome::drop(reason)),
            // To the kernel, but not past the filter.
            PASS => {
                scratch.unusual = reason as u32;
                return Step::Filter;
            }
            _ => {}
        }
    }
    if packet.destination_mac == run.interface.mac {
        if packet.has_flow() || follows(run, packet) {
            return Step::Known;
        }
        if packet.fragment == Fragment::Later && run.config.policies[PolicyClass::Fragment as usize] == ACCEPT
        {
            return Step::Fragment;
        }
    }
    if run.config.claims != 0 && claim::may_be_neighbour(packet) {
        scratch.claim = claim::ASK_NEIGHBOUR;
        return Step::Claim;
    }
    icmp_or_filter(run, packet)
}

/// Where a packet goes on that is no flow's by its own addresses.
#[inline(always)]
pub fn icmp_or_filter(run: &Run, packet: &Packet) -> Step {
    let icmp = if packet.version == 4 { wire::ICMP4 } else { wire::ICMP6 };
    if packet.destination_mac == run.interface.mac
        && packet.fragment == Fragment::No
        && packet.key.protocol == icmp
    {
        Step::Icmp
    } else {
        Step::Filter
    }
}

/// Decides an ICMP message that is no query, if it is an error about a flow.
#[inline(always)]
pub fn icmp_error(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: as above; the description was made by `read` for this frame.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    match icmp::packet(ctx, run, packet, scratch) {
        Some(outcome) => Step::Done(outcome),
        None if scratch.stage == STAGE_NEW => Step::Filter,
        None => Step::Direct,
    }
}

/// Decides a packet by the flow tables.
#[inline(always)]
pub fn known_packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: as above; the description was made by `read` for this frame.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    match known::packet(ctx, run, packet, scratch) {
        known::Found::Decided(outcome) => return Step::Done(outcome),
        known::Found::Asked => scratch.stage = STAGE_FLAGS,
        known::Found::Old => scratch.stage = STAGE_RECHECK,
        known::Found::Renew => {
            scratch.stage = STAGE_REFRESH;
            return Step::Snat;
        }
        known::Found::Ended => {
            scratch.stage = STAGE_NEW;
            scratch.ended = 1;
        }
        known::Found::Nothing => scratch.stage = STAGE_NEW,
    }
    Step::Filter
}

/// Asks the filter about a packet.
#[inline(always)]
pub fn filter(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: as above.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    let part = match scratch.stage {
        STAGE_FLAGS => Part::Flags,
        // Not twice: they may count.
        _ if scratch.asked == run.generation => Part::Rest,
        _ => Part::All,
    };
    scratch.filter.part = part;
    if let Some(outcome) = classify::refuses(ctx, run, packet, scratch) {
        return if outcome.is_drop() {
            verdict::settle(run, packet, scratch, outcome)
        } else {
            Step::Done(outcome)
        };
    }
    scratch.asked = run.generation;
    if scratch.stage == STAGE_FLAGS {
        return Step::Known;
    }
    scratch.allowed = run.generation;
    if scratch.stage == STAGE_RECHECK {
        scratch.stage = STAGE_RECHECKED;
        return Step::Known;
    }
    Step::New
}

/// Decides a packet that belongs to no flow and that the filter allows.
#[inline(always)]
pub fn new_packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: as above.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    // Another rule set was published since the filter was asked: no packet is decided by a mixture of two.
    if scratch.allowed != run.generation {
        return Step::Filter;
    }
    // Not worth a tail call where there is no such rule.
    let wanted = RULE_SETS.get(run.slot()).is_some_and(|rules| rules.snats != 0)
        && (packet.has_flow() || follows(run, packet));
    let step = allowed_packet(ctx, run, packet, scratch, wanted);
    unless_claimed(run, packet, scratch, step)
}

/// Decides a packet that the filter allows and no service wants.
#[inline(always)]
pub fn snat_packet(ctx: &XdpContext, run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: as above.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    let step = snat::packet(ctx, run, packet, scratch);
    unless_claimed(run, packet, scratch, step)
}

/// The step, or to the claims first where it leaves the packet to the kernel: that has nobody at a claimed address.
#[inline(always)]
fn unless_claimed(run: &Run, packet: &Packet, scratch: &mut Scratch, step: Step) -> Step {
    match step {
        Step::Done(outcome)
            if run.config.claims != 0 && outcome.is_pass() && packet.destination_mac == run.interface.mac =>
        {
            scratch.claim = claim::ASK_PASSED;
            scratch.passed = outcome;
            Step::Claim
        }
        step => step,
    }
}

/// Whether a packet is the first fragment of a datagram and goes the way of its flow.
#[inline(always)]
fn follows(run: &Run, packet: &Packet) -> bool {
    packet.fragment == Fragment::First
        && packet.has_ports()
        && run.config.policies[PolicyClass::Fragment as usize] == ACCEPT
}

/// See [`new_packet`]. `snat_wanted`: a packet to no service may be one of source NAT.
#[inline(always)]
fn allowed_packet(
    ctx: &XdpContext,
    run: &Run,
    packet: &Packet,
    scratch: &mut Scratch,
    snat_wanted: bool,
) -> Step {
    if scratch.unusual != 0 {
        return Step::Done(Outcome::pass(unusual(scratch.unusual)));
    }
    if packet.destination_mac != run.interface.mac {
        return Step::Done(Outcome::pass(Reason::NotOurMac));
    }
    if packet.fragment == Fragment::Later {
        let unknown = run.config.policies[PolicyClass::Fragment as usize] == ACCEPT;
        let reason = if unknown { Reason::FragmentUnknown } else { Reason::Fragment };
        return Step::Done(by_policy(run, PolicyClass::Fragment, reason));
    }
    if !packet.has_ports() {
        return if snat_wanted { Step::Snat } else { Step::Done(Outcome::pass(Reason::NotTcpUdp)) };
    }
    let found = service(run, packet);
    if found == NO_SERVICE {
        if snat_wanted {
            return Step::Snat;
        }
        return if scratch.ended != 0 {
            Step::Done(Outcome::pass(Reason::ForwardRemoved))
        } else if run.config.claims != 0 {
            // It may be to a claimed address, at which the kernel has nobody.
            Step::Done(Outcome::pass(Reason::NoService))
        } else {
            verdict::settle(run, packet, scratch, Outcome::pass(Reason::NoService))
        };
    }
    let (kind, index) = ((found >> 16) as u8, found as u16);
    if packet.fragment == Fragment::First && !(follows(run, packet) && kind == ServiceKind::Forward as u8) {
        return Step::Done(by_policy(run, PolicyClass::Fragment, Reason::FragmentedService));
    }
    if packet.is_unspecified() {
        return Step::Done(by_policy(run, PolicyClass::Martian, Reason::Martian));
    }
    if kind == ServiceKind::Forward as u8 {
        scratch.forward = index as u32;
        if scratch.chosen == CHOSEN_UNASKED && names_targets(run, index) {
            return Step::Choose;
        }
        if is_direct(run, index) {
            return Step::Direct;
        }
    }
    if packet.version == 6 && packet.key.protocol == UDP && packet.no_udp_checksum {
        return Step::Done(Outcome::drop(Reason::UdpZeroChecksum));
    }
    if kind == ServiceKind::Stamp as u8 {
        scratch.reflector = index as u32;
        return Step::Stamp;
    }
    Step::Done(if kind == ServiceKind::Echo as u8 {
        echo::packet(ctx, run, packet, index)
    } else {
        new::packet(ctx, run, packet, index, scratch)
    })
}

/// Whether the forward's targets answer their clients themselves.
#[inline(always)]
fn is_direct(run: &Run, index: u16) -> bool {
    FORWARDS
        .get(run.slot() * MAX_FORWARDS + index as u32)
        .is_some_and(|forward| forward.mode >= Mode::Dsr as u8)
}

/// Whether packets to the forward may name their target.
#[inline(always)]
fn names_targets(run: &Run, index: u16) -> bool {
    FORWARDS
        .get(run.slot() * MAX_FORWARDS + index as u32)
        .is_some_and(|forward| forward.flags & FORWARD_QUIC != 0)
}

/// Whether `packet` is addressed to a service.
#[inline(always)]
pub fn is_service(run: &Run, packet: &Packet) -> bool {
    service(run, packet) != NO_SERVICE
}

/// Answer of [`service`]: there is none.
pub const NO_SERVICE: u32 = u32::MAX;

/// The service that `packet` is addressed to: its index, and its kind in bits 16 to 23.
#[inline(never)]
pub fn service(run: &Run, packet: &Packet) -> u32 {
    let slot = run.slot();
    let Some(rules) = RULE_SETS.get(slot) else { return NO_SERVICE };
    let found = services::find(
        &packet.key.destination,
        packet.key.protocol,
        packet.destination_port(),
        rules.services,
        |position| SERVICES.get(slot * MAX_SERVICES + (position & (MAX_SERVICES - 1))),
    );
    match found {
        Some(service) => (service.kind as u32) << 16 | service.index as u32,
        None => NO_SERVICE,
    }
}

const PASS: u32 = Policy::Pass as u32;
const DROP: u32 = Policy::Drop as u32;
const ACCEPT: u32 = Policy::Accept as u32;

/// The operator's choice for a packet of an unusual class.
#[inline(always)]
fn policy_of(run: &Run, packet: &Packet, reason: Reason) -> u32 {
    let class = match reason {
        Reason::BadChecksum => PolicyClass::BadChecksum,
        Reason::SourceRoute => PolicyClass::SourceRoute,
        Reason::Martian => PolicyClass::Martian,
        Reason::TcpFlags => PolicyClass::TcpFlags,
        // Options are usual where IGMP asks for routers (RFC 2113): only what is for this station is looked at.
        _ if packet.destination_mac != run.interface.mac => return ACCEPT,
        _ => PolicyClass::IpOptions,
    };
    run.config.policies[class as usize]
}

/// The reason of a number that `read` has noted.
#[inline(always)]
const fn unusual(number: u32) -> Reason {
    const BAD_CHECKSUM: u32 = Reason::BadChecksum as u32;
    const SOURCE_ROUTE: u32 = Reason::SourceRoute as u32;
    const MARTIAN: u32 = Reason::Martian as u32;
    const TCP_FLAGS: u32 = Reason::TcpFlags as u32;
    match number {
        BAD_CHECKSUM => Reason::BadChecksum,
        SOURCE_ROUTE => Reason::SourceRoute,
        MARTIAN => Reason::Martian,
        TCP_FLAGS => Reason::TcpFlags,
        _ => Reason::IpOptions,
    }
}

/// A frame without a five-tuple.
#[inline(always)]
fn unreadable(run: &Run, reason: Reason) -> Outcome {
    match reason {
        Reason::Malformed | Reason::HeadersSplit => by_policy(run, PolicyClass::Malformed, reason),
        Reason::DeepVlan => by_policy(run, PolicyClass::DeepVlan, reason),
        Reason::Ipv6Extensions => by_policy(run, PolicyClass::Ipv6Extensions, reason),
        Reason::TinyFragment => by_policy(run, PolicyClass::TinyFragment, reason),
        _ => Outcome::pass(reason),
    }
}

/// The operator's choice for a class of frames.
#[inline(always)]
pub fn by_policy(run: &Run, class: PolicyClass, reason: Reason) -> Outcome {
    let drop = run.config.policies[class as usize] == Policy::Drop as u32;
    Outcome::new(if drop { Verdict::Drop } else { Verdict::Pass }, reason)
}
