//! Differences.

use std::sync::Arc;

use proptest::prelude::*;

use super::{any_rules, filters, forward, rules};
use crate::{
    api::types::{ChangeAction, FilterRules, Rules},
    rules::diff,
};

#[test]
fn text_shows_what_differs_and_nothing_else() {
    let before = rules(&[
        forward("web", "192.0.2.10:443", &["10.0.0.11:8443", "10.0.0.12:8443"]),
        forward("mail", "192.0.2.10:25", &["10.0.0.25:25"]),
    ]);
    let mut after = before.clone();
    after.forwards.reverse();
    after.forwards[1].targets.reverse();
    assert_eq!(diff::text(&before, &after, "live", "rules.toml"), "", "order means nothing here");
    after.forwards[1].targets[0].weight = 3;
    let text = diff::text(&before, &after, "live", "rules.toml");
    assert!(text.starts_with("--- live\n+++ rules.toml\n@@ "), "{text}");
    let changed: Vec<&str> = text.lines().skip(2).filter(|line| line.starts_with(['+', '-'])).collect();
    assert_eq!(changed, ["+weight = 3"], "{text}");
    assert_eq!(diff::text(&before, &before, "a", "b"), "");
}

#[test]
fn filter_rules_that_move() {
    let before = filters(&["drop name=a", "drop name=b", "drop proto=udp", "drop proto=udp"]);
    let after = filters(&["drop name=b", "drop proto=udp", "allow name=a", "allow proto=udp"]);
    let words: Vec<String> =
        diff::rules(&before, &after).iter().map(|c| format!("{} {}", c.name, c.action)).collect();
    assert_eq!(words, ["4 deleted", "b unchanged", "2 unchanged", "a changed", "4 created"]);
}

proptest! {
    #[test]
    fn text_and_objects_agree(before in any_rules(), after in any_rules()) {
        let same = diff::text(&before, &after, "a", "b").is_empty();
        let unchanged = diff::rules(&before, &after).iter().all(|c| c.action == ChangeAction::Unchanged);
        prop_assert_eq!(same, unchanged);
        prop_assert!(diff::rules(&before, &before).iter().all(|c| c.action == ChangeAction::Unchanged));
    }

    #[test]
    fn everything_is_created_from_nothing(after in any_rules()) {
        let changes = diff::rules(&Rules::default(), &after);
        prop_assert!(changes.iter().all(|c| c.action == ChangeAction::Created));
        let filters = after.filters.len() + after.sets.len() + after.policies.len();
        let objects = after.forwards.len() + after.echoes.len() + filters;
        let targets: usize = after.forwards.iter().map(|f| f.targets.len()).sum();
        prop_assert_eq!(changes.len(), objects + targets);
    }
}

#[test]
fn keys_after_several_equal_rules_went_at_once() {
    let rule = |port: u16| Arc::new(super::filter(&format!("drop proto=tcp dport={port}")));
    let three: FilterRules = [7, 7, 7].into_iter().map(rule).collect();
    let keys = diff::FilterKeys::default().of(&three);
    let mut one = three.clone();
    one.drain(..2);
    let keys = keys.of(&one);
    assert_eq!(keys.as_slice(), diff::filter_keys(&one), "as if it had always been the only one");
    let mut two = one.clone();
    two.insert(0, rule(7));
    assert_eq!(keys.of(&two).as_slice(), diff::filter_keys(&two));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Keys that are found beside those before a change are those that a list of its own would have, equal rules included.
    #[test]
    fn keys_after_changes_are_those_of_the_list(edits in prop::collection::vec((0usize..40, 0u16..12, 0u8..4), 1..20)) {
        let one = |port: u16| Arc::new(super::filter(&format!("drop proto=tcp dport={port}")));
        let mut rules: FilterRules = (0..20).map(one).collect();
        let mut keys = diff::FilterKeys::default().of(&rules);
        for (at, port, what) in edits {
            let (at, last) = (at % (rules.len() + 1), rules.len().saturating_sub(1));
            match what {
                0 if !rules.is_empty() => {
                    let first = at.min(last);
                    let behind = rules.len().min(first + 1 + usize::from(port % 4));
                    drop(rules.drain(first..behind));
                }
                1 if !rules.is_empty() => {
                    let moved = rules.remove(at.min(last));
                    let to = usize::from(port) % (rules.len() + 1);
                    rules.insert(to, moved);
                }
                2 => rules = rules.iter().cloned().chain((0..70).map(|n| one(port + n % 3))).collect(),
                _ => rules.insert(at, one(port)),
            }
            if rules.len() > 300 {
                rules.truncate(30);
            }
            keys = keys.of(&rules);
            prop_assert_eq!(keys.as_slice(), diff::filter_keys(&rules));
        }
    }
}
