//! The earliest match that holds another one: by prefixes in hash tables, by ports in sorted ranges.

use std::collections::{BTreeMap, HashMap};

use crate::rules::boxes::{Extra, Match, Prefix, mask, ports_cover};

/// Matches, in the order of their rules.
#[derive(Default)]
pub(super) struct Index<'a> {
    /// For each IP version: by source prefix, lengths apart.
    sources: [ByPrefix<ByPrefix<Cell<'a>>>; 2],
}

impl<'a> Index<'a> {
    /// Position of the first rule with a match that holds all of `one`.
    pub(super) fn earliest(&self, one: &Match<'_>) -> Option<usize> {
        let mut earliest: Option<usize> = None;
        self.sources[usize::from(one.v6)].holding(one.source, |destinations| {
            destinations.holding(one.destination, |cell| {
                let found = cell.earliest(one);
                earliest = earliest.into_iter().chain(found).min();
            });
        });
        earliest
    }

    /// Adds a match of the rule at a position, which is not below that of any before.
    pub(super) fn insert(&mut self, one: &Match<'a>, position: usize) {
        self.sources[usize::from(one.v6)].at(one.source).at(one.destination).insert(one, position);
    }
}

/// Values by prefix.
struct ByPrefix<T> {
    lengths: Vec<(u8, HashMap<u128, T>)>,
}

impl<T> Default for ByPrefix<T> {
    fn default() -> Self {
        Self { lengths: Vec::new() }
    }
}

impl<T> ByPrefix<T> {
    /// Those whose prefix holds all of `inner`.
    fn holding(&self, inner: Prefix, mut each: impl FnMut(&T)) {
        for (length, values) in self.lengths.iter().filter(|(length, _)| *length <= inner.length) {
            if let Some(value) = values.get(&(inner.first & mask(*length))) {
                each(value);
            }
        }
    }
}

impl<T: Default> ByPrefix<T> {
    fn at(&mut self, prefix: Prefix) -> &mut T {
        let at = match self.lengths.iter().position(|(length, _)| *length == prefix.length) {
            Some(at) => at,
            None => {
                self.lengths.push((prefix.length, HashMap::new()));
                self.lengths.len() - 1
            }
        };
        self.lengths[at].1.entry(prefix.first).or_default()
    }
}

/// Matches of the same prefixes.
#[derive(Default)]
struct Cell<'a> {
    groups: Vec<Group<'a>>,
}

/// Matches that differ in their destination ports alone.
struct Group<'a> {
    protocol: Option<u8>,
    source_ports: Option<[u16; 2]>,
    extra: Extra<'a>,
    /// The first one that takes any destination port.
    any: Option<usize>,
    /// Ranges: first port to last port and position. No range of a layer holds another one of it, so that last ports rise
    /// with first ports.
    layers: Vec<BTreeMap<u16, (u16, usize)>>,
}

impl<'a> Cell<'a> {
    fn earliest(&self, one: &Match<'_>) -> Option<usize> {
        let groups = self.groups.iter().filter(|group| {
            group.protocol.is_none_or(|protocol| one.protocol == Some(protocol))
                && ports_cover(group.source_ports, one.source_ports)
                && group.extra.covers(&one.extra)
        });
        groups.filter_map(|group| group.earliest(one.destination_ports)).min()
    }

    fn insert(&mut self, one: &Match<'a>, position: usize) {
        let key = (one.protocol, one.source_ports, one.extra);
        let at =
            self.groups.iter().position(|group| (group.protocol, group.source_ports, group.extra) == key);
        let at = at.unwrap_or_else(|| {
            let (protocol, source_ports, extra) = key;
            self.groups.push(Group { protocol, source_ports, extra, any: None, layers: Vec::new() });
            self.groups.len() - 1
        });
        self.groups[at].insert(one.destination_ports, position);
    }
}

impl Group<'_> {
    fn earliest(&self, ports: Option<[u16; 2]>) -> Option<usize> {
        let ranges = ports.into_iter().flat_map(|[low, high]| {
            self.layers.iter().flat_map(move |layer| {
                let below = layer.range(..=low).rev();
                below.take_while(move |(_, (last, _))| *last >= high).map(|(_, (_, position))| *position)
            })
        });
        self.any.into_iter().chain(ranges).min()
    }

    fn insert(&mut self, ports: Option<[u16; 2]>, position: usize) {
        let Some([low, high]) = ports else {
            self.any.get_or_insert(position);
            return;
        };
        let fits = |layer: &BTreeMap<u16, (u16, usize)>| {
            layer.range(..=low).next_back().is_none_or(|(first, (last, _))| *last < high && *first < low)
                && layer.range(low..).next().is_none_or(|(_, (last, _))| *last > high)
        };
        let at = self.layers.iter().position(fits).unwrap_or_else(|| {
            self.layers.push(BTreeMap::new());
            self.layers.len() - 1
        });
        self.layers[at].insert(low, (high, position));
    }
}
