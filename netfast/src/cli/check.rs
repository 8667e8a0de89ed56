//! `netfast check`.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{failure::Outcome, files, filter, output::Output, snat, units::plural};
use crate::{
    api::types::{Rules, SCHEMA_VERSION},
    config::{self, agent::AgentConfig},
    rules::check,
};

/// Checks a rules file or an agent.toml without an agent
///
/// Finds what apply would reject, and warns of rules that are shadowed, duplicate or unused. Which of the two a file is
/// shows by its contents; a rules_file that an agent.toml names is checked with it. Exit code 3: the file would be rejected.
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
    kind: &'static str,
    warnings: Vec<String>,
}

/// What only an agent.toml has at its top level.
const AGENT_KEYS: &[&str] = &[
    "agent",
    "interface",
    "metrics",
    "tables",
    "nat",
    "timeouts",
    "flows",
    "limits",
    "policy",
    "log",
    "rules_file",
];

impl Check {
    /// Checks it.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn run(self, output: Output) -> Outcome {
        let (name, text) = files::read(&self.file)?;
        let (kind, warnings, what) = if self.agent || is_agent(&self.file, &text) {
            let config = AgentConfig::parse(&name, &text)?;
            let mut what = plural(config.interfaces.len() as u64, "interface");
            let mut warnings = config.warnings();
            if let Some(path) = &config.rules_file {
                // The agent would refuse the one with the other.
                if path.exists() {
                    let rules = files::rules(path)?;
                    warnings.extend(check::warnings(&rules));
                    what = format!("{what}; {}: {}", path.display(), contents(&rules));
                } else {
                    warnings.push(format!("rules_file {} does not exist", path.display()));
                }
            }
            ("agent", warnings, what)
        } else {
            let rules = config::rules::parse(&name, &text)?;
            ("rules", check::warnings(&rules), contents(&rules))
        };
        for warning in &warnings {
            output.warning(&format!("{name}: {warning}"));
        }
        if output.is_json() {
            return output.json(&Report { schema_version: SCHEMA_VERSION, file: name, kind, warnings });
        }
        output.done(&format!("{name}: good ({kind}: {what})"))
    }
}

fn contents(rules: &Rules) -> String {
    format!(
        "{}, {}{}, {}",
        plural(rules.forwards.len() as u64, "forward"),
        snat::count(rules.snats.len()),
        plural(rules.echoes.len() as u64, "echo reflector"),
        filter::rules(rules.filters.len())
    )
}

/// Whether the file is an agent.toml: by what it holds, and if that says nothing by its name.
fn is_agent(path: &Path, text: &str) -> bool {
    let keys: Vec<String> =
        text.parse::<toml::Table>().map(|table| table.keys().cloned().collect()).unwrap_or_default();
    if keys.is_empty() {
        return path.file_name().is_some_and(|name| name == "agent.toml");
    }
    keys.iter().any(|key| AGENT_KEYS.contains(&key.as_str()))
}
