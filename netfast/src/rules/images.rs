//! What the compiler makes and the datapath publishes.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
    sync::Arc,
};

use netfast_common::{abi, maglev};

use crate::{
    api::types::{Endpoint, Forward, Rules},
    classifier::Compiled,
};

use super::{diff::FilterKeys, normal::target_key};

/// The map images of one rule set. Indexes are those of the maps' slot-relative parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Sorted by (address, protocol, first port).
    pub services: Vec<abi::Service>,
    /// Forwards by index.
    pub forwards: Vec<(u16, abi::Forward)>,
    /// Targets by index; those in the map that are not here keep what they have (flows may still refer to them).
    pub targets: Vec<(u16, abi::Target)>,
    /// Targets that are none any more but may have flows, which follow the routes as all others do.
    pub leaving: Vec<Leaving>,
    /// Inside prefixes of the source NAT rules, in order.
    pub snats: Vec<abi::SnatRule>,
    /// Echo reflectors by index.
    pub echoes: Vec<(u16, abi::Echo)>,
    /// Allow-lists of all echo reflectors.
    pub echo_allow: Vec<abi::AllowEntry>,
    /// The filter.
    pub filter: Compiled,
    /// The rules that all this was made of, which are valid.
    pub rules: Rules,
    /// The keys of the filter rules among them.
    pub filter_keys: FilterKeys,
    /// Its counters that another rule has from now on: they begin anew with the first publication.
    pub filter_counters_anew: Vec<u32>,
    /// What its limits let through.
    pub filter_rates: Vec<abi::FilterRate>,
    /// Look-up tables of all forwards.
    pub maglev: Vec<abi::MaglevCell>,
    /// The same, each by itself, in the order of the forwards in the rules.
    pub tables: Vec<Arc<Table>>,
    /// Server IDs of QUIC connection IDs, with a slot of 0, and the indexes of their targets.
    pub quic: Vec<(abi::QuicKey, u32)>,
    /// What does not work at present (targets without a route, filter rules of interfaces that are gone), a sentence each.
    pub warnings: Vec<String>,
}

/// A target that gets no new flows: it was removed, or `nat` uses another source address towards it by now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its index.
    pub index: u16,
    /// Its uid.
    pub uid: u32,
    /// Index of its next hop; 0: no route.
    pub next_hop: u16,
    /// [`abi::Target::state`].
    pub state: u8,
    /// Its name, if it was removed: then its flows end after a while.
    pub removed: Option<String>,
}

/// How the host reaches a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetRoute {
    /// The host's own address that the routing table would use as source.
    pub source: IpAddr,
    /// Index of the next hop in the next-hop table.
    pub next_hop: u16,
}

/// What the compiler asks about the host.
pub trait HostView {
    /// Index of an interface, if it exists.
    fn ifindex(&self, name: &str) -> Option<u32>;
    /// Whether an address is one of this host's own.
    fn owns(&self, address: IpAddr) -> bool;
    /// How a target is reached; `None` while there is no route.
    fn route(&self, target: IpAddr) -> Option<TargetRoute>;
    /// The gateway that frames to a target go to; `None`: to the target itself, or there is no route.
    fn gateway(&self, _target: IpAddr) -> Option<IpAddr> {
        None
    }
}

/// A forward's look-up table, and what it was made from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    uid: u32,
    seed: u64,
    size: u32,
    candidates: Vec<maglev::Candidate>,
    cells: Vec<abi::MaglevCell>,
    entries: Vec<(u16, u32)>,
}

impl Table {
    /// Builds the table of the forward `uid` with `size` entries (a prime number); without candidates it is empty.
    pub fn build(uid: u32, candidates: Vec<maglev::Candidate>, seed: u64, size: u32) -> Self {
        let mut table = Self { uid, seed, size, candidates, ..Self::default() };
        let mut positions = vec![0; size as usize];
        if !maglev::build(&table.candidates, seed, &mut positions) {
            return table;
        }
        let mut counts: HashMap<u16, u32> = HashMap::new();
        for index in &positions {
            *counts.entry(*index).or_default() += 1;
        }
        table.entries =
            table.candidates.iter().map(|c| (c.index, counts.get(&c.index).copied().unwrap_or(0))).collect();
        for part in positions.chunks(abi::MAGLEV_PER_CELL as usize) {
            // Behind the last entry stands a valid index too, so that no look-up whatever can leave the forward.
            let mut targets = [positions[0]; abi::MAGLEV_PER_CELL as usize];
            targets[..part.len()].copy_from_slice(part);
            table.cells.push(abi::MaglevCell { targets });
        }
        table
    }

    /// Whether it is the one that [`Self::build`] would make.
    pub fn is_of(&self, uid: u32, candidates: &[maglev::Candidate], seed: u64, size: u32) -> bool {
        (self.uid, self.seed, self.size) == (uid, seed, size) && self.candidates == candidates
    }

    /// Uid of the forward.
    pub const fn uid(&self) -> u32 {
        self.uid
    }

    /// Number of its entries; 0: nobody gets new flows.
    pub fn size(&self) -> u32 {
        if self.cells.is_empty() { 0 } else { self.size }
    }

    /// Its cells.
    pub fn cells(&self) -> &[abi::MaglevCell] {
        &self.cells
    }

    /// Indexes of the targets that get new flows, each with the number of its entries.
    pub fn entries(&self) -> &[(u16, u32)] {
        &self.entries
    }
}

/// What health checks have found out about targets. A target that nobody has checked counts as healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetStates {
    /// By name of the forward: addresses and first ports of the targets that are down.
    down: HashMap<String, HashSet<(IpAddr, u16)>>,
}

impl TargetStates {
    /// Whether a target is down: it gets no new flows. A forward without checks has no such targets.
    pub fn is_down(&self, forward: &Forward, target: &Endpoint) -> bool {
        forward.health.is_some()
            && self.down.get(&forward.name).is_some_and(|down| down.contains(&target_key(target)))
    }

    /// Says whether a target (address and first port) of the forward of that name is down.
    pub fn set(&mut self, forward: &str, target: (IpAddr, u16), down: bool) {
        if down {
            self.down.entry(forward.to_owned()).or_default().insert(target);
        } else if let Some(targets) = self.down.get_mut(forward) {
            targets.remove(&target);
            if targets.is_empty() {
                self.down.remove(forward);
            }
        }
    }

    /// Number of targets that are down.
    pub fn count(&self) -> usize {
        self.down.values().map(HashSet::len).sum()
    }
}
