//! Targets that get no new flows: for how long their own go on.

use std::{collections::BTreeSet, time::Instant};

use netfast_common::abi::TARGET_ENDS;

use super::Owner;
use crate::{
    api::types::Rules,
    rules::{
        diff,
        ids::Kind,
        images::{Images, Leaving},
    },
};

/// Names of the targets that drain.
pub(super) fn draining(rules: &Rules) -> BTreeSet<String> {
    let forwards = rules.forwards.iter();
    let targets = forwards.flat_map(|forward| forward.targets.iter().map(move |target| (forward, target)));
    let drain = targets.filter(|(_, target)| target.drain);
    drain.map(|(forward, target)| diff::target_name(&forward.name, &target.address)).collect()
}

impl Owner {
    /// Whether a removed target's flows have gone on for long enough. Counted from when this agent first saw that it was
    /// removed.
    fn is_over(&self, leaving: &Leaving) -> bool {
        let since = self.retired_since.get(&(Kind::Target, leaving.index));
        let elapsed = since.map(Instant::elapsed).unwrap_or_default();
        leaving.removed.is_some() && elapsed >= self.drain_timeout
    }

    /// Marks the removed targets whose flows are to end.
    pub(super) fn end_flows(&self, images: &mut Images) {
        for leaving in &mut images.leaving {
            if self.is_over(leaving) {
                leaving.state |= TARGET_ENDS;
            }
        }
    }

    /// Whether the flows of a removed target are to end that still go on.
    pub(super) fn drains_are_over(&self) -> bool {
        self.images.leaving.iter().any(|leaving| leaving.state & TARGET_ENDS == 0 && self.is_over(leaving))
    }

    /// Logs which targets drain from now on, and whose flows end. Called before `rules` and `images` are the present ones.
    pub(super) fn tell_drains(&self, rules: &Rules, images: &Images) {
        let (before, after) = (draining(&self.intent.rules), draining(rules));
        for target in after.difference(&before) {
            tracing::info!(%target, "target drains: it keeps its flows and gets no new ones");
        }
        for target in before.difference(&after) {
            tracing::info!(%target, "target drains no more");
        }
        let ended =
            |uid: u32| self.images.leaving.iter().any(|old| old.uid == uid && old.state & TARGET_ENDS != 0);
        for leaving in images.leaving.iter().filter(|leaving| leaving.state & TARGET_ENDS != 0) {
            if let Some(target) = leaving.removed.as_ref().filter(|_| !ended(leaving.uid)) {
                let after = self.drain_timeout;
                tracing::info!(%target, ?after, "the flows of a removed target end: drain_timeout is over");
            }
        }
    }
}
