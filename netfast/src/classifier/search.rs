//! The better build: which groups share a tree.

use std::sync::Arc;

use super::{
    boxes::{Boxes, Kind},
    compile::{Limits, Refused, groups, trees},
    host::average_steps,
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

/// Tries all ways to merge groups, and takes the one with the fewest steps on the average.
pub(super) fn better(
    boxes: &Boxes,
    rules: &[Rule],
    kind: Kind,
    cells: u32,
    limits: &Limits,
) -> Result<Vec<Arc<Tree>>, Refused> {
    let groups = groups(boxes);
    let mut tried: Vec<Vec<Vec<u32>>> = Vec::new();
    let mut best: Option<(f64, Vec<Arc<Tree>>)> = None;
    let mut refused = None;
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
            match trees(boxes, rules, kind, &classes, copies, cells, limits) {
                Ok(trees) => {
                    let (steps, trees) = average_steps(boxes, rules, kind, trees);
                    if best.as_ref().is_none_or(|(least, _)| steps < *least) {
                        best = Some((steps, trees));
                    }
                }
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        tried.push(classes);
    }
    match (best, refused) {
        (Some((_, trees)), _) => Ok(trees),
        (None, Some(error)) => Err(error),
        (None, None) => Ok(Vec::new()),
    }
}
