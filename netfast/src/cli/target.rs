//! `netfast target`.

use std::{
    collections::HashMap,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::Serialize;

use super::{
    Context,
    change::{self, ChangeFlags},
    drain::Drain,
    failure::Outcome,
    forward,
    output::Output,
    units, values,
};
use crate::api::types::{self, Endpoint, Operation, Stats, TargetHealth};

/// Targets of forwards
#[derive(Debug, clap::Subcommand)]
pub enum Target {
    List(List),
    Add(Add),
    Set(Set),
    Drain(Drain),
    Delete(Delete),
}

impl Target {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let (flags, operation) = match self {
            Self::List(verb) => return list(context, verb.forward.as_deref()).await,
            Self::Add(Add { target, flags }) => {
                (flags, Operation::TargetAdd { forward: target.forward.clone(), target: target.target() })
            }
            Self::Set(Set { target, flags }) => {
                (flags, Operation::TargetSet { forward: target.forward.clone(), target: target.target() })
            }
            Self::Drain(verb) => return verb.run(context).await,
            Self::Delete(Delete { forward, address, flags }) => {
                (flags, Operation::TargetDelete { forward, address })
            }
        };
        change::submit(context, &flags, vec![operation]).await
    }
}

/// Lists the targets of one forward or of all, with their health
///
/// STATE is what the health checks of the forward have found out: up, down, flapping (held down, since it goes up and down) or
/// unknown (not checked yet, counts as healthy); - without checks.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast target list
  netfast target list web")]
pub struct List {
    /// Name of the forward
    forward: Option<String>,
}

/// Adds a target to a forward
///
/// Flows that exist stay where they are; new ones are spread anew.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast target add web 10.0.0.13:8443
  netfast target add web 10.0.0.14:8443 --weight 2")]
pub struct Add {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Creates a target, or replaces the one of that address (its weight)
///
/// Whether it drains stays as it is, and so does its server ID (QUIC) unless another one is given.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast target set web 10.0.0.12:8443 --weight 4")]
pub struct Set {
    #[command(flatten)]
    target: TargetArguments,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Deletes a target; new flows go elsewhere
///
/// Its own flows go on for the time that `[flows] drain_timeout` in agent.toml grants them (5 minutes if it says nothing).
/// Then TCP is reset at its next packet and UDP chooses another target. To see when a target has no flows left, drain it
/// first: `netfast target drain --wait`.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast target delete web 10.0.0.12:8443")]
pub struct Delete {
    /// Name of the forward
    forward: String,
    /// The target's ADDRESS:PORT
    address: Endpoint,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, clap::Args)]
struct TargetArguments {
    /// Name of the forward
    forward: String,
    /// The target's ADDRESS:PORT[,weight=N,id=HEX]
    #[arg(value_name = "ADDRESS", value_parser = values::target)]
    target: types::Target,
    /// Share of new flows relative to the other targets', 1 to 256 [default: 1]
    #[arg(long, value_parser = values::weight)]
    weight: Option<u16>,
}

impl TargetArguments {
    fn target(&self) -> types::Target {
        types::Target { weight: self.weight.unwrap_or(self.target.weight), ..self.target.clone() }
    }
}

#[derive(Serialize)]
struct TargetRow {
    forward: String,
    address: Endpoint,
    weight: u16,
    drain: bool,
    #[serde(flatten)]
    health: Option<TargetHealth>,
}

async fn list(context: &Context, name: Option<&str>) -> Outcome {
    let intent = context.client.intent().await?;
    let all = &intent.rules.forwards;
    let forwards: Vec<_> = match name {
        Some(name) => vec![forward::find(all, name)?],
        None => all.iter().collect(),
    };
    let mut health: HashMap<(String, String), TargetHealth> = HashMap::new();
    if forwards.iter().any(|forward| forward.health.is_some()) {
        let rows = context.client.stats().await?.targets.into_iter();
        health = rows.filter_map(|row| Some(((row.forward, row.target), row.health?))).collect();
    }
    let targets: Vec<_> = forwards
        .iter()
        .flat_map(|forward| forward.targets.iter().map(|target| (forward.name.clone(), target)))
        .map(|(forward, target)| TargetRow {
            health: health.remove(&(forward.clone(), target.address.to_string())),
            forward,
            address: target.address,
            weight: target.weight,
            drain: target.drain,
        })
        .collect();
    let output = context.output;
    if output.is_json() {
        return output.json_rules("targets", intent.revision, &targets);
    }
    if targets.is_empty() {
        output.note(&format!(
            "no targets; add one: netfast target add {} 10.0.0.11:8443",
            name.or(all.first().map(|forward| forward.name.as_str())).unwrap_or("FORWARD")
        ));
        return Ok(());
    }
    let rows = targets
        .into_iter()
        .map(|target| {
            let health = target.health.as_ref();
            vec![
                target.forward,
                target.address.to_string(),
                target.weight.to_string(),
                state(health, target.drain),
                health.map_or_else(|| "-".to_owned(), |health| since(health.since)),
                health.and_then(|health| health.last_error.clone()).unwrap_or_default(),
            ]
        })
        .collect();
    output.table(&["FORWARD", "TARGET", "WEIGHT", "STATE", "SINCE", "LAST ERROR"], &["WEIGHT"], rows)
}

/// State of a target in a word; a forward without checks knows only those that drain.
fn state(health: Option<&TargetHealth>, drains: bool) -> String {
    match health {
        Some(health) if !drains || !health.state.is_healthy() => health.state.as_str(),
        _ if drains => "draining",
        _ => "-",
    }
    .to_owned()
}

/// How long ago a time in seconds since 1970 was.
fn since(time: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    units::seconds(now.saturating_sub(time))
}

/// The targets of a forward with their shares and counters.
///
/// # Errors
/// If stdout cannot be written.
pub fn table(output: Output, forward: &types::Forward, stats: &Stats) -> Outcome {
    let entries = stats.forwards.iter().find(|count| count.forward == forward.name);
    let entries = entries.map_or(0, |count| u64::from(count.entries));
    let (exact, with_ids) = (output.is_wide(), forward.quic.is_some());
    let count = |number: u64| if exact { number.to_string() } else { units::count(number) };
    let bytes = |number: u64| if exact { number.to_string() } else { units::bytes(number) };
    let rows = forward
        .targets
        .iter()
        .map(|target| {
            let address = target.address.to_string();
            let found = forward::target_count(stats, &forward.name, &address);
            let share = units::percent(found.map_or(0, |found| found.entries.into()), entries);
            let health = found.and_then(|found| found.health.as_ref());
            let mut row = vec![address, state(health, target.drain), target.weight.to_string(), share];
            if with_ids {
                row.insert(1, target.id.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string));
            }
            match found {
                Some(found) => row.extend([
                    found.flows.to_string(),
                    count(found.to_target.packets),
                    bytes(found.to_target.bytes),
                    count(found.to_client.packets),
                    bytes(found.to_client.bytes),
                ]),
                None => row.extend(["-"; 5].map(str::to_owned)),
            }
            row
        })
        .collect();
    let numbers = ["WEIGHT", "SHARE", "FLOWS", "PKTS>TARGET", "BYTES>TARGET", "PKTS>CLIENT", "BYTES>CLIENT"];
    let mut columns = if with_ids { vec!["TARGET", "ID", "STATE"] } else { vec!["TARGET", "STATE"] };
    columns.extend(numbers);
    output.table(&columns, &numbers, rows)
}
