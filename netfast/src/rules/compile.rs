//! From the intent to the images of the maps.

use std::{
    collections::{HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netfast_common::{abi, addr, maglev};

use crate::api::types::{
    Endpoint, ErrorBody, ErrorCode, FilterRule, Forward, ForwardMode, Intent, Rules, Transport,
};

use crate::classifier::{Compiled, Limits};

mod filters;

pub use filters::{Expanded, MAX_LIMITS, NO_INTERFACE, expand};

use super::{
    diff,
    ids::{ForwardId, Ids},
    images::{HostView, Images, Leaving, TargetRoute},
    normal, snat, validate,
};

/// Look-up entries per unit of weight that are tried, until all tables fit together.
const ENTRIES_PER_UNIT: [u64; 7] = [maglev::ENTRIES_PER_UNIT, 50, 20, 10, 5, 2, 1];

/// Compiles the intent. `ids` get entries for what is new; what is gone is retired.
///
/// A filter rule whose interface does not exist at present compiles to one that matches nothing, with a warning: links
/// come and go, and that must not take the other rules with it. New rules are held to more, see [`require_interfaces`].
///
/// # Errors
/// When the rules are not valid or do not fit. `ids` are as they were then.
pub fn compile(intent: &Intent, ids: &mut Ids, host: &dyn HostView) -> Result<Images, ErrorBody> {
    compile_beside(intent, ids, host, &Compiled::default(), &Limits::default())
}

/// [`compile`], with the filter that is live and the limits of this host's tables: a small change of the filter does not
/// build all of it anew.
pub fn compile_beside(
    intent: &Intent,
    ids: &mut Ids,
    host: &dyn HostView,
    live: &Compiled,
    limits: &Limits,
) -> Result<Images, ErrorBody> {
    let mut rules = intent.rules.clone();
    normal::normalize(&mut rules);
    validate::validate(&rules)?;
    let mut assigned = ids.clone();
    assigned.assign(&rules)?;
    let routes = routes(&rules, host);
    assigned.set_sources(&sources(&rules, &routes))?;

    let mut images = Images::default();
    forwards(&rules, &assigned, &routes, &mut images)?;
    images.leaving = leaving(&assigned, host);
    snat::images(&rules, &assigned, host, &mut images)?;
    echoes(&rules, &assigned, &mut images);
    filters::compile(&rules, &assigned, host, &mut images, live, limits)?;
    images.services.sort_unstable_by_key(|s| (s.address, s.protocol, s.port_low));
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
            ForwardMode::Dnat => Vec::new(),
        })
        .collect()
}

fn forwards(rules: &Rules, ids: &Ids, routes: &Routes, images: &mut Images) -> Result<(), ErrorBody> {
    let entries_per_unit = fit(rules, ids, images)?;
    for ((forward, id), routes) in rules.forwards.iter().zip(ids.forwards()).zip(routes) {
        let protocol = match forward.protocol {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        };
        images.services.push(service(&forward.listen, protocol, abi::ServiceKind::Forward, id.index));
        let mode = match forward.mode {
            ForwardMode::Nat => abi::Mode::Nat,
            ForwardMode::Dnat => abi::Mode::Dnat,
        };
        for ((target, target_id), route) in forward.targets.iter().zip(&id.targets).zip(routes) {
            if route.is_none() {
                images.warnings.push(format!(
                    "target {} has no route: its packets are dropped until there is one",
                    diff::target_name(&forward.name, &target.address)
                ));
            }
            let source = target_id.source.filter(|_| forward.mode == ForwardMode::Nat);
            let image = abi::Target {
                address: addr::from_ip(target.address.address),
                source: source.map(addr::from_ip).unwrap_or_default(),
                service: addr::from_ip(forward.listen.address),
                port_delta: target.address.ports.low.wrapping_sub(forward.listen.ports.low),
                forward: id.index,
                next_hop: route.map_or(0, |r| r.next_hop),
                mode: mode as u8,
                in_use: 1,
                uid: target_id.uid,
                ..abi::Target::default()
            };
            images.targets.push((target_id.index, image));
        }
        let (maglev_offset, maglev_size) = table(forward, id, protocol, entries_per_unit, &mut images.maglev);
        let image = abi::Forward {
            uid: id.uid,
            maglev_offset,
            maglev_size,
            mode: mode as u8,
            ..abi::Forward::default()
        };
        images.forwards.push((id.index, image));
    }
    Ok(())
}

/// The ways to targets that only have old flows. The flows of a forward that is gone end; they need none.
fn leaving(ids: &Ids, host: &dyn HostView) -> Vec<Leaving> {
    ids.leaving()
        .map(|target| Leaving {
            index: target.index,
            uid: target.uid,
            next_hop: host.route(target.address.address).map_or(0, |route| route.next_hop),
        })
        .collect()
}

fn candidates(forward: &Forward, id: &ForwardId) -> Vec<maglev::Candidate> {
    let candidate = |(target, id): (&crate::api::types::Target, &super::ids::TargetId)| maglev::Candidate {
        address: addr::from_ip(target.address.address),
        port: target.address.ports.low,
        weight: target.weight,
        index: id.index,
    };
    forward.targets.iter().zip(&id.targets).map(candidate).collect()
}

/// Size of a forward's look-up table; 0 if it has no target. A single target needs no more than one cell.
fn table_size(candidates: &[maglev::Candidate], entries_per_unit: u64) -> u32 {
    match candidates.len() {
        0 => 0,
        1 => maglev::SIZES[0],
        _ => maglev::size_for(maglev::units(candidates), entries_per_unit),
    }
}

/// The finest tables that fit: look-up entries per unit of weight.
fn fit(rules: &Rules, ids: &Ids, images: &mut Images) -> Result<u64, ErrorBody> {
    let all: Vec<_> = rules.forwards.iter().zip(ids.forwards()).map(|(f, id)| candidates(f, id)).collect();
    for entries_per_unit in ENTRIES_PER_UNIT {
        let cells =
            |candidates: &Vec<_>| table_size(candidates, entries_per_unit).div_ceil(abi::MAGLEV_PER_CELL);
        if all.iter().map(cells).sum::<u32>() <= abi::MAX_MAGLEV_CELLS {
            if entries_per_unit < maglev::ENTRIES_PER_UNIT {
                images.warnings.push(format!(
                    "there are so many targets that the look-up tables have only {entries_per_unit} entries for each unit \
                     of weight: shares will be off by some percent"
                ));
            }
            return Ok(entries_per_unit);
        }
    }
    let largest = rules.forwards.iter().zip(&all).max_by_key(|(_, c)| maglev::units(c));
    Err(ErrorBody {
        code: ErrorCode::Rejected,
        message: format!(
            "the rules do not fit: the look-up tables of all forwards together have more than {} entries, limit {}; the \
             largest is that of forward {:?}: use fewer targets or smaller weights (1 and 2 instead of 100 and 200)",
            abi::MAX_MAGLEV_CELLS * abi::MAGLEV_PER_CELL,
            abi::MAX_MAGLEV_CELLS * abi::MAGLEV_PER_CELL,
            largest.map(|(f, _)| f.name.as_str()).unwrap_or_default()
        ),
        field: None,
    })
}

/// Appends a forward's look-up table; returns its offset and size in entries.
fn table(
    forward: &Forward,
    id: &ForwardId,
    protocol: u8,
    entries_per_unit: u64,
    cells: &mut Vec<abi::MaglevCell>,
) -> (u32, u32) {
    let candidates = candidates(forward, id);
    let size = table_size(&candidates, entries_per_unit);
    let mut entries = vec![0; size as usize];
    if !maglev::build(&candidates, seed(&forward.listen, protocol), &mut entries) {
        return (0, 0);
    }
    let offset = cells.len() as u32 * abi::MAGLEV_PER_CELL;
    for part in entries.chunks(abi::MAGLEV_PER_CELL as usize) {
        // Behind the last entry stands a valid index too, so that no look-up whatever can leave the forward.
        let mut targets = [entries[0]; abi::MAGLEV_PER_CELL as usize];
        targets[..part.len()].copy_from_slice(part);
        cells.push(abi::MaglevCell { targets });
    }
    (offset, size)
}

/// Seed of a forward's table: of the service alone, so that every node computes the same table, and two services over the
/// same targets do not load them alike.
fn seed(listen: &Endpoint, protocol: u8) -> u64 {
    let (high, low) = addr::words(&addr::from_ip(listen.address));
    let service = u64::from(protocol) << 16 | u64::from(listen.ports.low);
    high.rotate_left(17) ^ low ^ service.wrapping_mul(0x9e37_79b9_7f4a_7c15)
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
        images.services.push(service(&echo.listen, 17, abi::ServiceKind::Echo, id.index));
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
