//! `netfast echo`.

use ipnet::IpNet;

use super::{
    Context,
    change::{self, ChangeFlags},
    failure::Outcome,
    values,
    values::word,
};
use crate::api::types::{self, DEFAULT_ECHO_RATE, EchoProtocol, Endpoint, Operation};

/// UDP echo (RFC 862) and STAMP (RFC 8762) reflectors
#[derive(Debug, clap::Subcommand)]
pub enum Echo {
    List(List),
    Add(Add),
    Delete(Delete),
}

impl Echo {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List(_) => list(context).await,
            Self::Add(Add { listen, allow, rate, protocol, claim, comment, if_not_exists, flags }) => {
                let echo = types::Echo { rate, protocol, claim, comment, ..types::Echo::new(listen, allow) };
                change::submit(context, &flags, vec![Operation::EchoAdd { echo, if_not_exists }]).await
            }
            Self::Delete(Delete { listen, flags }) => {
                let operations = listen.into_iter().map(|listen| Operation::EchoDelete { listen });
                change::submit(context, &flags, operations).await
            }
        }
    }
}

/// Lists the echo reflectors
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast echo list
  netfast echo list -o json")]
pub struct List {}

/// Adds a UDP echo reflector
///
/// Every UDP packet to LISTEN from an allowed source goes back to its sender as it came or, with `--protocol stamp`, as the answer of a
/// STAMP session-reflector (unauthenticated, stateless), by which the sender measures delay and loss each way. Sources not on the list, sources over
/// their rate, and source ports that might answer an answer (RFC 862, CVE-2024-2169) are dropped and counted.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast echo add 192.0.2.10:7 --allow 198.51.100.0/24 --rate 1000
  netfast echo add '[2001:db8::10]:7' --allow 2001:db8::/32 --allow 2001:db8:ffff::1
  netfast echo add 192.0.2.10:862 --protocol stamp --allow 198.51.100.0/24
  netfast echo add 192.0.2.10:7 --allow 0.0.0.0/0        # everybody: think twice")]
pub struct Add {
    /// Where it listens: ADDRESS:PORT
    listen: Endpoint,
    /// Sources that may use it; give it once for each prefix, or several with commas
    #[arg(long, required = true, value_name = "PREFIX", value_delimiter = ',', value_parser = values::prefix)]
    allow: Vec<IpNet>,
    /// Packets a second that one source address may have reflected
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ECHO_RATE)]
    rate: u32,
    /// What it answers with: the data as it came (echo, RFC 862), or timestamps (stamp, RFC 8762; its port is 862)
    #[arg(long, default_value = "echo", value_parser = word::<EchoProtocol>(EchoProtocol::WORDS))]
    protocol: EchoProtocol,
    /// Answer ARP and neighbour solicitations for the address, which must not be one of this host's; refused if another station
    /// has it
    #[arg(long)]
    claim: bool,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Leave an existing reflector at LISTEN as it is
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Deletes echo reflectors
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast echo delete 192.0.2.10:7")]
pub struct Delete {
    /// Where they listen: ADDRESS:PORT
    #[arg(required = true)]
    listen: Vec<Endpoint>,
    #[command(flatten)]
    flags: ChangeFlags,
}

async fn list(context: &Context) -> Outcome {
    let intent = context.client.intent().await?;
    let echoes = intent.rules.echoes;
    let output = context.output;
    if output.is_json() {
        return output.json_rules("echoes", intent.revision, &echoes);
    }
    if echoes.is_empty() {
        output.note("no echo reflectors; add one: netfast echo add 192.0.2.10:7 --allow 198.51.100.0/24");
        return Ok(());
    }
    let rows = echoes
        .iter()
        .map(|echo| {
            let allow: Vec<_> = echo.allow.iter().copied().map(values::show_prefix).collect();
            vec![
                echo.listen.to_string(),
                echo.protocol.to_string(),
                if allow.is_empty() { "nobody".to_owned() } else { allow.join(" ") },
                echo.rate.to_string(),
                echo.comment.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output.table(&["LISTEN", "PROTO", "ALLOW", "RATE/S", "COMMENT"], &["RATE/S"], rows)
}
