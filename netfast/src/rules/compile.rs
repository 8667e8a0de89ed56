//! From the intent to the images of the maps.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netfast_common::{abi, addr};

use crate::api::types::{
    Affinity, EchoProtocol, Endpoint, ErrorBody, ErrorCode, FilterRule, Forward, ForwardMode, Intent,
    OnNoTarget, Rules,
};

use crate::classifier::Limits;

mod filters;
mod leaving;
mod quic;
mod tables;

pub use filters::{Expanded, MAX_LIMITS, NO_INTERFACE, expand};
pub use tables::rebalance;

use super::{
    diff,
    ids::Ids,
    images::{HostView, Images, TargetRoute, TargetStates},
    normal, snat, tunnel, validate,
};

/// Compiles the intent. `ids` get entries for what is new; what is gone is retired.
///
/// A filter rule whose interface does not exist at present compiles to one that matches nothing, with a warning: links
/// come and go, and that must not take the other rules with it. New rules are held to more, see [`require_interfaces`].
///
/// # Errors
/// When the rules are not valid or do not fit. `ids` are as they were then.
pub fn compile(intent: &Intent, ids: &mut Ids, host: &dyn HostView) -> Result<Images, ErrorBody> {
    compile_beside(intent, ids, host, &Images::default(), &Limits::default(), &TargetStates::default())
}

/// [`compile`], with what is live, the limits of this host's tables and the targets that get no new flows at present: a small
/// change of the filter does not build all of it anew, and a look-up table whose targets are the same is taken over.
pub fn compile_beside(
    intent: &Intent,
    ids: &mut Ids,
    host: &dyn HostView,
    live: &Images,
    limits: &Limits,
    states: &TargetStates,
) -> Result<Images, ErrorBody> {
    let mut rules = intent.rules.clone();
    normal::normalize(&mut rules);
    validate::validate_beside(&rules, &live.rules)?;
    let mut assigned = ids.clone();
    let filter_keys = live.filter_keys.of(&rules.filters);
    let counters = limits.numbers.min(abi::MAX_FILTER_NUMBERS);
    let taken_over = assigned.assign_by(&rules, filter_keys.as_slice(), counters)?;
    let routes = routes(&rules, host);
    assigned.set_sources(&sources(&rules, &routes))?;

    let mut images = Images { filter_counters_anew: taken_over, ..Images::default() };
    forwards(&rules, &assigned, &routes, host, &mut images);
    tables::tables(&rules, &assigned, states, &live.tables, &mut images)?;
    images.leaving = leaving::images(&assigned, host);
    snat::images(&rules, &assigned, host, &mut images)?;
    echoes(&rules, &assigned, &mut images);
    filters::compile(&rules, &assigned, host, &mut images, &live.filter, limits)?;
    images.services.sort_unstable_by_key(|s| (s.address, s.protocol, s.port_low));
    (images.rules, images.filter_keys) = (rules, filter_keys);
    *ids = assigned;
    Ok(images)
}

/// Refuses filter rules of `after` whose interface does not exist, unless `before` had the same rule already.
pub fn require_interfaces(before: &Rules, after: &Rules, host: &dyn HostView) -> Result<(), ErrorBody> {
    let mut old: Option<HashSet<&FilterRule>> = None;
    let mut exist: HashMap<&str, bool> = HashMap::new();
    for (at, rule) in after.filters.iter().enumerate() {
        let Some(name) = &rule.interface else { continue };
        let exists = *exist.entry(name).or_insert_with(|| host.ifindex(name).is_some());
        if !exists
            && !old
                .get_or_insert_with(|| before.filters.iter().map(AsRef::as_ref).collect())
                .contains(rule.as_ref())
        {
            return Err(ErrorBody {
                code: ErrorCode::Rejected,
                message: format!(
                    "filter rule {} names interface {name:?}, which does not exist (see `ip link`)",
                    diff::filter_name(at, rule)
                ),
                field: Some(format!("filter[{}].interface", at + 1)),
            });
        }
    }
    Ok(())
}

/// Routes of the targets of each forward, in the order of the rules.
type Routes = Vec<Vec<Option<TargetRoute>>>;

fn routes(rules: &Rules, host: &dyn HostView) -> Routes {
    rules.forwards.iter().map(|f| f.targets.iter().map(|t| host.route(t.address.address)).collect()).collect()
}

/// Source addresses that `nat` is to use; without a route the one before stays.
fn sources(rules: &Rules, routes: &Routes) -> Vec<Vec<Option<IpAddr>>> {
    rules
        .forwards
        .iter()
        .zip(routes)
        .map(|(f, routes)| match f.mode {
            ForwardMode::Nat => routes.iter().map(|route| route.map(|r| r.source)).collect(),
            ForwardMode::Dnat | ForwardMode::Dsr | ForwardMode::Ipip => Vec::new(),
        })
        .collect()
}

fn forwards(rules: &Rules, ids: &Ids, routes: &Routes, host: &dyn HostView, images: &mut Images) {
    for ((forward, id), routes) in rules.forwards.iter().zip(ids.forwards()).zip(routes) {
        let protocol = tables::protocol(forward.protocol);
        images.services.push(service(&forward.listen, protocol, abi::ServiceKind::Forward, id.index));
        let mode = match forward.mode {
            ForwardMode::Nat => abi::Mode::Nat,
            ForwardMode::Dnat => abi::Mode::Dnat,
            ForwardMode::Dsr => abi::Mode::Dsr,
            ForwardMode::Ipip => abi::Mode::Ipip,
        };
        for ((target, target_id), route) in forward.targets.iter().zip(&id.targets).zip(routes) {
            if route.is_none() {
                images.warnings.push(format!(
                    "target {} has no route: its packets are dropped until there is one",
                    diff::target_name(&forward.name, &target.address)
                ));
            }
            let address = target.address.address;
            // To a gateway the packet would be one to the service: it would come back.
            let gateway =
                host.gateway(address).filter(|_| forward.mode == ForwardMode::Dsr && route.is_some());
            if let Some(gateway) = gateway {
                images.warnings.push(format!(
                    "target {} is reached by way of {gateway}: in mode dsr a target is on a link of this host's, so its \
                     packets are dropped; use mode ipip, or give this host an address on the target's link",
                    diff::target_name(&forward.name, &target.address)
                ));
            }
            let (source, spread) = tunnel::source(forward, address, target_id, route.as_ref());
            let image = abi::Target {
                address: addr::from_ip(address),
                source: source.map(addr::from_ip).unwrap_or_default(),
                spread,
                service: addr::from_ip(forward.listen.address),
                port_delta: target.address.ports.low.wrapping_sub(forward.listen.ports.low),
                forward: id.index,
                next_hop: route.filter(|_| gateway.is_none()).map_or(0, |r| r.next_hop),
                mode: mode as u8,
                in_use: 1,
                uid: target_id.uid,
                ..abi::Target::default()
            };
            images.targets.push((target_id.index, image));
        }
        let image = abi::Forward {
            uid: id.uid,
            mode: mode as u8,
            flags: flags(forward),
            quic_id: forward.quic.unwrap_or_default(),
            ..abi::Forward::default()
        };
        images.forwards.push((id.index, image));
    }
}

/// [`abi::Forward::flags`].
fn flags(forward: &Forward) -> u8 {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    flag(forward.affinity == Affinity::Source, abi::FORWARD_BY_SOURCE)
        | flag(forward.on_no_target == OnNoTarget::Reject, abi::FORWARD_REJECTS)
        | flag(forward.quic.is_some(), abi::FORWARD_QUIC)
}

fn service(listen: &Endpoint, protocol: u8, kind: abi::ServiceKind, index: u16) -> abi::Service {
    abi::Service {
        address: addr::from_ip(listen.address),
        port_low: listen.ports.low,
        port_high: listen.ports.high,
        protocol,
        kind: kind as u8,
        index,
    }
}

fn echoes(rules: &Rules, ids: &Ids, images: &mut Images) {
    for (echo, id) in rules.echoes.iter().zip(ids.echoes()) {
        let kind = match echo.protocol {
            EchoProtocol::Echo => abi::ServiceKind::Echo,
            EchoProtocol::Stamp => abi::ServiceKind::Stamp,
        };
        images.services.push(service(&echo.listen, 17, kind, id.index));
        let image = abi::Echo {
            uid: id.uid,
            allow_offset: images.echo_allow.len() as u32,
            allow_count: echo.allow.len() as u32,
            rate: echo.rate,
            // What one second brings may also come at once.
            burst: echo.rate,
            pad: 0,
        };
        images.echoes.push((id.index, image));
        images.echo_allow.extend(echo.allow.iter().map(|net| {
            let (address, length) = prefix(Some(net));
            abi::AllowEntry { address, length: u32::from(length), pad: 0 }
        }));
    }
}

/// A prefix in the 128-bit form; none is the prefix of all addresses.
pub(super) fn prefix(net: Option<&IpNet>) -> ([u8; 16], u8) {
    match net {
        Some(IpNet::V4(v4)) => (addr::from_v4(v4.network().octets()), v4.prefix_len() + 96),
        Some(IpNet::V6(v6)) => (v6.network().octets(), v6.prefix_len()),
        None => ([0; 16], 0),
    }
}
