//! Which filter rules can never decide anything, and what hides them.
//!
//! A rule is hidden if each of its matches lies within a match of an earlier rule that ends the search (every action but
//! `count` and `limit`), or within several of them together. The first is found by an index, so that 100,000 rules take a moment,
//! the other within the bounds that [`union`] states.

mod index;
mod union;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api::types::{AddressSet, FilterRule};

use super::boxes;
use index::Index;
use union::Union;

/// How a rule is hidden.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hiding {
    /// An earlier rule matches the same packets and does the same.
    Duplicate,
    /// Earlier rules match all its packets and do the same.
    Redundant,
    /// An earlier rule matches the same packets and does something else.
    Contradictory,
    /// Earlier rules match all its packets; not all of them do the same.
    Shadowed,
    /// It matches nothing at all: a set that it names is empty.
    Empty,
}

/// A rule that never decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hidden {
    /// Its position, from 0.
    pub rule: usize,
    /// How.
    pub kind: Hiding,
    /// Positions of the rules that hide it, from 0; of many the first few. None if it matches nothing at all.
    pub by: Vec<usize>,
}

/// So many hiding rules are told of one hidden rule.
const MOST_HIDING: usize = 8;

/// The rules that are hidden, in order.
pub fn hidden(filters: &[Arc<FilterRule>], sets: &[AddressSet]) -> Vec<Hidden> {
    let sets = boxes::by_name(sets);
    let mut index = Index::default();
    let mut union = Union::default();
    let mut found = Vec::new();
    for (at, rule) in filters.iter().enumerate() {
        let mut by = Vec::new();
        let (mut all, mut any) = (true, false);
        boxes::for_each(rule, &sets, |one| {
            any = true;
            // After a match that nothing hides there is no need to look on.
            if !all {
                return;
            }
            let hiding = match index.earliest(&one) {
                Some(earlier) => vec![earlier],
                None => union.holding(&one).unwrap_or_default(),
            };
            all = !hiding.is_empty();
            for earlier in hiding {
                if !by.contains(&earlier) {
                    by.push(earlier);
                }
            }
        });
        let kind = all.then(|| kind(rule, &by, filters, &sets));
        by.truncate(MOST_HIDING);
        if !any {
            found.push(Hidden { rule: at, kind: Hiding::Empty, by });
        } else if let Some(kind) = kind {
            found.push(Hidden { rule: at, kind, by });
            // What hides it hides all that it would hide.
            continue;
        }
        if !rule.action.goes_on() {
            boxes::for_each(rule, &sets, |one| {
                index.insert(&one, at);
                union.insert(&one, at);
            });
        }
    }
    found
}

fn kind(rule: &FilterRule, by: &[usize], filters: &[Arc<FilterRule>], sets: &boxes::Sets<'_>) -> Hiding {
    let does = |rule: &FilterRule| (rule.action, rule.with, rule.rate, rule.burst, rule.per);
    let alike = by.iter().all(|&earlier| does(&filters[earlier]) == does(rule));
    let matches = |rule| {
        let mut all = Vec::new();
        boxes::for_each(rule, sets, |one| all.push(one));
        all
    };
    let same = matches!(by, [only] if matches(&filters[*only]) == matches(rule));
    match (alike, same) {
        (true, true) => Hiding::Duplicate,
        (true, false) => Hiding::Redundant,
        (false, true) => Hiding::Contradictory,
        (false, false) => Hiding::Shadowed,
    }
}
