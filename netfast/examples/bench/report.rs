//! The report, for a person and as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::measure::{Measured, median};

/// What was measured.
pub struct Report {
    results: Vec<Measured>,
    verified: Vec<(String, u32)>,
    aa: f64,
}

impl Report {
    /// Gathers the results.
    pub fn new(results: Vec<Measured>, verified: Vec<(String, u32)>) -> Self {
        let aa = median(&mut results.iter().map(|r| r.aa).collect::<Vec<_>>());
        Self { results, verified, aa }
    }

    /// Whether the machine was steady enough for the figures to mean something.
    pub fn is_valid(&self) -> bool {
        (0.97..=1.03).contains(&self.aa)
    }

    /// The form that is kept stable.
    pub fn json(&self) -> Value {
        let number = |x: f64| if x.is_finite() { json!((x * 1000.0).round() / 1000.0) } else { Value::Null };
        json!({
            "schema": 1,
            "machine": machine(),
            "aa_ratio": number(self.aa),
            "void": !self.is_valid(),
            "verified_instructions": self.verified.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
            "results": self.results.iter().map(|r| json!({
                "name": r.name,
                "flows": r.flows,
                "ns": number(r.ns),
                "net_ns": number(r.net_ns),
                "floor_ns": number(r.floor_ns),
                "mpps": number(1000.0 / r.ns),
                "ratio_to": if r.ratio.is_finite() { json!("prog/ref_hash_dnat") } else { Value::Null },
                "ratio": number(r.ratio),
            })).collect::<Vec<_>>(),
        })
    }
}

/// What it was measured on.
pub fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo").lines().find_map(|line| {
        line.strip_prefix("model name").map(|rest| rest.trim_start_matches([' ', '\t', ':']).to_owned())
    });
    json!({
        "cpu": model,
        "cpus": std::thread::available_parallelism().map_or(0, usize::from),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<20} {:>9} {:>9} {:>9} {:>9} {:>10}",
            "case", "flows", "ns", "net ns", "floor ns", "x reference"
        )?;
        for r in &self.results {
            let ratio = if r.ratio.is_finite() { format!("{:.2}", r.ratio) } else { "-".to_owned() };
            writeln!(
                f,
                "{:<20} {:>9} {:>9.1} {:>9.1} {:>9.1} {:>10}",
                r.name, r.flows, r.ns, r.net_ns, r.floor_ns, ratio
            )?;
        }
        writeln!(f)?;
        for (name, count) in &self.verified {
            writeln!(f, "{name:<20} {count:>9} instructions verified")?;
        }
        writeln!(f)?;
        writeln!(f, "{}", verdict(&json!((self.aa * 1000.0).round() / 1000.0)))
    }
}

/// Whether a run with such an A/A ratio means anything, as a sentence.
pub fn verdict(aa: &Value) -> String {
    match aa.as_f64() {
        Some(ratio) if (0.97..=1.03).contains(&ratio) => format!("A/A ratio {ratio:.3}: valid"),
        Some(ratio) => {
            format!("A/A ratio {ratio:.3}, outside 0.97 to 1.03: the machine is too noisy, this run is VOID")
        }
        None => "no A/A control: this run is VOID".to_owned(),
    }
}
