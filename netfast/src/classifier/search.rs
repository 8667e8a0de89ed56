//! The better build: which groups share a tree.

use std::sync::Arc;

use super::{
    boxes::{Boxes, Kind},
    compile::{Limits, Plan, Refused, groups, quick, trees, wanted},
    host::cost,
    image::Tree,
    rule::Rule,
};

/// Ways to put four groups into classes, as the class of each.
const PARTITIONS: [[usize; 4]; 15] = [
    [0, 1, 2, 3],
    [0, 0, 1, 2],
    [0, 1, 0, 2],
    [0, 1, 2, 0],
    [0, 1, 1, 2],
    [0, 1, 2, 1],
    [0, 1, 2, 2],
    [0, 0, 1, 1],
    [0, 1, 0, 1],
    [0, 1, 1, 0],
    [0, 0, 0, 1],
    [0, 0, 1, 0],
    [0, 1, 0, 0],
    [0, 1, 1, 1],
    [0, 0, 0, 0],
];

/// Trees may take so many times the memory of the quick ones: more costs more in the caches than it saves in steps.
const MEMORY: u32 = 4;

/// Those that are mostly the best ones.
const LIKELY: [[usize; 4]; 4] = [[0, 0, 1, 2], [0, 1, 0, 2], [0, 0, 1, 0], [0, 0, 0, 1]];
/// Boxes of a set for which these are tried at once.
const SMALL: usize = 12_000;
/// Boxes that may be looked at for each of them: some 30 ms.
const WORK: u64 = 1 << 21;

/// The quick build, or of a small set the best one of few: within some 100 ms.
pub(super) fn at_once(
    boxes: &Boxes,
    rules: &[Rule],
    kind: Kind,
    cells: u32,
    limits: &Limits,
) -> Result<Vec<Arc<Tree>>, Refused> {
    let trees: Vec<_> = quick(boxes, rules, kind, cells, limits)?.into_iter().map(Arc::new).collect();
    if trees.len() == 1 || boxes.len() > SMALL {
        return Ok(trees);
    }
    let mut search = Search::new(boxes, rules, kind, budget(boxes, kind, cells, &trees), limits);
    search.offer(trees);
    for partition in LIKELY {
        search.attempt(partition, Plan::fast(64), WORK);
    }
    search.attempt(PARTITIONS[0], Plan::thrifty(24), WORK);
    search.end()
}

/// Cells that trees may take in place of `quick` ones.
fn budget(boxes: &Boxes, kind: Kind, cells: u32, quick: &[Arc<Tree>]) -> u32 {
    let used: u32 = quick.iter().map(|tree| tree.cells.len() as u32).sum();
    cells.min(MEMORY * used.max(1024)).min(wanted(boxes, kind).max(used))
}

/// Tries all ways to merge groups, and takes the one that costs least on the average. `go_on` is asked between them; `None`
/// if it said no.
pub(super) fn better(
    boxes: &Boxes,
    rules: &[Rule],
    kind: Kind,
    cells: u32,
    limits: &Limits,
    go_on: &dyn Fn() -> bool,
) -> Option<Result<Vec<Arc<Tree>>, Refused>> {
    let mut search = Search::new(boxes, rules, kind, cells, limits);
    if let Ok(trees) = at_once(boxes, rules, kind, cells, limits) {
        search.cells = budget(boxes, kind, cells, &trees);
        search.offer(trees);
    }
    for partition in PARTITIONS {
        for copies in [16, 64, 256] {
            if !go_on() {
                return None;
            }
            search.attempt(partition, Plan::fast(copies), limits.work / 8);
        }
    }
    Some(search.end())
}

struct Search<'a> {
    boxes: &'a Boxes,
    rules: &'a [Rule],
    kind: Kind,
    /// Cells that may be taken.
    cells: u32,
    limits: &'a Limits,
    groups: Vec<Vec<u32>>,
    /// What was tried.
    tried: Vec<(Vec<Vec<u32>>, Plan)>,
    /// The best trees, and what they cost.
    best: Option<(Vec<Arc<Tree>>, f64)>,
    refused: Option<Refused>,
}

impl<'a> Search<'a> {
    fn new(boxes: &'a Boxes, rules: &'a [Rule], kind: Kind, cells: u32, limits: &'a Limits) -> Self {
        let groups = groups(boxes);
        Self { boxes, rules, kind, cells, limits, groups, tried: Vec::new(), best: None, refused: None }
    }

    /// Takes `trees` if they cost less than what is there.
    fn offer(&mut self, trees: Vec<Arc<Tree>>) {
        let cost = cost(self.boxes, self.rules, self.kind, &trees);
        if self.best.as_ref().is_none_or(|(_, least)| cost < *least) {
            self.best = Some((trees, cost));
        }
    }

    fn attempt(&mut self, partition: [usize; 4], plan: Plan, mut work: u64) {
        let mut classes: Vec<Vec<u32>> = vec![Vec::new(); 4];
        for (group, class) in self.groups.iter().zip(partition) {
            classes[class].extend(group);
        }
        classes.retain(|class| !class.is_empty());
        classes.iter_mut().for_each(|class| class.sort_unstable());
        let attempt = (classes, plan);
        if self.tried.contains(&attempt) {
            return;
        }
        let Self { boxes, rules, kind, cells, limits, .. } = *self;
        match trees(boxes, rules, kind, &attempt.0, plan, cells, limits, &mut work) {
            Ok(trees) => self.offer(trees.into_iter().map(Arc::new).collect()),
            Err(error) => self.refused = self.refused.take().or(Some(error)),
        }
        self.tried.push(attempt);
    }

    fn end(self) -> Result<Vec<Arc<Tree>>, Refused> {
        match (self.best, self.refused) {
            (Some((trees, _)), _) => Ok(trees),
            (None, Some(error)) => Err(error),
            (None, None) => Ok(Vec::new()),
        }
    }
}
