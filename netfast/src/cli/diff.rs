//! `netfast diff`.

use std::{fmt::Write, path::PathBuf};

use serde::Serialize;
use similar::{ChangeTag, TextDiff};

use super::{
    Context, export,
    failure::{Failure, Outcome},
    files,
    output::Paint,
};
use crate::api::types::SCHEMA_VERSION;

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
        let (present, wanted) = (export::text(&intent.rules)?, export::text(&wanted)?);
        let different = present != wanted;
        let diff = TextDiff::from_lines(&present, &wanted);
        if output.is_json() {
            let diff = diff.unified_diff().header("agent", "file").to_string();
            let revision = intent.revision;
            output.json(&Report { schema_version: SCHEMA_VERSION, revision, different, diff })?;
        } else if different && !output.quiet {
            let mut text = format!("--- agent (revision {})\n+++ {}\n", intent.revision, self.file.display());
            for hunk in diff.unified_diff().iter_hunks() {
                let _ = writeln!(text, "{}", hunk.header());
                for change in hunk.iter_changes() {
                    let line = change.value().trim_end_matches('\n');
                    let line = match change.tag() {
                        ChangeTag::Equal => format!(" {line}"),
                        ChangeTag::Delete => output.paint(Paint::Red, &format!("-{line}")),
                        ChangeTag::Insert => output.paint(Paint::Green, &format!("+{line}")),
                    };
                    let _ = writeln!(text, "{line}");
                }
            }
            output.text(&text)?;
        } else if !different {
            output.note(&format!(
                "no difference: the agent's rules (revision {}) are those of the file",
                intent.revision
            ));
        }
        if different { Err(Failure::Negative) } else { Ok(()) }
    }
}
