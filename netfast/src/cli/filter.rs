//! `netfast filter`.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ipnet::IpNet;
use serde::Serialize;

use super::{
    Context,
    change::{self, ChangeFlags},
    failure::{Failure, Outcome},
    files, units, values,
    values::word,
};
use crate::api::types::{
    self, Count, ErrorCode, FilterAction, FilterRule, Operation, PortRange, Protocol, Rules, SCHEMA_VERSION,
};

/// Filter rules: an ordered list; the first that matches decides
#[derive(Debug, clap::Subcommand)]
pub enum Filter {
    List(List),
    Add(Add),
    Insert(Insert),
    Move(Move),
    Delete(Delete),
    Flush(Flush),
    Load(Load),
}

impl Filter {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let (flags, operations) = match self {
            Self::List(_) => return list(context).await,
            Self::Add(Add { rule, flags }) => {
                (flags, vec![Operation::FilterAdd { rule: rule.into_rule(), position: None }])
            }
            Self::Insert(Insert { position, rule, flags }) => {
                (flags, vec![Operation::FilterAdd { rule: rule.into_rule(), position: Some(position) }])
            }
            Self::Move(Move { rule, position, flags }) => {
                (flags, vec![Operation::FilterMove { rule, position }])
            }
            Self::Delete(Delete { rules, flags }) => (flags, deletions(rules)),
            Self::Flush(Flush { flags }) => (flags, vec![Operation::FilterFlush]),
            Self::Load(Load { file, flags }) => {
                let rules = files::rules(&file)?;
                let Rules { forwards, echoes, filters } = rules;
                if !forwards.is_empty() || !echoes.is_empty() {
                    return Err(Failure::new(
                        ErrorCode::Rejected,
                        format_args!(
                            "{} has more than filter rules; `netfast apply -f` takes whole rules files",
                            file.display()
                        ),
                    ));
                }
                (flags, vec![Operation::FilterReplace { rules: filters }])
            }
        };
        change::submit(context, &flags, operations).await
    }
}

/// Positions count from the list before the change, so the last one has to go first.
fn deletions(mut rules: Vec<String>) -> Vec<Operation> {
    rules.sort_by_key(|rule| std::cmp::Reverse(rule.parse::<usize>().unwrap_or_default()));
    rules.dedup();
    rules.into_iter().map(|rule| Operation::FilterDelete { rule }).collect()
}

/// Lists the filter rules in order; with -o wide also their counters
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter list
  netfast filter list -o wide")]
pub struct List {}

/// Adds a filter rule at the end of the list
///
/// What is not given matches anything. The filter sees every packet that might belong to netfast or not, before services
/// are looked up; a packet that no rule matches goes on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter add drop --src 203.0.113.0/24 --proto tcp --dport 22 --comment \"scanner\"
  netfast filter add drop --name no-quic --proto udp --dport 443
  netfast filter add allow --src 198.51.100.0/24 --interface eth0")]
pub struct Add {
    #[command(flatten)]
    rule: RuleArguments,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Inserts a filter rule so that it stands at POSITION
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter insert 1 allow --src 198.51.100.0/24")]
pub struct Insert {
    /// Where the rule shall stand; 1 is first
    #[arg(value_parser = position)]
    position: usize,
    #[command(flatten)]
    rule: RuleArguments,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Moves a filter rule to another position
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter move no-quic 1
  netfast filter move 5 2")]
pub struct Move {
    /// Name or position of the rule
    rule: String,
    /// Where it shall stand; 1 is first
    #[arg(value_parser = position)]
    position: usize,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Deletes filter rules
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter delete no-quic
  netfast filter delete 3 5            # positions as `netfast filter list` shows them now")]
pub struct Delete {
    /// Names or positions of the rules
    #[arg(required = true, value_name = "RULE")]
    rules: Vec<String>,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Deletes all filter rules
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter flush --dry-run
  netfast filter flush")]
pub struct Flush {
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Replaces all filter rules by those of a file
///
/// The file is a rules.toml with nothing but `[[filter]]` tables. Forwards and echo reflectors stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter load blocklist.toml
  make-blocklist | netfast filter load -")]
pub struct Load {
    /// The file; - is stdin
    file: PathBuf,
    #[command(flatten)]
    flags: ChangeFlags,
}

fn ip_version() -> impl TypedValueParser<Value = u8> {
    PossibleValuesParser::new(["4", "6"]).map(|word| if word == "6" { 6 } else { 4 })
}

fn position(text: &str) -> Result<usize, types::ParseError> {
    match text.parse() {
        Ok(position) if position > 0 => Ok(position),
        _ => Err(types::ParseError(format!("{text:?} is not a position; the first rule is at 1"))),
    }
}

#[derive(Debug, clap::Args)]
struct RuleArguments {
    /// What happens to a packet that matches
    #[arg(value_parser = word::<FilterAction>(FilterAction::WORDS))]
    action: FilterAction,
    /// Name, unique among the filter rules; only named rules have a metric
    #[arg(long)]
    name: Option<String>,
    /// Source prefix
    #[arg(long, value_name = "PREFIX", value_parser = values::prefix)]
    src: Option<IpNet>,
    /// Destination prefix
    #[arg(long, value_name = "PREFIX", value_parser = values::prefix)]
    dst: Option<IpNet>,
    /// IP protocol: tcp, udp, icmp, icmpv6 or a number
    #[arg(long)]
    proto: Option<Protocol>,
    /// Source port or range (TCP and UDP)
    #[arg(long, value_name = "PORT[-PORT]")]
    sport: Option<PortRange>,
    /// Destination port or range (TCP and UDP)
    #[arg(long, value_name = "PORT[-PORT]")]
    dport: Option<PortRange>,
    /// Interface that the packet came in by
    #[arg(long, visible_alias = "in", value_name = "IFACE")]
    interface: Option<String>,
    /// IP version, 4 or 6
    #[arg(long, value_name = "4|6", value_parser = ip_version())]
    ip_version: Option<u8>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl RuleArguments {
    fn into_rule(self) -> FilterRule {
        let Self { action, name, src, dst, proto, sport, dport, interface, ip_version, comment } = self;
        FilterRule { action, name, src, dst, proto, sport, dport, interface, version: ip_version, comment }
    }
}

#[derive(Serialize)]
struct FilterList {
    schema_version: u32,
    revision: u64,
    filters: Vec<FilterRow>,
}

#[derive(Serialize)]
struct FilterRow {
    position: usize,
    #[serde(flatten)]
    rule: FilterRule,
}

async fn list(context: &Context) -> Outcome {
    let intent = context.client.intent().await?;
    let output = context.output;
    let filters: Vec<_> =
        (1..).zip(intent.rules.filters).map(|(position, rule)| FilterRow { position, rule }).collect();
    if output.is_json() {
        let document = FilterList { schema_version: SCHEMA_VERSION, revision: intent.revision, filters };
        return output.json_list(&document, &document.filters);
    }
    if filters.is_empty() {
        output.note(
            "no filter rules; add one: netfast filter add drop --src 203.0.113.0/24 --proto tcp --dport 22",
        );
        return Ok(());
    }
    // The statistics list every rule in order. If they are of another revision they do not fit, and are not shown.
    let counts: Vec<Option<Count>> = if output.is_wide() {
        let stats = context.client.stats().await?;
        let fits = stats.filters.len() == filters.len();
        (0..filters.len())
            .map(|index| stats.filters.get(index).filter(|_| fits).map(|row| row.count))
            .collect()
    } else {
        Vec::new()
    };
    let columns: &[&str] = if output.is_wide() {
        &["#", "ACTION", "PACKETS", "BYTES", "MATCH", "NAME", "COMMENT"]
    } else {
        &["#", "ACTION", "MATCH", "NAME", "COMMENT"]
    };
    let rows = filters
        .iter()
        .enumerate()
        .map(|(index, FilterRow { position, rule })| {
            let mut row = vec![position.to_string(), rule.action.to_string()];
            if output.is_wide() {
                let count = counts.get(index).copied().flatten();
                let number = |of: fn(Count) -> u64| {
                    count.map_or_else(|| "-".to_owned(), |count| of(count).to_string())
                };
                row.extend([number(|count| count.packets), number(|count| count.bytes)]);
            }
            row.extend([
                describe(rule),
                rule.name.clone().unwrap_or_default(),
                rule.comment.clone().unwrap_or_default(),
            ]);
            row
        })
        .collect();
    output.table(columns, &["#", "PACKETS", "BYTES"], rows)
}

/// What a rule matches, in the words of the command line: `src 203.0.113.0/24 proto tcp dport 22`.
fn describe(rule: &FilterRule) -> String {
    let FilterRule { action: _, name: _, src, dst, proto, sport, dport, interface, version, comment: _ } =
        rule;
    let mut parts = Vec::new();
    let mut part =
        |key: &str, value: Option<String>| parts.extend(value.map(|value| format!("{key} {value}")));
    part("interface", interface.clone());
    part("ip-version", version.map(|version| version.to_string()));
    part("src", src.map(values::show_prefix));
    part("dst", dst.map(values::show_prefix));
    part("proto", proto.map(|proto| proto.to_string()));
    part("sport", sport.map(|ports| ports.to_string()));
    part("dport", dport.map(|ports| ports.to_string()));
    if parts.is_empty() { "any packet".to_owned() } else { parts.join(" ") }
}

/// `3 filter rules`.
pub fn rules(number: usize) -> String {
    units::plural(number as u64, "filter rule")
}
