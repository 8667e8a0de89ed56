//! The filter: an ordered list of rules, the first that matches decides.

use netfast_common::{
    abi::{FILTER_DROP, MAX_FILTER_RULES},
    classify,
    wire::Packet,
};

use crate::{
    account,
    maps::{FILTER, FILTER_COUNTERS, RULE_SETS},
    run::Run,
};

/// Whether the filter lets `packet` (`length` bytes) on. Counts it for the rule that decided.
#[inline(never)]
pub fn allows(run: &Run, packet: &Packet, length: usize) -> bool {
    let slot = run.slot();
    let Some(rules) = RULE_SETS.get(slot) else { return true };
    let count = rules.filters;
    if count == 0 {
        return true;
    }
    let subject = classify::LinearSubject::new(packet, run.ifindex);
    let mut position = 0;
    while position < MAX_FILTER_RULES && position < count {
        let Some(rule) = FILTER.get(slot * MAX_FILTER_RULES + position) else { return true };
        if classify::matches(rule, &subject) {
            account::add(&FILTER_COUNTERS, rule.counter as u32, length);
            return rule.action != FILTER_DROP;
        }
        position += 1;
    }
    true
}
