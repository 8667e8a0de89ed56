//! Filter rules to what the program matches.

use std::{collections::HashMap, sync::Arc};

use netfast_common::abi;

use crate::{
    api::types::{
        ErrorBody, ErrorCode, FilterAction, FilterDefault, FilterRule, LimitPer, Rate, RejectWith, Rules,
    },
    classifier::{self, Action, Addresses, Compiled, Limits, Ports, Refused},
    rules::{
        boxes::{self, Match, Prefix},
        diff,
        ids::Ids,
        images::{HostView, Images},
    },
};

/// Interface index of a filter rule whose interface does not exist: no packet comes in by it.
pub const NO_INTERFACE: u32 = u32::MAX;

/// Compiles the rules, and after them what holds where no rule matches.
pub(super) fn compile(
    rules: &Rules,
    ids: &Ids,
    host: &dyn HostView,
    images: &mut Images,
    live: &Compiled,
    limits: &Limits,
) -> Result<(), ErrorBody> {
    let mut expanded = expand(rules, ids, host, &mut images.warnings)?;
    images.filter_rates = std::mem::take(&mut expanded.limits);
    let positions = expanded.positions;
    let rule_at = |at: usize| positions.get(at).map_or(0, |position| *position as usize);
    if expanded.rules.len() > abi::MAX_FILTER_RULES as usize {
        let at = rule_at(abi::MAX_FILTER_RULES as usize);
        return Err(ErrorBody {
            code: ErrorCode::Rejected,
            message: format!(
                "the rules do not fit: filter rule {} is beyond the limit of {} matches",
                at + 1,
                abi::MAX_FILTER_RULES
            ),
            field: Some(format!("filter[{}]", at + 1)),
        });
    }
    // They stay as long as they are live.
    expanded.rules.shrink_to_fit();
    let matches = Arc::new(expanded.rules);
    let anew = || classifier::compile_while(&matches, limits, &|| true).unwrap_or(Ok(Compiled::default()));
    let compiled = live.update_to(&matches, limits).unwrap_or_else(anew);
    images.filter = compiled.map_err(|error| {
        let (Refused::Number { rule, .. }
        | Refused::Steps { rule, .. }
        | Refused::Memory { rule, .. }
        | Refused::Work { rule }) = &error;
        let at = rule_at(*rule);
        let name =
            rules.filters.get(at).map_or_else(|| "a policy".to_owned(), |rule| diff::filter_name(at, rule));
        ErrorBody {
            code: ErrorCode::Rejected,
            message: format!("the filter does not fit, by filter rule {name}: {error}"),
            field: Some(format!("filter[{}]", at + 1)),
        }
    })?;
    Ok(())
}

/// The filter as the classifier takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    /// The matches of all rules in order, and behind them the policies of interfaces. Those of one rule have its number.
    pub rules: Vec<classifier::Rule>,
    /// For each of them the position of its rule; policies have positions behind the last rule.
    pub positions: Vec<u32>,
    /// What the limits let through, by the index that [`Action::Limit`] has.
    pub limits: Vec<abi::FilterRate>,
}

/// Most rules with action `limit`.
pub const MAX_LIMITS: usize = abi::MAX_FILTER_LIMITS as usize;

/// The rules as the classifier takes them. `ids`: those of the rules and behind them those of the policies. The rules are
/// valid.
///
/// # Errors
/// If there are too many limits.
pub fn expand(
    rules: &Rules,
    ids: &Ids,
    host: &dyn HostView,
    warnings: &mut Vec<String>,
) -> Result<Expanded, ErrorBody> {
    let sets = boxes::by_name(&rules.sets);
    let mut interfaces = Interfaces { host, known: HashMap::new() };
    let mut expanded = Expanded::default();
    let mut ids = ids.filters().iter();
    for (at, (rule, id)) in rules.filters.iter().zip(ids.by_ref()).enumerate() {
        if let Some(name) = rule.interface.as_deref()
            && interfaces.index(name) == NO_INTERFACE
        {
            warnings.push(format!(
                "filter rule \"{}\" matches nothing: there is no interface {name:?} at present",
                rule.name.clone().unwrap_or_else(|| diff::content(rule))
            ));
        }
        let action = match rule.action {
            FilterAction::Allow => Action::Allow,
            FilterAction::Drop => Action::Drop,
            FilterAction::Count => Action::Count,
            FilterAction::Reject => Action::Reject(match rule.with {
                None => abi::REJECT_USUAL,
                Some(RejectWith::TcpReset) => abi::REJECT_TCP_RESET,
                Some(RejectWith::PortUnreachable) => abi::REJECT_PORT,
                Some(RejectWith::AdminProhibited) => abi::REJECT_ADMIN,
            }),
            FilterAction::Limit => {
                if expanded.limits.len() == MAX_LIMITS {
                    return Err(ErrorBody {
                        code: ErrorCode::Rejected,
                        message: format!(
                            "the rules do not fit: filter rule {} is beyond the limit of {MAX_LIMITS} rules with action limit",
                            diff::filter_name(at, rule)
                        ),
                        field: Some(format!("filter[{}].action", at + 1)),
                    });
                }
                expanded.limits.push(rate(rule, id.index));
                Action::Limit(expanded.limits.len() as u32 - 1)
            }
        };
        let common = classifier::Rule {
            number: id.index,
            tcp_flags: rule.flags.map(|flags| [flags.value, flags.mask]),
            ifindex: rule.interface.as_deref().map_or(0, |name| interfaces.index(name)),
            vlan: rule.vlan,
            action,
            ..classifier::Rule::default()
        };
        // A rule without addresses that is of both IP versions is one for the classifier, too.
        let both = rule.version.is_none() && rule.src.is_none() && rule.dst.is_none();
        boxes::for_each(rule, &sets, |one| {
            let icmp = one.protocol.is_some_and(|protocol| matches!(protocol, 1 | 58));
            if both && one.v6 && !icmp {
                return;
            }
            expanded.rules.push(classifier_rule(&one, &common, both && !icmp));
            expanded.positions.push(at as u32);
        });
    }
    for ((at, policy), id) in rules.policies.iter().enumerate().zip(ids) {
        let ifindex = interfaces.index(&policy.interface);
        if ifindex == NO_INTERFACE {
            warnings.push(format!(
                "the policy of interface {:?} does nothing: there is none at present",
                policy.interface
            ));
        }
        let action = match policy.filter {
            FilterDefault::Allow => Action::Allow,
            FilterDefault::Drop => Action::Drop,
        };
        expanded.rules.push(classifier::Rule { number: id.index, ifindex, action, ..Default::default() });
        expanded.positions.push((rules.filters.len() + at) as u32);
    }
    Ok(expanded)
}

fn rate(rule: &FilterRule, number: u32) -> abi::FilterRate {
    let (rate, bytes) = match rule.rate {
        Some(Rate::Packets(packets)) => (packets, false),
        Some(Rate::Bits(bits)) => (bits / 8, true),
        // Validated: there is one.
        None => (1, false),
    };
    abi::FilterRate {
        rate,
        // A frame that is larger than what may come at once would never pass.
        burst: rule.burst.map_or(rate, u64::from).max(if bytes { LARGEST_FRAME } else { 1 }),
        number,
        bytes: u8::from(bytes),
        per_source: u8::from(rule.per == Some(LimitPer::Source)),
        pad: [0; 2],
    }
}

/// Bytes of the largest frame that interfaces have.
const LARGEST_FRAME: u64 = 9_216;

fn classifier_rule(one: &Match<'_>, common: &classifier::Rule, both: bool) -> classifier::Rule {
    let addresses = |prefix: Prefix| match prefix.length {
        _ if both => Addresses::Any,
        length if one.v6 => Addresses::V6 { address: prefix.first, length },
        length => {
            let first = prefix.first as u32;
            let host = u32::MAX.checked_shr(u32::from(length.saturating_sub(96))).unwrap_or(0);
            Addresses::V4 { first, last: first | host }
        }
    };
    let all = [0, u16::MAX];
    let ports = match (one.extra.icmp, one.source_ports, one.destination_ports) {
        (Some((kind, code)), ..) => {
            Ports::Icmp { kind: [kind; 2], code: code.map_or([0, u8::MAX], |code| [code; 2]) }
        }
        (None, None, None) => Ports::Any,
        (None, source, destination) => {
            Ports::Ports { source: source.unwrap_or(all), destination: destination.unwrap_or(all) }
        }
    };
    classifier::Rule {
        version: if both {
            0
        } else if one.v6 {
            6
        } else {
            4
        },
        source: addresses(one.source),
        destination: addresses(one.destination),
        protocol: one.protocol,
        ports,
        ..*common
    }
}

/// Indexes of interfaces, each asked for once.
struct Interfaces<'a> {
    host: &'a dyn HostView,
    known: HashMap<String, u32>,
}

impl Interfaces<'_> {
    fn index(&mut self, name: &str) -> u32 {
        if let Some(index) = self.known.get(name) {
            return *index;
        }
        let index = self.host.ifindex(name).unwrap_or(NO_INTERFACE);
        self.known.insert(name.to_owned(), index);
        index
    }
}
