//! The better build of the filter: a thread of its own looks for trees that packets go through faster, while the quick ones are
//! live.
//!
//! There is one build at a time, of the newest rules. A commit never waits for it: what is found for rules that are not the
//! live ones any more is thrown away, and a build that is under way for them stops.

use std::{
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::mpsc;

use super::memory;
use crate::classifier::{Compiled, Effort, Limits, compile_while};
use crate::datapath::lowest_priority;

/// So long no change must come before a build begins: while rules change one by one none is worth it.
const CALM: Duration = Duration::from_millis(500);
/// A build that takes longer is given up; the quick trees stay.
const LONGEST: Duration = Duration::from_secs(120);
/// Fewer rules have one tree, and nothing to choose.
const FEW: usize = 64;
/// A new set of trees voids the flow cache: it has to cost less than this part of the live one.
const WORTH: f64 = 0.97;

/// So many rules beside the large trees are worth new ones, whatever they cost: else they become too many while rules come one by
/// one, and one of these changes would have to wait until all is compiled anew.
const BESIDE: usize = 256;

/// Better trees, and the rules that they are of.
pub(super) struct Better {
    /// The set that they are to take the place of.
    pub(super) of: Compiled,
    /// The trees.
    pub(super) compiled: Compiled,
    /// How long it took to find them.
    pub(super) took: Duration,
}

/// The thread's other end. It ends when this does.
pub(super) struct Optimiser {
    desk: Arc<Desk>,
}

#[derive(Default)]
struct Desk {
    job: Mutex<Option<(Compiled, Limits)>>,
    changed: Condvar,
    /// Counts jobs; one that is not the newest is not worth going on with.
    serial: AtomicU64,
}

/// The serial of the end.
const END: u64 = u64::MAX;

impl Optimiser {
    /// Starts the thread. What it finds comes by the receiver.
    pub(super) fn start() -> (Self, mpsc::Receiver<Better>) {
        let desk = Arc::new(Desk::default());
        let (found, receiver) = mpsc::channel(1);
        let of = Arc::clone(&desk);
        let started = std::thread::Builder::new().name("filter-builder".to_owned()).spawn(move || {
            lowest_priority();
            of.work(&found);
        });
        if let Err(error) = started {
            tracing::warn!(%error, "the filter's trees stay as a commit makes them: no thread for better ones");
        }
        (Self { desk }, receiver)
    }

    /// Has better trees looked for than those of `live`, and no longer for those before.
    pub(super) fn submit(&self, live: &Compiled, limits: Limits) {
        let worth = live.rules.len() > FEW;
        *self.desk.lock() = worth.then(|| (live.clone(), limits));
        self.desk.serial.fetch_add(1, Ordering::SeqCst);
        self.desk.changed.notify_all();
    }
}

impl Drop for Optimiser {
    fn drop(&mut self) {
        self.desk.serial.store(END, Ordering::SeqCst);
        // Whoever looks at the serial before it waits has the lock.
        drop(self.desk.lock());
        self.desk.changed.notify_all();
    }
}

impl Desk {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Compiled, Limits)>> {
        self.job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job, once there has been none after it for a while; `None`: the end.
    fn next(&self) -> Option<(u64, Compiled, Limits)> {
        let mut job = self.lock();
        loop {
            let serial = self.serial.load(Ordering::SeqCst);
            if serial == END {
                return None;
            }
            if job.is_none() {
                job = self.changed.wait(job).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (after, calm) = self.changed.wait_timeout(job, CALM).unwrap_or_else(PoisonError::into_inner);
            job = after;
            if calm.timed_out()
                && self.serial.load(Ordering::SeqCst) == serial
                && let Some((live, limits)) = job.take()
            {
                return Some((serial, live, limits));
            }
        }
    }

    fn work(&self, found: &mpsc::Sender<Better>) {
        while let Some((serial, of, limits)) = self.next() {
            let begin = Instant::now();
            let go_on = || self.serial.load(Ordering::SeqCst) == serial && begin.elapsed() < LONGEST;
            let limits = Limits { effort: Effort::Better, ..limits };
            let Some(Ok(compiled)) = compile_while(&of.rules, &limits, &go_on) else {
                memory::give_back();
                continue;
            };
            let (cost, present) = (compiled.cost(), of.cost());
            tracing::debug!(rules = of.rules.len(), took = ?begin.elapsed(), cost, present, "built the filter once more");
            if (cost < WORTH * present || of.beside() > BESIDE)
                && go_on()
                && found.blocking_send(Better { of, compiled, took: begin.elapsed() }).is_err()
            {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::classifier::{Addresses, Ports, Rule, compile};

    /// Rules of all four groups, so that there is something to choose.
    fn rules(count: u32) -> Vec<Rule> {
        let v4 = |first: u32, host: u32| Addresses::V4 { first, last: first + host };
        (0..count)
            .map(|number| {
                let narrow = v4(0x0a00_0000 + number * 256, 255);
                let wide = v4((number % 40) << 24, 0x01ff_ffff);
                let (source, destination) = match number % 4 {
                    0 => (narrow, wide),
                    1 => (wide, narrow),
                    2 => (narrow, narrow),
                    _ => (wide, wide),
                };
                let port = (number % 5000) as u16;
                let ports = Ports::Ports { source: [0, u16::MAX], destination: [port, port + 3] };
                Rule { number, version: 4, source, destination, protocol: Some(6), ports, ..Rule::default() }
            })
            .collect()
    }

    #[test]
    fn better_trees_of_the_newest_rules_come_back() {
        let limits = Limits::default();
        let (optimiser, mut found) = Optimiser::start();
        let first = compile(&rules(400), &limits).unwrap();
        let second = compile(&rules(600), &limits).unwrap();
        optimiser.submit(&first, limits);
        optimiser.submit(&second, limits);
        let better = found.blocking_recv().unwrap();
        assert!(Arc::ptr_eq(&better.of.rules, &second.rules));
        assert_eq!(better.of.rules, better.compiled.rules);
        assert!(better.compiled.cost() < better.of.cost());
        drop(optimiser);
        assert!(found.blocking_recv().is_none(), "the thread has ended");
    }
}
