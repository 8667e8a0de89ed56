//! Looking into the flow tables and the flow cache, and taking things out of them.

use std::{os::fd::AsFd, time::Duration};

use netfast_common::{
    abi::{self, Config, Flow, FlowKey, SnatKey, SnatMapping},
    echo,
    flow::ORIGINAL,
    snat,
};
use nix::sched::sched_getcpu;

use super::{Sandbox, SandboxError};
use crate::datapath::{DatapathError, lock, sys, tables::Table};

impl Sandbox {
    /// All entries of the flow tables, both directions: `(confirmed, key, entry)`.
    ///
    /// # Errors
    ///
    /// If a table cannot be read.
    pub fn flows(&self) -> Result<Vec<(bool, FlowKey, Flow)>, SandboxError> {
        let confirmed = |table| matches!(table, Table::Confirmed | Table::Direct);
        Ok(self.entries()?.into_iter().map(|(table, key, flow)| (confirmed(table), key, flow)).collect())
    }

    fn entries(&self) -> Result<Vec<(Table, FlowKey, Flow)>, SandboxError> {
        let mut all = Vec::new();
        for table in Table::ALL {
            let mut batches = self.datapath.walk(table, 1024);
            let walk = |error| DatapathError::Kernel { call: "walk over a flow table", error };
            while let Some((keys, flows)) = batches.next().map_err(walk)? {
                all.extend(keys.iter().zip(flows).map(|(key, flow)| (table, *key, *flow)));
            }
        }
        Ok(all)
    }

    /// All entries of the table of mappings, both ends.
    ///
    /// # Errors
    ///
    /// If it cannot be read.
    pub fn mappings(&self) -> Result<Vec<(SnatKey, SnatMapping)>, SandboxError> {
        let mut all = Vec::new();
        let map = self.datapath.maps.snat_mappings.as_fd();
        let mut batches = sys::Batches::<SnatKey, SnatMapping>::new(map, 1024);
        let walk = |error| DatapathError::Kernel { call: "walk over the mappings", error };
        while let Some((keys, mappings)) = batches.next().map_err(walk)? {
            all.extend(keys.iter().copied().zip(mappings.iter().copied()));
        }
        Ok(all)
    }

    /// Makes a mapping's end what is given, as if time had passed.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn set_mapping(&self, key: &SnatKey, mapping: &SnatMapping) -> Result<(), SandboxError> {
        sys::update(self.datapath.maps.snat_mappings.as_fd(), key, mapping, sys::Existing::Replace)
            .map_err(|error| DatapathError::Kernel { call: "change of a mapping", error })?;
        Ok(())
    }

    /// Takes all entries out of the flow tables, all mappings, and what is known of paths. Cached lines stay.
    ///
    /// # Errors
    ///
    /// If a table cannot be written.
    pub fn forget_flows(&self) -> Result<(), SandboxError> {
        for (_, key, _) in self.flows()? {
            self.forget_entry(&key)?;
        }
        for (key, _) in self.mappings()?.into_iter().filter(|(_, mapping)| mapping.uid != snat::RESERVED) {
            sys::delete(self.datapath.maps.snat_mappings.as_fd(), &key)
                .map_err(|error| DatapathError::Kernel { call: "removal of a mapping", error })?;
        }
        for at in 0..abi::MAX_TARGETS {
            self.datapath.maps.path_mtu.set(at, 0);
        }
        for at in 0..abi::SNAT_SOURCES {
            self.datapath.maps.snat_made.set(at, 0);
            self.datapath.maps.snat_gone.set(at, 0);
        }
        Ok(())
    }

    /// Takes one entry out of the flow tables, wherever it is.
    ///
    /// # Errors
    ///
    /// If a table cannot be written.
    pub fn forget_entry(&self, key: &FlowKey) -> Result<(), SandboxError> {
        for table in Table::ALL {
            self.datapath
                .delete_entry(table, key)
                .map_err(|error| DatapathError::Kernel { call: "removal of a flow", error })?;
        }
        Ok(())
    }

    /// Voids the cached lines of this CPU: the next packet of every flow goes by the flow tables.
    ///
    /// # Errors
    ///
    /// If the cache cannot be written.
    pub fn forget_lines(&self) -> Result<(), SandboxError> {
        let failed = |error| DatapathError::Kernel { call: "clearing of the flow cache", error };
        let loaded = lock(&self.datapath.loaded);
        let cpu = sched_getcpu().map_err(|error| failed(error.into()))? as u32;
        let [stride4, stride6] = self.datapath.cache_strides;
        let cache = loaded.map_fd("CACHE4")?;
        for set in cpu * stride4..(cpu + 1) * stride4 {
            sys::update(cache.as_fd(), &set, &abi::CacheSet4::default(), sys::Existing::Replace)
                .map_err(failed)?;
        }
        let cache = loaded.map_fd("CACHE6")?;
        for set in cpu * stride6..(cpu + 1) * stride6 {
            sys::update(cache.as_fd(), &set, &abi::CacheSet6::default(), sys::Existing::Replace)
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Fills the buckets of the filter's limits: a rule begins with its burst, whatever another one with its number has used.
    ///
    /// # Errors
    ///
    /// If they cannot be written.
    pub fn forget_limits(&self) -> Result<(), SandboxError> {
        let loaded = lock(&self.datapath.loaded);
        let buckets = loaded.map_fd("FILTER_BUCKETS")?;
        for at in 0..abi::MAX_FILTER_LIMITS {
            sys::update(buckets.as_fd(), &at, &[0u64; size_of::<echo::Bucket>() / 8], sys::Existing::Replace)
                .map_err(|error| DatapathError::Kernel { call: "filling of the filter's limits", error })?;
        }
        Ok(())
    }

    /// How many lines of this CPU's cache are verdicts on packets of no flow, under whatever rules.
    ///
    /// # Errors
    ///
    /// If the cache cannot be read.
    pub fn verdict_lines(&self) -> Result<usize, SandboxError> {
        let failed = |error| DatapathError::Kernel { call: "reading of the flow cache", error };
        let loaded = lock(&self.datapath.loaded);
        let cpu = sched_getcpu().map_err(|error| failed(error.into()))? as u32;
        let [stride4, stride6] = self.datapath.cache_strides;
        let is_verdict =
            |tail: u64| abi::line_kind(abi::tail_upper(tail)) & 7 == abi::LineKind::Verdict as u8;
        let mut count = 0;
        let cache = loaded.map_fd("CACHE4")?;
        for set in cpu * stride4..(cpu + 1) * stride4 {
            let set: Option<abi::CacheSet4> = sys::lookup(cache.as_fd(), &set).map_err(failed)?;
            count += set.map_or(0, |set| set.ways.iter().filter(|line| is_verdict(line.tail)).count());
        }
        let cache = loaded.map_fd("CACHE6")?;
        for set in cpu * stride6..(cpu + 1) * stride6 {
            let set: Option<abi::CacheSet6> = sys::lookup(cache.as_fd(), &set).map_err(failed)?;
            count += set.map_or(0, |set| set.ways.iter().filter(|line| is_verdict(line.tail)).count());
        }
        Ok(count)
    }

    /// Lets time pass, in units of 16 jiffies (rounded up): flows and the cached lines of this CPU become older by so
    /// much, as if nothing had come meanwhile.
    ///
    /// # Errors
    ///
    /// If a table cannot be read or written.
    pub fn pass(&self, time: Duration) -> Result<(), SandboxError> {
        let failed = |error| DatapathError::Kernel { call: "ageing of the sandbox", error };
        let hz = u128::from(self.datapath.clock.hz());
        let config: Config = self.datapath.maps.config.get(0).unwrap_or_default();
        let jiffies = u32::try_from(time.as_millis() * hz / 1000).unwrap_or(u32::MAX / 4);
        let jiffies = jiffies.next_multiple_of(abi::LINE_TICK);
        for (table, key, mut flow) in self.entries()? {
            flow.last_seen = flow.last_seen.wrapping_sub(jiffies);
            if flow.direction == ORIGINAL {
                flow.created = flow.created.wrapping_sub(jiffies);
            }
            self.datapath.set_times(table, &key, &flow).map_err(failed)?;
        }
        // The stamp is the topmost part of a tail: nothing stands above it that it could run over into.
        let older = |tail: &mut u64| *tail = tail.wrapping_sub(u64::from(jiffies) << 32);
        let loaded = lock(&self.datapath.loaded);
        let cpu = sched_getcpu().map_err(|error| failed(error.into()))? as u32;
        let cache = loaded.map_fd("CACHE4")?;
        for set in 0..=config.cache4_mask {
            let set = cpu * config.cache4_stride + set;
            let mut lines: abi::CacheSet4 =
                sys::lookup(cache.as_fd(), &set).map_err(failed)?.unwrap_or_default();
            lines.ways.iter_mut().for_each(|line| older(&mut line.tail));
            sys::update(cache.as_fd(), &set, &lines, sys::Existing::Replace).map_err(failed)?;
        }
        let cache = loaded.map_fd("CACHE6")?;
        for set in 0..=config.cache6_mask {
            let set = cpu * config.cache6_stride + set;
            let mut lines: abi::CacheSet6 =
                sys::lookup(cache.as_fd(), &set).map_err(failed)?.unwrap_or_default();
            lines.ways.iter_mut().for_each(|line| older(&mut line.tail));
            sys::update(cache.as_fd(), &set, &lines, sys::Existing::Replace).map_err(failed)?;
        }
        Ok(())
    }
}
