//! From a grown tree to cells.

use std::collections::HashMap;

use netfast_common::abi::{
    FILTER_ACTION_SHIFT, FILTER_EXTRA, FILTER_LAST, FILTER_LEAF, FILTER_NEEDS, FILTER_PAGE, FILTER_PROTOCOL,
    FILTER_PROTOCOL_SHIFT, FilterCell,
};

use super::{
    boxes::Boxes,
    rule::{Action, Addresses, Ports, Rule},
    tree::Node,
};

/// A tree as cells. Pointers count from the beginning of `cells`, whose first one is not used; a leaf does not go over the
/// border of a page, so that each page can be placed for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The cells.
    pub cells: Vec<FilterCell>,
    /// Pointer to the root.
    pub root: u32,
    /// Lowest order in it.
    pub first: u32,
    /// Most steps that a packet takes in it, the change to the next tree included.
    pub steps: u32,
    /// Blocks on the longest way.
    pub depth: u32,
    /// Rules in it.
    pub rules: u32,
    /// Records in it, copies included.
    pub records: u32,
}

impl Tree {
    /// Pages that it takes.
    pub fn pages(&self) -> u32 {
        (self.cells.len() as u32).div_ceil(FILTER_PAGE)
    }

    /// The cells of page `page` with pointers to where `place` says that the pages are.
    pub fn placed(&self, page: u32, leaves: &[bool], place: &[u32]) -> Vec<FilterCell> {
        let from = (page * FILTER_PAGE) as usize;
        let to = (from + FILTER_PAGE as usize).min(self.cells.len());
        let mut cells = self.cells[from..to].to_vec();
        for (cell, at) in cells.iter_mut().zip(from..) {
            if !leaves.get(at).copied().unwrap_or_default() {
                cell.words[8..].iter_mut().for_each(|pointer| *pointer = moved(*pointer, place));
            }
        }
        cells
    }

    /// Which cells hold records.
    pub fn leaves(&self) -> Vec<bool> {
        let mut leaves = vec![true; self.cells.len()];
        let mut blocks = vec![self.root];
        while let Some(pointer) = blocks.pop() {
            let at = (pointer >> 1) as usize;
            if pointer == 0 || pointer & FILTER_LEAF != 0 || !leaves[at] {
                continue;
            }
            leaves[at] = false;
            blocks.extend(&self.cells[at].words[8..]);
        }
        leaves
    }
}

impl Tree {
    /// The tree with the records of some orders matching nothing; `None` if it has none of them. Bounds stay what they are.
    pub(super) fn without(&self, orders: &[u32], v6: bool) -> Option<Self> {
        let leaves = self.leaves();
        // Where the order stands in a record, and where its source ports do. What no record is has order 0, and no rule has.
        let records: &[[usize; 2]] = if v6 { &[[10, 8]] } else { &[[6, 4], [14, 12]] };
        let mut patched: Option<Self> = None;
        for (at, _) in leaves.iter().enumerate().filter(|(_, leaf)| **leaf) {
            for &[order, ports] in records {
                if orders.contains(&self.cells[at].words[order]) {
                    let tree = patched.get_or_insert_with(|| self.clone());
                    // First port 1, last port 0.
                    tree.cells[at].words[ports] = 1;
                }
            }
        }
        patched
    }
}

/// A pointer into pages that stand where `place` says (page numbers).
pub fn moved(pointer: u32, place: &[u32]) -> u32 {
    const UNITS: u32 = 2 * FILTER_PAGE;
    let unit = pointer & !FILTER_LEAF;
    match place.get((unit / UNITS) as usize) {
        Some(page) if pointer != 0 => (pointer & FILTER_LEAF) | (page * UNITS + unit % UNITS),
        _ => 0,
    }
}

/// Makes the cells of a grown tree.
pub(super) fn make(boxes: &Boxes, rules: &[Rule], nodes: &[Node], v6: bool) -> Tree {
    let mut maker = Maker {
        boxes,
        rules,
        nodes,
        v6,
        cells: vec![FilterCell::default()],
        hole: None,
        leaves: HashMap::new(),
        blocks: HashMap::new(),
        records: 0,
    };
    let Some(root) = nodes.len().checked_sub(1) else { return Tree::default() };
    let root = maker.pointer(root as u32);
    let mut seen = vec![false; boxes.len()];
    for node in nodes {
        if let Node::Leaf(items) = node {
            items.iter().for_each(|item| seen[*item as usize] = true);
        }
    }
    maker.cells.shrink_to_fit();
    let inside = || seen.iter().enumerate().filter(|(_, seen)| **seen);
    Tree {
        first: inside().map(|(item, _)| boxes.order[item]).min().unwrap_or(u32::MAX),
        rules: inside().count() as u32,
        root: root.at,
        steps: root.steps + 1,
        depth: root.depth,
        records: maker.records,
        cells: maker.cells,
    }
}

#[derive(Clone, Copy)]
struct Pointer {
    at: u32,
    steps: u32,
    depth: u32,
}

struct Maker<'a> {
    boxes: &'a Boxes,
    rules: &'a [Rule],
    nodes: &'a [Node],
    v6: bool,
    cells: Vec<FilterCell>,
    /// A free half of a cell.
    hole: Option<u32>,
    leaves: HashMap<&'a [u32], u32>,
    blocks: HashMap<FilterCell, u32>,
    records: u32,
}

impl<'a> Maker<'a> {
    fn pointer(&mut self, node: u32) -> Pointer {
        match &self.nodes[node as usize] {
            Node::Leaf(items) => Pointer { at: self.leaf(items), steps: items.len() as u32, depth: 0 },
            Node::Cut { .. } => self.block(node),
        }
    }

    /// The node's first three levels.
    fn block(&mut self, root: u32) -> Pointer {
        let mut cell = FilterCell::default();
        // Where a leaf stands above the third level, everything goes left below it: nothing is above this threshold.
        cell.words[..7].fill(u32::MAX);
        let mut level = vec![root];
        for depth in 0..3 {
            let mut next = Vec::with_capacity(2 * level.len());
            for (at, node) in level.iter().enumerate() {
                let slot = (1 << depth) - 1 + at;
                match self.nodes[*node as usize] {
                    Node::Cut { column, threshold, left, right } => {
                        cell.words[slot] = threshold;
                        cell.words[7] |= u32::from(self.boxes.fields[usize::from(column)]) << (4 * slot);
                        next.extend([left, right]);
                    }
                    Node::Leaf(_) => next.extend([*node; 2]),
                }
            }
            level = next;
        }
        let (mut steps, mut depth) = (0, 0);
        for (slot, node) in level.iter().enumerate() {
            let pointer = self.pointer(*node);
            cell.words[8 + slot] = pointer.at;
            steps = steps.max(pointer.steps);
            depth = depth.max(pointer.depth);
        }
        // Both sides of every cut alike: the block decides nothing.
        let all_alike = cell.words[9..].iter().all(|child| *child == cell.words[8]);
        if all_alike {
            return Pointer { at: cell.words[8], steps, depth };
        }
        let cells = &mut self.cells;
        let at = *self.blocks.entry(cell).or_insert_with(|| {
            cells.push(cell);
            2 * (cells.len() as u32 - 1)
        });
        Pointer { at, steps: steps + 1, depth: depth + 1 }
    }

    fn leaf(&mut self, items: &'a [u32]) -> u32 {
        if items.is_empty() {
            return 0;
        }
        if let Some(at) = self.leaves.get(items) {
            return *at;
        }
        self.records += items.len() as u32;
        let unit = self.room(items.len() as u32);
        for (number, item) in items.iter().enumerate() {
            let last = if number + 1 == items.len() { FILTER_LAST } else { 0 };
            if self.v6 {
                let at = unit as usize / 2 + number;
                self.cells[at] = FilterCell { words: self.record6(*item, last) };
            } else {
                let at = unit as usize + number;
                let half = (at & 1) * 8;
                let words = self.record4(*item, last);
                self.cells[at / 2].words[half..half + 8].copy_from_slice(&words);
            }
        }
        self.leaves.insert(items, unit | FILTER_LEAF);
        unit | FILTER_LEAF
    }

    /// Units for a leaf of so many records, in one page.
    fn room(&mut self, records: u32) -> u32 {
        if !self.v6
            && records == 1
            && let Some(hole) = self.hole.take()
        {
            return hole;
        }
        let cells = if self.v6 { records } else { records.div_ceil(2) };
        let left = FILTER_PAGE - self.cells.len() as u32 % FILTER_PAGE;
        if cells > left {
            self.cells.resize(self.cells.len() + left as usize, FilterCell::default());
        }
        let unit = 2 * self.cells.len() as u32;
        self.cells.resize(self.cells.len() + cells as usize, FilterCell::default());
        if !self.v6 && records % 2 == 1 {
            self.hole = Some(unit + records);
        }
        unit
    }

    fn ends(&self, item: u32) -> (u32, u32, u32, u32) {
        let rule = &self.rules[self.boxes.rule[item as usize] as usize];
        let pack = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let (source, destination) = match rule.ports {
            Ports::Any => (pack(0, u16::MAX), pack(0, u16::MAX)),
            Ports::Ports { source, destination } => {
                (pack(source[0], source[1]), pack(destination[0], destination[1]))
            }
            Ports::Icmp { kind, code } => {
                (pack(kind[0].into(), kind[1].into()), pack(code[0].into(), code[1].into()))
            }
        };
        let mut tail = rule.number;
        if let Some(protocol) = rule.protocol_of(self.v6) {
            tail |= FILTER_PROTOCOL | u32::from(protocol) << FILTER_PROTOCOL_SHIFT;
        }
        if rule.ports != Ports::Any {
            tail |= FILTER_NEEDS;
        }
        if rule.has_extra() {
            tail |= FILTER_EXTRA;
        }
        let action = match rule.action {
            Action::Allow => 0,
            Action::Drop => 1,
            Action::Reject(_) | Action::Count | Action::Limit(_) => 2,
        };
        (source, destination, self.boxes.order[item as usize], tail | action << FILTER_ACTION_SHIFT)
    }

    fn record4(&self, item: u32, last: u32) -> [u32; 8] {
        let (source, destination, order, tail) = self.ends(item);
        let (low, high) = (&self.boxes.low, &self.boxes.high);
        let at = item as usize;
        [low[0][at], high[0][at], low[1][at], high[1][at], source, destination, order, tail | last]
    }

    fn record6(&self, item: u32, last: u32) -> [u32; 16] {
        let (source, destination, order, tail) = self.ends(item);
        let rule = &self.rules[self.boxes.rule[item as usize] as usize];
        let mut words = [0; 16];
        for (word, column) in words.iter_mut().zip(&self.boxes.low[..8]) {
            *word = column[item as usize];
        }
        let ignored = |addresses: Addresses| {
            let length = match addresses {
                Addresses::V6 { length, .. } => u32::from(length),
                _ => 0,
            };
            (64 - length.min(64)) | (64 - length.saturating_sub(64)) << 8
        };
        words[8..13].copy_from_slice(&[
            source,
            destination,
            order,
            tail | last,
            ignored(rule.source) | ignored(rule.destination) << 16,
        ]);
        words
    }
}
