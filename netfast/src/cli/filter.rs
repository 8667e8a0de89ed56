//! `netfast filter`.

mod list;
mod load;

use clap::builder::{PossibleValuesParser, TypedValueParser};

use self::{
    list::{List, Show},
    load::Load,
};
use super::{
    Context,
    change::{self, ChangeFlags},
    failure::Outcome,
    units,
    values::word,
};
use crate::api::types::{
    self, Addresses, FilterAction, FilterDefault, FilterRule, IcmpKind, InterfacePolicy, LimitPer, Many,
    Operation, Ports, Protocol, Rate, RejectWith, TcpFlags,
};

/// Filter rules: an ordered list; the first that matches decides
#[derive(Debug, clap::Subcommand)]
pub enum Filter {
    List(List),
    Show(Show),
    Add(Add),
    Insert(Insert),
    Move(Move),
    Delete(Delete),
    Flush(Flush),
    Load(Load),
    Policy(Policy),
}

impl Filter {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let (flags, operations) = match self {
            Self::List(list) => return list.run(context).await,
            Self::Show(show) => return show.run(context).await,
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
            Self::Load(load) => return load.run(context).await,
            Self::Policy(Policy { interface, filter, flags }) => {
                (flags, vec![Operation::FilterPolicy { policy: InterfacePolicy { interface, filter } }])
            }
        };
        change::submit(context, &flags, operations).await
    }
}

/// Positions count from the list before the change, so the last one has to go first.
fn deletions(mut rules: Vec<String>) -> Vec<Operation> {
    // A position however it is written (`02`, `+2`): twice it would be two rules. No name is a number.
    for rule in &mut rules {
        if let Ok(position) = rule.parse::<usize>() {
            *rule = position.to_string();
        }
    }
    rules.sort_by_cached_key(|rule| {
        (std::cmp::Reverse(rule.parse::<usize>().unwrap_or_default()), rule.clone())
    });
    rules.dedup();
    rules.into_iter().map(|rule| Operation::FilterDelete { rule }).collect()
}

/// Adds a filter rule at the end of the list
///
/// What is not given matches anything. The filter sees every packet that might belong to netfast or not, before services
/// are looked up; a packet that no rule matches goes on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter add drop --src 203.0.113.0/24 --proto tcp --dport 22 --comment \"scanner\"
  netfast filter add drop --name no-quic --proto udp --dport 443
  netfast filter add reject --proto tcp --dport 25,465,587
  netfast filter add limit --rate 100/s --per source --proto tcp --flags syn/syn,ack,fin,rst
  netfast filter add count --name pings --proto icmp --icmp echo-request
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

/// Says what becomes of packets on an interface that no filter rule matches
///
/// Without a policy they go on. ARP is never filtered. A policy of drop also drops what the host itself is answered, since
/// netfast follows only its own flows: rules have to allow it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter policy eth0 drop
  netfast filter policy eth0 allow")]
pub struct Policy {
    /// The interface
    interface: String,
    /// What becomes of them
    #[arg(value_parser = word::<FilterDefault>(FilterDefault::WORDS))]
    filter: FilterDefault,
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
    /// Source prefixes, or @SET
    #[arg(long, value_name = "PREFIX[,…]")]
    src: Option<Many<Addresses>>,
    /// Destination prefixes, or @SET
    #[arg(long, value_name = "PREFIX[,…]")]
    dst: Option<Many<Addresses>>,
    /// IP protocols: tcp, udp, icmp, icmpv6 or a number
    #[arg(long, value_name = "PROTO[,…]")]
    proto: Option<Many<Protocol>>,
    /// Source ports or ranges (TCP and UDP)
    #[arg(long, value_name = "PORT[-PORT][,…]")]
    sport: Option<Many<Ports>>,
    /// Destination ports or ranges (TCP and UDP)
    #[arg(long, value_name = "PORT[-PORT][,…]")]
    dport: Option<Many<Ports>>,
    /// TCP flags, and after a / those that count: syn/syn,ack,fin,rst
    #[arg(long, value_name = "FLAGS[/FLAGS]")]
    flags: Option<TcpFlags>,
    /// ICMP types, with or without a code: echo-request, 3/4
    #[arg(long, value_name = "TYPE[/CODE][,…]")]
    icmp: Option<Many<IcmpKind>>,
    /// Interface that the packet came in by
    #[arg(long, visible_alias = "in", value_name = "IFACE")]
    interface: Option<String>,
    /// VLAN of the innermost tag; 0: untagged
    #[arg(long, value_name = "ID")]
    vlan: Option<u16>,
    /// IP version, 4 or 6
    #[arg(long, value_name = "4|6", value_parser = ip_version())]
    ip_version: Option<u8>,
    /// How a reject answers [default: tcp-reset for TCP, else port-unreachable]
    #[arg(long, value_name = "ANSWER", value_parser = word::<RejectWith>(RejectWith::WORDS))]
    with: Option<RejectWith>,
    /// What a limit lets through a second: packets (1000/s) or bits (64kbit, 10mbit)
    #[arg(long)]
    rate: Option<Rate>,
    /// What a limit lets through at once: packets, for a rate in bits bytes [default: one second's worth]
    #[arg(long, value_name = "N")]
    burst: Option<u32>,
    /// Whether a limit is one for the rule or one for each source address [default: rule]
    #[arg(long, value_name = "WHAT", value_parser = word::<LimitPer>(LimitPer::WORDS))]
    per: Option<LimitPer>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

impl RuleArguments {
    fn into_rule(self) -> FilterRule {
        let Self {
            action,
            name,
            src,
            dst,
            proto,
            sport,
            dport,
            flags,
            icmp,
            interface,
            vlan,
            ip_version,
            with,
            rate,
            burst,
            per,
            comment,
        } = self;
        FilterRule {
            action,
            with,
            rate,
            burst,
            per,
            name,
            src,
            dst,
            proto,
            sport,
            dport,
            flags,
            icmp,
            interface,
            vlan,
            version: ip_version,
            comment,
        }
    }
}

/// `3 filter rules`.
pub fn rules(number: usize) -> String {
    units::plural(number as u64, "filter rule")
}
