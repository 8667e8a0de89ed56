//! Changes of the filter: its rules, sets and policies.

use std::{collections::HashMap, sync::Arc};

use crate::{
    api::types::{
        AddressSet, Addresses, ErrorBody, ErrorCode, FilterDefault, FilterRule, InterfacePolicy, Many, Rules,
    },
    rules::{diff, normal::normalize},
};

use super::{Change, error, missing, place_of, put};

/// The place of a filter rule that is named, or whose position (from 1 on) is given.
///
/// # Errors
/// There is none.
pub fn filter_at(filters: &[Arc<FilterRule>], rule: &str) -> Result<usize, ErrorBody> {
    if let Some(at) = filters.iter().position(|f| f.name.as_deref() == Some(rule)) {
        return Ok(at);
    }
    let message = match rule.parse::<usize>() {
        Ok(position) if (1..=filters.len()).contains(&position) => return Ok(position - 1),
        Ok(_) if filters.is_empty() => format!("there is no filter rule {rule}: there are none"),
        Ok(_) => format!("there is no filter rule {rule}: positions are 1 to {}", filters.len()),
        Err(_) => {
            let names = filters.iter().filter_map(|f| f.name.as_deref());
            return Err(missing("filter", format!("there is no filter rule {rule:?}"), rule, names));
        }
    };
    Err(error(ErrorCode::NotFound, "filter", message))
}

impl Change {
    pub(super) fn filter_position(position: usize, last: usize) -> Result<usize, ErrorBody> {
        if (1..=last).contains(&position) {
            return Ok(position - 1);
        }
        let message = format!("position {position} is not in 1 to {last} (1 is first)");
        Err(error(ErrorCode::Usage, "position", message))
    }

    pub(super) fn filter_add(&mut self, rule: &FilterRule, position: Option<usize>) -> Result<(), ErrorBody> {
        self.filter_host_bits(rule);
        let filters = &mut self.intent.rules.filters;
        if let Some(name) = &rule.name
            && let Some(at) = filters.iter().position(|f| f.name.as_ref() == Some(name))
        {
            let message = format!(
                "there is a filter rule {name:?} already, at position {}: delete it first, or use another name",
                at + 1
            );
            return Err(error(ErrorCode::Conflict, "name", message));
        }
        let at = match position {
            Some(position) => Self::filter_position(position, filters.len() + 1)?,
            None => filters.len(),
        };
        filters.insert(at, normal_filter(rule));
        Ok(())
    }

    pub(super) fn filter_move(&mut self, rule: &str, position: usize) -> Result<(), ErrorBody> {
        let from = filter_at(&self.intent.rules.filters, rule)?;
        let filters = &mut self.intent.rules.filters;
        let to = Self::filter_position(position, filters.len())?;
        let rule = filters.remove(from);
        let name = diff::filter_name(to, &rule);
        filters.insert(to, rule);
        self.name("filter", name);
        Ok(())
    }

    pub(super) fn filter_replace(&mut self, rules: &[Arc<FilterRule>], append: bool) {
        for rule in rules {
            self.filter_host_bits(rule);
        }
        self.all_filters |= !append;
        let filters = &mut self.intent.rules.filters;
        if append {
            filters.extend(rules.iter().cloned());
        } else {
            // Rules that are there already are taken from there: equal ones are then the same ones, and quickly compared.
            let old: HashMap<diff::RuleKey, Arc<FilterRule>> =
                diff::filter_keys(filters).into_iter().zip(filters.drain(..)).collect();
            let keys = diff::filter_keys(rules);
            filters.extend(rules.iter().zip(keys).map(|(rule, key)| match old.get(&key) {
                Some(present) if present == rule => Arc::clone(present),
                _ => Arc::clone(rule),
            }));
        }
        normalize(&mut self.intent.rules);
    }

    pub(super) fn set_put(&mut self, set: &AddressSet) {
        self.host_bits(&format!("set {:?}", set.name), &set.addresses);
        self.name("set", &set.name);
        let set =
            AddressSet { addresses: set.addresses.iter().map(ipnet::IpNet::trunc).collect(), ..set.clone() };
        put(&mut self.intent.rules.sets, set, |one, other| one.name == other.name);
    }

    pub(super) fn set_delete(&mut self, name: &str) -> Result<(), ErrorBody> {
        let sets = &mut self.intent.rules.sets;
        sets.remove(place_of(sets, ("set", "set"), name, |set| &set.name)?);
        Ok(())
    }

    pub(super) fn policy(&mut self, policy: &InterfacePolicy) {
        self.name("policy", &policy.interface);
        let policies = &mut self.intent.rules.policies;
        put(policies, policy.clone(), |one, other| one.interface == other.interface);
        policies.retain(|policy| policy.filter != FilterDefault::Allow);
    }

    pub(super) fn filter_host_bits(&mut self, rule: &FilterRule) {
        let lists = rule.src.iter().chain(&rule.dst).flat_map(Many::iter);
        let nets: Vec<_> = lists
            .filter_map(|item| match item {
                Addresses::Net(net) if *net != net.trunc() => Some(*net),
                _ => None,
            })
            .collect();
        if !nets.is_empty() {
            self.host_bits(&format!("filter rule \"{}\"", diff::content(rule)), &nets);
        }
    }
}

fn normal_filter(rule: &FilterRule) -> Arc<FilterRule> {
    let mut rules = Rules { filters: vec![Arc::new(rule.clone())].into(), ..Rules::default() };
    normalize(&mut rules);
    rules.filters.pop().unwrap_or_default()
}
