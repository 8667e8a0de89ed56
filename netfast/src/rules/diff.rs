//! What is different between two intents: object by object, and as text for a person.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use similar::TextDiff;

use crate::{
    api::types::{
        AddressSet, ChangeAction, Endpoint, FilterRule, FilterRules, Forward, Intent, InterfacePolicy,
        ObjectChange, Rules,
    },
    config::rules::render,
    edit::Edit,
};

use super::normal::{self, target_key};

/// Every object of either intent with what happened to it, unchanged ones included; unchanged filter rules only with
/// `unchanged_filters`.
pub fn objects(before: &Intent, after: &Intent, unchanged_filters: bool) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    let mode = |a: &crate::api::types::Attachment| (a.interface.clone(), a.mode);
    compare(
        &mut changes,
        "interface",
        &before.attachments.iter().map(mode).collect::<Vec<_>>(),
        &after.attachments.iter().map(mode).collect::<Vec<_>>(),
    );
    rule_objects(&before.rules, &after.rules, unchanged_filters, &mut changes);
    changes
}

/// As [`objects`], for rules alone. The rules should be normal ([`normal::normalize`]).
pub fn rules(before: &Rules, after: &Rules) -> Vec<ObjectChange> {
    let mut changes = Vec::new();
    rule_objects(before, after, true, &mut changes);
    changes
}

/// How long the shortest difference between two texts is looked for.
const PATIENCE: Duration = Duration::from_secs(2);

/// A unified diff of the rules' canonical text; empty if they mean the same.
pub fn text(before: &Rules, after: &Rules, before_name: &str, after_name: &str) -> String {
    let (mut before, mut after) = (before.clone(), after.clone());
    normal::normalize(&mut before);
    normal::normalize(&mut after);
    arrange(&before, &mut after);
    let (before, after) = (render(&before), render(&after));
    // After a while the rest is told less well: lines taken out and put in.
    TextDiff::configure()
        .timeout(PATIENCE)
        .diff_lines(&before, &after)
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
    // The order of source NAT rules means nothing: the longest prefix decides.
    let place: HashMap<&str, usize> =
        like.snats.iter().enumerate().map(|(at, s)| (s.name.as_str(), at)).collect();
    rules.snats.sort_by_key(|s| place.get(s.name.as_str()).copied().unwrap_or(usize::MAX));
    let place: HashMap<Endpoint, usize> =
        like.echoes.iter().enumerate().map(|(at, e)| (e.listen, at)).collect();
    rules.echoes.sort_by_key(|e| place.get(&e.listen).copied().unwrap_or(usize::MAX));
    let place: HashMap<&str, usize> =
        like.sets.iter().enumerate().map(|(at, s)| (s.name.as_str(), at)).collect();
    rules.sets.sort_by_key(|s| place.get(s.name.as_str()).copied().unwrap_or(usize::MAX));
    let place: HashMap<&str, usize> =
        like.policies.iter().enumerate().map(|(at, p)| (p.interface.as_str(), at)).collect();
    rules.policies.sort_by_key(|p| place.get(p.interface.as_str()).copied().unwrap_or(usize::MAX));
}

/// As [`arrange`], for the targets of one forward.
pub fn arrange_targets(like: &Forward, forward: &mut Forward) {
    let place: HashMap<_, usize> =
        like.targets.iter().enumerate().map(|(at, t)| (target_key(&t.address), at)).collect();
    forward.targets.sort_by_key(|t| place.get(&target_key(&t.address)).copied().unwrap_or(usize::MAX));
}

fn rule_objects(before: &Rules, after: &Rules, unchanged_filters: bool, changes: &mut Vec<ObjectChange>) {
    let bare = |f: &Forward| (f.name.clone(), Forward { targets: Vec::new(), ..f.clone() });
    compare(
        changes,
        "forward",
        &before.forwards.iter().map(bare).collect::<Vec<_>>(),
        &after.forwards.iter().map(bare).collect::<Vec<_>>(),
    );
    compare(changes, "target", &targets(before), &targets(after));
    let snat = |s: &crate::api::types::Snat| (s.name.clone(), s.clone());
    compare(
        changes,
        "snat",
        &before.snats.iter().map(snat).collect::<Vec<_>>(),
        &after.snats.iter().map(snat).collect::<Vec<_>>(),
    );
    let echo = |e: &crate::api::types::Echo| (e.listen.to_string(), e.clone());
    compare(
        changes,
        "echo",
        &before.echoes.iter().map(echo).collect::<Vec<_>>(),
        &after.echoes.iter().map(echo).collect::<Vec<_>>(),
    );
    let set = |s: &AddressSet| (s.name.clone(), s.clone());
    compare(
        changes,
        "set",
        &before.sets.iter().map(set).collect::<Vec<_>>(),
        &after.sets.iter().map(set).collect::<Vec<_>>(),
    );
    filters(&before.filters, &after.filters, unchanged_filters, changes);
    let policy = |p: &InterfacePolicy| (p.interface.clone(), p.filter);
    compare(
        changes,
        "policy",
        &before.policies.iter().map(policy).collect::<Vec<_>>(),
        &after.policies.iter().map(policy).collect::<Vec<_>>(),
    );
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

/// Most changed filter rules that are told one by one.
const MOST_NAMED: usize = 1000;

/// What identifies a filter rule: a hash of its name, without one of its content (comment aside) and which of several equal
/// ones it is.
pub type RuleKey = u64;

/// The keys of a list of rules: no key is there twice.
pub fn filter_keys(filters: &[Arc<FilterRule>]) -> Vec<RuleKey> {
    let mut seen: HashSet<RuleKey> = HashSet::with_capacity(filters.len());
    filters
        .iter()
        .map(|rule| {
            let mut times = 0;
            loop {
                let key = filter_key(rule, times);
                if seen.insert(key) {
                    return key;
                }
                times += 1;
            }
        })
        .collect()
}

/// The keys of a list of rules, which it takes few others to know after a small change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilterKeys {
    rules: FilterRules,
    keys: Arc<Vec<RuleKey>>,
}

/// So many rules are looked for among all others one by one.
const FEW: usize = 64;

impl FilterKeys {
    /// The keys, in the order of the rules.
    pub fn as_slice(&self) -> &[RuleKey] {
        &self.keys
    }

    /// The keys of `rules`: those that [`filter_keys`] finds.
    pub fn of(&self, rules: &FilterRules) -> Self {
        let edit = rules.edit_of(&self.rules);
        if edit.is_empty() {
            return Self { rules: rules.clone(), keys: Arc::clone(&self.keys) };
        }
        let (new, gone) = (&rules[edit.new.clone()], &self.rules[edit.gone.clone()]);
        let few = new.len().max(gone.len()) <= FEW;
        // A rule that is there more than once has a key that depends on the others.
        if !few || [new, gone].iter().any(|rules| !alone(rules, edit.kept(&self.keys))) {
            return Self { rules: rules.clone(), keys: Arc::new(filter_keys(rules)) };
        }
        let keys = edit.apply(&self.keys, filter_keys(new));
        Self { rules: rules.clone(), keys: Arc::new(keys) }
    }
}

/// Whether none of few rules is one of those with the keys `others`.
fn alone<'a>(rules: &[Arc<FilterRule>], mut others: impl Iterator<Item = &'a RuleKey>) -> bool {
    let mut times: HashMap<RuleKey, (&FilterRule, u32)> = HashMap::new();
    for rule in rules {
        times.entry(filter_key(rule, 0)).or_insert((rule, 0)).1 += 1;
    }
    // If a rule that is here so many times stands among the others, too, then one there has this key or one below.
    let key = |(rule, times): &(&FilterRule, u32)| {
        (0..=*times).map(|times| filter_key(rule, times)).collect::<Vec<_>>()
    };
    let mut keys: Vec<RuleKey> = times.values().flat_map(key).collect();
    keys.sort_unstable();
    !others.any(|key| keys.binary_search(key).is_ok())
}

fn filter_key(rule: &FilterRule, times: u32) -> RuleKey {
    let mut hasher = DefaultHasher::new();
    times.hash(&mut hasher);
    match &rule.name {
        Some(name) => name.hash(&mut hasher),
        None => {
            let FilterRule {
                action,
                with,
                rate,
                burst,
                per,
                name: _,
                src,
                dst,
                proto,
                sport,
                dport,
                flags,
                icmp,
                interface,
                vlan,
                version,
                comment: _,
            } = rule;
            (action, with, rate, burst, per, src, dst).hash(&mut hasher);
            (proto, sport, dport, flags, icmp, interface, vlan, version).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The key of the counter of what an interface's policy decides.
pub fn policy_key(policy: &InterfacePolicy) -> RuleKey {
    let mut hasher = DefaultHasher::new();
    ("policy", &policy.interface).hash(&mut hasher);
    hasher.finish()
}

/// What a filter rule matches and does, in one line: `drop src=203.0.113.0/24 proto=tcp dport=22`.
pub fn content(rule: &FilterRule) -> String {
    let mut text = rule.action.to_string();
    for (key, value) in fields(rule) {
        text.push(' ');
        text.push_str(key);
        text.push('=');
        text.push_str(&value);
    }
    text
}

/// The fields of a filter rule that are given, but for action, name and comment, as the command line calls them.
pub fn fields(rule: &FilterRule) -> Vec<(&'static str, String)> {
    fn shown<T: ToString>(value: &Option<T>) -> Option<String> {
        value.as_ref().map(ToString::to_string)
    }
    let fields = [
        ("with", shown(&rule.with)),
        ("rate", shown(&rule.rate)),
        ("burst", shown(&rule.burst)),
        ("per", shown(&rule.per)),
        ("interface", shown(&rule.interface)),
        ("vlan", shown(&rule.vlan)),
        ("ip-version", shown(&rule.version)),
        ("src", shown(&rule.src)),
        ("dst", shown(&rule.dst)),
        ("proto", shown(&rule.proto)),
        ("sport", shown(&rule.sport)),
        ("dport", shown(&rule.dport)),
        ("flags", shown(&rule.flags)),
        ("icmp", shown(&rule.icmp)),
    ];
    fields.into_iter().filter_map(|(key, value)| Some((key, value?))).collect()
}

/// Name of a filter rule in changes: its own, or its position (1 is first).
pub fn filter_name(position: usize, rule: &FilterRule) -> String {
    rule.name.clone().unwrap_or_else(|| (position + 1).to_string())
}

/// Filter rules are one ordered list: a rule that stands elsewhere relative to the others has changed. Unchanged ones are
/// told if `unchanged` is, and if they are not too many.
fn filters(
    before: &[Arc<FilterRule>],
    after: &[Arc<FilterRule>],
    unchanged: bool,
    changes: &mut Vec<ObjectChange>,
) {
    // Mostly one rule of many is another.
    let edit = Edit::between(before, after, |a, b| a == b, |_| 1);
    let (old_rules, new_rules) = (&before[edit.gone.clone()], &after[edit.new.clone()]);
    let (old, new) = (filter_keys(old_rules), filter_keys(new_rules));
    let place: HashMap<RuleKey, usize> = old.iter().enumerate().map(|(at, key)| (*key, at)).collect();
    let kept: HashSet<RuleKey> = new.iter().copied().collect();
    let mut told: [Vec<(usize, &FilterRule)>; 4] = Default::default();
    for (at, rule) in old_rules.iter().enumerate().filter(|(at, _)| !kept.contains(&old[*at])) {
        told[0].push((edit.gone.start + at, rule.as_ref()));
    }
    let was: Vec<Option<usize>> = new.iter().map(|key| place.get(key).copied()).collect();
    // Of those that say the same as before as many as can be are told as unmoved.
    let same: Vec<Option<usize>> =
        was.iter().zip(new_rules).map(|(was, rule)| was.filter(|was| old_rules[*was] == *rule)).collect();
    let stays = longest_rising(&same);
    for (at, rule) in new_rules.iter().enumerate() {
        let kind = match was[at] {
            None => 1,
            Some(_) if stays[at] && edit.gone.start == edit.new.start => 3,
            Some(_) => 2,
        };
        told[kind].push((edit.new.start + at, rule.as_ref()));
    }
    if unchanged {
        let same = (0..edit.new.start).chain(edit.new.end..after.len());
        told[3].extend(same.map(|at| (at, after[at].as_ref())));
        told[3].sort_by_key(|(at, _)| *at);
    } else {
        told[3].clear();
    }
    let actions =
        [ChangeAction::Deleted, ChangeAction::Created, ChangeAction::Changed, ChangeAction::Unchanged];
    let mut add = |name, action| changes.push(ObjectChange { kind: "filter".to_owned(), name, action });
    for (list, action) in told.iter_mut().zip(actions).filter(|(list, _)| list.len() > MOST_NAMED) {
        add(format!("({} rules)", list.len()), action);
        list.clear();
    }
    for (at, rule) in &told[0] {
        add(filter_name(*at, rule), actions[0]);
    }
    // Those of the new list in its order.
    let mut new: Vec<(usize, &FilterRule, ChangeAction)> = (1..4)
        .flat_map(|kind| told[kind].iter().map(move |(at, rule)| (*at, *rule, actions[kind])))
        .collect();
    new.sort_by_key(|(at, ..)| *at);
    for (at, rule, action) in new {
        add(filter_name(at, rule), action);
    }
}

/// Which elements make up a longest rising subsequence of those that are there. No number is there twice.
fn longest_rising(numbers: &[Option<usize>]) -> Vec<bool> {
    // For each length the position of the smallest last element so far, and for each element the one before it.
    let mut last: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = vec![None; numbers.len()];
    for (at, number) in numbers.iter().enumerate().filter(|(_, number)| number.is_some()) {
        let length = last.partition_point(|end| numbers[*end] < *number);
        before[at] = length.checked_sub(1).map(|shorter| last[shorter]);
        if length == last.len() {
            last.push(at);
        } else {
            last[length] = at;
        }
    }
    let mut chosen = vec![false; numbers.len()];
    let mut next = last.last().copied();
    while let Some(at) = next {
        chosen[at] = true;
        next = before[at];
    }
    chosen
}
