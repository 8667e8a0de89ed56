//! Who gets new flows by what is published: read back when an agent starts on the maps of an earlier one.

use std::collections::HashSet;

use netfast_common::abi;

use super::Datapath;

impl Datapath {
    /// Indexes of the targets that stand in the look-up table of the forward with that index and uid; `None` if no such
    /// forward is published.
    pub fn takers(&self, forward: u16, uid: u32) -> Option<HashSet<u16>> {
        let generation = self.generation();
        let slot = generation & 1;
        let image = self.maps.forwards.get(slot * abi::MAX_FORWARDS + u32::from(forward))?;
        if generation == 0 || image.uid != uid {
            return None;
        }
        let first = slot * abi::MAX_MAGLEV_CELLS + image.maglev_offset / abi::MAGLEV_PER_CELL;
        let cells = image.maglev_size.div_ceil(abi::MAGLEV_PER_CELL);
        Some(
            (first..first + cells)
                .filter_map(|cell| self.maps.maglev.get(cell))
                .flat_map(|cell| cell.targets)
                .collect(),
        )
    }

    /// Whether a target is published.
    pub fn has_target(&self, index: u16, uid: u32) -> bool {
        self.maps.targets.get(u32::from(index)).is_some_and(|target| target.in_use == 1 && target.uid == uid)
    }
}
