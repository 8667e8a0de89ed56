//! One decision tree: the space is cut in two until few rules are left in each part.

use super::boxes::{Boxes, COLUMNS, Region};

/// Boxes that are looked at to choose a cut.
const SAMPLE: usize = 512;
/// Boxes of a leaf that is not cut further.
const LEAF: usize = 6;
/// Depth from which on cuts halve the number of different ends, whatever the copies: so no order of rules makes a tree
/// deeper than that and the logarithm of its ends.
const BALANCED: u32 = 24;

/// A node.
#[derive(Debug)]
pub(super) enum Node {
    /// Boxes to compare, in order.
    Leaf(Vec<u32>),
    /// A cut: left up to the threshold, right above.
    Cut {
        /// The column.
        column: u8,
        /// The threshold.
        threshold: u32,
        /// Number of the left node.
        left: u32,
        /// Number of the right node.
        right: u32,
    },
}

/// A tree that is grown.
pub(super) struct Growth<'a> {
    boxes: &'a Boxes,
    /// Every box counts in every place: nothing hides behind another box.
    collect: bool,
    /// Leaves that may hold a box before it is spilled: what comes then goes without it, for it stands in another tree.
    copies: u32,
    /// See [`Shape::dense`].
    dense: usize,
    /// Nodes and entries of leaves that may be made.
    budget: usize,
    /// Boxes that may be looked at.
    work: &'a mut u64,
    nodes: Vec<Node>,
    /// Leaves that hold a box.
    placed: Vec<u32>,
    spilled: Vec<bool>,
    scratch: [Vec<u32>; 2],
}

/// What has grown.
pub(super) struct Grown {
    /// The nodes; the last one is the root.
    pub(super) nodes: Vec<Node>,
    /// Boxes that too many leaves hold, and so belong into another tree, whole.
    pub(super) spilled: Vec<u32>,
}

/// Why a tree is given up. Holds the box that most leaves hold.
pub(super) enum TooLarge {
    /// It needs more memory than there is.
    Memory(u32),
    /// It takes too long to build.
    Work(u32),
}

/// How a tree is grown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Leaves that may hold a box before it is spilled.
    pub(super) copies: u32,
    /// Boxes of a part that is left whole where the best cut would put half of them into both sides: wide boxes that overlap
    /// in all fields take memory by each cut, and save hardly a comparison.
    pub(super) dense: usize,
}

/// Grows a tree over `items` (in order). `work`: boxes that may be looked at, and are taken off.
pub(super) fn grow(
    boxes: &Boxes,
    items: Vec<u32>,
    collect: bool,
    shape: Shape,
    budget: usize,
    work: &mut u64,
) -> Result<Grown, TooLarge> {
    let mut growth = Growth {
        boxes,
        collect,
        copies: shape.copies,
        dense: shape.dense,
        budget,
        work,
        nodes: Vec::new(),
        placed: vec![0; boxes.len()],
        spilled: vec![false; boxes.len()],
        scratch: Default::default(),
    };
    growth.part(items, boxes.space(), 0)?;
    let spilled = (0..boxes.len() as u32).filter(|item| growth.spilled[*item as usize]).collect();
    Ok(Grown { nodes: growth.nodes, spilled })
}

impl Growth<'_> {
    fn part(&mut self, items: Vec<u32>, region: Region, depth: u32) -> Result<u32, TooLarge> {
        let cost = 1 + items.len().min(LEAF);
        // To choose a cut sorts a sample by each column; to divide looks at each box once.
        let work =
            items.len() as u64 + if items.len() > LEAF { 10 * items.len().min(SAMPLE) as u64 } else { 0 };
        if self.budget < cost || *self.work < work {
            let most = (0..self.placed.len()).max_by_key(|item| self.placed[*item]).unwrap_or_default();
            let too_large = if self.budget < cost { TooLarge::Memory } else { TooLarge::Work };
            return Err(too_large(most as u32));
        }
        *self.work -= work;
        let cut = if items.len() <= LEAF { None } else { self.cut(&items, &region, depth) };
        let Some((column, threshold)) = cut else { return Ok(self.leaf(items, cost)) };
        let (mut below, mut above) = (region, region);
        below.high[column] = threshold;
        above.low[column] = threshold + 1;
        let (left, right) = self.divide(&items, column, threshold, &below, &above);
        let both = (left.len() + right.len()).saturating_sub(items.len());
        if items.len() <= self.dense && 2 * both > items.len() {
            return Ok(self.leaf(items, cost));
        }
        drop(items);
        let left = self.part(left, below, depth + 1)?;
        let right = self.part(right, above, depth + 1)?;
        // Both sides may have come out the same (rules that differ where no packet of this part can be).
        self.budget = self.budget.saturating_sub(1);
        Ok(self.node(Node::Cut { column: column as u8, threshold, left, right }))
    }

    fn leaf(&mut self, items: Vec<u32>, cost: usize) -> u32 {
        self.budget = self.budget.saturating_sub(cost);
        for item in &items {
            let copies = &mut self.placed[*item as usize];
            *copies += 1;
            self.spilled[*item as usize] |= *copies > self.copies;
        }
        self.node(Node::Leaf(items))
    }

    fn node(&mut self, node: Node) -> u32 {
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// Boxes of both sides, each up to the first that covers its side.
    fn divide(
        &mut self,
        items: &[u32],
        column: usize,
        threshold: u32,
        below: &Region,
        above: &Region,
    ) -> (Vec<u32>, Vec<u32>) {
        let (mut left, mut right) = (Vec::with_capacity(items.len()), Vec::with_capacity(items.len()));
        let (mut left_ends, mut right_ends) = (false, false);
        let (low, high) = (&self.boxes.low[column], &self.boxes.high[column]);
        for item in items {
            let at = *item as usize;
            if self.spilled[at] {
                continue;
            }
            let in_left = low[at] <= threshold && !left_ends;
            let in_right = high[at] > threshold && !right_ends;
            if in_left {
                left.push(*item);
                left_ends = !self.collect && self.boxes.covers(*item, below);
            }
            if in_right {
                right.push(*item);
                right_ends = !self.collect && self.boxes.covers(*item, above);
            }
            if left_ends && right_ends {
                break;
            }
        }
        (left, right)
    }

    /// The best cut of a region: column and threshold. `None` if nothing ends inside.
    fn cut(&mut self, items: &[u32], region: &Region, depth: u32) -> Option<(usize, u32)> {
        let step = items.len().div_ceil(SAMPLE);
        let count = items.len().div_ceil(step);
        let mut best: Option<(u64, usize, u32)> = None;
        let mut finest: Option<(usize, usize, u32)> = None;
        let [mut lows, mut highs] = std::mem::take(&mut self.scratch);
        for column in 0..self.boxes.fields.len().min(COLUMNS) {
            let (first, last) = (region.low[column], region.high[column]);
            if first == last {
                continue;
            }
            let (low, high) = (&self.boxes.low[column], &self.boxes.high[column]);
            lows.clear();
            highs.clear();
            for item in items.iter().step_by(step) {
                let (low, high) = (low[*item as usize], high[*item as usize]);
                // Where a box begins, the cut is before it; where it ends, behind it.
                if low > first {
                    lows.push(low - 1);
                }
                if high < last {
                    highs.push(high);
                }
            }
            if lows.is_empty() && highs.is_empty() {
                continue;
            }
            lows.sort_unstable();
            highs.sort_unstable();
            let (cost, threshold, different, middle) = sweep(&lows, &highs, count);
            if best.is_none_or(|(least, ..)| cost < least) {
                best = Some((cost, column, threshold));
            }
            if finest.is_none_or(|(most, ..)| different > most) {
                finest = Some((different, column, middle));
            }
        }
        self.scratch = [lows, highs];
        let useful = best.filter(|(cost, ..)| *cost < USELESS && depth < BALANCED);
        useful
            .map(|(_, column, threshold)| (column, threshold))
            .or(finest.map(|(_, column, middle)| (column, middle)))
    }
}

/// Cost of a cut that leaves all boxes on one side.
const USELESS: u64 = u64::MAX;

/// The best threshold of a column. `lows`: where boxes begin (minus one), `highs`: where they end, both sorted and inside
/// of the region; `count` boxes in all. Gives cost, threshold, number of different ends and the middle one.
fn sweep(lows: &[u32], highs: &[u32], count: usize) -> (u64, u32, usize, u32) {
    let (mut l, mut h) = (0, 0);
    let mut best = (USELESS, 0);
    let (mut different, mut middle) = (0, None);
    let all = lows.len() + highs.len();
    while l < lows.len() || h < highs.len() {
        let threshold = match (lows.get(l), highs.get(h)) {
            (Some(low), Some(high)) => *low.min(high),
            (Some(end), None) | (None, Some(end)) => *end,
            (None, None) => break,
        };
        // Boxes that begin behind the cut are not on the left; those that end here or before are not on the right.
        let left = count - (lows.len() - l);
        l += lows[l..].iter().take_while(|low| **low == threshold).count();
        h += highs[h..].iter().take_while(|high| **high == threshold).count();
        let right = count - h;
        different += 1;
        if (l + h) * 2 >= all {
            middle.get_or_insert(threshold);
        }
        if left.max(right) < count {
            // The larger side counts twice: depth is what a packet pays for.
            let cost = (2 * left.max(right) + left + right) as u64;
            if cost < best.0 {
                best = (cost, threshold);
            }
        }
    }
    (best.0, best.1, different, middle.unwrap_or_default())
}
