//! Health of targets: what checks find out comes into the look-up tables.

use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::Owner;
use crate::rules::{compile, images::TargetStates, normal::target_key};

/// After the first change of a target's health others are waited for so long: one publication serves them all.
const COALESCE: Duration = Duration::from_millis(5);

impl Owner {
    /// Targets that get no new flows by what is published were down when the agent before this one ended, and are until their
    /// checks say otherwise. So a restart neither sends clients to dead targets nor takes healthy ones out.
    pub(super) fn inherit_health(&mut self) {
        let mut down = TargetStates::default();
        for forward in self.intent.rules.forwards.iter().filter(|forward| forward.health.is_some()) {
            let Some(id) = self.ids.forward(&forward.name) else { continue };
            let Some(takers) = self.shared.datapath.takers(id.index, id.uid) else { continue };
            // Who drains is in the rules.
            let targets = forward.targets.iter().zip(&id.targets).filter(|(target, _)| !target.drain);
            for (_, target) in targets {
                let is_published = self.shared.datapath.has_target(target.index, target.uid);
                if is_published && !takers.contains(&target.index) {
                    down.set(&forward.name, target_key(&target.address), true);
                }
            }
        }
        if down.count() > 0 {
            tracing::info!(
                targets = down.count(),
                "targets that were down before this start are so until checked"
            );
        }
        self.states = down.clone();
        self.shared.health.inherit(down);
    }

    /// Publishes look-up tables without the targets that are down now.
    pub(super) async fn follow_health(&mut self, changes: &mut watch::Receiver<u64>) {
        tokio::time::sleep(COALESCE).await;
        changes.borrow_and_update();
        let states = self.shared.health.states();
        if states == self.states {
            return;
        }
        let started = Instant::now();
        self.states = states;
        let datapath = &self.shared.datapath;
        let (intent, ids, states, images) = (&self.intent, &self.ids, &self.states, &mut self.images);
        let generation = tokio::task::block_in_place(|| {
            compile::rebalance(intent, ids, states, images);
            datapath.publish(images)
        });
        tracing::debug!(generation, down = self.states.count(), took = ?started.elapsed(), "look-up tables follow health");
        self.snapshot();
    }
}
