//! When which target is checked: a heap of times, one entry a target.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use crate::api::types::Health;

/// First checks of new targets are so far apart, unless an interval is too short for it.
const APART: Duration = Duration::from_millis(1);

/// The times.
pub(super) struct Schedule {
    heap: BinaryHeap<Reverse<(Instant, u64)>>,
    random: Random,
}

impl Schedule {
    pub(super) fn new() -> Self {
        Self { heap: BinaryHeap::new(), random: Random::new() }
    }

    /// Plans the first checks of targets: soon, but never all at once.
    pub(super) fn first(&mut self, now: Instant, targets: &[(u64, Duration)]) {
        let count = targets.len() as u32;
        for (at, (target, interval)) in (0..count).zip(targets) {
            let step = APART.min(*interval / count);
            self.heap.push(Reverse((now + step * at, *target)));
        }
    }

    /// Plans the check after one that was planned for `due`. `first`: it was a target's first one.
    pub(super) fn next(&mut self, target: u64, due: Instant, now: Instant, first: bool, check: &Health) {
        let interval = check.interval.duration();
        let pause = if first {
            // Targets that came together part here.
            interval / 2 + interval.mul_f64(self.random.unit() / 2.0)
        } else {
            let jitter = f64::from(check.jitter) / 100.0;
            interval.mul_f64(1.0 + jitter * (self.random.unit() * 2.0 - 1.0))
        };
        // What is late is not made up for.
        self.heap.push(Reverse(((due + pause).max(now), target)));
    }

    /// When the next check is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    /// The next check that is due by `now`.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, u64)> {
        self.due().filter(|due| *due <= now)?;
        self.heap.pop().map(|Reverse(entry)| entry)
    }
}

/// Random numbers that nobody has to find hard to guess (SplitMix64).
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::HealthKind;

    #[test]
    fn checks_are_spread_from_the_start_and_stay_so() {
        const TARGETS: u64 = 10_000;
        let check = Health::new(HealthKind::Tcp);
        let interval = check.interval.duration();
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        let targets: Vec<_> = (0..TARGETS).map(|target| (target, interval)).collect();
        schedule.first(start, &targets);
        let mut seen = vec![0_u32; TARGETS as usize];
        // In each of 50 slices of an interval a fiftieth is checked, give or take some.
        for slice in 0..500_u32 {
            let now = start + interval / 50 * (slice + 1);
            let mut count = 0;
            while let Some((due, target)) = schedule.pop(now) {
                let first = seen[target as usize] == 0;
                seen[target as usize] += 1;
                schedule.next(target, due, due, first, &check);
                count += 1;
            }
            // While the first ones go on, the second ones begin.
            let most = if slice < 100 { 500 } else { 300 };
            assert!((90..=most).contains(&count) || (50..75).contains(&slice), "{count} in slice {slice}");
        }
        assert!(seen.iter().all(|count| (8..=13).contains(count)), "{:?}", seen.iter().max());
    }

    #[test]
    fn few_targets_are_checked_at_once_and_late_ones_are_not_made_up_for() {
        let check = Health { jitter: 0, ..Health::new(HealthKind::Tcp) };
        let interval = check.interval.duration();
        let (mut schedule, start) = (Schedule::new(), Instant::now());
        schedule.first(start, &[(1, interval), (2, interval)]);
        assert_eq!(Some((start, 1)), schedule.pop(start));
        assert_eq!((None, Some(start + APART)), (schedule.pop(start), schedule.due()));
        schedule.pop(start + APART);
        schedule.next(1, start, start + interval * 3, false, &check);
        assert_eq!(Some(start + interval * 3), schedule.due());
        schedule.pop(start + interval * 3);
        schedule.next(1, start, start, false, &check);
        assert_eq!(Some(start + interval), schedule.due());
    }
}
