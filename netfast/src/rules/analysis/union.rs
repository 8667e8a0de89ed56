//! Whether several earlier matches together hold another one.
//!
//! A match is a box: a range of source and destination addresses, protocols and ports. What earlier boxes overlap is cut off
//! piece by piece until nothing is left, or something stays. Work is bounded: a match that more than [`MOST_TOUCHING`]
//! earlier ones touch, or that falls into more than [`MOST_PIECES`] pieces, is not looked at to the end, and after
//! [`MOST_CUTS`] comparisons in all no further match is. What then is not found is not reported; what is reported is so.

use std::collections::{BTreeMap, BTreeSet};

use crate::rules::boxes::{Extra, Match, Prefix, mask};

/// Earlier matches that are held against one.
const MOST_TOUCHING: usize = 1024;
/// Pieces that a match may fall into.
const MOST_PIECES: usize = 256;
/// Comparisons of a piece and an earlier match in one analysis.
const MOST_CUTS: usize = 20_000_000;

/// Port number of packets that have none, such as the later fragments.
const NO_PORT: u128 = 1 << 16;

/// First and last value of source, destination, protocol, source port, destination port.
type Ranges = [[u128; 2]; 5];

fn ranges(one: &Match<'_>) -> Ranges {
    let prefix = |prefix: Prefix| [prefix.first, prefix.first | !prefix.mask()];
    let ports = |ports: Option<[u16; 2]>| ports.map_or([0, NO_PORT], |ports| ports.map(u128::from));
    [
        prefix(one.source),
        prefix(one.destination),
        one.protocol.map_or([0, 255], |protocol| [protocol.into(); 2]),
        ports(one.source_ports),
        ports(one.destination_ports),
    ]
}

/// A packet has both ports or none.
fn is_possible(piece: &Ranges) -> bool {
    let none = |range: [u128; 2]| range[0] == NO_PORT;
    let some = |range: [u128; 2]| range[1] < NO_PORT;
    let [.., source, destination] = *piece;
    !(none(source) && some(destination) || some(source) && none(destination))
}

/// Adds the parts of `piece` outside of `cut` to `rest`; false if the two have nothing in common.
fn subtract(piece: &Ranges, cut: &Ranges, rest: &mut Vec<Ranges>) -> bool {
    if piece.iter().zip(cut).any(|(a, b)| a[1] < b[0] || b[1] < a[0]) {
        return false;
    }
    let mut left = *piece;
    for (field, cut) in cut.iter().enumerate() {
        let mut keep = |part: Ranges| {
            if is_possible(&part) {
                rest.push(part);
            }
        };
        if left[field][0] < cut[0] {
            let mut part = left;
            part[field][1] = cut[0] - 1;
            keep(part);
            left[field][0] = cut[0];
        }
        if left[field][1] > cut[1] {
            let mut part = left;
            part[field][0] = cut[1] + 1;
            keep(part);
            left[field][1] = cut[1];
        }
    }
    true
}

/// Matches by one of their prefixes.
#[derive(Default)]
struct ByPrefix {
    /// By first address and length.
    places: BTreeMap<(u128, u8), Vec<u32>>,
    lengths: BTreeSet<u8>,
}

impl ByPrefix {
    fn insert(&mut self, prefix: Prefix, number: u32) {
        self.places.entry((prefix.first, prefix.length)).or_default().push(number);
        self.lengths.insert(prefix.length);
    }

    /// Numbers of the matches whose prefix has addresses of `one`; `None`: more than [`MOST_TOUCHING`].
    fn touching(&self, one: Prefix) -> Option<Vec<u32>> {
        let wider = self
            .lengths
            .range(..one.length)
            .filter_map(|length| self.places.get(&(one.first & mask(*length), *length)));
        let last = one.first | !one.mask();
        let inside = self.places.range((one.first, one.length)..=(last, 128)).map(|(_, numbers)| numbers);
        let mut found = Vec::new();
        for numbers in wider.chain(inside) {
            if found.len() + numbers.len() > MOST_TOUCHING {
                return None;
            }
            found.extend(numbers);
        }
        Some(found)
    }
}

struct Seen<'a> {
    ranges: Ranges,
    extra: Extra<'a>,
    rule: usize,
}

/// Earlier matches.
#[derive(Default)]
pub(super) struct Union<'a> {
    seen: Vec<Seen<'a>>,
    /// For each IP version by source and by destination.
    prefixes: [[ByPrefix; 2]; 2],
    cuts: usize,
}

impl<'a> Union<'a> {
    /// Adds a match of the rule at a position, which is not below that of any before.
    pub(super) fn insert(&mut self, one: &Match<'a>, rule: usize) {
        let number = self.seen.len() as u32;
        self.seen.push(Seen { ranges: ranges(one), extra: one.extra, rule });
        let [sources, destinations] = &mut self.prefixes[usize::from(one.v6)];
        sources.insert(one.source, number);
        destinations.insert(one.destination, number);
    }

    /// The rules whose matches together hold all of `one`; `None`: there are none, or that is too much to tell.
    pub(super) fn holding(&mut self, one: &Match<'_>) -> Option<Vec<usize>> {
        let [sources, destinations] = &self.prefixes[usize::from(one.v6)];
        let touching = match (sources.touching(one.source), destinations.touching(one.destination)) {
            (Some(by_source), Some(by_destination)) if by_source.len() > by_destination.len() => {
                by_destination
            }
            (Some(found), _) | (None, Some(found)) => found,
            (None, None) => return None,
        };
        let mut touching: Vec<&Seen<'a>> = touching
            .into_iter()
            .map(|number| &self.seen[number as usize])
            .filter(|seen| seen.extra.covers(&one.extra))
            .collect();
        touching.sort_by_key(|seen| seen.rule);
        let mut pieces = vec![ranges(one)];
        let mut by = Vec::new();
        for seen in touching {
            self.cuts += pieces.len();
            if self.cuts > MOST_CUTS || pieces.len() > MOST_PIECES {
                return None;
            }
            let mut rest = Vec::with_capacity(pieces.len());
            let mut cut = false;
            for piece in &pieces {
                if subtract(piece, &seen.ranges, &mut rest) {
                    cut = true;
                } else {
                    rest.push(*piece);
                }
            }
            if cut && by.last() != Some(&seen.rule) {
                by.push(seen.rule);
            }
            pieces = rest;
            if pieces.is_empty() {
                return Some(by);
            }
        }
        None
    }
}
