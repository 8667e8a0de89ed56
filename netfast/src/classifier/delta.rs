//! Small changes: few rules that come, go or move do not build the large trees anew.
//!
//! Rules that are added stand in a tree of their own beside the others. The records of a rule that is taken away stay where
//! they are and match nothing any more. What they have hidden is in no tree there: rules behind it that overlap it are put
//! into the tree of the added ones, too. A rule that stands in two trees has one order, and so decides as one does.

use std::{collections::HashMap, ops::Range, sync::Arc};

use netfast_common::abi::FilterEntry;

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

/// How a list of rules becomes another one: a part goes, a part comes, the rest keeps its order.
struct Change {
    /// Positions in the old list.
    gone: Range<usize>,
    /// Positions in the new list.
    new: Range<usize>,
}

impl Change {
    fn between(old: &[Rule], new: &[Rule]) -> Self {
        let same = old.iter().zip(new).take_while(|(old, new)| old == new).count();
        let rest = old.len().min(new.len()) - same;
        let behind = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
        let gone = same..old.len() - behind;
        let come = same..new.len() - behind;
        // A rule that moves: its matches go at one end of the part that differs, and come at the other.
        let run = |rules: &[Rule]| {
            let number = rules.first().map(|rule| rule.number);
            rules.iter().take_while(|rule| Some(rule.number) == number).count()
        };
        let (o, n) = (&old[gone.clone()], &new[come.clone()]);
        if o.len() == n.len() && o.len() > 1 {
            let (down, up) = (run(o), run(n));
            if o[down..] == n[..n.len() - down] {
                return Self { gone: same..same + down, new: come.end - down..come.end };
            }
            if n[up..] == o[..o.len() - up] {
                return Self { gone: gone.end - up..gone.end, new: same..same + up };
            }
        }
        Self { gone, new: come }
    }

    /// Where the rule at an old position, which stays, stands now.
    fn moved(&self, at: usize) -> usize {
        let at = if at >= self.gone.end { at - self.gone.len() } else { at };
        if at >= self.new.start { at + self.new.len() } else { at }
    }
}

impl Compiled {
    /// Compiles `rules` by what was compiled before, if they differ by few rules that come, go or move. `None`: compile
    /// them anew.
    pub fn update(&self, rules: &[Rule], limits: &Limits) -> Option<Result<Self, Refused>> {
        let change = Change::between(&self.rules, rules);
        if change.gone.is_empty() && change.new.is_empty() {
            return Some(Ok(self.clone()));
        }
        if change.new.len().max(change.gone.len()) > MOST || !self.takes(rules, &change, limits) {
            return None;
        }
        let orders = self.orders_after(rules, &change)?;
        let mut added = self.after(&self.added, &change);
        added.extend(change.new.clone());
        added.sort_unstable();
        let mut revived = self.after(&self.revived, &change);
        let base = self.without(&change.gone, rules, &change, &mut revived)?;

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
        let mut compiled = Self::of(Arc::new(rules.to_vec()), Arc::new(orders), base, overlay);
        (compiled.added, compiled.revived) = (added, revived);
        compiled.patches = self.patches + 1;
        Some(Ok(compiled))
    }

    /// Small changes since all rules were compiled.
    pub fn patches(&self) -> u32 {
        self.patches
    }

    /// Whether what comes has numbers that fit.
    fn takes(&self, rules: &[Rule], change: &Change, limits: &Limits) -> bool {
        let mut entries: HashMap<u32, FilterEntry> = HashMap::new();
        for rule in &rules[change.new.clone()] {
            let entry = rule.entry();
            if rule.number >= limits.numbers || *entries.entry(rule.number).or_insert(entry) != entry {
                return false;
            }
        }
        let mut kept = rules.iter().enumerate().filter(|(at, _)| !change.new.contains(at));
        entries.is_empty()
            || kept.all(|(_, rule)| entries.get(&rule.number).is_none_or(|entry| *entry == rule.entry()))
    }

    /// The orders of the new list: those of what stays as they were, new ones between them. `None`: there is no room.
    fn orders_after(&self, rules: &[Rule], change: &Change) -> Option<Vec<u32>> {
        let (head, tail) = (&self.orders[..change.gone.start], &self.orders[change.gone.end..]);
        let mut orders = Vec::with_capacity(rules.len());
        orders.extend(head.iter().chain(tail).take(change.new.start));
        let before = orders.last().copied().unwrap_or(0);
        let rest = || head.iter().chain(tail).skip(change.new.start);
        let after = rest().next().copied().unwrap_or(u32::MAX - 1);
        let room = (after - before) / (change.new.len() as u32 + 1);
        if room == 0 {
            return None;
        }
        orders.extend((1..=change.new.len() as u32).map(|n| before + n * room));
        orders.extend(rest());
        Some(orders)
    }

    /// Positions of the old list, without those that go, in the new one.
    fn after(&self, positions: &[usize], change: &Change) -> Vec<usize> {
        positions.iter().filter(|at| !change.gone.contains(at)).map(|at| change.moved(*at)).collect()
    }

    /// The large trees without the rules that go. `revived` gets positions (in the new list) of rules that they may have
    /// hidden there. `None`: too many of them.
    fn without(
        &self,
        gone: &Range<usize>,
        rules: &[Rule],
        change: &Change,
        revived: &mut Vec<usize>,
    ) -> Option<[Vec<Arc<Tree>>; 4]> {
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
                    revived.push(change.moved(at));
                    if revived.len() > 2 * MOST {
                        return None;
                    }
                }
            }
            revived.sort_unstable();
            revived.dedup();
            debug_assert!(revived.iter().all(|at| *at < rules.len()));
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
        let mut trees = trees(&boxes, rules, kind, &all, u32::MAX, limits.cells, &limits, &mut work)?;
        overlay[kind as usize] = trees.pop().map(Arc::new);
    }
    Ok(overlay)
}
