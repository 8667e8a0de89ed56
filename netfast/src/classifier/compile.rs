//! The compiler: groups of rules, a tree each, within bounds.

use std::sync::Arc;

use netfast_common::abi::{
    FILTER_ASK, FILTER_ASK_SIDE, FILTER_BLOCKS, FILTER_PLACES, FILTER_RECORDS, FILTER_TCP_ANY,
    FILTER_TCP_FLAGS, FILTER_TCP_PLAIN, FILTER_TCP_VARIES, FILTER_TREES, FilterCell, FilterEntry, FilterHead,
    MAX_FILTER_NUMBERS,
};

use super::{
    boxes::{Boxes, Kind},
    host::cost,
    image::{self, Tree},
    rule::Rule,
    search,
    tree::{self, Shape, TooLarge},
};

/// How much time the compiler may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// Four groups by wide source and destination: for a commit. Of small sets, the likeliest ways to merge them are tried.
    #[default]
    Quick,
    /// Tries all ways to merge these groups, and takes the one that costs least: for the background.
    Better,
}

/// What a rule set must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rule numbers that there are: a rule's number is below.
    pub numbers: u32,
    /// Cells (64 bytes each) that all trees together may have.
    pub cells: u32,
    /// Steps that a packet may take through the rules that decide, over all trees.
    pub steps: u32,
    /// Steps through the rules that go on.
    pub side_steps: u32,
    /// How much time to take.
    pub effort: Effort,
    /// Boxes that may be looked at to build the trees of a kind of rules: a bound of the time that needs no clock, and so gives
    /// the same answer on every machine.
    pub work: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            numbers: MAX_FILTER_NUMBERS,
            cells: 1 << 20,
            steps: 160,
            side_steps: 64,
            effort: Effort::Quick,
            work: WORK,
        }
    }
}

/// Default of [`Limits::work`]: seconds, where usual sets of 100,000 rules take a hundredth.
const WORK: u64 = 1 << 30;

/// Steps that are kept free for the tree of rules that are added later.
const RESERVE: u32 = 24;

/// Why rules are refused. The set that is live stays live.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A number is beyond the tables, or there twice with different conditions or actions.
    #[error("rule {} has number {number}: {limit} numbers fit ([tables] filter_rules in agent.toml)", rule + 1)]
    Number {
        /// Position of the rule.
        rule: usize,
        /// Its number.
        number: u32,
        /// How many there are.
        limit: u32,
    },
    /// Too many comparisons for a packet.
    #[error(
        "rule {} overlaps too many others that cannot be told apart: a packet would take {steps} steps, {limit} are \
         allowed; give the rules around it narrower addresses or ports",
        rule + 1
    )]
    Steps {
        /// Position of the rule.
        rule: usize,
        /// Steps of the longest way.
        steps: u32,
        /// The limit.
        limit: u32,
    },
    /// Too much time.
    #[error(
        "the rules overlap in too many ways to be compiled in a few seconds; rule {} is the one that takes most: give it and \
         the rules around it narrower addresses or ports",
        rule + 1
    )]
    Work {
        /// Position of the rule.
        rule: usize,
    },
    /// Too much memory.
    #[error(
        "the compiled rules need more than {limit} cells of 64 bytes; rule {} is the one that takes most: \
         narrow it, or raise [tables] filter_rules in agent.toml",
        rule + 1
    )]
    Memory {
        /// Position of the rule.
        rule: usize,
        /// The limit in cells.
        limit: u32,
    },
}

/// What became of the rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Rules.
    pub rules: u32,
    /// Trees by [`Kind`].
    pub trees: [u32; 4],
    /// Bytes of all trees.
    pub bytes: u64,
    /// Most blocks on a way through one tree.
    pub depth_max: u32,
    /// Most steps of a packet, by [`Kind`].
    pub steps_max: [u32; 4],
    /// Records, copies included.
    pub records: u32,
}

/// Compiled rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compiled {
    /// Trees by [`Kind`], in the order in which they are walked. A tree that is the same as before is the same `Arc`.
    pub trees: [Vec<Arc<Tree>>; 4],
    /// `FILTER_ASK` and so on.
    pub flags: u32,
    /// The rules.
    pub rules: Arc<Vec<Rule>>,
    /// Their orders, rising.
    pub orders: Arc<Vec<u32>>,
    /// Positions of the rules that stand in trees of their own alone, because they were added later; rising.
    pub(super) added: Vec<usize>,
    /// Positions of rules that stand there, too, because what may have hidden them is gone; rising.
    pub(super) revived: Vec<usize>,
    /// Small changes since all rules were compiled.
    pub(super) patches: u32,
    /// Trees of the rules that were there before.
    pub(super) base: [Vec<Arc<Tree>>; 4],
}

/// Compiles rules. The same rules and limits give the same trees.
///
/// # Errors
/// When they do not keep to the limits; names the rule that breaks one.
pub fn compile(rules: &[Rule], limits: &Limits) -> Result<Compiled, Refused> {
    compile_while(&Arc::new(rules.to_vec()), limits, &|| true).unwrap_or(Ok(Compiled::default()))
}

/// [`compile`], while `go_on` says so: it is asked now and then, if the effort is more than quick. `None` if it said no. What is
/// compiled keeps this very list.
pub fn compile_while(
    rules: &Arc<Vec<Rule>>,
    limits: &Limits,
    go_on: &dyn Fn() -> bool,
) -> Option<Result<Compiled, Refused>> {
    let numbered = numbers(rules, limits);
    if let Err(refused) = numbered {
        return Some(Err(refused));
    }
    let orders = orders(rules.len());
    let mut base: [Vec<Arc<Tree>>; 4] = Default::default();
    let mut cells = limits.cells;
    for kind in Kind::ALL {
        let boxes = Boxes::new(kind, rules, &orders);
        if boxes.len() == 0 {
            continue;
        }
        let trees = match limits.effort {
            Effort::Quick => search::at_once(&boxes, rules, kind, cells, limits),
            Effort::Better => search::better(&boxes, rules, kind, cells, limits, go_on)?,
        };
        match trees {
            Ok(trees) => {
                cells = cells.saturating_sub(trees.iter().map(|tree| tree.cells.len() as u32).sum());
                base[kind as usize] = trees;
            }
            Err(refused) => return Some(Err(refused)),
        }
    }
    Some(Ok(Compiled::of(Arc::clone(rules), Arc::new(orders), base, Default::default())))
}

/// The orders of so many rules, with room between them.
fn orders(count: usize) -> Vec<u32> {
    let room = (u32::MAX - 1) / (count as u32 + 1);
    (1..=count as u32).map(|at| at * room).collect()
}

/// Rules of one number are matches of one rule: they must have one entry.
fn numbers(rules: &[Rule], limits: &Limits) -> Result<(), Refused> {
    let limit = limits.numbers.min(MAX_FILTER_NUMBERS);
    let mut seen: Vec<u32> = vec![u32::MAX; limit as usize];
    for (at, rule) in rules.iter().enumerate() {
        match seen.get_mut(rule.number as usize) {
            Some(first) if *first == u32::MAX => *first = at as u32,
            Some(first) if rules[*first as usize].entry() == rule.entry() => {}
            _ => return Err(Refused::Number { rule: at, number: rule.number, limit }),
        }
    }
    Ok(())
}

/// Boxes that may be left to trees of their own kind; more of them are worth a tree.
const FEW: usize = 16;

/// How a set of trees is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// How each is grown.
    shape: Shape,
    /// Trees in which what others spill may be spilled again, before one that takes all that is left.
    spills: usize,
    /// How many times the copies of the tree before such a tree may make.
    more: u32,
}

impl Plan {
    /// Speed before memory. `copies`: leaves that hold one box, before it is spilled into another tree.
    pub(super) const fn fast(copies: u32) -> Self {
        Self { shape: Shape { copies, dense: 0 }, spills: 1, more: 4 }
    }

    /// Memory before speed: more trees, and longer leaves, up to `dense` boxes, where cuts do not pay.
    pub(super) const fn thrifty(dense: usize) -> Self {
        Self { shape: Shape { copies: 64, dense }, spills: FILTER_TREES, more: 2 }
    }
}

/// Four groups by wide source and destination; a box that is cut too often goes into one more tree. What takes too much
/// memory so is made more thriftily.
pub(super) fn quick(
    boxes: &Boxes,
    rules: &[Rule],
    kind: Kind,
    cells: u32,
    limits: &Limits,
) -> Result<Vec<Tree>, Refused> {
    let groups = groups(boxes);
    let wanted = cells.min(wanted(boxes, kind));
    for plan in [Plan::fast(64), Plan::thrifty(16), Plan::thrifty(24)] {
        let mut work = limits.work / 8;
        if let Ok(trees) = trees(boxes, rules, kind, &groups, plan, wanted, limits, &mut work) {
            return Ok(trees);
        }
    }
    let mut refused = None;
    let mut work = limits.work;
    for plan in [Plan::thrifty(24), Plan::thrifty(16), Plan::fast(64), Plan::fast(16), Plan::fast(512)] {
        match trees(boxes, rules, kind, &groups, plan, cells, limits, &mut work) {
            Ok(trees) => return Ok(trees),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    Err(refused.unwrap_or(Refused::Memory { rule: 0, limit: limits.cells }))
}

/// Cells that the trees of these boxes should do with: 8 MB for 100,000 IPv4 rules, 20 MB for IPv6 ones. Small sets may take
/// more each, since they are in the CPU's caches anyway.
pub(super) fn wanted(boxes: &Boxes, kind: Kind) -> u32 {
    const SMALL: u32 = 32_768;
    let boxes = boxes.len() as u32;
    SMALL.max(if kind.is_v6() { 3 * boxes } else { boxes + boxes / 4 })
}

/// The boxes by wide source and destination; small groups go to the last one.
pub(super) fn groups(boxes: &Boxes) -> Vec<Vec<u32>> {
    let mut groups: Vec<Vec<u32>> = vec![Vec::new(); 4];
    for (item, [source, destination]) in boxes.wide.iter().enumerate() {
        groups[usize::from(*source) + 2 * usize::from(*destination)].push(item as u32);
    }
    let few = if boxes.len() <= 4 * FEW { usize::MAX } else { FEW };
    let (small, mut large): (Vec<_>, Vec<_>) = groups.into_iter().partition(|group| group.len() <= few);
    let mut small = small.concat();
    match large.last_mut() {
        Some(last) if !small.is_empty() => {
            last.append(&mut small);
            last.sort_unstable();
        }
        Some(_) => {}
        None => {
            small.sort_unstable();
            large.push(small);
        }
    }
    large
}

/// A tree for each group, and for what is spilled of them. What it has looked at is taken off `work`.
#[expect(clippy::too_many_arguments, reason = "two callers, which have them all at hand")]
pub(super) fn trees(
    boxes: &Boxes,
    rules: &[Rule],
    kind: Kind,
    groups: &[Vec<u32>],
    plan: Plan,
    cells: u32,
    limits: &Limits,
    work: &mut u64,
) -> Result<Vec<Tree>, Refused> {
    let rule_of = |item: u32| boxes.rule.get(item as usize).map_or(0, |rule| *rule as usize);
    let Plan { shape, spills, more } = plan;
    let mut grow = |items: Vec<u32>, copies: u32| {
        let budget = 8 * cells as usize;
        let shape = Shape { copies, ..shape };
        tree::grow(boxes, items, kind.is_side(), shape, budget, work).map_err(|too_large| match too_large {
            TooLarge::Memory(item) => Refused::Memory { rule: rule_of(item), limit: limits.cells },
            TooLarge::Work(item) => Refused::Work { rule: rule_of(item) },
        })
    };
    let mut grown = Vec::new();
    let mut spilled = Vec::new();
    let alone = boxes.len() <= 4 * FEW;
    for group in groups {
        let mut tree = grow(group.clone(), if alone { u32::MAX } else { shape.copies })?;
        spilled.append(&mut tree.spilled);
        grown.push(tree);
    }
    spilled.sort_unstable();
    let mut copies = shape.copies;
    // One tree is for the last ones, and one for rules that are added later.
    let most = (grown.len() + spills).min(FILTER_TREES - 2);
    while !spilled.is_empty() {
        copies = copies.saturating_mul(more);
        let last = spilled.len() <= 4 * FEW || grown.len() >= most;
        let mut tree = grow(std::mem::take(&mut spilled), if last { u32::MAX } else { copies })?;
        spilled = std::mem::take(&mut tree.spilled);
        grown.push(tree);
    }
    let mut trees: Vec<Tree> =
        grown.iter().map(|grown| image::make(boxes, rules, &grown.nodes, kind.is_v6())).collect();
    trees.retain(|tree| tree.root != 0);
    trees.sort_by_key(|tree| tree.first);

    let used: u32 = trees.iter().map(|tree| tree.cells.len() as u32).sum();
    if used > cells {
        let last = boxes.rule.last().map_or(0, |rule| *rule as usize);
        return Err(Refused::Memory { rule: last, limit: limits.cells });
    }
    let limit = if kind.is_side() { limits.side_steps } else { limits.steps.saturating_sub(RESERVE) };
    let steps: u32 = trees.iter().map(|tree| tree.steps).sum();
    let longest_leaf = || {
        let leaves = grown.iter().flat_map(|grown| &grown.nodes).filter_map(|node| match node {
            tree::Node::Leaf(items) => Some(items),
            tree::Node::Cut { .. } => None,
        });
        leaves.max_by_key(|items| items.len()).map_or(&[][..], Vec::as_slice)
    };
    let too_long = longest_leaf().len() > FILTER_RECORDS as usize;
    if steps > limit || too_long || trees.iter().any(|tree| tree.depth > FILTER_BLOCKS) {
        let item = longest_leaf().last().copied();
        return Err(Refused::Steps { rule: rule_of(item.unwrap_or_default()), steps, limit });
    }
    Ok(trees)
}

impl Compiled {
    pub(super) fn of(
        rules: Arc<Vec<Rule>>,
        orders: Arc<Vec<u32>>,
        base: [Vec<Arc<Tree>>; 4],
        overlay: [Option<Arc<Tree>>; 4],
    ) -> Self {
        let mut trees = base.clone();
        for (trees, overlay) in trees.iter_mut().zip(overlay) {
            trees.extend(overlay);
            trees.sort_by_key(|tree| tree.first);
        }
        let mut flags = 0;
        if !rules.is_empty() {
            flags |= FILTER_ASK;
        }
        for rule in rules.iter() {
            flags |= if rule.action.goes_on() { FILTER_ASK_SIDE } else { 0 };
            flags |= if rule.speaks_of_flows() { FILTER_TCP_FLAGS } else { 0 };
            flags |= if rule.tcp_flags.is_some_and(|[_, mask]| mask != 0) { FILTER_TCP_ANY } else { 0 };
            flags |= if rule.tells_plain_segments_apart() { FILTER_TCP_VARIES } else { 0 };
            flags |= if rule.ifindex != 0 || rule.vlan.is_some() { FILTER_PLACES } else { 0 };
            flags |= if rule.speaks_of_plain_segments() { FILTER_TCP_PLAIN } else { 0 };
        }
        Self { trees, flags, rules, orders, base, added: Vec::new(), revived: Vec::new(), patches: 0 }
    }

    /// What became of the rules.
    pub fn report(&self) -> Report {
        let all = || self.trees.iter().flatten();
        Report {
            rules: self.rules.len() as u32,
            trees: std::array::from_fn(|kind| self.trees[kind].len() as u32),
            bytes: all().map(|tree| (tree.cells.len() * size_of::<FilterCell>()) as u64).sum(),
            depth_max: all().map(|tree| tree.depth).max().unwrap_or_default(),
            steps_max: std::array::from_fn(|kind| self.trees[kind].iter().map(|tree| tree.steps).sum()),
            records: all().map(|tree| tree.records).sum(),
        }
    }

    /// What packets cost on the average, for comparison with other trees of the same rules: steps, dearer in large memory.
    pub fn cost(&self) -> f64 {
        let kinds = Kind::ALL.into_iter().filter(|kind| !self.trees[*kind as usize].is_empty());
        let costs = kinds.map(|kind| {
            let boxes = Boxes::new(kind, &self.rules, &self.orders);
            cost(&boxes, &self.rules, kind, &self.trees[kind as usize])
        });
        costs.sum()
    }

    /// The program's entries, with the numbers of their rules.
    pub fn entries(&self) -> impl Iterator<Item = (u32, FilterEntry)> {
        self.rules.iter().map(|rule| (rule.number, rule.entry()))
    }

    /// Position of the rule with an order.
    pub fn position(&self, order: u32) -> Option<usize> {
        self.orders.binary_search(&order).ok()
    }
}

/// The head of trees whose roots stand at `roots`.
pub fn head(trees: &[Arc<Tree>], roots: &[u32]) -> FilterHead {
    let mut head = FilterHead { roots: [0; FILTER_TREES], first: [u32::MAX; FILTER_TREES] };
    for (at, (tree, root)) in trees.iter().zip(roots).take(FILTER_TREES).enumerate() {
        head.roots[at] = *root;
        head.first[at] = tree.first;
    }
    head
}
