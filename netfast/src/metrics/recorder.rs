//! What only the agent's own process knows: how its changes went, whether its store works.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Upper bounds of the buckets of `netfast_config_apply_duration_seconds`.
pub(super) const BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];

/// Written by the agent, read by the exporter.
#[derive(Debug)]
pub struct Recorder {
    applied: AtomicU64,
    rejected: AtomicU64,
    durations: Mutex<Durations>,
    store_up: AtomicBool,
}

/// A histogram over [`BOUNDS`]; the counts are not cumulative.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Durations {
    pub(super) counts: [u64; BOUNDS.len()],
    pub(super) count: u64,
    pub(super) sum: f64,
}

impl Default for Recorder {
    fn default() -> Self {
        Self {
            applied: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            durations: Mutex::default(),
            store_up: AtomicBool::new(true),
        }
    }
}

impl Recorder {
    /// A change was published, so long after it came.
    pub fn applied(&self, took: Duration) {
        self.applied.fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let mut durations = self.durations.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            durations.counts[bucket] += 1;
        }
        durations.count += 1;
        durations.sum += seconds;
    }

    /// A change was refused.
    pub fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// How the last access to the store ended.
    pub fn store_up(&self, up: bool) {
        self.store_up.store(up, Ordering::Relaxed);
    }

    pub(super) fn applies(&self) -> [(&'static str, u64); 2] {
        [
            ("applied", self.applied.load(Ordering::Relaxed)),
            ("rejected", self.rejected.load(Ordering::Relaxed)),
        ]
    }

    pub(super) fn durations(&self) -> Durations {
        *self.durations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_store_up(&self) -> bool {
        self.store_up.load(Ordering::Relaxed)
    }
}
