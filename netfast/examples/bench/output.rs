//! Where results go, and the form that all of them share.

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::{html, report};

/// What every row of results has; null where it means nothing.
const ROW: [&str; 8] = ["name", "flows", "ns", "net_ns", "floor_ns", "mpps", "ratio_to", "ratio"];

/// Files that results are written to.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Output {
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write them as a page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Output {
    /// Fails if a file cannot be written. To be asked before anything is measured: some runs take many minutes.
    pub fn check(&self) -> Result<()> {
        for path in self.json.iter().chain(&self.html) {
            let is_new = !path.exists();
            // Nothing is cut off yet: results of an earlier run stay if this one fails.
            OpenOptions::new().append(true).create(true).open(path).with_context(|| cannot_write(path))?;
            if is_new {
                std::fs::remove_file(path).with_context(|| cannot_write(path))?;
            }
        }
        Ok(())
    }

    /// Writes results in the forms that are asked for.
    pub fn write(&self, mut document: Value) -> Result<()> {
        complete(&mut document);
        if let Some(path) = &self.json {
            let text = serde_json::to_string_pretty(&document)?;
            std::fs::write(path, text).with_context(|| cannot_write(path))?;
        }
        if let Some(path) = &self.html {
            std::fs::write(path, html::page(&document)?).with_context(|| cannot_write(path))?;
        }
        Ok(())
    }
}

/// A figure to three decimals; null where there is none.
pub fn number(x: f64) -> Value {
    if x.is_finite() { json!((x * 1000.0).round() / 1000.0) } else { Value::Null }
}

/// A figure for a line of text; `-` where there is none.
pub fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

/// What a run with an A/A control has measured. It is void if that says so.
pub fn document(aa: f64, results: Vec<Value>, marks: Vec<Value>) -> Value {
    json!({
        "schema": 1,
        "machine": report::machine(),
        "aa_ratio": number(aa),
        "void": !report::is_steady(aa),
        "results": results,
        "marks": marks,
    })
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write {}", path.display())
}

/// Adds what is missing, so that whoever reads one part of the benchmark can read all of them.
fn complete(document: &mut Value) {
    let Some(document) = document.as_object_mut() else { return };
    document.entry("aa_ratio").or_insert(Value::Null);
    document.entry("void").or_insert(Value::Bool(false));
    let rows = document.get_mut("results").and_then(Value::as_array_mut).into_iter().flatten();
    for row in rows.filter_map(Value::as_object_mut) {
        for key in ROW {
            row.entry(key).or_insert(Value::Null);
        }
    }
}

/// A number of rounds: with none there is no median.
///
/// # Errors
/// Says what it must be.
pub fn rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(rounds) if rounds > 0 => Ok(rounds),
        _ => Err("use a number from 1 on".to_owned()),
    }
}
