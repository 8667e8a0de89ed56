//! The per-CPU counters, summed up.

use std::os::fd::{AsFd, OwnedFd};

use netfast_common::{
    abi::{COUNTERS, CounterPart, ECHO_COUNTERS, INTERFACE_COUNTERS, TARGET_COUNTERS, Traffic},
    reason::{Reason, Verdict},
};

use super::{DatapathError, load::Loaded, mapped::MappedArray, sys};
use crate::api::types::Count;

/// The counter maps. A sum is taken CPU by CPU and so is not of one moment; each counter only grows.
pub struct Counters {
    blocks: MappedArray<Traffic>,
    misses: OwnedFd,
    filters: OwnedFd,
    flows: OwnedFd,
    cpus: usize,
}

/// A direction of a flow, as the counters' index has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Client to target.
    ToTarget = 0,
    /// Target to client.
    ToClient = 1,
}

impl Counters {
    pub(super) fn open(loaded: &Loaded) -> Result<Self, DatapathError> {
        Ok(Self {
            blocks: MappedArray::new(loaded.map_fd("COUNTERS")?.as_fd())
                .map_err(|error| DatapathError::Object(format!("cannot map the map COUNTERS: {error}")))?,
            misses: loaded.map_fd("CACHE_MISSES")?,
            filters: loaded.map_fd("FILTER_COUNTERS")?,
            flows: loaded.map_fd("FLOW_COUNTERS")?,
            cpus: loaded.cpus.count as usize,
        })
    }

    /// Indexes of a counter in the blocks of all CPUs.
    fn places(&self, part: CounterPart, index: u32) -> impl Iterator<Item = u32> {
        let place = part.at + index.min(part.length - 1);
        (0..self.blocks.entries() / COUNTERS).map(move |cpu| cpu * COUNTERS + place)
    }

    fn total(&self, part: CounterPart, index: u32) -> Count {
        self.places(part, index).filter_map(|place| self.blocks.get(place)).fold(Count::default(), add)
    }

    fn reset(&self, part: CounterPart, index: u32) {
        for place in self.places(part, index) {
            self.blocks.set(place, Traffic::default());
        }
    }

    fn sum(&self, map: &OwnedFd, index: u32) -> Count {
        let mut values = vec![Traffic::default(); self.cpus];
        // Only an index beyond the map fails; nothing was counted there.
        if sys::lookup_per_cpu(map.as_fd(), index, &mut values).is_err() {
            return Count::default();
        }
        values.into_iter().fold(Count::default(), add)
    }

    fn clear(&self, map: &OwnedFd, index: u32) {
        let _ = sys::update_per_cpu(map.as_fd(), index, &vec![Traffic::default(); self.cpus]);
    }

    /// Verdicts and reasons that were counted on the interface of `row`.
    pub fn interface(&self, row: u16) -> Vec<(Verdict, Reason, Count)> {
        let mut counts = Vec::new();
        for reason in Reason::ALL {
            for verdict in Verdict::ALL {
                let count =
                    self.total(INTERFACE_COUNTERS, interface_index(row, *reason as u32, verdict as u32));
                if count != Count::default() {
                    counts.push((verdict, *reason, count));
                }
            }
        }
        counts
    }

    /// Packets that came in by the interface of `row` and that the flow cache did not decide.
    pub fn cache_misses(&self, row: u16) -> u64 {
        self.sum(&self.misses, u32::from(row)).packets
    }

    pub(super) fn clear_interface(&self, row: u16) {
        self.clear(&self.misses, u32::from(row));
        for reason in 0..Reason::SLOTS {
            for verdict in 0..Verdict::COUNT {
                self.reset(INTERFACE_COUNTERS, interface_index(row, reason, verdict));
            }
        }
    }

    /// Traffic of a target.
    pub fn target(&self, index: u16, direction: Direction) -> Count {
        self.total(TARGET_COUNTERS, u32::from(index) * 2 + direction as u32)
    }

    pub(super) fn clear_target(&self, index: u16) {
        for direction in [Direction::ToTarget, Direction::ToClient] {
            self.reset(TARGET_COUNTERS, u32::from(index) * 2 + direction as u32);
        }
    }

    /// Answers of an echo reflector.
    pub fn echo(&self, index: u16) -> Count {
        self.total(ECHO_COUNTERS, u32::from(index))
    }

    pub(super) fn clear_echo(&self, index: u16) {
        self.reset(ECHO_COUNTERS, u32::from(index));
    }

    /// Packets that a filter rule decided.
    pub fn filter(&self, counter: u32) -> Count {
        self.sum(&self.filters, counter)
    }

    pub(super) fn clear_filter(&self, counter: u32) {
        self.clear(&self.filters, counter);
    }

    /// Flows made by a forward since it exists.
    pub fn flows_made(&self, forward: u16) -> u64 {
        self.sum(&self.flows, u32::from(forward)).packets
    }

    pub(super) fn clear_flows_made(&self, forward: u16) {
        self.clear(&self.flows, u32::from(forward));
    }
}

fn add(sum: Count, value: Traffic) -> Count {
    Count { packets: sum.packets.wrapping_add(value.packets), bytes: sum.bytes.wrapping_add(value.bytes) }
}

fn interface_index(row: u16, reason: u32, verdict: u32) -> u32 {
    (u32::from(row) * Reason::SLOTS + reason) * Verdict::COUNT + verdict
}
