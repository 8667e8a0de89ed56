//! `netfast forward`.

use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Context,
    balance::{self, BalanceArguments},
    change::{self, ChangeFlags},
    failure::{Failure, Outcome},
    units, values,
    values::word,
};
use crate::{
    api::types::{
        self, Endpoint, ForwardCount, ForwardMode, Health, Operation, SCHEMA_VERSION, Stats, TargetCount,
        Transport,
    },
    rules::tunnel,
};

/// Forwards: services whose connections go to targets
#[derive(Debug, clap::Subcommand)]
pub enum Forward {
    List(List),
    Show(Show),
    Add(Add),
    Set(Set),
    Delete(Delete),
}

impl Forward {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List(_) => list(context).await,
            Self::Show(verb) => show(context, &verb.name).await,
            Self::Add(verb) => {
                let operation = Operation::ForwardAdd {
                    forward: verb.forward.into_forward(),
                    if_not_exists: verb.if_not_exists,
                };
                change::submit(context, &verb.flags, vec![operation]).await
            }
            Self::Set(verb) => {
                let operation = Operation::ForwardSet { forward: verb.forward.into_forward() };
                change::submit(context, &verb.flags, vec![operation]).await
            }
            Self::Delete(verb) => {
                let operations = verb.names.into_iter().map(|name| Operation::ForwardDelete { name });
                change::submit(context, &verb.flags, operations).await
            }
        }
    }
}

/// Lists the forwards
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast forward list
  netfast forward list -o jsonl | jq -r .name")]
pub struct List {}

/// Shows one forward with its targets, their shares of new flows, and counters
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast forward show web")]
pub struct Show {
    /// Name of the forward
    name: String,
}

/// Adds a forward
///
/// New connections to LISTEN are spread over the targets by their addresses and ports (Maglev hashing), each target by its
/// weight. A connection stays with its target. In mode nat (the default) both addresses are rewritten and replies come
/// back through this host whatever the target's routes are; in mode dnat the target sees the client's address and has to
/// route its replies through this host.
///
/// In the modes dsr and ipip the target owns LISTEN's address, too, and answers the client itself; its port is LISTEN's. In mode
/// dsr it is on a link of this host's, and only the MAC addresses of a packet change; in mode ipip it may be
/// anywhere, and gets packets inside other ones, which it has to unpack (see docs/balancing.md).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast forward add web tcp 192.0.2.10:443 --to 10.0.0.11:8443 --to 10.0.0.12:8443,weight=2
  netfast forward add dns udp 192.0.2.10:53 --to 10.0.0.53:53 --mode dnat
  netfast forward add games udp 192.0.2.10:27000-27099 --to 10.0.0.7:27000-27099
  netfast forward add web6 tcp '[2001:db8::10]:443' --to '[2001:db8:1::11]:8443'
  netfast forward add shop tcp 192.0.2.11:80 --to 10.0.0.11:80 --health http:/ready,fall=2
  netfast forward add video udp 192.0.2.10:443 --to 10.0.0.11:443 --mode dsr
  netfast forward add far tcp 192.0.2.10:443 --to 10.9.0.11:443 --mode ipip")]
pub struct Add {
    #[command(flatten)]
    forward: ForwardArguments,
    /// Leave an existing forward of that name as it is
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Creates a forward, or replaces the one of that name
///
/// The forward is afterwards exactly what the command line says: targets that are not named are removed. Flows to targets
/// that stay go on, and those that drain go on draining.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast forward set web tcp 192.0.2.10:443 --to 10.0.0.11:8443 --to 10.0.0.13:8443")]
pub struct Set {
    #[command(flatten)]
    forward: ForwardArguments,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Deletes forwards; their flows end
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast forward delete web
  netfast forward delete web dns games")]
pub struct Delete {
    /// Names of the forwards
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    flags: ChangeFlags,
}

#[derive(Debug, clap::Args)]
struct ForwardArguments {
    /// Name of the forward
    name: String,
    /// Protocol
    #[arg(value_parser = word::<Transport>(Transport::WORDS))]
    protocol: Transport,
    /// Where it listens: ADDRESS:PORT or ADDRESS:FIRST-LAST
    listen: Endpoint,
    /// A target: ADDRESS:PORT[,weight=N,id=HEX]; give it once for each target
    #[arg(long = "to", value_name = "TARGET", value_parser = values::target)]
    targets: Vec<types::Target>,
    /// How packets go to the targets
    #[arg(long, default_value = "nat", value_parser = word::<ForwardMode>(ForwardMode::WORDS))]
    mode: ForwardMode,
    /// How the targets are checked: tcp, http:PATH, https:PATH, dns:NAME or icmp, and KEY=VALUE behind commas
    ///
    /// Keys of all: interval=5s, timeout=2s, jitter=10 (per cent), rise=2, fall=3; all but icmp: port=N; http and https:
    /// host=NAME, status=200-399 (more with +), body=TEXT; https: sni=NAME, verify=true; dns: record=a, rcode=noerror.
    /// A comma in a value follows a backslash.
    #[arg(long, value_name = "CHECK")]
    health: Option<Health>,
    #[command(flatten)]
    balance: BalanceArguments,
    /// Mode ipip: take the outer source address of each flow out of this prefix, so that the target's card spreads the flows
    /// over its queues
    #[arg(long, value_name = "PREFIX")]
    tunnel_source: Option<IpNet>,
    /// Answer ARP and neighbour solicitations for the address, which must not be one of this host's; refused if another station
    /// has it
    #[arg(long)]
    claim: bool,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl ForwardArguments {
    fn into_forward(self) -> types::Forward {
        let Self { name, protocol, listen, targets, mode, health, balance, tunnel_source, claim, comment } =
            self;
        let forward = balance.apply(types::Forward::new(name, protocol, listen));
        types::Forward { mode, health, tunnel_source, targets, claim, comment, ..forward }
    }
}

async fn list(context: &Context) -> Outcome {
    let intent = context.client.intent().await?;
    let forwards = intent.rules.forwards;
    let output = context.output;
    if output.is_json() {
        return output.json_rules("forwards", intent.revision, &forwards);
    }
    if forwards.is_empty() {
        output.note("no forwards; add one: netfast forward add web tcp 192.0.2.10:443 --to 10.0.0.11:8443");
        return Ok(());
    }
    let shown = if output.is_wide() { usize::MAX } else { 2 };
    let rows = forwards
        .iter()
        .map(|forward| {
            let mut targets: Vec<_> = forward.targets.iter().take(shown).map(target).collect();
            if targets.is_empty() {
                targets.push("none".to_owned());
            }
            if forward.targets.len() > shown {
                targets.push(format!("+{} more", forward.targets.len() - shown));
            }
            vec![
                forward.name.clone(),
                forward.protocol.to_string(),
                forward.listen.to_string(),
                forward.mode.to_string(),
                targets.join(" "),
                forward.comment.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output.table(&["NAME", "PROTO", "LISTEN", "MODE", "TARGETS", "COMMENT"], &[], rows)
}

/// As on the command line.
fn target(target: &types::Target) -> String {
    let weight = if target.weight == 1 { String::new() } else { format!(",weight={}", target.weight) };
    let id = target.id.as_ref().map(|id| format!(",id={id}")).unwrap_or_default();
    format!("{}{weight}{id}", target.address)
}

#[derive(Serialize)]
struct ForwardPage<'a> {
    schema_version: u32,
    revision: u64,
    forward: &'a types::Forward,
    counters: Option<&'a ForwardCount>,
    target_counters: Vec<&'a TargetCount>,
    rates: Option<Rates>,
}

/// What a forward moves, a second.
#[derive(Clone, Copy, Serialize)]
struct Rates {
    flows: f64,
    packets_to_target: f64,
    bits_to_target: f64,
    packets_to_client: f64,
    bits_to_client: f64,
}

/// Rates are those of so long.
const SAMPLE: Duration = Duration::from_millis(500);

fn rates(before: &ForwardCount, after: &ForwardCount, seconds: f64) -> Rates {
    let rate = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    Rates {
        flows: rate(before.flows_total, after.flows_total),
        packets_to_target: rate(before.to_target.packets, after.to_target.packets),
        bits_to_target: rate(before.to_target.bytes, after.to_target.bytes) * 8.0,
        packets_to_client: rate(before.to_client.packets, after.to_client.packets),
        bits_to_client: rate(before.to_client.bytes, after.to_client.bytes) * 8.0,
    }
}

async fn show(context: &Context, name: &str) -> Outcome {
    let intent = context.client.intent().await?;
    let forward = find(&intent.rules.forwards, name)?;
    let earlier = context.client.stats().await?;
    let started = Instant::now();
    tokio::time::sleep(SAMPLE).await;
    let stats = context.client.stats().await?;
    let seconds = started.elapsed().as_secs_f64();
    let of = |stats: &Stats| stats.forwards.iter().find(|count| count.forward == name).cloned();
    let (before, counters) = (of(&earlier), of(&stats));
    let counters = counters.as_ref();
    let rates = before.zip(counters).map(|(before, after)| rates(&before, after, seconds));
    let output = context.output;
    if output.is_json() {
        return output.json(&ForwardPage {
            schema_version: SCHEMA_VERSION,
            revision: intent.revision,
            forward,
            counters,
            target_counters: stats.targets.iter().filter(|count| count.forward == name).collect(),
            rates,
        });
    }
    let mut page = vec![
        ("name", forward.name.clone()),
        ("listen", format!("{} {}", forward.protocol, forward.listen)),
        ("mode", forward.mode.to_string()),
    ];
    if forward.claim {
        page.push(("claim", super::claim::text(forward.listen.address, &stats)));
    }
    page.extend(outer_sources(forward));
    page.extend(balance::options(forward).map(|options| ("options", options)));
    page.extend(forward.comment.clone().map(|comment| ("comment", comment)));
    if let Some(count) = counters {
        let healthy = match &forward.health {
            Some(_) => format!("{} of {} healthy", count.healthy, count.targets),
            None => format!("{} (no health checks)", count.targets),
        };
        page.push(("targets", healthy));
        page.extend(forward.health.as_ref().map(|health| ("health", health.to_string())));
        let table = match count.entries {
            0 => "empty: new flows go nowhere".to_owned(),
            entries => format!("{entries} entries"),
        };
        page.push(("table", table));
        let now = |packets: f64, bits: f64| {
            format!("{} packets/s, {}", units::rate(packets), units::bit_rate(bits))
        };
        let [flows, to_target, to_client] = match rates {
            Some(rates) => [
                format!("; {} new a second", units::rate(rates.flows)),
                format!("; now {}", now(rates.packets_to_target, rates.bits_to_target)),
                format!("; now {}", now(rates.packets_to_client, rates.bits_to_client)),
            ],
            None => Default::default(),
        };
        page.push(("flows", format!("{} now, {} since it exists{flows}", count.flows, count.flows_total)));
        page.push(("to targets", format!("{}{to_target}", traffic(count.to_target))));
        page.push(("to clients", format!("{}{to_client}", traffic(count.to_client))));
    }
    let text: String = page.iter().map(|(key, value)| format!("{key:<11} {value}\n")).collect();
    output.text(&text)?;
    if forward.targets.is_empty() {
        output.note(&format!("no targets; add one: netfast target add {name} 10.0.0.11:8443"));
        return Ok(());
    }
    output.line("")?;
    super::target::table(output, forward, &stats)
}

/// Which addresses the targets of mode `ipip` see as the outer source.
fn outer_sources(forward: &types::Forward) -> Vec<(&'static str, String)> {
    if forward.mode != ForwardMode::Ipip {
        return Vec::new();
    }
    let one = "this host's address towards the target: its card sees one flow and uses one queue; --tunnel-source PREFIX \
               spreads the flows";
    let mut lines: Vec<_> = forward
        .tunnel_source
        .map(|net| ("outer", format!("{net}, an address by each flow's hash")))
        .into_iter()
        .collect();
    let all = |target: &types::Target| tunnel::prefix(forward, target.address.address).is_some();
    if forward.tunnel_source.is_none() || !forward.targets.iter().all(all) {
        lines.push(("outer", one.to_owned()));
    }
    lines
}

fn traffic(count: types::Count) -> String {
    format!("{} packets, {}", units::count(count.packets), units::bytes(count.bytes))
}

/// The forward of that name.
///
/// # Errors
/// That there is none, with the likeliest one meant.
pub fn find<'a>(forwards: &'a [types::Forward], name: &str) -> Result<&'a types::Forward, Failure> {
    forwards.iter().find(|forward| forward.name == name).ok_or_else(|| {
        Failure::unknown("forward", name, forwards.iter().map(|forward| forward.name.as_str()))
    })
}

/// The counters of a target.
pub fn target_count<'a>(stats: &'a Stats, forward: &str, address: &str) -> Option<&'a TargetCount> {
    stats.targets.iter().find(|count| count.forward == forward && count.target == address)
}
