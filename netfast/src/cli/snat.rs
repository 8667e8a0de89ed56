//! `netfast snat`.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Context,
    change::{self, ChangeFlags},
    failure::{Failure, Outcome},
    units, values,
};
use crate::api::types::{
    self, DEFAULT_PORTS_PER_SOURCE, Operation, PortRange, SCHEMA_VERSION, SnatCount, SnatFiltering,
};

/// Source NAT rules: a LAN behind this host
#[derive(Debug, clap::Subcommand)]
pub enum Snat {
    List(List),
    Show(Show),
    Add(Box<Add>),
    Delete(Delete),
}

impl Snat {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List(_) => list(context).await,
            Self::Show(Show { name }) => show(context, &name).await,
            Self::Add(add) => {
                let Add {
                    name,
                    from,
                    to,
                    in_interface,
                    out_interface,
                    ports,
                    filtering,
                    ports_per_source,
                    claim,
                    comment,
                    if_not_exists,
                    flags,
                } = *add;
                let snat = types::Snat {
                    name,
                    from,
                    to,
                    in_interface,
                    out_interface,
                    ports,
                    filtering,
                    ports_per_source,
                    claim,
                    comment,
                };
                change::submit(context, &flags, vec![Operation::SnatAdd { snat, if_not_exists }]).await
            }
            Self::Delete(Delete { name, flags }) => {
                let operations = name.into_iter().map(|name| Operation::SnatDelete { name });
                change::submit(context, &flags, operations).await
            }
        }
    }
}

/// Lists the source NAT rules
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast snat list
  netfast snat list -o json")]
pub struct List {}

/// Shows a source NAT rule with its flows, ports and traffic
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast snat show lan
  netfast snat show lan -o json")]
pub struct Show {
    /// Name of the rule
    name: String,
}

/// Adds a source NAT rule
///
/// What comes from the inside prefixes and is routed to an outside destination leaves with an address of this host, and the
/// answers come back: TCP, UDP and ICMP echo. An inside address and port has the same external address and port towards all
/// destinations (RFC 4787), and no two ever share one.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast snat add lan --from 10.0.0.0/8 --to 192.0.2.1
  netfast snat add lan --from 10.0.0.0/8 --to 192.0.2.1 --to 192.0.2.2 --in eth1 --out eth0
  netfast snat add lan6 --from fd00::/8 --to 2001:db8::1 --ports 20000-32767
  netfast snat add games --from 10.9.0.0/16 --to 192.0.2.1 --filtering endpoint-independent")]
pub struct Add {
    /// Name of the rule
    name: String,
    /// Inside prefixes; give it once for each, or several with commas
    #[arg(long, required = true, value_name = "PREFIX", value_delimiter = ',', value_parser = values::prefix)]
    from: Vec<IpNet>,
    /// Addresses of this host to leave with; an inside address always uses the same one
    #[arg(long, required = true, value_name = "ADDRESS", value_delimiter = ',')]
    to: Vec<IpAddr>,
    /// Only what comes in by this interface
    #[arg(long = "in", value_name = "INTERFACE")]
    in_interface: Option<String>,
    /// Only what goes out by this interface
    #[arg(long = "out", value_name = "INTERFACE")]
    out_interface: Option<String>,
    /// External ports to use [default: those of `[nat] ports` in agent.toml]
    #[arg(long, value_name = "LOW-HIGH")]
    ports: Option<PortRange>,
    /// Who may send to an inside host: whom it has sent to, or anybody who knows its external port
    #[arg(
        long,
        value_name = "KIND",
        default_value_t = SnatFiltering::default(),
        value_parser = values::word::<SnatFiltering>(SnatFiltering::WORDS)
    )]
    filtering: SnatFiltering,
    /// External ports that one inside address may use at once
    #[arg(long, value_name = "N", default_value_t = DEFAULT_PORTS_PER_SOURCE)]
    ports_per_source: u32,
    /// Answer ARP and neighbour solicitations for the addresses of --to, which must not be this host's; refused if another
    /// station has one
    #[arg(long)]
    claim: bool,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    /// Leave an existing rule of that name as it is
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Deletes source NAT rules; their flows end
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast snat delete lan")]
pub struct Delete {
    /// Names of the rules
    #[arg(required = true)]
    name: Vec<String>,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Number of rules in a list of numbers, where there are any.
pub fn count(rules: usize) -> String {
    if rules == 0 { String::new() } else { units::plural(rules as u64, "source NAT rule") + ", " }
}

fn words<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(" ")
}

async fn list(context: &Context) -> Outcome {
    let intent = context.client.intent().await?;
    let snats = intent.rules.snats;
    let output = context.output;
    if output.is_json() {
        return output.json_rules("snats", intent.revision, &snats);
    }
    if snats.is_empty() {
        output.note("no source NAT rules; add one: netfast snat add lan --from 10.0.0.0/8 --to 192.0.2.1");
        return Ok(());
    }
    let rows = snats
        .iter()
        .map(|snat| {
            vec![
                snat.name.clone(),
                words(snat.from.iter().copied().map(values::show_prefix)),
                words(&snat.to),
                snat.in_interface.clone().unwrap_or_else(|| "any".to_owned()),
                snat.out_interface.clone().unwrap_or_else(|| "any".to_owned()),
                snat.ports.map_or_else(|| "default".to_owned(), |ports| ports.to_string()),
                snat.filtering.to_string(),
                snat.comment.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output.table(&["NAME", "FROM", "TO", "IN", "OUT", "PORTS", "FILTERING", "COMMENT"], &[], rows)
}

#[derive(Serialize)]
struct SnatView {
    schema_version: u32,
    revision: u64,
    snat: types::Snat,
    counts: Option<SnatCount>,
}

async fn show(context: &Context, name: &str) -> Outcome {
    let intent = context.client.intent().await?;
    let Some(snat) = intent.rules.snats.iter().find(|snat| snat.name == name).cloned() else {
        let names = intent.rules.snats.iter().map(|snat| snat.name.as_str());
        return Err(Failure::unknown("source NAT rule", name, names));
    };
    let stats = context.client.stats().await?;
    let counts = stats.snats.iter().find(|row| row.snat == name).cloned();
    let output = context.output;
    if output.is_json() {
        return output.json(&SnatView {
            schema_version: SCHEMA_VERSION,
            revision: intent.revision,
            snat,
            counts,
        });
    }
    let any = || "any".to_owned();
    let mut rows = vec![
        ("name", snat.name),
        ("from", words(snat.from.into_iter().map(values::show_prefix))),
        ("to", words(snat.to.clone())),
        ("in", snat.in_interface.unwrap_or_else(any)),
        ("out", snat.out_interface.unwrap_or_else(any)),
        ("ports", snat.ports.map_or_else(|| "default ([nat] ports)".to_owned(), |ports| ports.to_string())),
        ("filtering", snat.filtering.to_string()),
        ("ports/source", snat.ports_per_source.to_string()),
    ];
    if snat.claim {
        let text = |address: &IpAddr| format!("{address} {}", super::claim::text(*address, &stats));
        rows.push(("claim", snat.to.iter().map(text).collect::<Vec<_>>().join("; ")));
    }
    if let Some(comment) = snat.comment {
        rows.push(("comment", comment));
    }
    if let Some(counts) = counts {
        let traffic = |count: types::Count| {
            format!("{} packets, {}", units::count(count.packets), units::bytes(count.bytes))
        };
        rows.push(("in use", format!("{} ports, {} flows", counts.ports, counts.flows)));
        rows.push(("flows made", units::count(counts.flows_total)));
        rows.push(("outward", traffic(counts.outward)));
        rows.push(("inward", traffic(counts.inward)));
    }
    let lines: Vec<String> = rows.into_iter().map(|(key, value)| format!("{key:<13}{value}")).collect();
    output.text(&(lines.join("\n") + "\n"))
}
