//! The report, for a person and as JSON.

use std::fmt;

use serde_json::{Value, json};

use crate::{
    measure::{Measured, median},
    output::{self, number},
};

/// The case that the others' ratios are to.
pub const REFERENCE: &str = "prog/ref_hash_dnat";

/// What a mark is about.
enum Figure {
    /// Nanoseconds net of the empty program.
    Net,
    /// Ratio to the reference.
    Ratio,
    /// Ratio of the net times of this case and another, with as many flows.
    To(&'static str),
}

/// Marks: case, flows, figure, at most.
const MARKS: &[(&str, u32, Figure, f64)] = &[
    ("prog/echo", 1024, Figure::Net, 10.0),
    ("prog/nat_hit", 1024, Figure::Net, 25.0),
    ("prog/nat_hit", 1024, Figure::Ratio, 0.30),
    ("prog/nat_hit", 8192, Figure::Ratio, 0.45),
    ("prog/nat_hit", 32_768, Figure::Ratio, 0.40),
    ("prog/nat_hit", 1_048_576, Figure::Ratio, 0.50),
    ("prog/nat6_hit", 1024, Figure::To("prog/nat_hit"), 1.4),
    ("prog/nat_new", 131_072, Figure::Net, 1500.0),
];

/// A mark, and the figure that this run has for it.
struct Mark {
    of: &'static str,
    flows: u32,
    figure: String,
    value: f64,
    at_most: f64,
    /// The row's own A/A control has failed.
    is_void: bool,
}

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
        is_steady(self.aa)
    }

    /// The marks that this run has figures for.
    fn marks(&self) -> Vec<Mark> {
        let row = |name: &str, flows: u32| self.results.iter().find(|r| r.name == name && r.flows == flows);
        let figure = |(name, flows, figure, at_most): &(&'static str, u32, Figure, f64)| {
            let found = row(name, *flows)?;
            let (what, value) = match figure {
                Figure::Net => ("net ns".to_owned(), found.net_ns),
                Figure::Ratio => (format!("x {REFERENCE}"), found.ratio),
                Figure::To(other) => (format!("x {other}"), found.net_ns / row(other, *flows)?.net_ns),
            };
            let is_void = !is_steady(found.aa);
            value.is_finite().then_some(Mark {
                of: name,
                flows: *flows,
                figure: what,
                value,
                at_most: *at_most,
                is_void,
            })
        };
        MARKS.iter().filter_map(figure).collect()
    }

    /// The form that is kept stable.
    pub fn json(&self) -> Value {
        let row = |r: &Measured| {
            json!({
                "name": r.name,
                "flows": r.flows,
                "ns": number(r.ns),
                "net_ns": number(r.net_ns),
                "floor_ns": number(r.floor_ns),
                "mpps": number(1000.0 / r.ns),
                "ratio_to": r.ratio.is_finite().then_some(REFERENCE),
                "ratio": number(r.ratio),
                "aa": number(r.aa),
                "void": !is_steady(r.aa),
            })
        };
        let mark = |mark: Mark| {
            json!({
                "of": mark.of, "flows": mark.flows, "figure": mark.figure, "value": number(mark.value),
                "at_most": mark.at_most, "met": mark.value <= mark.at_most, "void": mark.is_void,
            })
        };
        let marks = self.marks().into_iter().map(mark).collect();
        let mut document = output::document(self.aa, self.results.iter().map(row).collect(), marks);
        let verified = self.verified.iter().cloned().collect::<std::collections::BTreeMap<_, _>>();
        document["verified_instructions"] = json!(verified);
        document
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
        // Not `available_parallelism`: we may be pinned.
        "cpus": read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
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
            let void = if is_steady(r.aa) { String::new() } else { format!("  void: A/A ratio {:.3}", r.aa) };
            writeln!(
                f,
                "{:<20} {:>9} {:>9.1} {:>9.1} {:>9.1} {:>10}{void}",
                r.name, r.flows, r.ns, r.net_ns, r.floor_ns, ratio
            )?;
        }
        writeln!(f)?;
        for (name, count) in &self.verified {
            writeln!(f, "{name:<20} {count:>9} instructions verified")?;
        }
        writeln!(f)?;
        for Mark { of, flows, figure, value, at_most, is_void } in self.marks() {
            let met = match value <= at_most {
                _ if is_void => "void",
                true => "met",
                false => "MISSED",
            };
            writeln!(f, "{of} with {flows} flows: {value:.2} {figure} (mark: at most {at_most}): {met}")?;
        }
        writeln!(f)?;
        writeln!(f, "{}", verdict(&self.json()))
    }
}

/// Whether the run of a document means anything, as a sentence.
pub fn verdict(document: &Value) -> String {
    match document["aa_ratio"].as_f64() {
        Some(ratio) if is_steady(ratio) => format!("A/A ratio {ratio:.3}: valid"),
        Some(ratio) => {
            format!("A/A ratio {ratio:.3}, outside 0.97 to 1.03: the machine is too noisy, this run is VOID")
        }
        None if document["void"] == true => "no A/A control: this run is VOID".to_owned(),
        None => "Times of single actions, without an A/A control".to_owned(),
    }
}

/// Whether a machine was steady, by the ratio of equal turns.
pub fn is_steady(aa: f64) -> bool {
    (0.97..=1.03).contains(&aa)
}

/// One document of several: results and marks behind each other; void if any is, its A/A ratio the one that is farthest from 1.
pub fn merge(parts: &[Value]) -> Value {
    let list = |key: &str| -> Vec<Value> {
        parts.iter().filter_map(|part| part[key].as_array()).flatten().cloned().collect()
    };
    let farthest = parts.iter().filter_map(|part| part["aa_ratio"].as_f64()).max_by(|a, b| {
        let off = |ratio: &f64| ratio.ln().abs();
        off(a).total_cmp(&off(b))
    });
    // `prog` of `prog/echo`.
    let void: Vec<&str> = parts
        .iter()
        .filter(|part| part["void"] == true)
        .filter_map(|part| part["results"][0]["name"].as_str()?.split('/').next())
        .collect();
    let machine = parts.iter().map(|part| &part["machine"]).find(|machine| !machine.is_null());
    json!({
        "schema": 1,
        "machine": machine.cloned().unwrap_or_else(self::machine),
        "aa_ratio": farthest,
        "void": parts.iter().any(|part| part["void"] == true),
        "void_parts": void,
        "results": list("results"),
        "marks": list("marks"),
    })
}
