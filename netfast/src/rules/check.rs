//! What is allowed but hardly meant: shadowed and duplicate filter rules, forwards to nowhere, open reflectors.

use std::collections::HashMap;

use ipnet::IpNet;

use crate::api::types::{FilterAction, FilterRule, PortRange, Rules};

use super::{diff, validate};

/// What the operator should know about rules that are valid, a sentence each.
pub fn warnings(rules: &Rules) -> Vec<String> {
    let mut warnings = Vec::new();
    forwards(rules, &mut warnings);
    echoes(rules, &mut warnings);
    filters(&rules.filters, &mut warnings);
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

fn label(at: usize, rule: &FilterRule) -> String {
    match &rule.name {
        Some(name) => format!("filter rule {} {name:?}", at + 1),
        None => format!("filter rule {} ({})", at + 1, diff::content(rule)),
    }
}

fn filters(filters: &[FilterRule], warnings: &mut Vec<String>) {
    for (at, rule) in filters.iter().enumerate() {
        let Some((above, by)) = filters[..at].iter().enumerate().find(|(_, above)| covers(above, rule))
        else {
            continue;
        };
        let (rule_label, by_label) = (label(at, rule), label(above, by));
        warnings.push(if by.action != rule.action {
            let wins = match by.action {
                FilterAction::Allow => "allows",
                FilterAction::Drop => "drops",
            };
            format!(
                "{rule_label} is never reached: {by_label} stands before it, matches all that it matches, and {wins} it"
            )
        } else if covers(rule, by) {
            format!("{rule_label} is the same as {by_label}: delete one of them")
        } else {
            format!("{rule_label} is never reached: {by_label} stands before it and does the same with more packets")
        });
    }
}

/// Whether each packet that `inner` matches is matched by `outer`.
pub fn covers(outer: &FilterRule, inner: &FilterRule) -> bool {
    let version = |rule| validate::filter::version(rule).unwrap_or(0);
    let (outer_version, inner_version) = (version(outer), version(inner));
    (outer_version == 0 || outer_version == inner_version)
        && outer.src.is_none_or(|net| net_covers(&net, inner.src.as_ref(), inner_version))
        && outer.dst.is_none_or(|net| net_covers(&net, inner.dst.as_ref(), inner_version))
        && outer.proto.is_none_or(|proto| inner.proto == Some(proto))
        && outer.sport.is_none_or(|ports| ports_cover(ports, inner.sport))
        && outer.dport.is_none_or(|ports| ports_cover(ports, inner.dport))
        && outer.interface.as_ref().is_none_or(|name| inner.interface.as_ref() == Some(name))
}

fn net_covers(outer: &IpNet, inner: Option<&IpNet>, inner_version: u8) -> bool {
    match inner {
        Some(inner) => outer.contains(&inner.trunc()),
        // Without a prefix `inner` matches every address of its version.
        None => outer.prefix_len() == 0 && inner_version == if outer.addr().is_ipv4() { 4 } else { 6 },
    }
}

fn ports_cover(outer: PortRange, inner: Option<PortRange>) -> bool {
    inner.is_some_and(|inner| outer.low <= inner.low && inner.high <= outer.high)
}
