//! The task that ages flows.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::sleep};

use super::{engine::Engine, state::Shared};

/// Time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(5);
/// A sweep may take this share of the time (one part in so many): large tables are swept less often.
const SHARE: u32 = 10;

/// Sweeps for ever: every [`INTERVAL`], and at once when `now` is notified.
pub(super) async fn run(shared: Arc<Shared>, engine: Engine, now: Arc<Notify>) {
    let mut round = 0u32;
    loop {
        let started = Instant::now();
        let datapath = Arc::clone(&shared.datapath);
        let swept = tokio::task::spawn_blocking(move || datapath.sweep(round)).await;
        round = round.wrapping_add(1);
        match swept {
            Ok(Ok(report)) => {
                if report.removed > 0 {
                    tracing::info!(flows = report.removed, "flows ended, because their forward was removed");
                }
                if report.expired + report.orphans > 0 {
                    tracing::debug!(expired = report.expired, orphans = report.orphans, took = ?report.took, "swept");
                }
                engine.swept(started);
                collect_hops(&shared);
            }
            Ok(Err(error)) => tracing::error!(%error, "flows cannot be aged"),
            Err(error) => tracing::error!(%error, "a sweep failed"),
        }
        let pause = INTERVAL.max(started.elapsed() * SHARE);
        tokio::select! {
            () = sleep(pause) => {}
            () = now.notified() => {}
        }
    }
}

/// Tells the keeper of next hops which ones flows and targets refer to.
fn collect_hops(shared: &Shared) {
    let tally = shared.datapath.tally();
    let targets: Vec<u16> = shared.snapshot.load().ids.targets().map(|target| target.target.index).collect();
    let mut in_use: HashSet<u16> = tally.hops.iter().collect();
    in_use.extend(shared.datapath.target_hops(targets.into_iter()).into_iter().map(|(_, hop, _)| hop));
    shared.netlink.gc(in_use);
}
