//! The table of `bench check`: what it holds, how a row is judged by it, and how several runs make one table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// So much may a ratio be above its budget.
pub const SLACK: f64 = 0.05;
/// The same on another kind of CPU than the table's: caches and prices of instructions differ.
pub const SLACK_ELSEWHERE: f64 = 0.30;
/// Most that the reference may be outside of what it was for the table.
const DRIFT: f64 = 0.10;

/// The committed table.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Table {
    schema: u32,
    /// What it was measured on.
    pub machine: Value,
    /// Case -> flows -> what was measured.
    rows: BTreeMap<String, BTreeMap<u32, Budget>>,
}

/// A row of the table: least and largest of the runs that the table is made of.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq)]
pub struct Budget {
    /// Net time as a ratio to the reference's.
    ratio: [f64; 2],
    /// The reference's net time as a ratio to the floor.
    reference: [f64; 2],
}

/// What a ratio is beside its budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// Below all runs of the table by more than noise.
    Faster,
    Kept,
    Exceeded,
}

impl Budget {
    /// What one run has measured.
    pub fn new(ratio: f64, reference: f64) -> Self {
        let twice = |x: f64| [(x * 1000.0).round() / 1000.0; 2];
        Self { ratio: twice(ratio), reference: twice(reference) }
    }

    /// The largest ratio, which others are judged by.
    pub const fn ratio(&self) -> f64 {
        self.ratio[1]
    }

    /// Whether the reference costs what it did for the table.
    pub fn has_reference(&self, reference: f64) -> bool {
        let [least, largest] = self.reference;
        reference >= least * (1.0 - DRIFT) && reference <= largest * (1.0 + DRIFT)
    }

    /// Judges a ratio.
    pub fn judge(&self, ratio: f64, slack: f64) -> Judgement {
        let [least, largest] = self.ratio;
        if ratio > largest * (1.0 + slack) {
            Judgement::Exceeded
        } else if ratio < least * (1.0 - 2.0 * slack) {
            Judgement::Faster
        } else {
            Judgement::Kept
        }
    }

    /// What this and another run make together.
    fn with(self, other: Self) -> Self {
        let wider = |a: [f64; 2], b: [f64; 2]| [a[0].min(b[0]), a[1].max(b[1])];
        Self { ratio: wider(self.ratio, other.ratio), reference: wider(self.reference, other.reference) }
    }
}

impl Table {
    /// A table without rows.
    pub const fn new(machine: Value) -> Self {
        Self { schema: 2, machine, rows: BTreeMap::new() }
    }

    /// Whether it is of such a CPU.
    pub fn is_of(&self, machine: &Value) -> bool {
        self.machine["cpu"] == machine["cpu"]
    }

    /// A row.
    pub fn budget(&self, case: &str, flows: u32) -> Option<Budget> {
        self.rows.get(case)?.get(&flows).copied()
    }

    /// Takes a row of a new run in place of what was there, or with `raise` beside it.
    pub fn bless(&mut self, case: &str, flows: u32, measured: Budget, raise: bool) {
        let before = self.budget(case, flows).filter(|_| raise);
        let budget = before.map_or(measured, |before| before.with(measured));
        self.rows.entry(case.to_owned()).or_default().insert(flows, budget);
    }

    /// Takes a row out: what it says is of an earlier program.
    pub fn forget(&mut self, case: &str, flows: u32) {
        if let Some(row) = self.rows.get_mut(case) {
            row.remove(&flows);
        }
    }
}
