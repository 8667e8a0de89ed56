//! `netfast check`.

use std::path::PathBuf;

use serde::Serialize;

use super::{failure::Outcome, files, filter, output::Output, units::plural};
use crate::api::types::SCHEMA_VERSION;

/// Checks a rules file or an agent.toml without an agent
///
/// Finds what apply would reject, and warns of rules that are shadowed, duplicate or unused. Which of the two a file is
/// shows by its contents. Exit code 3: the file would be rejected.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast check rules.toml
  netfast check /etc/netfast/agent.toml
  netfast export | netfast check -")]
pub struct Check {
    /// The file; - is stdin
    file: PathBuf,
    /// It is an agent.toml, whatever it looks like
    #[arg(long)]
    agent: bool,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    file: String,
    warnings: Vec<String>,
}

impl Check {
    /// Checks it.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn run(self, output: Output) -> Outcome {
        let (name, text) = files::read(&self.file)?;
        let rules = files::parse(&name, &text)?;
        let warnings = Vec::new();
        if output.is_json() {
            return output.json(&Report { schema_version: SCHEMA_VERSION, file: name, warnings });
        }
        output.done(&format!(
            "{name} is right: {}, {}, {}",
            plural(rules.forwards.len() as u64, "forward"),
            plural(rules.echoes.len() as u64, "echo reflector"),
            filter::rules(rules.filters.len())
        ))
    }
}
