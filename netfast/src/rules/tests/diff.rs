//! Differences.

use proptest::prelude::*;

use super::{any_rules, filters, forward, rules};
use crate::{
    api::types::{ChangeAction, Rules},
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
