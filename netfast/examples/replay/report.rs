//! What a replay found, for people and as JSON.

use std::{collections::BTreeMap, fmt};

use netfast_common::{Reason, Verdict};
use serde::Serialize;

/// Version of the JSON form.
const SCHEMA_VERSION: u32 = 1;

/// The whole report. The JSON form is stable: keys are added, never changed.
#[derive(Debug, Serialize)]
pub struct Report {
    schema_version: u32,
    /// Frames in the file.
    pub frames: u64,
    /// Frames that were not run.
    pub skipped: u64,
    /// Frames by verdict; `aborted` only if there are any.
    verdicts: BTreeMap<&'static str, u64>,
    /// Frames by reason.
    reasons: BTreeMap<&'static str, u64>,
    /// What must not be.
    pub violations: Vec<Violation>,
    /// Skipped frames by why.
    skipped_because: BTreeMap<&'static str, u64>,
    /// The second look at each frame, as if it was addressed to another station.
    #[serde(skip_serializing_if = "Option::is_none")]
    other_station: Option<Counts>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A rule that a frame broke.
#[derive(Debug, Serialize)]
pub struct Violation {
    /// Number of the frame in the file, from 1.
    pub frame: u64,
    /// Which rule: a word.
    pub kind: &'static str,
    /// What was seen.
    pub detail: String,
}

/// Counts of one way of looking at the frames.
#[derive(Debug, Default, Serialize)]
pub struct Counts {
    verdicts: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Counts a frame.
    pub fn add(&mut self, verdict: Option<Verdict>, reason: Option<Reason>) {
        *self.verdicts.entry(verdict.map_or("aborted", Verdict::label)).or_default() += 1;
        if let Some(reason) = reason {
            *self.reasons.entry(reason.label()).or_default() += 1;
        }
    }
}

impl Report {
    /// An empty report. `frames`: how many are in the file.
    pub fn new(frames: usize, notes: Vec<String>) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            frames: frames as u64,
            skipped: 0,
            verdicts: BTreeMap::new(),
            reasons: BTreeMap::new(),
            violations: Vec::new(),
            skipped_because: BTreeMap::new(),
            other_station: None,
            notes,
        }
    }

    /// A frame that is not run.
    pub fn skip(&mut self, why: &'static str) {
        self.skipped += 1;
        *self.skipped_because.entry(why).or_default() += 1;
    }

    /// The counts of the run that counts, and of the second look.
    pub fn finish(&mut self, counts: Counts, other_station: Option<Counts>) {
        let all = Verdict::ALL.map(|verdict| (verdict.label(), 0));
        self.verdicts = all.into_iter().chain(counts.verdicts).collect();
        self.reasons = counts.reasons;
        self.other_station = other_station;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        writeln!(f, "{} frames, {} skipped", self.frames, self.skipped)?;
        for (why, count) in &self.skipped_because {
            writeln!(f, "  {count:>9}  {why}")?;
        }
        writeln!(f, "by verdict")?;
        for (verdict, count) in &self.verdicts {
            writeln!(f, "  {count:>9}  {verdict}")?;
        }
        writeln!(f, "by reason")?;
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (label, count) in reasons {
            let help = Reason::ALL.iter().find(|reason| reason.label() == *label).map_or("", |r| r.help());
            writeln!(f, "  {count:>9}  {label:<18}  {help}")?;
        }
        if let Some(counts) = &self.other_station {
            let counts: Vec<_> =
                counts.verdicts.iter().map(|(verdict, count)| format!("{count} {verdict}")).collect();
            writeln!(f, "addressed to another station: {}", counts.join(", "))?;
        }
        if self.violations.is_empty() {
            return writeln!(f, "no violations");
        }
        writeln!(f, "{} violations", self.violations.len())?;
        for violation in &self.violations {
            writeln!(f, "  frame {}: {}: {}", violation.frame, violation.kind, violation.detail)?;
        }
        Ok(())
    }
}
