//! Ageing of source NAT's mappings: takes away what is dead for the program already, and keeps the count of each inside
//! address.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    os::fd::{AsFd, BorrowedFd},
};

use netfast_common::{
    abi::{Config, MAX_FORWARDS, Mode, OUTSIDE, SNAT_SOURCES, SnatKey, SnatMapping, line_end},
    snat,
};

use super::{Datapath, DatapathError, lock, sweep::BATCH, sys};
use crate::rules::images::Images;

impl Datapath {
    /// Takes dead mappings away. Gives their number, and the living ones by uid of their rule.
    pub(super) fn sweep_mappings(&self, config: &Config) -> Result<(u64, HashMap<u32, u64>), DatapathError> {
        let failed = |error| DatapathError::Kernel { call: "sweep of the mappings", error };
        let map = self.maps.snat_mappings.as_fd();
        let made: Vec<u32> = (0..SNAT_SOURCES).map(|at| self.made(at)).collect();
        let mut held = vec![0u32; SNAT_SOURCES as usize];
        let mut living = HashMap::new();
        let mut dead = Vec::new();
        let mut batches = sys::Batches::<SnatKey, SnatMapping>::new(map, BATCH);
        while let Some((keys, mappings)) = batches.next().map_err(failed)? {
            let now = self.clock.now()?;
            for (key, mapping) in keys.iter().zip(mappings).filter(|(key, _)| key.side == OUTSIDE) {
                if mapping.uid == snat::RESERVED {
                    continue;
                }
                if is_over(mapping, now, config) || self.is_rule_gone(mapping) {
                    dead.push((*key, *mapping));
                } else {
                    held[source(&mapping.peer, config)] += 1;
                    *living.entry(mapping.uid).or_default() += 1;
                }
            }
        }
        if !dead.is_empty() {
            // A program that took a mapping for alive has ended after this.
            sys::grace_period();
        }
        for (key, mapping) in &dead {
            self.delete_mapping(key, mapping).map_err(failed)?;
        }
        if let Some(reserved) = lock(&self.reserved).as_mut() {
            reserved.fill(map).map_err(failed)?;
        }
        for (at, made) in (0..SNAT_SOURCES).zip(made) {
            // Where a mapping was made meanwhile the count is put right by a later sweep.
            let gone = made.wrapping_sub(held[at as usize]);
            if self.made(at) == made && self.maps.snat_gone.get(at) != Some(gone) {
                self.maps.snat_gone.set(at, gone);
            }
        }
        Ok((dead.len() as u64, living))
    }

    /// Keeps external ends that services of `images` listen at from being given to inside endpoints. What is not reserved any
    /// more becomes free. A mapping that has such an end already keeps it until it ends; the next sweep tries again.
    pub(super) fn reserve_ports(&self, images: &Images) -> io::Result<()> {
        let config = self.maps.config.get(0).unwrap_or_default();
        let wanted = service_ends(images, &config);
        let mut reserved = lock(&self.reserved);
        let map = self.maps.snat_mappings.as_fd();
        let present = match reserved.take() {
            Some(present) => present.set,
            None => self.reserved_ends()?,
        };
        for key in present.difference(&wanted) {
            sys::delete(map, key)?;
        }
        let missing = wanted.difference(&present).copied().collect();
        let mut next = Reserved { set: wanted, missing };
        let result = next.fill(map);
        *reserved = Some(next);
        result
    }

    /// Those that an earlier agent has left in the table.
    fn reserved_ends(&self) -> io::Result<BTreeSet<SnatKey>> {
        let mut ends = BTreeSet::new();
        let mut batches = sys::Batches::<SnatKey, SnatMapping>::new(self.maps.snat_mappings.as_fd(), BATCH);
        while let Some((keys, mappings)) = batches.next()? {
            let entries = keys.iter().zip(mappings);
            ends.extend(entries.filter(|(_, mapping)| mapping.uid == snat::RESERVED).map(|(key, _)| *key));
        }
        Ok(ends)
    }

    fn made(&self, at: u32) -> u32 {
        self.maps.snat_made.get(at).unwrap_or_default()
    }

    /// Whether the live rule set has no rule of the mapping's uid. A rule that is gone never comes back with it.
    fn is_rule_gone(&self, mapping: &SnatMapping) -> bool {
        let generation = self.generation();
        let index = (generation & 1) * MAX_FORWARDS + u32::from(mapping.forward);
        let uid = self.maps.forwards.get(index).map_or(0, |forward| forward.uid);
        // Publications in between may have been writing just there.
        uid != mapping.uid && self.generation() == generation
    }

    /// Deletes both ends of a dead mapping, the inside end first. That one may have become another mapping's meanwhile: then it
    /// stays. The external end cannot: while it is there nobody makes another, and nothing revives it.
    fn delete_mapping(&self, key: &SnatKey, mapping: &SnatMapping) -> io::Result<()> {
        let map = self.maps.snat_mappings.as_fd();
        let inside = snat::inside(key.protocol, mapping.peer, mapping.peer_port);
        let is_ours = |entry: &SnatMapping| snat::is_of(entry, &key.address, key.port);
        if sys::lookup::<SnatKey, SnatMapping>(map, &inside)?.as_ref().is_some_and(is_ours)
            && let Some(entry) = sys::take::<SnatKey, SnatMapping>(map, &inside)?
            && !is_ours(&entry)
        {
            // The program has put another mapping there since the look-up: back it goes, unless there is a third by now.
            match sys::update(map, &inside, &entry, sys::Existing::Keep) {
                Err(error) if error.raw_os_error() != Some(libc::EEXIST) => return Err(error),
                _ => {}
            }
        }
        sys::delete(map, key).map(drop)
    }
}

/// External ends that are kept from inside endpoints.
#[derive(Default)]
pub(super) struct Reserved {
    set: BTreeSet<SnatKey>,
    /// Those of `set` that a mapping has.
    missing: BTreeSet<SnatKey>,
}

impl Reserved {
    fn fill(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        let entry = SnatMapping { uid: snat::RESERVED, ..SnatMapping::default() };
        let mut left = BTreeSet::new();
        for key in std::mem::take(&mut self.missing) {
            match sys::update(map, &key, &entry, sys::Existing::Keep) {
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => drop(left.insert(key)),
                result => result?,
            }
        }
        self.missing = left;
        Ok(())
    }
}

/// The external ends of source NAT rules that a service listens at.
fn service_ends(images: &Images, config: &Config) -> BTreeSet<SnatKey> {
    let mut ends = BTreeSet::new();
    let pools: HashMap<u16, [u8; 16]> = images
        .targets
        .iter()
        .filter(|(_, target)| target.mode == Mode::Snat as u8)
        .map(|(index, target)| (*index, target.source))
        .collect();
    for rule in &images.snats {
        let [low, high] = match rule.ports {
            [0, 0] => [config.nat_port_low as u16, config.nat_port_high as u16],
            ports => ports,
        };
        let own: Vec<_> =
            rule.targets.iter().take(usize::from(rule.pool)).filter_map(|index| pools.get(index)).collect();
        for service in images.services.iter().filter(|service| own.contains(&&service.address)) {
            let ports = service.port_low.max(low)..=service.port_high.min(high);
            ends.extend(
                ports.map(|port| snat::outside(service.protocol, service.address, port.to_be_bytes())),
            );
        }
    }
    ends
}

/// Counter of an inside address, as the program finds it.
fn source(inside: &[u8; 16], config: &Config) -> usize {
    (snat::source_hash(inside, config.seed) & (SNAT_SOURCES - 1)) as usize
}

/// Whether a mapping has been dead for so long that no cached line and no program acts by it any more.
fn is_over(mapping: &SnatMapping, now: u32, config: &Config) -> bool {
    let grace = line_end(config.line_lifetime) + 2 * config.hz;
    snat::is_dead(mapping, now) && snat::is_dead(mapping, now.wrapping_sub(grace))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_taken_away_only_when_nothing_acts_by_it() {
        let config = Config { hz: 250, line_lifetime: 2_500, ..Config::default() };
        let grace = 2_500 + netfast_common::abi::LINE_TICK + 500;
        for expires in [5_000u32, u32::MAX - 100] {
            let mapping = SnatMapping { expires, ..SnatMapping::default() };
            let over = |after: u32| is_over(&mapping, expires.wrapping_add(after), &config);
            assert!(!is_over(&mapping, expires.wrapping_sub(1), &config));
            assert!(!over(0) && !over(1) && !over(grace));
            assert!(over(grace + 1));
        }
    }
}
