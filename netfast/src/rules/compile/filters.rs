//! Filter rules to what the program matches.

use std::collections::HashMap;

use netfast_common::{abi, addr};

use crate::{
    api::types::{ErrorBody, ErrorCode, FilterAction, FilterDefault, FilterRule, Rules},
    rules::{
        boxes::{self, Extra, Match, Prefix},
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
) -> Result<(), ErrorBody> {
    let sets = boxes::by_name(&rules.sets);
    let mut interfaces = Interfaces { host, known: HashMap::new() };
    let mut ids = ids.filters().iter();
    for (at, (rule, id)) in rules.filters.iter().zip(ids.by_ref()).enumerate() {
        supported(at, rule)?;
        if let Some(name) = rule.interface.as_deref()
            && interfaces.index(name) == NO_INTERFACE
        {
            images.warnings.push(format!(
                "filter rule \"{}\" matches nothing: there is no interface {name:?} at present",
                rule.name.clone().unwrap_or_else(|| diff::content(rule))
            ));
        }
        let action = match rule.action {
            FilterAction::Allow => abi::FILTER_ALLOW,
            _ => abi::FILTER_DROP,
        };
        boxes::for_each(rule, &sets, |one| {
            images.filters.push(entry(&one, action, id.index, &mut interfaces));
        });
        if images.filters.len() > abi::MAX_FILTER_RULES as usize {
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
    }
    for (policy, id) in rules.policies.iter().zip(ids) {
        let action = match policy.filter {
            FilterDefault::Allow => abi::FILTER_ALLOW,
            FilterDefault::Drop => abi::FILTER_DROP,
        };
        if interfaces.index(&policy.interface) == NO_INTERFACE {
            images.warnings.push(format!(
                "the policy of interface {:?} does nothing: there is none at present",
                policy.interface
            ));
        }
        for v6 in [false, true] {
            let one = Match {
                v6,
                source: Prefix::any(v6),
                destination: Prefix::any(v6),
                protocol: None,
                source_ports: None,
                destination_ports: None,
                extra: Extra { interface: Some(&policy.interface), ..Extra::default() },
            };
            images.filters.push(entry(&one, action, id.index, &mut interfaces));
        }
    }
    Ok(())
}

/// What the program cannot do yet.
fn supported(at: usize, rule: &FilterRule) -> Result<(), ErrorBody> {
    let field = if !matches!(rule.action, FilterAction::Allow | FilterAction::Drop) {
        "action"
    } else if rule.flags.is_some() {
        "flags"
    } else if rule.icmp.is_some() {
        "icmp"
    } else if rule.vlan.is_some() {
        "vlan"
    } else {
        return Ok(());
    };
    Err(ErrorBody {
        code: ErrorCode::Rejected,
        message: format!(
            "filter rule {} cannot be carried out by this version's program",
            diff::filter_name(at, rule)
        ),
        field: Some(format!("filter[{}].{field}", at + 1)),
    })
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

fn entry(one: &Match<'_>, action: u8, counter: u32, interfaces: &mut Interfaces<'_>) -> abi::FilterRule {
    let ports = |ports: Option<[u16; 2]>| ports.unwrap_or([0, u16::MAX]);
    abi::FilterRule {
        source: one.source.first.to_be_bytes(),
        source_mask: addr::mask_bytes(u32::from(one.source.length)),
        destination: one.destination.first.to_be_bytes(),
        destination_mask: addr::mask_bytes(u32::from(one.destination.length)),
        ifindex: one.extra.interface.map_or(0, |name| interfaces.index(name)),
        ifindex_mask: if one.extra.interface.is_some() { u32::MAX } else { 0 },
        source_ports: ports(one.source_ports),
        destination_ports: ports(one.destination_ports),
        protocol: one.protocol.unwrap_or_default(),
        protocol_mask: if one.protocol.is_some() { u8::MAX } else { 0 },
        version: if one.v6 { 6 } else { 4 },
        version_mask: u8::MAX,
        needs_ports: u8::from(one.source_ports.is_some() || one.destination_ports.is_some()),
        action,
        counter: counter as u16,
    }
}
