//! What a target's checks make of it: a pure function of their results and times.
//!
//! `fall` failures in a row take a target out, `rise` successes bring it back. A target that goes down again and again soon
//! after it came back is held down for longer each time: each change moves flows, which costs more than the target is worth.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::types::{Health, TargetState};

/// A target that stays up for so many intervals is steady: what was before is forgotten.
pub const STEADY_INTERVALS: u32 = 60;
/// Returns to "down" within that time after which a target is held down.
pub const RELAPSES: u32 = 2;
/// Longest time that a target is held down, unless four intervals are longer.
pub const LONGEST_HOLD: Duration = Duration::from_secs(300);

/// The state of a target.
#[derive(Clone, Debug)]
pub struct Machine {
    state: Found,
    /// Results in a row that contradict the state, or all alike while it is unknown.
    run: u16,
    /// How often it has gone down without having been steady before.
    relapses: u32,
    /// When it last came up.
    up_since: Option<Instant>,
    /// Until when it is held down.
    held_until: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    Unknown,
    Up,
    Down,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// State before.
    pub from: TargetState,
    /// State after.
    pub to: TargetState,
    /// How long it is held down at least, if it is.
    pub held: Option<Duration>,
}

impl Machine {
    /// A target that nobody has checked: it counts as healthy.
    pub const fn new() -> Self {
        Self { state: Found::Unknown, run: 0, relapses: 0, up_since: None, held_until: None }
    }

    /// A target that was down when an earlier agent ended.
    pub const fn down() -> Self {
        Self { state: Found::Down, ..Self::new() }
    }

    /// Whether it gets no new flows.
    pub fn is_down(&self) -> bool {
        self.state == Found::Down
    }

    /// Its state in a word.
    pub fn state(&self, now: Instant) -> TargetState {
        match self.state {
            Found::Unknown => TargetState::Unknown,
            Found::Up => TargetState::Up,
            Found::Down if self.held_until.is_some_and(|until| now < until) => TargetState::Flapping,
            Found::Down => TargetState::Down,
        }
    }

    /// Takes in a result.
    pub fn observe(&mut self, healthy: bool, now: Instant, check: &Health) -> Option<Transition> {
        let from = self.state(now);
        let agrees = match self.state {
            Found::Unknown => false,
            Found::Up => healthy,
            Found::Down => !healthy,
        };
        if agrees {
            self.run = 0;
            return None;
        }
        if self.state == Found::Unknown && healthy {
            // It may have been up for long.
            (self.state, self.run) = (Found::Up, 0);
            return Some(Transition { from, to: TargetState::Up, held: None });
        }
        self.run = self.run.saturating_add(1);
        if !healthy && self.run >= check.fall {
            let held = self.go_down(now, check.interval.duration());
            return Some(Transition { from, to: self.state(now), held });
        }
        if healthy && self.run >= check.rise && self.held_until.is_none_or(|until| until <= now) {
            self.come_up(now);
            return Some(Transition { from, to: TargetState::Up, held: None });
        }
        None
    }

    fn come_up(&mut self, now: Instant) {
        (self.state, self.run, self.up_since, self.held_until) = (Found::Up, 0, Some(now), None);
    }

    fn go_down(&mut self, now: Instant, interval: Duration) -> Option<Duration> {
        let steady = interval * STEADY_INTERVALS;
        match self.up_since {
            // Nobody knows since when it was up.
            None => self.relapses = 0,
            Some(since) if now.duration_since(since) >= steady => self.relapses = 0,
            Some(_) => self.relapses = self.relapses.saturating_add(1),
        }
        (self.state, self.run, self.up_since) = (Found::Down, 0, None);
        let hold = hold(self.relapses, interval);
        self.held_until = hold.map(|hold| now + hold);
        hold
    }
}

/// How long a target is held down after so many relapses: four intervals, then twice as long each time.
fn hold(relapses: u32, interval: Duration) -> Option<Duration> {
    let times = relapses.checked_sub(RELAPSES)?;
    let first = interval * 4;
    Some(first.saturating_mul(1 << times.min(16)).min(LONGEST_HOLD.max(first)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::types::HealthKind;

    fn check() -> Health {
        Health::new(HealthKind::Tcp)
    }

    /// A target with a clock that goes on by an interval a check.
    struct Patient {
        machine: Machine,
        check: Health,
        now: Instant,
    }

    impl Patient {
        fn new(check: Health) -> Self {
            Self { machine: Machine::new(), check, now: Instant::now() }
        }

        fn see(&mut self, results: &str) -> Vec<TargetState> {
            let mut states = Vec::new();
            for result in results.chars() {
                self.now += self.check.interval.duration();
                let transition = self.machine.observe(result == '+', self.now, &self.check);
                states.extend(transition.map(|transition| transition.to));
            }
            states
        }
    }

    #[test]
    fn fall_failures_take_a_target_out_and_rise_successes_bring_it_back() {
        use TargetState::{Down, Up};
        let mut target = Patient::new(check());
        assert_eq!(vec![Up], target.see("+++"), "the first success will do");
        assert!(target.see("--+--+--").is_empty(), "never three in a row: {:?}", target.machine);
        assert_eq!(vec![Down], target.see("-"));
        assert!(target.see("--+-+-").is_empty());
        assert_eq!(vec![Up], target.see("++"));
    }

    #[test]
    fn an_unknown_target_counts_as_healthy_until_it_has_failed_as_often_as_another() {
        let mut target = Patient::new(check());
        assert!(target.see("--").is_empty() && !target.machine.is_down());
        assert_eq!(vec![TargetState::Down], target.see("-"));
        assert!(target.machine.is_down());
    }

    #[test]
    fn one_that_was_down_before_the_agent_started_comes_back_as_others_do() {
        let mut target = Patient::new(check());
        target.machine = Machine::down();
        assert!(target.see("+").is_empty() && target.machine.is_down());
        assert_eq!(vec![TargetState::Up], target.see("+"));
    }

    #[test]
    fn a_flapping_target_is_held_down_for_longer_each_time() {
        use TargetState::{Down, Flapping, Up};
        let mut target = Patient::new(check());
        assert_eq!(vec![Up, Down, Up, Down, Up], target.see("+---++---++"), "once is no habit");
        assert_eq!(vec![Flapping], target.see("---"));
        assert!(target.see("+++").is_empty(), "held down");
        assert_eq!(Flapping, target.machine.state(target.now));
        assert_eq!(vec![Up], target.see("+"), "after four intervals");
        assert_eq!(vec![Flapping], target.see("---"));
        assert!(target.see("+++++++").is_empty());
        assert_eq!(vec![Up, Flapping], target.see("+---"), "after eight");
        for _ in 0..20 {
            target.see(&"+".repeat(60));
            target.see("---");
        }
        // Sixty intervals of successes, of which it is held down for a part: never steady, and never held for longer.
        let held = hold(u32::MAX, Duration::from_secs(5)).unwrap();
        assert_eq!(LONGEST_HOLD, held);
        assert_eq!(vec![Up], target.see(&"+".repeat(60)));
        target.see(&"+".repeat(60));
        assert_eq!(vec![Down], target.see("---"), "it was steady for a while: all is forgotten");
    }

    #[test]
    fn holds_follow_the_interval() {
        let second = Duration::from_secs(1);
        assert_eq!([None, None, Some(second * 4), Some(second * 8)], [0, 1, 2, 3].map(|n| hold(n, second)));
        assert_eq!(Some(LONGEST_HOLD), hold(40, second));
        assert_eq!(Some(second * 4000), hold(2, second * 1000), "longer than the bound");
    }

    proptest! {
        /// Against the words of the documentation, said in another way.
        #[test]
        fn any_results(
            results in prop::collection::vec(any::<bool>(), 1..400),
            (rise, fall) in (1_u16..6, 1_u16..6),
        ) {
            let mut target = Patient::new(Health { rise, fall, ..check() });
            let mut down = false;
            for (at, result) in results.iter().enumerate() {
                let before = target.machine.is_down();
                let transition = target.see(if *result { "+" } else { "-" });
                let tail = |count: u16, value: bool| {
                    let count = usize::from(count);
                    at + 1 >= count && results[at + 1 - count..=at].iter().all(|result| *result == value)
                };
                let after = target.machine.is_down();
                if after && !before {
                    prop_assert!(tail(fall, false) && !transition.is_empty());
                } else if before && !after {
                    prop_assert!(tail(rise, true) && transition == [TargetState::Up]);
                } else if !before {
                    prop_assert!(!tail(fall, false), "it should be down");
                }
                // What keeps it down in spite of its successes is the hold alone.
                if after && tail(rise, true) {
                    prop_assert_eq!(TargetState::Flapping, target.machine.state(target.now));
                }
                down |= after;
            }
            prop_assert!(down || results.windows(usize::from(fall)).all(|run| run.contains(&true)));
        }
    }
}
