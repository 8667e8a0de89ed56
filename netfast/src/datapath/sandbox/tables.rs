//! Looking into the flow tables and the flow cache, and taking things out of them.

use std::os::fd::AsFd;

use netfast_common::abi::{self, Flow, FlowKey};
use nix::sched::sched_getcpu;

use super::{Sandbox, SandboxError};
use crate::datapath::{DatapathError, lock, sweep::Table, sys};

impl Sandbox {
    /// All entries of the flow tables, both directions: `(confirmed, key, entry)`.
    ///
    /// # Errors
    ///
    /// If a table cannot be read.
    pub fn flows(&self) -> Result<Vec<(bool, FlowKey, Flow)>, SandboxError> {
        let mut all = Vec::new();
        for (table, confirmed) in [(Table::Confirmed, true), (Table::HalfOpen, false)] {
            let mut batches = sys::Batches::<FlowKey, Flow>::new(self.datapath.table(table), 1024);
            let walk = |error| DatapathError::Kernel { call: "walk over a flow table", error };
            while let Some((keys, flows)) = batches.next().map_err(walk)? {
                all.extend(keys.iter().zip(flows).map(|(key, flow)| (confirmed, *key, *flow)));
            }
        }
        Ok(all)
    }

    /// Takes all entries out of the flow tables. Cached lines stay.
    ///
    /// # Errors
    ///
    /// If a table cannot be written.
    pub fn forget_flows(&self) -> Result<(), SandboxError> {
        for (_, key, _) in self.flows()? {
            self.forget_entry(&key)?;
        }
        Ok(())
    }

    /// Takes one entry out of the flow tables, wherever it is.
    ///
    /// # Errors
    ///
    /// If a table cannot be written.
    pub fn forget_entry(&self, key: &FlowKey) -> Result<(), SandboxError> {
        for table in [Table::Confirmed, Table::HalfOpen] {
            sys::delete(self.datapath.table(table), key)
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
}
