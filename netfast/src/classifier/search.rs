//! The better build: which groups share a tree.

use std::sync::Arc;

use super::{
    boxes::{Boxes, Kind},
    compile::{Limits, Refused, groups, quick, trees},
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
    let groups = groups(boxes);
    let mut tried: Vec<Vec<Vec<u32>>> = Vec::new();
    let mut best: Option<(f64, Vec<Arc<Tree>>)> = None;
    let mut refused = None;
    let mut budget = cells;
    if let Ok(trees) = quick(boxes, rules, kind, cells, limits) {
        let trees: Vec<_> = trees.into_iter().map(Arc::new).collect();
        let used: u32 = trees.iter().map(|tree| tree.cells.len() as u32).sum();
        budget = cells.min(MEMORY * used.max(1024));
        best = Some((cost(boxes, rules, kind, &trees), trees));
    }
    for partition in PARTITIONS {
        let mut classes: Vec<Vec<u32>> = vec![Vec::new(); 4];
        for (group, class) in groups.iter().zip(partition) {
            classes[class].extend(group);
        }
        classes.retain(|class| !class.is_empty());
        classes.iter_mut().for_each(|class| class.sort_unstable());
        if tried.contains(&classes) {
            continue;
        }
        for copies in [16, 64, 256] {
            if !go_on() {
                return None;
            }
            let mut work = limits.work / 8;
            match trees(boxes, rules, kind, &classes, copies, budget, limits, &mut work) {
                Ok(trees) => {
                    let trees: Vec<_> = trees.into_iter().map(Arc::new).collect();
                    let cost = cost(boxes, rules, kind, &trees);
                    if best.as_ref().is_none_or(|(least, _)| cost < *least) {
                        best = Some((cost, trees));
                    }
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        tried.push(classes);
    }
    Some(match (best, refused) {
        (Some((_, trees)), _) => Ok(trees),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(Vec::new()),
    })
}
