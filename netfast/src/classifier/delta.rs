//! Small changes: rules that are added stand in trees of their own beside the large ones, until those are built anew.

use std::sync::Arc;

use super::{
    boxes::{Boxes, Kind},
    compile::{Compiled, Limits, Refused, trees},
    image::Tree,
    rule::Rule,
};

/// Rules that may stand in trees of their own.
const MOST: usize = 256;
/// Steps that these trees may take.
const STEPS: u32 = 24;

impl Compiled {
    /// Compiles `rules` by what was compiled before, if they differ by few rules that were added, or by some of those that
    /// were taken away again. `None`: compile them anew.
    pub fn update(&self, rules: &[Rule], limits: &Limits) -> Option<Result<Self, Refused>> {
        let same = self.rules.iter().zip(rules).take_while(|(old, new)| old == new).count();
        let rest = self.rules.len().min(rules.len()) - same;
        let behind =
            self.rules.iter().rev().zip(rules.iter().rev()).take(rest).take_while(|(old, new)| old == new);
        let behind = behind.count();
        let gone = same..self.rules.len() - behind;
        let new = same..rules.len() - behind;
        // What goes must have been added: a rule in a large tree may hide others there.
        if !gone.clone().all(|at| self.added.contains(&at)) {
            return None;
        }
        let before = same.checked_sub(1).map_or(0, |at| self.orders[at]);
        let after = self.orders.get(gone.end).copied().unwrap_or(u32::MAX - 1);
        let room = (after - before) / (new.len() as u32 + 1);
        if new.len() + self.added.len() > MOST || room == 0 {
            return None;
        }
        let numbers = limits.numbers;
        if new.clone().any(|at| {
            rules[at].number >= numbers
                || self.rules.iter().enumerate().any(|(old, rule)| {
                    rule.number == rules[at].number
                        && !gone.contains(&old)
                        && rule.entry() != rules[at].entry()
                })
        }) {
            return None;
        }
        let mut orders = Vec::with_capacity(rules.len());
        orders.extend_from_slice(&self.orders[..same]);
        orders.extend((1..=new.len() as u32).map(|n| before + n * room));
        orders.extend_from_slice(&self.orders[gone.end..]);
        let mut added: Vec<usize> = self
            .added
            .iter()
            .filter(|at| !gone.contains(at))
            .map(|at| if *at >= gone.end { at + new.len() - gone.len() } else { *at })
            .chain(new.clone())
            .collect();
        added.sort_unstable();

        let (few, few_orders): (Vec<Rule>, Vec<u32>) =
            added.iter().map(|at| (rules[*at], orders[*at])).unzip();
        let overlay = match overlay(&few, &few_orders, limits) {
            Ok(overlay) => overlay,
            // Built anew they may fit.
            Err(_) => return None,
        };
        let base = self.base.clone();
        Some(Ok(Self::of(Arc::new(rules.to_vec()), Arc::new(orders), base, added, overlay)))
    }

    /// Whether a build of all rules would make better trees.
    pub fn has_additions(&self) -> bool {
        !self.added.is_empty()
    }
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
        let mut trees = trees(&boxes, rules, kind, &all, u32::MAX, limits.cells, &limits)?;
        overlay[kind as usize] = trees.pop().map(Arc::new);
    }
    Ok(overlay)
}
