//! `netfast export`.

use super::{Context, failure::Outcome};
use crate::{
    api::types::{Rules, SCHEMA_VERSION},
    config,
};

/// Prints the agent's rules as a rules file
///
/// `netfast apply -f` takes the output. With -o json it is the same as JSON, with the revision.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast export > rules.toml
  netfast export -o json | jq .rules.forward[].name")]
pub struct Export {}

#[derive(serde::Serialize)]
struct Exported<'a> {
    schema_version: u32,
    revision: u64,
    rules: &'a Rules,
}

impl Export {
    /// Prints them.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let intent = context.client.intent().await?;
        if context.output.is_json() {
            return context.output.json(&Exported {
                schema_version: SCHEMA_VERSION,
                revision: intent.revision,
                rules: &intent.rules,
            });
        }
        context.output.text(&format!(
            "# netfast rules, revision {}\n\n{}",
            intent.revision,
            config::rules::render(&intent.rules)
        ))
    }
}
