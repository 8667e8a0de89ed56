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
/// The pause after a sweep is so many times as long as the sweep: large tables are swept less often, so that ageing takes
/// less than 2 % of a CPU. What is dead is so for the program at once; the sweep makes room and counts.
pub(super) const PAUSE: u32 = 70;
/// The same while many flows die, or the table of confirmed flows would be full before a sweep after [`PAUSE`].
const SHORT_PAUSE: u32 = 10;

/// Sweeps for ever: every [`INTERVAL`], and at once when `now` is notified.
pub(super) async fn run(shared: Arc<Shared>, engine: Engine, now: Arc<Notify>) {
    let mut round = 0u32;
    let mut pause = SHORT_PAUSE;
    let mut before = 0;
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
                let tally = shared.datapath.tally();
                let (confirmed_max, _) = shared.datapath.capacity();
                pause = pause_after(report.expired + report.removed, before, tally.confirmed, confirmed_max);
                before = tally.confirmed;
                engine.swept(started);
                collect_hops(&shared);
            }
            Ok(Err(error)) => tracing::error!(%error, "flows cannot be aged"),
            Err(error) => tracing::error!(%error, "a sweep failed"),
        }
        let pause = INTERVAL.max(started.elapsed() * pause);
        tokio::select! {
            () = sleep(pause) => {}
            () = now.notified() => {}
        }
    }
}

/// How many times as long as the sweep the pause is to be. `dead`: flows that the sweep has taken away; `before`, `confirmed`: flows that
/// the one before it and it have left.
///
/// A table that is nearly full, of flows that stay, gains nothing by being swept often: what counts is how many have come since.
const fn pause_after(dead: u64, before: u64, confirmed: u64, confirmed_max: u64) -> u32 {
    let came = (confirmed + dead).saturating_sub(before);
    let room = confirmed_max.saturating_sub(confirmed);
    let fills = came * (PAUSE / SHORT_PAUSE) as u64 > room;
    if dead > confirmed / 8 || fills { SHORT_PAUSE } else { PAUSE }
}

/// Tells the keeper of next hops which ones flows and targets refer to.
fn collect_hops(shared: &Shared) {
    let tally = shared.datapath.tally();
    let targets: Vec<u16> = shared.snapshot.load().ids.targets().map(|target| target.target.index).collect();
    let mut in_use: HashSet<u16> = tally.hops.iter().collect();
    in_use.extend(shared.datapath.target_hops(targets.into_iter()).into_iter().map(|(_, hop, _)| hop));
    shared.netlink.gc(in_use);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_are_frequent_where_they_make_room() {
        const MILLION: u64 = 1_000_000;
        assert_eq!(PAUSE, pause_after(10, MILLION, MILLION, 2 * MILLION));
        assert_eq!(SHORT_PAUSE, pause_after(200_000, MILLION, MILLION, 2 * MILLION), "a fifth has died");
        assert_eq!(SHORT_PAUSE, pause_after(0, MILLION, 1_600_000, 2 * MILLION), "filling up");
        assert_eq!(SHORT_PAUSE, pause_after(100_000, 1_600_000, 1_600_000, 2 * MILLION), "they come and go");
        assert_eq!(
            PAUSE,
            pause_after(0, 1_990_000, 1_990_000, 2 * MILLION),
            "nearly full, of flows that stay"
        );
        assert_eq!(SHORT_PAUSE, pause_after(0, 1_990_000, 1_993_000, 2 * MILLION), "and of some more");
        assert_eq!(PAUSE, pause_after(0, 0, 0, 2 * MILLION));
    }
}
