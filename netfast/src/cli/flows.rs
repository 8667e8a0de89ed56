//! `netfast flows`.

use super::{
    Context,
    failure::{Failure, Outcome},
    units::{self, plural},
    values::{Peer, word},
};
use crate::api::types::{FlowFilter, FlowRecord, Transport};

/// Flows: the connections that netfast knows
#[derive(Debug, clap::Subcommand)]
pub enum Flows {
    List(List),
    Show(Show),
    Count(Count),
    Flush(Flush),
}

/// Lists flows
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast flows list
  netfast flows list --forward web --client 198.51.100.7
  netfast flows list --proto udp --state one-way --limit 20
  netfast flows list -o jsonl | jq -r .target | sort | uniq -c")]
pub struct List {
    #[command(flatten)]
    filter: Filters,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
}

/// Shows everything about the flows that match
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast flows show --client 198.51.100.7:40312 --service 192.0.2.10:443")]
pub struct Show {
    #[command(flatten)]
    filter: Filters,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

/// Counts the flows that match
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast flows count
  netfast flows count --forward web --state established")]
pub struct Count {
    #[command(flatten)]
    filter: Filters,
}

/// Ends the flows that match
///
/// Packets of an ended flow are treated like those of none: UDP begins a new flow, TCP has to connect again.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast flows flush --target 10.0.0.12
  netfast flows flush --all")]
pub struct Flush {
    #[command(flatten)]
    filter: Filters,
    /// End every flow
    #[arg(long)]
    all: bool,
}

/// States of a flow, as [`FlowRecord::state`] has them.
const STATES: &[&str] = &["opening", "established", "closing", "reset", "one-way", "two-way"];

#[derive(Debug, clap::Args)]
struct Filters {
    /// Only this protocol
    #[arg(long, value_parser = word::<Transport>(Transport::WORDS))]
    proto: Option<Transport>,
    /// Only this client
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    client: Option<Peer>,
    /// Only this service
    #[arg(long, value_name = "ADDRESS[:PORT]")]
    service: Option<Peer>,
    /// Only this target
    #[arg(long, value_name = "ADDRESS")]
    target: Option<std::net::IpAddr>,
    /// Only flows of this forward
    #[arg(long, value_name = "NAME")]
    forward: Option<String>,
    /// Only flows in this state
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(STATES))]
    state: Option<String>,
}

impl Filters {
    fn filter(self, limit: Option<usize>) -> FlowFilter {
        let Self { proto, client, service, target, forward, state } = self;
        FlowFilter {
            protocol: proto,
            client: client.map(|peer| peer.address),
            client_port: client.and_then(|peer| peer.port),
            service: service.map(|peer| peer.address),
            service_port: service.and_then(|peer| peer.port),
            target,
            forward,
            state,
            limit,
        }
    }
}

impl Flows {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List(verb) => list(context, verb).await,
            Self::Show(verb) => show(context, verb).await,
            Self::Count(verb) => count(context, verb).await,
            Self::Flush(verb) => flush(context, verb).await,
        }
    }
}

async fn list(context: &Context, verb: List) -> Outcome {
    let list = context.client.flows(&verb.filter.filter(verb.limit)).await?;
    let output = context.output;
    if output.is_json() {
        return output.json_list(&list, &list.flows);
    }
    if list.flows.is_empty() {
        output.note("no flows match");
        return Ok(());
    }
    let mut columns = vec!["PROTO", "CLIENT", "SERVICE"];
    if output.is_wide() {
        columns.push("SOURCE");
    }
    columns.extend(["TARGET", "FORWARD", "STATE", "AGE", "IDLE", "EXPIRES"]);
    let time = |seconds| if output.is_wide() { format!("{seconds}s") } else { units::seconds(seconds) };
    let rows = list
        .flows
        .iter()
        .map(|flow| {
            let mut row = vec![flow.protocol.to_string(), flow.client.clone(), flow.service.clone()];
            if output.is_wide() {
                row.push(flow.source.clone());
            }
            row.extend([flow.target.clone(), forward(flow).to_owned(), flow.state.clone()]);
            row.extend([flow.age_seconds, flow.idle_seconds, flow.expires_seconds].map(time));
            row
        })
        .collect();
    output.table(&columns, &["AGE", "IDLE", "EXPIRES"], rows)?;
    let shown = list.flows.len() as u64;
    if shown < list.count {
        output.note(&format!("{shown} of {} shown", plural(list.count, "flow")));
    }
    Ok(())
}

fn forward(flow: &FlowRecord) -> &str {
    if flow.forward.is_empty() { "(deleted)" } else { &flow.forward }
}

async fn show(context: &Context, verb: Show) -> Outcome {
    let list = context.client.flows(&verb.filter.filter(Some(verb.limit))).await?;
    let output = context.output;
    if list.flows.is_empty() {
        return Err(Failure::not_found("no flow matches; `netfast flows list` shows all"));
    }
    if output.is_json() {
        return output.json_list(&list, &list.flows);
    }
    let pages: Vec<String> = list
        .flows
        .iter()
        .map(|flow| {
            [
                ("protocol", flow.protocol.to_string()),
                ("client", flow.client.clone()),
                ("service", flow.service.clone()),
                ("forward", forward(flow).to_owned()),
                ("target", flow.target.clone()),
                ("source", format!("{} (what the target sees)", flow.source)),
                ("state", flow.state.clone()),
                ("age", units::seconds(flow.age_seconds)),
                ("idle", units::seconds(flow.idle_seconds)),
                ("expires in", units::seconds(flow.expires_seconds)),
            ]
            .iter()
            .map(|(key, value)| format!("{key:<11} {value}\n"))
            .collect()
        })
        .collect();
    output.text(&pages.join("\n"))?;
    let shown = list.flows.len() as u64;
    if shown < list.count {
        output.note(&format!("{shown} of {} shown; --limit shows more", plural(list.count, "flow")));
    }
    Ok(())
}

async fn count(context: &Context, verb: Count) -> Outcome {
    let list = context.client.flow_count(&verb.filter.filter(None)).await?;
    if context.output.is_json() {
        return context.output.json(&Counted { schema_version: list.schema_version, count: list.count });
    }
    context.output.line(&list.count.to_string())
}

async fn flush(context: &Context, verb: Flush) -> Outcome {
    let filter = verb.filter.filter(None);
    if filter == FlowFilter::default() && !verb.all {
        return Err(Failure::usage(
            "--all",
            "say which flows to end (such as --forward NAME), or --all for every flow",
        ));
    }
    if filter != FlowFilter::default() && verb.all {
        return Err(Failure::usage("--all", "--all ends every flow and goes with no other filter"));
    }
    let list = context.client.flush_flows(&filter).await?;
    if context.output.is_json() {
        return context.output.json(&Counted { schema_version: list.schema_version, count: list.count });
    }
    context.output.done(&format!("{} ended", plural(list.count, "flow")))
}

#[derive(serde::Serialize)]
struct Counted {
    schema_version: u32,
    count: u64,
}
