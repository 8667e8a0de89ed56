//! From an intent to what the program runs, and the end of what nothing refers to any more.

use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use super::{Owner, Prepared, drain};
use crate::{
    agent::{listeners, optimiser::Better},
    api::types::{ErrorBody, ErrorCode, Intent, Rules},
    datapath::Direction,
    rules::{
        compile,
        ids::{Ids, Kind},
        snat,
    },
    store::Document,
};

impl Owner {
    /// Resolves the next hops of all targets and compiles. `before`: the rules that `intent` comes from, if a person
    /// asked for the change.
    pub(super) async fn prepare(
        &self,
        intent: &Intent,
        before: Option<&Rules>,
    ) -> Result<Prepared, ErrorBody> {
        let mut targets: Vec<IpAddr> = intent
            .rules
            .forwards
            .iter()
            .flat_map(|forward| forward.targets.iter().map(|target| target.address.address))
            // Those of the present that the change takes away keep their flows, and these a way.
            .chain(
                self.ids.targets().filter(|target| target.live).map(|target| target.target.address.address),
            )
            .chain(self.ids.leaving().map(|target| target.target.address.address))
            .collect();
        targets.sort_unstable();
        targets.dedup();
        let view = self.shared.netlink.resolve_targets(&targets).await.map_err(|error| ErrorBody {
            code: ErrorCode::Internal,
            message: error.to_string(),
            field: None,
        })?;
        if let Some(before) = before {
            compile::require_interfaces(before, &intent.rules, &view)?;
            snat::require_host(before, &intent.rules, &view)?;
        }
        let mut ids = self.ids.clone();
        let limits = self.shared.datapath.filter_limits();
        let mut images =
            compile::compile_beside(intent, &mut ids, &view, &self.images, &limits, &self.states)?;
        self.end_flows(&mut images);
        Ok(Prepared { ids, images, view })
    }

    pub(super) fn save(&self, intent: &Intent, ids: &Ids) -> Result<(), ErrorBody> {
        let document = Document::new(intent.clone(), ids.clone());
        let saved = tokio::task::block_in_place(|| self.store.save(&document));
        self.shared.recorder.store_up(saved.is_ok());
        Ok(saved?)
    }

    pub(super) fn publish(&mut self, intent: Intent, prepared: Prepared) {
        let Prepared { ids, images, view } = prepared;
        let datapath = &self.shared.datapath;
        let generation = tokio::task::block_in_place(|| datapath.publish(&images));
        let removed = self.ids.uids().any(|old| ids.uids().all(|new| new != old));
        let now = Instant::now();
        for retired in ids.retired() {
            self.retired_since.entry((retired.kind, retired.index)).or_insert(now);
        }
        for (target, problem) in view.problems() {
            tracing::debug!(%target, %problem, "target without a way");
        }
        if intent.revision != self.applied_revision {
            // The tables of sockets are long: they are read where there is something new to look for.
            if self.applied_revision == 0 || !listeners::same_services(&intent.rules, &self.intent.rules) {
                self.conflicts = listeners::conflicts(&intent.rules);
            }
            tracing::info!(revision = intent.revision, generation, "rules are live");
        }
        self.shared.worked.store(true, Ordering::Relaxed);
        self.applied_revision = intent.revision;
        self.tell_drains(&intent.rules, &images);
        let drains = drain::draining(&intent.rules) != drain::draining(&self.intent.rules);
        if !Arc::ptr_eq(&images.filter.rules, &self.images.filter.rules) {
            self.optimiser.submit(&images.filter, datapath.filter_limits());
        }
        (self.intent, self.ids, self.images) = (intent, ids, images);
        // The same images may be published again.
        self.images.filter_counters_anew.clear();
        self.shared.health.follow(&self.intent.rules.forwards);
        // What ends and what still goes on is told soon: somebody may wait for it.
        if removed || drains {
            self.sweep_now.notify_one();
        }
    }

    /// Publishes better trees of the rules that are live. They mean the same, and so nothing is to be stored.
    pub(super) fn optimised(&mut self, better: Better) {
        let Better { of, compiled, took } = better;
        if !Arc::ptr_eq(&of.rules, &self.images.filter.rules) {
            return;
        }
        let (before, after) = (of.report(), compiled.report());
        self.images.filter = compiled;
        self.shared.worked.store(true, Ordering::Relaxed);
        let datapath = &self.shared.datapath;
        let generation = tokio::task::block_in_place(|| datapath.publish(&self.images));
        tracing::info!(
            generation,
            rules = after.rules,
            trees = after.trees.iter().sum::<u32>(),
            bytes = after.bytes,
            trees_before = before.trees.iter().sum::<u32>(),
            bytes_before = before.bytes,
            ?took,
            "better trees for the filter are live"
        );
    }

    /// Publishes the same rules again, because the ways to their targets may be others now.
    pub(super) async fn republish(&mut self) {
        let result = match self.prepare(&self.intent, None).await {
            // Identifiers are stored before a packet can meet them.
            Ok(prepared) if prepared.ids != self.ids => {
                self.save(&self.intent, &prepared.ids).map(|()| prepared)
            }
            prepared => prepared,
        };
        match result {
            Ok(prepared) => {
                self.publish(self.intent.clone(), prepared);
                self.host_problem = None;
            }
            Err(error) => {
                tracing::error!("cannot follow a change of the host's routes: {}", error.message);
                self.host_problem = Some(format!("routes are not followed: {}", error.message));
            }
        }
    }

    /// Frees indexes that nothing has referred to since before the sweep that began at `started`.
    pub(super) fn release(&mut self, started: Instant) {
        let tally = self.shared.datapath.tally();
        let retired: Vec<_> = self.ids.retired().to_vec();
        let mut released = false;
        for retired in retired {
            let key = (retired.kind, retired.index);
            // After a restart nobody knows since when: from now on.
            if *self.retired_since.entry(key).or_insert_with(Instant::now) >= started {
                continue;
            }
            let used = match retired.kind {
                Kind::Target => tally.targets.contains_key(&retired.index),
                Kind::Forward => tally.forwards.contains_key(&retired.uid),
                Kind::Echo | Kind::Filter => false,
            };
            if used {
                continue;
            }
            if retired.kind == Kind::Target {
                self.keep_counts(retired.index, retired.forward_uid);
                self.shared.datapath.clear_target(retired.index);
            }
            self.retired_since.remove(&key);
            released |= self.ids.release(retired.kind, retired.index);
        }
        if released {
            // Not stored: an agent that starts with the older document releases them again.
            self.snapshot();
        }
    }

    fn keep_counts(&mut self, target: u16, forward_uid: u32) {
        if self.ids.uids().all(|uid| uid != forward_uid) {
            self.gone.remove(&forward_uid);
            return;
        }
        let counters = self.shared.datapath.counters();
        let sums = self.gone.entry(forward_uid).or_default();
        for (sum, direction) in sums.iter_mut().zip([Direction::ToTarget, Direction::ToClient]) {
            let count = counters.target(target, direction);
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
    }
}
