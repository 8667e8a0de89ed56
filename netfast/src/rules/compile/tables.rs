//! The look-up tables of the forwards.

use std::{collections::HashMap, sync::Arc};

use netfast_common::{abi, addr, maglev};

use super::{leaving, quic};
use crate::{
    api::types::{Endpoint, ErrorBody, ErrorCode, Forward, Intent, Rules, Target, Transport},
    rules::{
        ids::{ForwardId, Ids, TargetId},
        images::{Images, Table, TargetStates},
    },
};

/// Look-up entries per unit of weight that are tried, until all tables fit together.
const ENTRIES_PER_UNIT: [u64; 7] = [maglev::ENTRIES_PER_UNIT, 50, 20, 10, 5, 2, 1];

/// Makes the tables and states of what is compiled anew, because other targets are to get new flows. All else in `images` stays; tables
/// whose targets are the same are taken over.
///
/// `images` must be compiled from `intent` and `ids`.
pub fn rebalance(intent: &Intent, ids: &Ids, states: &TargetStates, images: &mut Images) {
    let live = std::mem::take(&mut images.tables);
    // They fitted before, and their sizes do not depend on states.
    if let Ok(entries_per_unit) = fit(&intent.rules, ids) {
        fill(&intent.rules, ids, states, entries_per_unit, &live, images);
    }
}

/// Makes the tables of all forwards, whose images are there already; `live`: tables that may be taken over.
pub(super) fn tables(
    rules: &Rules,
    ids: &Ids,
    states: &TargetStates,
    live: &[Arc<Table>],
    images: &mut Images,
) -> Result<(), ErrorBody> {
    let entries_per_unit = fit(rules, ids)?;
    if entries_per_unit < maglev::ENTRIES_PER_UNIT {
        images.warnings.push(format!(
            "there are so many targets that the look-up tables have only {entries_per_unit} entries for each unit of weight: \
             shares will be off by some percent"
        ));
    }
    fill(rules, ids, states, entries_per_unit, live, images);
    Ok(())
}

fn fill(
    rules: &Rules,
    ids: &Ids,
    states: &TargetStates,
    entries_per_unit: u64,
    live: &[Arc<Table>],
    images: &mut Images,
) {
    images.maglev.clear();
    images.tables.clear();
    let mut conditions: HashMap<u16, u8> = HashMap::new();
    for (at, (forward, id)) in rules.forwards.iter().zip(ids.forwards()).enumerate() {
        let size = table_size(&candidates(forward, id, None), entries_per_unit);
        let candidates = candidates(forward, id, Some(states));
        let seed = seed(&forward.listen, protocol(forward.protocol));
        let same = |table: &&Arc<Table>| table.is_of(id.uid, &candidates, seed, size);
        // Mostly at the same place.
        let known = live.get(at).filter(same).or_else(|| live.iter().find(same));
        let table = known.cloned().unwrap_or_else(|| Arc::new(Table::build(id.uid, candidates, seed, size)));
        let offset = images.maglev.len() as u32 * abi::MAGLEV_PER_CELL;
        images.maglev.extend_from_slice(table.cells());
        if let Some((_, image)) = images.forwards.iter_mut().find(|(index, _)| *index == id.index) {
            image.maglev_size = table.size();
            image.maglev_offset = if table.size() == 0 { 0 } else { offset };
        }
        images.tables.push(table);
        for (target, id) in forward.targets.iter().zip(&id.targets) {
            conditions.insert(id.index, leaving::state(forward, target, states));
        }
    }
    images.quic = quic::ids(rules, ids, states);
    for (index, image) in &mut images.targets {
        image.state = conditions.get(index).copied().unwrap_or_default();
    }
}

pub(super) const fn protocol(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

/// The targets that get new flows; without `states` all that may ever get any.
fn candidates(forward: &Forward, id: &ForwardId, states: Option<&TargetStates>) -> Vec<maglev::Candidate> {
    let candidate = |(target, id): (&Target, &TargetId)| maglev::Candidate {
        address: addr::from_ip(target.address.address),
        port: target.address.ports.low,
        weight: target.weight,
        index: id.index,
    };
    let takes = |(target, _): &(&Target, &TargetId)| {
        states.is_none_or(|states| leaving::state(forward, target, states) == 0)
    };
    forward.targets.iter().zip(&id.targets).filter(takes).map(candidate).collect()
}

/// Size of a forward's look-up table; 0 if it has no target. A single target needs no more than one cell. It depends on the
/// targets that there are, whatever their states: a table of another size would move the flows of those that stay.
fn table_size(candidates: &[maglev::Candidate], entries_per_unit: u64) -> u32 {
    match candidates.len() {
        0 => 0,
        1 => maglev::SIZES[0],
        _ => maglev::size_for(maglev::units(candidates), entries_per_unit),
    }
}

/// The finest tables that fit: look-up entries per unit of weight.
fn fit(rules: &Rules, ids: &Ids) -> Result<u64, ErrorBody> {
    let all: Vec<_> =
        rules.forwards.iter().zip(ids.forwards()).map(|(f, id)| candidates(f, id, None)).collect();
    for entries_per_unit in ENTRIES_PER_UNIT {
        let cells =
            |candidates: &Vec<_>| table_size(candidates, entries_per_unit).div_ceil(abi::MAGLEV_PER_CELL);
        if all.iter().map(cells).sum::<u32>() <= abi::MAX_MAGLEV_CELLS {
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

/// Seed of a forward's table: of the service alone, so that every node computes the same table, and two services over the
/// same targets do not load them alike.
fn seed(listen: &Endpoint, protocol: u8) -> u64 {
    let (high, low) = addr::words(&addr::from_ip(listen.address));
    let service = u64::from(protocol) << 16 | u64::from(listen.ports.low);
    high.rotate_left(17) ^ low ^ service.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
