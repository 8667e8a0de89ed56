//! The filter as a whole: names, sets, policies, and whether it fits.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use crate::{
    api::types::Rules,
    rules::boxes::{self, MAX_BOXES, MAX_SET_ADDRESSES},
};

use super::{Check, Place, comment, filter, interface_name, name, prefix};

impl Check {
    pub(super) fn sets(&mut self, rules: &Rules) {
        let mut names: HashMap<&str, usize> = HashMap::new();
        for (at, set) in rules.sets.iter().enumerate() {
            self.note(Place::Set(at), "name", name("set", &set.name));
            if let Some(first) = names.insert(&set.name, at) {
                let message = format!(
                    "sets {} and {} are both named {:?}: give one of them another name",
                    first + 1,
                    at + 1,
                    set.name
                );
                self.add(Place::Set(at), "name", message);
            }
            self.note(Place::Set(at), "comment", comment(set.comment.as_deref()));
            if let Some(verdict) = set.addresses.iter().map(prefix).find(Result::is_err) {
                self.note(Place::Set(at), "addresses", verdict);
            }
            if let Some(over) = set.addresses.get(MAX_SET_ADDRESSES) {
                let message = format!(
                    "the rules do not fit: {over} is beyond the limit of {MAX_SET_ADDRESSES} addresses in one set"
                );
                self.add(Place::Set(at), "addresses", message);
            }
        }
    }

    pub(super) fn filters(&mut self, rules: &Rules, unknown: &Range<usize>) {
        let sets: filter::Sets<'_> = rules.sets.iter().map(|set| (set.name.as_str(), set)).collect();
        let mut names: HashMap<&str, usize> = HashMap::new();
        let mut boxes = 0;
        for (at, rule) in rules.filters.iter().enumerate() {
            let place = Place::Filter(at);
            if unknown.contains(&at) {
                for (key, verdict) in filter::verdicts(rule, &sets) {
                    self.note(place.clone(), key, verdict);
                }
            }
            let before = boxes;
            boxes = boxes::count(rule, &sets).saturating_add(boxes);
            if before <= MAX_BOXES && boxes > MAX_BOXES {
                let message = format!(
                    "the rules do not fit: filter rule {} takes the number of matches (each element of a list or set is one, \
                     and so is each IP version) from {before} to {boxes}, and the limit is {MAX_BOXES}; nothing was changed",
                    at + 1
                );
                self.add(place.clone(), "", message);
            }
            let Some(name) = rule.name.as_deref() else { continue };
            if let Some(first) = names.insert(name, at) {
                let message = format!(
                    "filter rules {} and {} are both named {name:?}: give one of them another name",
                    first + 1,
                    at + 1
                );
                self.add(place, "name", message);
            }
        }
    }

    pub(super) fn policies(&mut self, rules: &Rules) {
        let mut interfaces = HashSet::new();
        for (at, policy) in rules.policies.iter().enumerate() {
            self.note(Place::Policy(at), "interface", interface_name(&policy.interface));
            if !interfaces.insert(&policy.interface) {
                let message = format!("interface {:?} has two policies: keep one of them", policy.interface);
                self.add(Place::Policy(at), "interface", message);
            }
        }
    }
}
