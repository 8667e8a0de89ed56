//! What is allowed but hardly meant: shadowed and duplicate filter rules, forwards to nowhere, open reflectors.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use crate::api::types::{Addresses, FilterAction, FilterDefault, FilterRule, IcmpKind, Many, Rules};

use super::{
    analysis::{self, Hidden, Hiding},
    boxes, diff,
};

/// What the operator should know about rules that are valid, a sentence each.
pub fn warnings(rules: &Rules) -> Vec<String> {
    let mut warnings = Vec::new();
    forwards(rules, &mut warnings);
    echoes(rules, &mut warnings);
    policies(rules, &mut warnings);
    filters(rules, &mut warnings);
    warnings
}

fn forwards(rules: &Rules, warnings: &mut Vec<String>) {
    let listeners: HashMap<_, _> =
        rules.forwards.iter().map(|f| ((f.protocol, f.listen.address), f.name.as_str())).collect();
    for forward in &rules.forwards {
        if forward.targets.is_empty() {
            warnings.push(format!(
                "forward {:?} has no target: its packets are dropped until `target add` gives it one",
                forward.name
            ));
        } else if forward.targets.iter().all(|target| target.drain) {
            warnings.push(format!(
                "every target of forward {:?} drains: nobody gets its new flows until one is undone or added",
                forward.name
            ));
        }
        if forward.quic.is_some() {
            warnings.extend(forward.targets.iter().filter(|target| target.id.is_none()).map(|target| {
                format!(
                    "forward {:?}: its target {} has no id, so that no QUIC packet can name it",
                    forward.name, target.address
                )
            }));
        }
        for target in &forward.targets {
            if let Some(other) = listeners.get(&(forward.protocol, target.address.address))
                && *other != forward.name
            {
                warnings.push(format!(
                    "forward {:?}: forward {other:?} listens on the address of target {}; if that is this host, \
                     packets do not get there: what netfast has sent on it does not take in again",
                    forward.name, target.address
                ));
            }
        }
    }
}

fn echoes(rules: &Rules, warnings: &mut Vec<String>) {
    for echo in &rules.echoes {
        if let Some(net) = echo.allow.iter().find(|net| net.prefix_len() == 0) {
            warnings.push(format!(
                "echo {}: {net} allows everybody; only the rate limit and the guard against loops are left",
                echo.listen
            ));
        }
    }
}

/// A rule in a sentence: its position, and its name or content.
pub fn label(at: usize, rule: &FilterRule) -> String {
    match &rule.name {
        Some(name) => format!("filter rule {} {name:?}", at + 1),
        None => format!("filter rule {} ({})", at + 1, diff::content(rule)),
    }
}

fn filters(rules: &Rules, warnings: &mut Vec<String>) {
    let found = analysis::hidden(&rules.filters, &rules.sets);
    warnings.extend(found.iter().take(MOST_TOLD).map(|hidden| sentence(hidden, &rules.filters)));
    if found.len() > MOST_TOLD {
        warnings.push(format!(
            "{} more filter rules never decide: `netfast filter list --analysis` shows all",
            found.len() - MOST_TOLD
        ));
    }
}

/// So many filter rules are told of one by one.
const MOST_TOLD: usize = 100;

/// What hides a rule, in words.
pub fn sentence(hidden: &Hidden, filters: &[Arc<FilterRule>]) -> String {
    let rule = label(hidden.rule, &filters[hidden.rule]);
    let by: Vec<String> = hidden.by.iter().map(|&at| label(at, &filters[at])).collect();
    let (stands, matches, does) =
        if by.len() == 1 { ("stands", "matches", "does") } else { ("stand", "match", "do") };
    let by = by.join(" and ");
    match hidden.kind {
        Hiding::Empty => format!("{rule} matches nothing: its sets are empty"),
        Hiding::Duplicate => format!("{rule} is the same as {by}: delete one of them"),
        Hiding::Redundant => {
            format!("{rule} is never reached: {by} {stands} before it and {does} the same with more packets")
        }
        Hiding::Contradictory | Hiding::Shadowed => {
            let wins = match hidden.by.first().map(|&at| filters[at].action) {
                Some(FilterAction::Allow) if hidden.by.len() == 1 => ", and allows it",
                Some(FilterAction::Drop) if hidden.by.len() == 1 => ", and drops it",
                Some(FilterAction::Reject) if hidden.by.len() == 1 => ", and rejects it",
                _ => "",
            };
            format!("{rule} is never reached: {by} {stands} before it, {matches} all that it matches{wins}")
        }
    }
}

/// New filter rules are held against all others one by one if that takes no more comparisons.
const COMPARISONS: usize = 2_000_000;
/// So many rules are analysed with every change.
const ALWAYS_ANALYSED: usize = 2_000;

/// The warnings about `after` that were none about `before`. Of large rule sets only new rules are looked at, and if they
/// are many, none: `netfast filter list --analysis` looks at all of them.
pub fn new_warnings(before: &Rules, after: &Rules) -> Vec<String> {
    let small = |rules: &Rules| rules.filters.len() <= ALWAYS_ANALYSED && rules.sets.is_empty();
    if small(before) && small(after) {
        let known: HashSet<String> = warnings(before).into_iter().collect();
        return warnings(after).into_iter().filter(|text| !known.contains(text)).collect();
    }
    let mut found = Vec::new();
    for rules in [before, after] {
        let mut these = Vec::new();
        forwards(rules, &mut these);
        echoes(rules, &mut these);
        policies(rules, &mut these);
        these.retain(|text| !found.contains(text));
        found = these;
    }
    // Mostly one rule of many is another.
    let edit = after.filters.edit_of(&before.filters);
    let old: HashSet<*const FilterRule> = before.filters[edit.gone].iter().map(Arc::as_ptr).collect();
    let new: Vec<usize> = edit.new.filter(|&at| !old.contains(&Arc::as_ptr(&after.filters[at]))).collect();
    if new.len().saturating_mul(after.filters.len()) > COMPARISONS {
        if before.filters != after.filters {
            found.push(format!(
                "{} filter rules were not compared with each other: `netfast filter list --analysis` does it",
                after.filters.len()
            ));
        }
        return found;
    }
    let sets = boxes::by_name(&after.sets);
    for at in new {
        let rule = &after.filters[at];
        let earlier = after.filters[..at]
            .iter()
            .enumerate()
            .find(|(_, earlier)| !earlier.action.goes_on() && rule_covers(earlier, rule, &sets));
        if let Some((above, earlier)) = earlier {
            found.push(format!(
                "{} is never reached: {} stands before it",
                label(at, rule),
                label(above, earlier)
            ));
        }
    }
    found
}

/// Whether each match of `inner` lies within a match of `outer`.
fn rule_covers(outer: &FilterRule, inner: &FilterRule, sets: &boxes::Sets<'_>) -> bool {
    // Most rules are told apart without a list being made.
    let differ = |a: Option<&str>, b: Option<&str>| a.is_some() && a != b;
    if differ(outer.interface.as_deref(), inner.interface.as_deref())
        || nets_apart(outer.src.as_ref(), inner.src.as_ref())
        || nets_apart(outer.dst.as_ref(), inner.dst.as_ref())
        || (outer.proto.is_some() && inner.proto.is_none())
    {
        return false;
    }
    let mut outers = Vec::new();
    boxes::for_each(outer, sets, |one| outers.push(one));
    let mut all = !outers.is_empty();
    boxes::for_each(inner, sets, |one| all &= outers.iter().any(|outer| outer.covers(&one)));
    all
}

/// Whether two lists of single prefixes are such that `outer` does not hold `inner`.
fn nets_apart(outer: Option<&Many<Addresses>>, inner: Option<&Many<Addresses>>) -> bool {
    match (outer, inner) {
        (Some(Many::One(Addresses::Net(outer))), Some(Many::One(Addresses::Net(inner)))) => {
            !outer.contains(inner)
        }
        _ => false,
    }
}

/// A policy that drops also drops what a host cannot do without.
fn policies(rules: &Rules, warnings: &mut Vec<String>) {
    for policy in rules.policies.iter().filter(|policy| policy.filter == FilterDefault::Drop) {
        let allows = |kind: &str| {
            let kind: Option<IcmpKind> = kind.parse().ok();
            rules.filters.iter().any(|rule| {
                rule.action == FilterAction::Allow
                    && rule.version != Some(4)
                    && rule.interface.as_ref().is_none_or(|name| *name == policy.interface)
                    && rule.proto.as_ref().is_none_or(|list| list.iter().any(|proto| proto.0 == 58))
                    && rule.icmp.as_ref().is_none_or(|list| {
                        list.iter()
                            .any(|icmp| Some(icmp.type_in(true)) == kind.map(|kind| kind.type_in(true)))
                    })
            })
        };
        if !(allows("neighbour-solicitation") && allows("neighbour-advertisement")) {
            warnings.push(format!(
                "the policy of {} drops neighbour discovery, without which there is no IPv6 on the link: allow it by \
                 `netfast filter insert 1 allow --proto icmpv6 --icmp neighbour-solicitation,neighbour-advertisement`",
                policy.interface
            ));
        }
    }
}
