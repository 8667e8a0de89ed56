//! `netfast version`.

use netfast_common::abi::ABI_VERSION;
use serde::Serialize;

use super::{Context, failure::Outcome};
use crate::api::types::{SCHEMA_VERSION, VersionReply};

/// Shows the versions of this program and of the agent that runs
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast version
  netfast version -o json")]
pub struct Version {}

#[derive(Serialize)]
struct Versions {
    schema_version: u32,
    client: Part,
    agent: Option<Part>,
}

#[derive(Serialize)]
struct Part {
    version: String,
    abi_version: u32,
}

impl Version {
    /// Prints them. An agent that does not run is an answer, too, and no error.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub async fn run(self, context: &Context) -> Outcome {
        let output = context.output;
        let client = Part { version: env!("CARGO_PKG_VERSION").to_owned(), abi_version: ABI_VERSION };
        let agent = match context.client.version().await {
            Ok(VersionReply { version, abi_version, .. }) => Some(Part { version, abi_version }),
            Err(error) => {
                output.note(&error.message);
                None
            }
        };
        if let Some(agent) = agent.as_ref().filter(|agent| agent.version != client.version) {
            output.warning(&format!(
                "the agent is version {}, this program {}: restart the agent to bring it up to date",
                agent.version, client.version
            ));
        }
        if output.is_json() {
            return output.json(&Versions { schema_version: SCHEMA_VERSION, client, agent });
        }
        let line =
            |name: &str, part: &Part| format!("{name:<7} {} (ABI {})\n", part.version, part.abi_version);
        let mut text = line("client", &client);
        text.push_str(
            &agent.map_or_else(|| "agent   not reachable\n".to_owned(), |agent| line("agent", &agent)),
        );
        output.text(&text)
    }
}
