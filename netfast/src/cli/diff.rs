//! `netfast diff`.

use std::path::PathBuf;

use serde::Serialize;

use super::{
    Context,
    failure::{Failure, Outcome},
    files,
    output::{Output, Paint},
};
use crate::{
    api::types::{ChangeAction, ObjectChange, SCHEMA_VERSION},
    rules::diff,
};

/// Compares the agent's rules with a file
///
/// Prints what `netfast apply --prune -f FILE` would take away (-) and put in (+). Exit code 0: no difference; 1: they differ.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast diff -f rules.toml
  netfast diff -q -f rules.toml || echo 'somebody changed the rules by hand'")]
pub struct Diff {
    /// The rules file; - is stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    revision: u64,
    different: bool,
    changes: Vec<ObjectChange>,
    diff: String,
}

impl Diff {
    /// Prints the differences.
    ///
    /// # Errors
    /// [`Failure::Negative`] if there are any; what is wrong with the file; what the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let wanted = files::rules(&self.file)?;
        let intent = context.client.intent().await?;
        let output = context.output;
        let agent = format!("agent (revision {})", intent.revision);
        let text = diff::text(&intent.rules, &wanted, &agent, &self.file.display().to_string());
        let different = !text.is_empty();
        if output.is_json() {
            let mut changes = diff::rules(&intent.rules, &wanted);
            changes.retain(|change| change.action != ChangeAction::Unchanged);
            output.json(&Report {
                schema_version: SCHEMA_VERSION,
                revision: intent.revision,
                different,
                changes,
                diff: text,
            })?;
        } else if !different {
            output.note(&format!("no difference: revision {} is what the file says", intent.revision));
        } else if !output.quiet {
            output.text(&painted(output, &text))?;
        }
        if different { Err(Failure::Negative) } else { Ok(()) }
    }
}

fn painted(output: Output, text: &str) -> String {
    text.lines()
        .map(|line| {
            let paint = match line.bytes().next() {
                Some(b'-') => Paint::Red,
                Some(b'+') => Paint::Green,
                Some(b'@') => Paint::Bold,
                _ => return format!("{line}\n"),
            };
            format!("{}\n", output.paint(paint, line))
        })
        .collect()
}
