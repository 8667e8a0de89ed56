//! Health checks of targets: who asks when, what becomes of the answers, and what is told of them.
//!
//! One task holds the times of all checks in a heap ([`schedule`]); a check under way is a task of its own ([`mod@probe`]), of which
//! there are no more than a bound. [`machine`] says what results mean. The [`board`] holds the states: the engine reads there who
//! is down, and `target list`, metrics and status what to show.

mod board;
mod machine;
mod probe;
mod schedule;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

use crate::{
    api::types::{CheckCounts, Forward, HealthSummary, TargetHealth},
    rules::images::TargetStates,
};
use board::{Board, Work};
use probe::{Fault, probe};
use schedule::Schedule;

/// Checks that may be under way at once, as long as half of the files that the process may open are as many.
const MOST_AT_ONCE: usize = 8192;
/// Checks that are later than that are told, at most once in [`TELL_EVERY`]; but never earlier than half of their interval.
const LATE: Duration = Duration::from_secs(1);
/// See [`LATE`].
const TELL_EVERY: Duration = Duration::from_secs(60);

/// Address and first port of a target ([`crate::rules::normal::target_key`]).
pub type TargetKey = (IpAddr, u16);

/// Handle to the checks.
#[derive(Clone)]
pub struct Checks {
    inner: Arc<Inner>,
}

struct Inner {
    board: Mutex<Board>,
    /// There are targets whose first check is to be planned.
    planned: Notify,
    /// Counts changes of who is down.
    changes: watch::Sender<u64>,
    most_at_once: usize,
}

impl Inner {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a check under way leaves behind.
struct Done {
    work: Work,
    due: Instant,
    result: Result<(), Fault>,
    took: Duration,
}

impl Checks {
    /// No checks yet.
    pub fn new() -> Self {
        let inner = Inner {
            board: Mutex::new(Board::new()),
            planned: Notify::new(),
            changes: watch::Sender::new(0),
            most_at_once: most_at_once(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Targets that were down when an earlier agent ended: with the rules that come next they stay so until their checks say
    /// otherwise.
    pub fn inherit(&self, down: TargetStates) {
        self.inner.board().inherit(down);
    }

    /// Starts the task.
    pub fn spawn(&self) -> JoinHandle<()> {
        tokio::spawn(run(Arc::clone(&self.inner)))
    }

    /// Takes over the rules: targets that stay keep their state, also if their check is another one now.
    pub fn follow(&self, forwards: &[Forward]) {
        if self.inner.board().follow(forwards, Instant::now()) {
            self.inner.planned.notify_one();
        }
    }

    /// Becomes a larger number each time that a target goes down or comes back.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Who is down now.
    pub fn states(&self) -> TargetStates {
        self.inner.board().states().clone()
    }

    /// What is known of the targets of a forward that is checked; empty if it is not.
    pub fn targets(&self, forward: &str) -> Vec<(TargetKey, TargetHealth)> {
        self.inner.board().targets(forward, Instant::now())
    }

    /// Counters of a forward's checks.
    pub fn forward(&self, forward: &str) -> CheckCounts {
        self.inner.board().forward(forward)
    }

    /// How the checks get on.
    pub fn summary(&self) -> HealthSummary {
        self.inner.board().summary()
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}

/// Half of the files that the process may open.
fn most_at_once() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    // The soft limit is low for the sake of select(2), which is used nowhere here.
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, hard)| {
        match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(_) => soft,
        }
    });
    usize::try_from(files / 2).unwrap_or(MOST_AT_ONCE).clamp(16, MOST_AT_ONCE)
}

async fn run(inner: Arc<Inner>) {
    let (done, mut results) = mpsc::unbounded_channel();
    let mut schedule = Schedule::new();
    let (mut under_way, mut told) = (0, None);
    loop {
        let due = schedule.due().filter(|_| under_way < inner.most_at_once);
        tokio::select! {
            () = inner.planned.notified() => {
                let targets = inner.board().planned();
                schedule.first(Instant::now(), &targets);
            }
            Some(result) = results.recv() => {
                let mut next = Some(result);
                let mut board = inner.board();
                let mut changed = false;
                while let Some(result) = next {
                    under_way -= 1;
                    changed |= finish(&mut board, &mut schedule, result);
                    next = results.try_recv().ok();
                }
                board.set_under_way(under_way);
                drop(board);
                if changed {
                    inner.changes.send_modify(|count| *count += 1);
                }
            }
            () = async { match due { Some(due) => tokio::time::sleep_until(due).await, None => std::future::pending().await } } => {}
        }
        let now = Instant::now();
        let mut board = inner.board();
        while under_way < inner.most_at_once
            && let Some((due, target)) = schedule.pop(now)
        {
            // A target that is gone has an entry left.
            let Some(work) = board.start(target) else { continue };
            under_way += 1;
            let late = now.duration_since(due);
            board.late(late, now);
            if late > LATE.max(work.check.interval.duration() / 2)
                && told.is_none_or(|told| now.duration_since(told) > TELL_EVERY)
            {
                told = Some(now);
                tracing::warn!(
                    late = ?late, under_way,
                    "health checks fall behind: targets that fail are found later; use longer intervals or shorter timeouts"
                );
            }
            let done = done.clone();
            tokio::spawn(async move {
                let started = Instant::now();
                let result = probe(&work.check, work.address, work.port).await;
                // Nobody listens any more when the agent ends.
                let _ = done.send(Done { work, due, result, took: started.elapsed() });
            });
        }
        board.set_under_way(under_way);
    }
}

/// Takes in a result and plans the next check; says whether who is down has changed.
fn finish(board: &mut Board, schedule: &mut Schedule, done: Done) -> bool {
    let Done { work, due, result, took } = done;
    let now = Instant::now();
    let Some((next, changed)) = board.finish(&work, result, took, now) else { return false };
    schedule.next(work.target, due, now, work.first, &next);
    changed
}

#[cfg(test)]
mod tests;
