//! The states of all targets that are checked.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use super::{Fault, TargetKey, machine::Machine};
use crate::{
    api::types::{CheckCounts, Endpoint, Forward, Health, HealthSummary, Span, TargetHealth, TargetState},
    rules::{diff, images::TargetStates, normal::target_key},
};

/// The greatest delay is that of this window and of the one before.
const WINDOW: Duration = Duration::from_secs(15);

/// A target that is checked.
struct Entry {
    name: String,
    forward: Arc<str>,
    key: TargetKey,
    address: Endpoint,
    check: Arc<Health>,
    machine: Machine,
    since: u64,
    last_error: Option<String>,
    took: Option<Duration>,
    transitions: u64,
    /// Its first check is not over.
    fresh: bool,
}

/// A check that is to be done.
pub(super) struct Work {
    /// Number of the target.
    pub(super) target: u64,
    /// What to ask.
    pub(super) check: Arc<Health>,
    /// Whom.
    pub(super) address: IpAddr,
    /// See `address`.
    pub(super) port: u16,
    /// It is the target's first one.
    pub(super) first: bool,
}

/// See the module.
pub(super) struct Board {
    entries: HashMap<u64, Entry>,
    numbers: HashMap<Arc<str>, HashMap<TargetKey, u64>>,
    forwards: HashMap<Arc<str>, CheckCounts>,
    states: TargetStates,
    /// Targets that were down when an earlier agent ended, until rules name them.
    inherited: TargetStates,
    last: u64,
    planned: Vec<(u64, Duration)>,
    under_way: usize,
    window: Option<Instant>,
    delays: [Duration; 2],
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

impl Board {
    pub(super) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            numbers: HashMap::new(),
            forwards: HashMap::new(),
            states: TargetStates::default(),
            inherited: TargetStates::default(),
            last: 0,
            planned: Vec::new(),
            under_way: 0,
            window: None,
            delays: [Duration::ZERO; 2],
        }
    }

    /// Targets that the next rules are to have down.
    pub(super) fn inherit(&mut self, down: TargetStates) {
        self.inherited = down;
    }

    /// Takes over the rules; says whether there are new targets.
    pub(super) fn follow(&mut self, forwards: &[Forward], now: Instant) -> bool {
        let mut old = std::mem::take(&mut self.numbers);
        let mut old_checks = std::mem::take(&mut self.forwards);
        for forward in forwards {
            let Some(check) = &forward.health else { continue };
            let (name, mut known) = old
                .remove_entry(forward.name.as_str())
                .unwrap_or_else(|| (Arc::from(forward.name.as_str()), HashMap::new()));
            let check = known
                .values()
                .find_map(|number| {
                    Some(Arc::clone(&self.entries.get(number)?.check)).filter(|old| **old == *check)
                })
                .unwrap_or_else(|| Arc::new(check.clone()));
            let mut numbers = HashMap::with_capacity(forward.targets.len());
            for target in &forward.targets {
                let key = target_key(&target.address);
                let number = match known.remove(&key) {
                    Some(number) => {
                        if let Some(entry) = self.entries.get_mut(&number) {
                            entry.check = Arc::clone(&check);
                            entry.address = target.address;
                        }
                        number
                    }
                    None => self.add(&name, forward, &target.address, &check),
                };
                numbers.insert(key, number);
            }
            self.forget(&name, known);
            let checks = old_checks.remove(&name).unwrap_or_default();
            self.forwards.insert(Arc::clone(&name), checks);
            self.numbers.insert(name, numbers);
        }
        for (name, known) in old {
            self.forget(&name, known);
        }
        self.inherited = TargetStates::default();
        for entry in self.entries.values().filter(|entry| entry.machine.is_down()) {
            self.states.set(&entry.forward, entry.key, true);
        }
        self.window.get_or_insert(now);
        !self.planned.is_empty()
    }

    fn add(&mut self, name: &Arc<str>, forward: &Forward, address: &Endpoint, check: &Arc<Health>) -> u64 {
        self.last += 1;
        let down = self.inherited.is_down(forward, address);
        let entry = Entry {
            name: diff::target_name(&forward.name, address),
            forward: Arc::clone(name),
            key: target_key(address),
            address: *address,
            check: Arc::clone(check),
            machine: if down { Machine::down() } else { Machine::new() },
            since: unix_now(),
            last_error: down.then(|| "down when the agent started".to_owned()),
            took: None,
            transitions: 0,
            fresh: true,
        };
        self.entries.insert(self.last, entry);
        self.planned.push((self.last, check.interval.duration()));
        self.last
    }

    fn forget(&mut self, forward: &str, targets: HashMap<TargetKey, u64>) {
        for (key, number) in targets {
            self.entries.remove(&number);
            self.states.set(forward, key, false);
        }
    }

    /// Targets whose first check is to be planned, with their intervals.
    pub(super) fn planned(&mut self) -> Vec<(u64, Duration)> {
        std::mem::take(&mut self.planned)
    }

    /// The check of a target, if that is there still.
    pub(super) fn start(&self, target: u64) -> Option<Work> {
        let entry = self.entries.get(&target)?;
        Some(Work {
            target,
            check: Arc::clone(&entry.check),
            address: entry.address.address,
            port: entry.address.ports.low,
            first: entry.fresh,
        })
    }

    /// Takes in a result. The check that is to be done next, and whether who is down has changed; `None` if the target is
    /// gone.
    pub(super) fn finish(
        &mut self,
        work: &Work,
        result: Result<(), Fault>,
        took: Duration,
        now: Instant,
    ) -> Option<(Arc<Health>, bool)> {
        let entry = self.entries.get_mut(&work.target)?;
        entry.fresh = false;
        entry.took = Some(took);
        let counts = self.forwards.entry(Arc::clone(&entry.forward)).or_default();
        let healthy = match result {
            Ok(()) => {
                counts.healthy += 1;
                true
            }
            Err(Fault::Target(words)) => {
                counts.failed += 1;
                entry.last_error = Some(words);
                false
            }
            Err(Fault::Local(words)) => {
                counts.undone += 1;
                if entry.last_error.as_ref() != Some(&words) {
                    tracing::warn!(
                        target = entry.name,
                        "health check not done, the target stays as it was: {words}"
                    );
                }
                entry.last_error = Some(words);
                return Some((Arc::clone(&entry.check), false));
            }
        };
        let was_down = entry.machine.is_down();
        if let Some(transition) = entry.machine.observe(healthy, now, &entry.check) {
            entry.since = unix_now();
            entry.transitions += 1;
            let (from, to, forward, address) =
                (transition.from, transition.to, &entry.forward, &entry.address);
            let reason = entry.last_error.as_deref().unwrap_or_default();
            match to {
                TargetState::Up if from == TargetState::Unknown => {
                    tracing::debug!(%forward, target = %address, %from, %to, "target checked for the first time");
                }
                TargetState::Up => {
                    tracing::info!(%forward, target = %address, %from, %to, "target is back: {} checks in a row succeeded", entry.check.rise);
                }
                _ => {
                    let held = transition.held.map(|held| {
                        let held = Span::from_millis(u32::try_from(held.as_millis()).unwrap_or(u32::MAX));
                        format!("; it goes up and down, so it is held down for {held} at least")
                    });
                    tracing::warn!(%forward, target = %address, %from, %to, "target is down: {reason}{}", held.unwrap_or_default());
                }
            }
            if to == TargetState::Up {
                entry.last_error = None;
            }
        }
        let down = entry.machine.is_down();
        if down != was_down {
            self.states.set(&entry.forward, entry.key, down);
        }
        Some((Arc::clone(&entry.check), down != was_down))
    }

    /// Notes how late a check begins.
    pub(super) fn late(&mut self, delay: Duration, now: Instant) {
        if self.window.is_none_or(|window| now.duration_since(window) >= WINDOW) {
            self.window = Some(now);
            self.delays = [Duration::ZERO, self.delays[0]];
        }
        self.delays[0] = self.delays[0].max(delay);
    }

    pub(super) fn set_under_way(&mut self, count: usize) {
        self.under_way = count;
    }

    pub(super) fn states(&self) -> &TargetStates {
        &self.states
    }

    /// See [`super::Checks::targets`].
    pub(super) fn targets(&self, forward: &str, now: Instant) -> Vec<(TargetKey, TargetHealth)> {
        let numbers = self.numbers.get(forward).into_iter().flatten();
        numbers
            .filter_map(|(key, number)| {
                let entry = self.entries.get(number)?;
                let health = TargetHealth {
                    state: entry.machine.state(now),
                    since: entry.since,
                    last_error: entry.last_error.clone(),
                    check_microseconds: entry
                        .took
                        .map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
                    transitions: entry.transitions,
                };
                Some((*key, health))
            })
            .collect()
    }

    pub(super) fn forward(&self, forward: &str) -> CheckCounts {
        self.forwards.get(forward).copied().unwrap_or_default()
    }

    pub(super) fn summary(&self) -> HealthSummary {
        let delay = self.delays[0].max(self.delays[1]);
        HealthSummary {
            targets: self.entries.len() as u64,
            down: self.states.count() as u64,
            under_way: self.under_way as u64,
            delay_milliseconds: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
