//! The filter's trees in the map: which pages are whose.

use std::{collections::HashSet, sync::Arc};

use netfast_common::abi::{
    self, FILTER_KINDS, FILTER_LEAF, FILTER_PAGE, FILTER_TREES, FilterEntry, FilterHead,
};

use super::Maps;
use crate::classifier::{Compiled, Limits, Tree, head, moved};

/// Cells for so many rules: room for the live trees and the next ones, and for what pages leave unused.
pub(super) fn cells(rules: u32) -> u32 {
    const SMALLEST: u32 = 64 * FILTER_PAGE;
    SMALLEST + rules.saturating_mul(6).next_multiple_of(FILTER_PAGE)
}

/// Pages that trees may leave partly unused: one each.
const LOST: u32 = FILTER_KINDS * FILTER_TREES as u32;

/// What compiled rules must keep to: half of the cells, so that they always fit beside the live ones.
pub(super) fn limits(maps: &Maps) -> Limits {
    let pages = maps.filter_cells.entries() / FILTER_PAGE;
    Limits {
        numbers: maps.filter_rules.entries() / 2,
        cells: (pages.saturating_sub(1) / 2).saturating_sub(LOST) * FILTER_PAGE,
        ..Limits::default()
    }
}

/// A tree and the pages that it stands in.
struct Placed {
    tree: Arc<Tree>,
    pages: Vec<u32>,
}

/// Who has which pages of `FILTER_CELLS`. Page 0 is nobody's: a pointer of 0 leads nowhere.
pub(super) struct Placement {
    /// Trees of the live rule set. The pages of others are free, once a grace period has passed.
    live: Vec<Placed>,
    /// Pages of a rule set that an earlier agent has published, and that is live until the next publication.
    adopted: HashSet<u32>,
}

impl Placement {
    /// Finds the pages in use by what is live in `slot`.
    pub(super) fn adopt(maps: &Maps, slot: u32) -> Self {
        let mut adopted = HashSet::new();
        let mut seen = HashSet::new();
        let heads = (0..FILTER_KINDS).filter_map(|kind| maps.filter_heads.get(slot * FILTER_KINDS + kind));
        let mut pointers: Vec<u32> = heads.flat_map(|head| head.roots).collect();
        while let Some(pointer) = pointers.pop() {
            if pointer == 0 || !seen.insert(pointer) {
                continue;
            }
            let cell = (pointer & !FILTER_LEAF) / 2;
            adopted.insert(cell / FILTER_PAGE);
            if pointer & FILTER_LEAF == 0
                && let Some(block) = maps.filter_cells.get(cell)
            {
                pointers.extend(&block.words[8..]);
            }
        }
        Self { live: Vec::new(), adopted }
    }

    /// Writes rules and trees for the programs that will run with `slot`; returns the rule set's `filter_flags`. Called after
    /// a grace period: no program reads what was live before the present set.
    pub(super) fn write(&mut self, maps: &Maps, slot: u32, compiled: &Compiled) -> u32 {
        let count = maps.filter_cells.entries() / FILTER_PAGE;
        let mut used = vec![false; count as usize];
        let taken = self.live.iter().flat_map(|placed| &placed.pages).chain(&self.adopted);
        for page in taken.copied().chain([0]) {
            if let Some(used) = used.get_mut(page as usize) {
                *used = true;
            }
        }
        let mut free = (0..count).filter(|page| !used[*page as usize]);
        let mut next = Vec::new();
        let mut heads = [FilterHead::default(); FILTER_KINDS as usize];
        for (trees, head_of) in compiled.trees.iter().zip(&mut heads) {
            let mut roots = Vec::new();
            for tree in trees {
                let present = self.live.iter().find(|placed| Arc::ptr_eq(&placed.tree, tree));
                let pages = match present {
                    Some(placed) => placed.pages.clone(),
                    None => {
                        let pages: Vec<u32> = free.by_ref().take(tree.pages() as usize).collect();
                        if pages.len() < tree.pages() as usize {
                            // The limits leave room for two sets: compiled by others, these are not acceptable.
                            tracing::error!(
                                "the filter's trees do not fit and are not all in force: a bug, please report"
                            );
                        }
                        put(maps, tree, &pages);
                        pages
                    }
                };
                roots.push(moved(tree.root, &pages));
                next.push(Placed { tree: Arc::clone(tree), pages });
            }
            *head_of = head(trees, &roots);
        }
        for (kind, head) in (0..).zip(heads) {
            maps.filter_heads.set(slot * FILTER_KINDS + kind, head);
        }
        let mut entries = vec![FilterEntry::default(); limits(maps).numbers as usize];
        for (number, entry) in compiled.entries() {
            if let Some(place) = entries.get_mut(number as usize) {
                *place = entry;
            }
        }
        for (number, entry) in (0..).zip(entries) {
            maps.filter_rules.set(2 * number + slot, entry);
        }
        (self.live, self.adopted) = (next, HashSet::new());
        compiled.flags
    }
}

fn put(maps: &Maps, tree: &Tree, pages: &[u32]) {
    let leaves = tree.leaves();
    for (page, at) in (0..).zip(pages) {
        for (cell, index) in tree.placed(page, &leaves, pages).into_iter().zip(at * FILTER_PAGE..) {
            maps.filter_cells.set(index, cell);
        }
    }
    const { assert!(size_of::<abi::FilterCell>() == 64, "a cache line") };
}
