//! The program's own matcher over compiled rules, on the host: for tests, `explain`, analysis and the choice of trees.

use std::{collections::HashMap, sync::Arc};

use netfast_common::{
    abi::{FILTER_PAGE, FilterCell, FilterEntry, FilterHead},
    classify::{NOTHING, Subject, Tables, Walk, decide, walk::side},
    wire::Packet,
};

use super::{
    boxes::{Boxes, Kind},
    compile::{Compiled, head},
    image::{Tree, moved},
    rule::Rule,
};

/// What the filter says of a packet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Number of the rule that decides.
    pub rule: Option<u32>,
    /// Numbers of the rules before it that match and go on.
    pub side: Vec<u32>,
    /// Steps that it took.
    pub steps: u32,
}

/// A matcher over compiled rules.
pub struct Host {
    cells: Vec<FilterCell>,
    heads: [FilterHead; 4],
    entries: HashMap<u32, FilterEntry>,
}

impl Host {
    /// Lays out the trees as the datapath does.
    pub fn new(compiled: &Compiled) -> Self {
        Self::of(&compiled.trees, compiled.entries().collect())
    }

    fn of(trees: &[Vec<Arc<Tree>>; 4], entries: HashMap<u32, FilterEntry>) -> Self {
        let pages: u32 = trees.iter().flatten().map(|tree| tree.pages()).sum();
        // Page 0 is nobody's. From the end, so that no tree stands as it was made.
        let mut next = pages;
        let mut cells = vec![FilterCell::default(); ((pages + 1) * FILTER_PAGE) as usize];
        let heads = trees.each_ref().map(|trees| {
            let mut roots = Vec::new();
            for tree in trees {
                let place: Vec<u32> = (0..tree.pages()).map(|page| next - page).collect();
                next -= tree.pages();
                let leaves = tree.leaves();
                for (page, at) in place.iter().enumerate() {
                    let from = (at * FILTER_PAGE) as usize;
                    let page = tree.placed(page as u32, &leaves, &place);
                    cells[from..from + page.len()].copy_from_slice(&page);
                }
                roots.push(moved(tree.root, &place));
            }
            head(trees, &roots)
        });
        Self { cells, heads, entries }
    }

    /// What the filter says of `packet`, which came in by `ifindex`.
    pub fn ask(&self, packet: &Packet, ifindex: u32, icmp: Option<[u8; 2]>) -> Answer {
        let mut subject = Subject::default();
        subject.describe(packet, ifindex, icmp);
        let mut found = Walk { order: NOTHING, ..Walk::default() };
        let mut tables = View { host: self, side: Vec::new() };
        if packet.version == 6 {
            decide(&self.heads[1], true, &subject, &mut found, &tables);
        } else {
            decide(&self.heads[0], false, &subject, &mut found, &tables);
        }
        let rule = found.found().then(|| found.rule());
        if packet.version == 6 {
            side::<true, _>(&self.heads[3], &subject, &mut found, &mut tables);
        } else {
            side::<false, _>(&self.heads[2], &subject, &mut found, &mut tables);
        }
        Answer { rule, side: tables.side, steps: found.steps }
    }
}

struct View<'a> {
    host: &'a Host,
    side: Vec<u32>,
}

impl Tables for View<'_> {
    fn cell(&self, index: u32) -> Option<&FilterCell> {
        self.host.cells.get(index as usize)
    }

    fn entry(&self, rule: u32) -> Option<&FilterEntry> {
        self.host.entries.get(&rule)
    }

    fn side(&mut self, rule: u32) -> bool {
        self.side.push(rule);
        true
    }
}

/// Packets that are tried to learn how many steps a set of trees takes.
const PROBES: usize = 2048;

/// What a packet costs in a set of trees on the average, for comparison: steps of packets that stand in the corners of the
/// rules' boxes, each as dear as the memory is large that it reads from.
pub(super) fn cost(boxes: &Boxes, rules: &[Rule], kind: Kind, trees: &[Arc<Tree>]) -> f64 {
    let entries = rules.iter().map(|rule| (rule.number, rule.entry())).collect();
    let mut all: [Vec<Arc<Tree>>; 4] = Default::default();
    all[kind as usize] = trees.to_vec();
    let mut host = Host::of(&all, entries);
    // A walk over rules that go on takes as many steps as one over rules that decide takes at most.
    host.heads.swap(kind as usize, usize::from(kind.is_v6()));
    let (mut steps, mut probes) = (0.0, 0);
    for item in (0..boxes.len()).step_by(boxes.len().div_ceil(PROBES).max(1)) {
        let mut subject = Subject::default();
        for (column, field) in boxes.fields.iter().enumerate() {
            subject.words[usize::from(*field)] = u64::from(boxes.low[column][item]);
        }
        let mut found = Walk { order: NOTHING, ..Walk::default() };
        let tables = View { host: &host, side: Vec::new() };
        if kind.is_v6() {
            decide(&host.heads[1], true, &subject, &mut found, &tables);
        } else {
            decide(&host.heads[0], false, &subject, &mut found, &tables);
        }
        steps += f64::from(found.steps);
        probes += 1;
    }
    let bytes: usize = trees.iter().map(|tree| tree.cells.len() * size_of::<FilterCell>()).sum();
    steps / f64::from(probes.max(1)) * step_cost(bytes)
}

/// What a step costs in trees of so many bytes, relative to one that finds its cell in the nearest caches: a load takes
/// longer from each cache behind them.
fn step_cost(bytes: usize) -> f64 {
    const NEAR: f64 = 256.0 * 1024.0;
    1.0 + 0.5 * (bytes as f64 / NEAR).log2().max(0.0)
}
