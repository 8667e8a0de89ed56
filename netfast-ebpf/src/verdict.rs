//! Verdicts on packets of no flow, into the flow cache: the next ones like this one are decided by the hot program.
//! `netfast_common::classify::verdict` says which may.

use netfast_common::{
    Reason,
    abi::LineKind,
    classify::verdict::keeps,
    wire::{Fragment, Packet},
};

use crate::{
    account::Outcome,
    cache::{self, Fill},
    maps::{RULE_SETS, SCRATCH},
    run::Run,
    scratch::{Memory, STAGE_NEW, Scratch},
    slow::{self, Step},
};

/// Rule of a line: none has decided.
pub const NO_RULE: u32 = u32::MAX;

/// One verdict in so many is put into the cache: a flood of packets of which no two are alike does not pay for lines, and what
/// comes often is soon in it.
const ONE_OF: u32 = 8;

/// Ends a packet's way with `outcome`, which its rules alone have decided; by way of [`packet`], if that may be cached.
#[inline(always)]
pub fn settle(run: &Run, packet: &Packet, scratch: &mut Scratch, outcome: Outcome) -> Step {
    let plain = packet.has_ports() && packet.fragment == Fragment::No && scratch.unusual == 0;
    if !plain || scratch.stage != STAGE_NEW || scratch.ended != 0 || scratch.filter.side != 0 {
        return Step::Done(outcome);
    }
    scratch.turn = scratch.turn.wrapping_add(1);
    if !scratch.turn.is_multiple_of(ONE_OF) || packet.destination_mac != run.interface.mac {
        return Step::Done(outcome);
    }
    scratch.verdict = outcome;
    scratch.allowed = run.generation;
    Step::Verdict
}

/// Puts the verdict in the working memory into the cache, if it may be there and a line is free.
#[inline(always)]
pub fn packet(run: &Run) -> Step {
    let Some(memory) = SCRATCH.get_ptr_mut(0) else { return Step::Done(Outcome::drop(Reason::Internal)) };
    // SAFETY: the element is this CPU's alone, and a program does not interrupt itself.
    let Memory { packet, scratch } = unsafe { &mut *memory };
    let outcome = scratch.verdict;
    // What another rule set has said is not to be said again.
    if scratch.allowed == run.generation {
        let rules = RULE_SETS.get(run.slot()).map_or(0, |rules| rules.filter_flags);
        let nat = [run.config.nat_port_low, run.config.nat_port_high];
        if keeps(rules, packet, outcome.is_drop(), nat, || slow::is_service(run, packet)) {
            let rule = if scratch.walk.found() { scratch.walk.rule() } else { NO_RULE };
            fill(run, packet, rule, outcome);
        }
    }
    Step::Done(outcome)
}

/// Writes a line, in the form that `hot::verdict` reads.
#[inline(always)]
fn fill(run: &Run, packet: &Packet, rule: u32, outcome: Outcome) {
    let line = Fill {
        kind: LineKind::Verdict,
        address: [0, cache::pair(run.ifindex, rule)],
        port: (outcome.bits() as u16).to_ne_bytes(),
        next_hop: packet.vlan,
        target: 0,
        deltas: run.ifindex,
    };
    cache::fill(run, packet.version, &packet.key, &line);
}
