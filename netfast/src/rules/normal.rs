//! The one form of rules that mean the same: so that equal rules are equal text, and "unchanged" can be told.

use std::sync::Arc;

use crate::api::types::{Addresses, Endpoint, FilterDefault, FilterRule, Forward, Many, PortRange, Rules};

/// Writes out what may be abbreviated: a target of a range given by its first port gets the whole range, prefixes lose the
/// bits behind their length, a policy that says what holds anyway is left out. Rules that are not valid come through
/// without harm.
pub fn normalize(rules: &mut Rules) {
    for forward in &mut rules.forwards {
        normalize_forward(forward);
    }
    for snat in &mut rules.snats {
        for net in &mut snat.from {
            *net = net.trunc();
        }
    }
    for echo in &mut rules.echoes {
        for net in &mut echo.allow {
            *net = net.trunc();
        }
    }
    for set in &mut rules.sets {
        for net in &mut set.addresses {
            *net = net.trunc();
        }
    }
    // Mostly all of them are: then the list stays the same one.
    let others: Vec<usize> = (0..rules.filters.len()).filter(|at| !is_normal(&rules.filters[*at])).collect();
    for at in others {
        normalize_filter(Arc::make_mut(&mut rules.filters[at]));
    }
    rules.policies.retain(|policy| policy.filter != FilterDefault::Allow);
}

fn is_normal(rule: &FilterRule) -> bool {
    let nets = |list: &Option<Many<Addresses>>| {
        list.iter().flat_map(Many::iter).all(|item| match item {
            Addresses::Net(net) => *net == net.trunc(),
            Addresses::Set(_) => true,
        })
    };
    nets(&rule.src) && nets(&rule.dst)
}

fn normalize_filter(rule: &mut FilterRule) {
    for item in rule.src.iter_mut().chain(rule.dst.iter_mut()).flat_map(Many::as_mut_slice) {
        if let Addresses::Net(net) = item {
            *net = net.trunc();
        }
    }
}

/// See [`normalize`].
pub fn normalize_forward(forward: &mut Forward) {
    if let Some(health) = &mut forward.health
        && health.timeout == Some(health.default_timeout())
    {
        health.timeout = None;
    }
    if let Some(net) = &mut forward.tunnel_source {
        *net = net.trunc();
    }
    for target in &mut forward.targets {
        if let Some(ports) = target_ports(forward.listen.ports, target.address.ports) {
            target.address.ports = ports;
        }
    }
}

/// The ports of a target of a forward that listens on `listen`, if they fit.
pub fn target_ports(listen: PortRange, target: PortRange) -> Option<PortRange> {
    if target.count() == listen.count() {
        return Some(target);
    }
    let high = u32::from(target.low) + listen.count() - 1;
    let high = u16::try_from(high).ok()?;
    (target.count() == 1).then_some(PortRange { low: target.low, high })
}

/// What tells a forward's targets apart: address and first port.
pub fn target_key(address: &Endpoint) -> (std::net::IpAddr, u16) {
    (address.address, address.ports.low)
}
