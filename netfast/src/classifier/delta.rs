//! Small changes: few rules that come, go or move do not build the large trees anew.
//!
//! Rules that are added stand in a tree of their own beside the others. The records of a rule that is taken away stay where
//! they are and match nothing any more. What they have hidden is in no tree there: rules behind it that overlap it are put
//! into the tree of the added ones, too. A rule that stands in two trees has one order, and so decides as one does.

use std::{ops::Range, sync::Arc};

use netfast_common::abi::FilterEntry;

use super::{
    boxes::{Boxes, Kind},
    compile::{Compiled, Limits, Plan, Refused, trees},
    image::Tree,
    rule::Rule,
};
use crate::edit::Edit;

/// Rules that may come or go at once.
const MOST_AT_ONCE: usize = 256;
/// Rules that may stand in trees of their own.
const MOST: usize = 4096;
/// Steps that these trees may take.
const STEPS: u32 = 24;

/// How a list of rules becomes another one. The matches of a rule move together.
fn edit(old: &[Rule], new: &[Rule]) -> Edit {
    let run = |rules: &[Rule]| {
        let number = rules.first().map(|rule| rule.number);
        rules.iter().take_while(|rule| Some(rule.number) == number).count()
    };
    Edit::between(old, new, Rule::eq, run)
}

impl Compiled {
    /// Compiles `rules` by what was compiled before, if they differ by few rules that come, go or move. `None`: compile
    /// them anew.
    pub fn update(&self, rules: &[Rule], limits: &Limits) -> Option<Result<Self, Refused>> {
        self.update_to(&Arc::new(rules.to_vec()), limits)
    }

    /// [`Self::update`]; what is compiled keeps this very list.
    pub fn update_to(&self, rules: &Arc<Vec<Rule>>, limits: &Limits) -> Option<Result<Self, Refused>> {
        let edit = edit(&self.rules, rules);
        if edit.is_empty() {
            return Some(Ok(self.clone()));
        }
        if edit.new.len().max(edit.gone.len()) > MOST_AT_ONCE || !self.takes(rules, &edit, limits) {
            return None;
        }
        let mut added = after(&self.added, &edit);
        added.extend(edit.new.clone());
        added.sort_unstable();
        let mut revived = after(&self.revived, &edit);
        let base = self.without(&edit, &mut revived)?;
        let orders = self.orders_after(&added, &edit)?;

        let mut beside: Vec<usize> = added.iter().chain(&revived).copied().collect();
        beside.sort_unstable();
        beside.dedup();
        if beside.len() > MOST {
            return None;
        }
        let (few, few_orders): (Vec<Rule>, Vec<u32>) =
            beside.iter().map(|at| (rules[*at], orders[*at])).unzip();
        // Built anew they may fit.
        let overlay = overlay(&few, &few_orders, limits).ok()?;
        let all = base.iter().flatten().chain(overlay.iter().flatten());
        if all.map(|tree| tree.cells.len()).sum::<usize>() > limits.cells as usize {
            return None;
        }
        let mut compiled = Self::of(Arc::clone(rules), Arc::new(orders), base, overlay);
        (compiled.added, compiled.revived) = (added, revived);
        compiled.patches = self.patches + 1;
        Some(Ok(compiled))
    }

    /// Small changes since all rules were compiled.
    pub fn patches(&self) -> u32 {
        self.patches
    }

    /// Whether what comes has numbers that fit.
    fn takes(&self, rules: &[Rule], edit: &Edit, limits: &Limits) -> bool {
        let mut entries: Vec<(u32, FilterEntry)> = Vec::new();
        for rule in &rules[edit.new.clone()] {
            let entry = rule.entry();
            match entries.iter().find(|(number, _)| *number == rule.number) {
                Some((_, present)) if *present != entry => return false,
                Some(_) => {}
                None => entries.push((rule.number, entry)),
            }
        }
        entries.sort_unstable_by_key(|(number, _)| *number);
        if entries.last().is_some_and(|(number, _)| *number >= limits.numbers) {
            return false;
        }
        let present = |rule: &Rule| {
            let at = entries.binary_search_by_key(&rule.number, |(number, _)| *number);
            at.ok().map(|at| entries[at].1)
        };
        let mut kept = edit.kept(&self.rules);
        entries.is_empty() || kept.all(|rule| present(rule).is_none_or(|entry| entry == rule.entry()))
    }

    /// Rules that stand in trees of their own: a packet walks through these, too.
    pub fn beside(&self) -> usize {
        self.added.len() + self.revived.len()
    }

    /// The orders of the new list. What stands in the large trees keeps its own; the rules that were added between two of
    /// those (`added` has all of them) share the room there evenly, whenever one more comes: they are in no tree that stays.
    /// `None`: there is no room.
    fn orders_after(&self, added: &[usize], edit: &Edit) -> Option<Vec<u32>> {
        let mut orders = edit.apply(&self.orders, edit.new.clone().map(|_| 0));
        if edit.new.is_empty() {
            return Some(orders);
        }
        let is_added = |at: &usize| added.binary_search(at).is_ok();
        let from = (0..edit.new.start).rev().take_while(is_added).last().unwrap_or(edit.new.start);
        let to = (edit.new.end..orders.len()).take_while(is_added).last().map_or(edit.new.end, |at| at + 1);
        let before = from.checked_sub(1).map_or(0, |at| orders[at]);
        let after = orders.get(to).copied().unwrap_or(u32::MAX - 1);
        let room = (after - before) / ((to - from) as u32 + 1);
        if room == 0 {
            return None;
        }
        for (order, number) in orders[from..to].iter_mut().zip(1..) {
            *order = before + number * room;
        }
        Some(orders)
    }

    /// The large trees without the rules that go. `revived` gets positions (in the new list) of rules that they may have
    /// hidden there. `None`: too many of them.
    fn without(&self, edit: &Edit, revived: &mut Vec<usize>) -> Option<[Vec<Arc<Tree>>; 4]> {
        let gone: &Range<usize> = &edit.gone;
        let old: Vec<usize> = gone.clone().filter(|at| self.added.binary_search(at).is_err()).collect();
        if old.is_empty() {
            return Some(self.base.clone());
        }
        let hiding: Vec<&Rule> = old.iter().map(|at| &self.rules[*at]).filter(|rule| rule.hides()).collect();
        if !hiding.is_empty() {
            let behind = self.rules.iter().enumerate().skip(gone.start + 1);
            for (at, rule) in behind.filter(|(at, rule)| !gone.contains(at) && !rule.action.goes_on()) {
                if hiding.iter().any(|hiding| hiding.overlaps(rule)) && self.added.binary_search(&at).is_err()
                {
                    revived.push(edit.place(at));
                    if revived.len() > 2 * MOST {
                        return None;
                    }
                }
            }
            revived.sort_unstable();
            revived.dedup();
        }
        let dead: Vec<u32> = old.iter().map(|at| self.orders[*at]).collect();
        let mut base = self.base.clone();
        for (kind, trees) in Kind::ALL.into_iter().zip(&mut base) {
            for tree in trees {
                if let Some(patched) = tree.without(&dead, kind.is_v6()) {
                    *tree = Arc::new(patched);
                }
            }
        }
        Some(base)
    }
}

/// Positions of the old list, without those that go, in the new one.
fn after(positions: &[usize], edit: &Edit) -> Vec<usize> {
    positions.iter().filter(|at| !edit.gone.contains(at)).map(|at| edit.place(*at)).collect()
}

fn overlay(rules: &[Rule], orders: &[u32], limits: &Limits) -> Result<[Option<Arc<Tree>>; 4], Refused> {
    let mut overlay: [Option<Arc<Tree>>; 4] = Default::default();
    let limits = Limits { steps: 2 * STEPS, side_steps: STEPS, ..*limits };
    for kind in Kind::ALL {
        let boxes = Boxes::new(kind, rules, orders);
        if boxes.len() == 0 {
            continue;
        }
        let all = vec![(0..boxes.len() as u32).collect()];
        // Few rules; but they may overlap in many ways, too.
        let mut work = limits.work / 64;
        let plan = Plan::fast(u32::MAX);
        let mut trees = trees(&boxes, rules, kind, &all, plan, limits.cells, &limits, &mut work)?;
        overlay[kind as usize] = trees.pop().map(Arc::new);
    }
    Ok(overlay)
}
