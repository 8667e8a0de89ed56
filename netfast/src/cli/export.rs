//! `netfast export`.

use super::{
    Context,
    failure::{Failure, Outcome},
};
use crate::api::types::{ErrorCode, Rules, SCHEMA_VERSION};

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
        context.output.text(&text(&intent.rules)?)
    }
}

/// The rules as the text of a rules file.
///
/// # Errors
/// A fault of this program.
pub fn text(rules: &Rules) -> Result<String, Failure> {
    toml::to_string(rules).map_err(|error| {
        Failure::new(ErrorCode::Internal, format_args!("cannot write the rules as TOML: {error}"))
    })
}
