//! What is different between two intents: object by object, and as text for a person.

use std::collections::{HashMap, HashSet};

use similar::{Algorithm, DiffOp, TextDiff, capture_diff_slices};

use crate::{
    api::types::{ChangeAction, Endpoint, FilterRule, Forward, Intent, ObjectChange, Rules},
    config::rules::render,
};

use super::normal::{self, target_key};

/// Every object of either intent with what happened to it, unchanged ones included.
pub fn objects(before: &Intent, after: &Intent) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    let mode = |a: &crate::api::types::Attachment| (a.interface.clone(), a.mode);
    compare(
        &mut changes,
        "interface",
        &before.attachments.iter().map(mode).collect::<Vec<_>>(),
        &after.attachments.iter().map(mode).collect::<Vec<_>>(),
    );
    rule_objects(&before.rules, &after.rules, &mut changes);
    changes
}

/// As [`objects`], for rules alone. The rules should be normal ([`normal::normalize`]).
pub fn rules(before: &Rules, after: &Rules) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    rule_objects(before, after, &mut changes);
    changes
}

/// A unified diff of the rules' canonical text; empty if they mean the same.
pub fn text(before: &Rules, after: &Rules, before_name: &str, after_name: &str) -> String {
    let (mut before, mut after) = (before.clone(), after.clone());
    normal::normalize(&mut before);
    normal::normalize(&mut after);
    arrange(&before, &mut after);
    let (before, after) = (render(&before), render(&after));
    TextDiff::from_lines(&before, &after)
        .unified_diff()
        .context_radius(3)
        .header(before_name, after_name)
        .to_string()
}

/// Puts the objects whose order means nothing into the order that `like` has them in; new ones come last.
pub fn arrange(like: &Rules, rules: &mut Rules) {
    let place: HashMap<&str, usize> =
        like.forwards.iter().enumerate().map(|(at, f)| (f.name.as_str(), at)).collect();
    rules.forwards.sort_by_key(|f| place.get(f.name.as_str()).copied().unwrap_or(usize::MAX));
    for forward in &mut rules.forwards {
        if let Some(at) = place.get(forward.name.as_str()) {
            arrange_targets(&like.forwards[*at], forward);
        }
    }
    let place: HashMap<Endpoint, usize> =
        like.echoes.iter().enumerate().map(|(at, e)| (e.listen, at)).collect();
    rules.echoes.sort_by_key(|e| place.get(&e.listen).copied().unwrap_or(usize::MAX));
}

/// As [`arrange`], for the targets of one forward.
pub fn arrange_targets(like: &Forward, forward: &mut Forward) {
    let place: HashMap<_, usize> =
        like.targets.iter().enumerate().map(|(at, t)| (target_key(&t.address), at)).collect();
    forward.targets.sort_by_key(|t| place.get(&target_key(&t.address)).copied().unwrap_or(usize::MAX));
}

fn rule_objects(before: &Rules, after: &Rules, changes: &mut Vec<ObjectChange>) {
    let bare = |f: &Forward| (f.name.clone(), Forward { targets: Vec::new(), ..f.clone() });
    compare(
        changes,
        "forward",
        &before.forwards.iter().map(bare).collect::<Vec<_>>(),
        &after.forwards.iter().map(bare).collect::<Vec<_>>(),
    );
    compare(changes, "target", &targets(before), &targets(after));
    let echo = |e: &crate::api::types::Echo| (e.listen.to_string(), e.clone());
    compare(
        changes,
        "echo",
        &before.echoes.iter().map(echo).collect::<Vec<_>>(),
        &after.echoes.iter().map(echo).collect::<Vec<_>>(),
    );
    filters(&before.filters, &after.filters, changes);
}

/// Name of a target in changes: `web/10.0.0.11:8443`.
pub fn target_name(forward: &str, address: &Endpoint) -> String {
    format!("{forward}/{address}")
}

fn targets(rules: &Rules) -> Vec<(String, crate::api::types::Target)> {
    rules
        .forwards
        .iter()
        .flat_map(|f| f.targets.iter().map(|t| (target_name(&f.name, &t.address), t.clone())))
        .collect()
}

/// Compares two lists of objects by their names; their order means nothing.
fn compare<T: PartialEq>(
    changes: &mut Vec<ObjectChange>,
    kind: &str,
    before: &[(String, T)],
    after: &[(String, T)],
) {
    let old: HashMap<&str, &T> = before.iter().map(|(name, object)| (name.as_str(), object)).collect();
    let new: HashSet<&str> = after.iter().map(|(name, _)| name.as_str()).collect();
    let mut add = |name: &str, action| {
        changes.push(ObjectChange { kind: kind.to_owned(), name: name.to_owned(), action });
    };
    for (name, _) in before.iter().filter(|(name, _)| !new.contains(name.as_str())) {
        add(name, ChangeAction::Deleted);
    }
    for (name, object) in after {
        add(
            name,
            match old.get(name.as_str()) {
                None => ChangeAction::Created,
                Some(old) if *old == object => ChangeAction::Unchanged,
                Some(_) => ChangeAction::Changed,
            },
        );
    }
}

/// What identifies each filter rule of a list: its name; without one its content (comment aside), and which of several
/// equal ones it is.
pub fn filter_keys(filters: &[FilterRule]) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    filters
        .iter()
        .map(|rule| {
            if let Some(name) = &rule.name {
                return format!("name {name}");
            }
            let content = content(rule);
            let times = seen.entry(content.clone()).or_default();
            *times += 1;
            format!("rule {content} {times}")
        })
        .collect()
}

/// What a filter rule matches and does, in one line: `drop src=203.0.113.0/24 proto=tcp dport=22`.
pub fn content(rule: &FilterRule) -> String {
    use std::fmt::Write;
    let mut text = rule.action.to_string();
    let mut add = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            // Writing to a String cannot fail.
            let _ = write!(text, " {key}={value}");
        }
    };
    add("src", rule.src.map(|net| net.to_string()));
    add("dst", rule.dst.map(|net| net.to_string()));
    add("proto", rule.proto.map(|proto| proto.to_string()));
    add("sport", rule.sport.map(|ports| ports.to_string()));
    add("dport", rule.dport.map(|ports| ports.to_string()));
    add("interface", rule.interface.clone());
    add("version", rule.version.map(|version| version.to_string()));
    text
}

/// Name of a filter rule in changes: its own, or its position (1 is first).
pub fn filter_name(position: usize, rule: &FilterRule) -> String {
    rule.name.clone().unwrap_or_else(|| (position + 1).to_string())
}

/// Filter rules are one ordered list: a rule that stands elsewhere relative to the others has changed.
fn filters(before: &[FilterRule], after: &[FilterRule], changes: &mut Vec<ObjectChange>) {
    let (old, new) = (filter_keys(before), filter_keys(after));
    let kept: HashSet<&str> = new.iter().map(String::as_str).collect();
    let known: HashSet<&str> = old.iter().map(String::as_str).collect();
    let mut add = |at: usize, rule: &FilterRule, action| {
        changes.push(ObjectChange { kind: "filter".to_owned(), name: filter_name(at, rule), action });
    };
    for (at, rule) in before.iter().enumerate() {
        if !kept.contains(old[at].as_str()) {
            add(at, rule, ChangeAction::Deleted);
        }
    }
    let mut in_place: HashMap<usize, usize> = HashMap::new();
    for step in capture_diff_slices(Algorithm::Myers, &old, &new) {
        if let DiffOp::Equal { old_index, new_index, len } = step {
            in_place.extend((0..len).map(|n| (new_index + n, old_index + n)));
        }
    }
    for (at, rule) in after.iter().enumerate() {
        let action = match in_place.get(&at) {
            Some(was) if before[*was] == *rule => ChangeAction::Unchanged,
            _ if known.contains(new[at].as_str()) => ChangeAction::Changed,
            _ => ChangeAction::Created,
        };
        add(at, rule, action);
    }
}
