//! A filter rule as the matches that it stands for: each element of its lists and sets with each of the others, for each IP
//! version. All of them are at one position, and count on one counter.

use std::collections::HashMap;

use ipnet::IpNet;
use netfast_common::addr;

use crate::api::types::{AddressSet, Addresses, FilterRule, Many, Ports, Protocol, TcpFlags};

/// Most matches of all rules together.
pub const MAX_BOXES: usize = 200_000;
/// Most addresses of a set.
pub const MAX_SET_ADDRESSES: usize = 100_000;

/// A prefix in the 128-bit form: an IPv4 /24 has 120 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Its first address, as a number.
    pub first: u128,
    /// Its length, 0 to 128.
    pub length: u8,
}

impl Prefix {
    /// A prefix as the program knows it.
    pub fn of(net: &IpNet) -> Self {
        match net {
            IpNet::V4(v4) => Self {
                first: u128::from_be_bytes(addr::from_v4(v4.network().octets())),
                length: v4.prefix_len() + 96,
            },
            IpNet::V6(v6) => Self { first: v6.network().into(), length: v6.prefix_len() },
        }
    }

    /// Every address of an IP version.
    pub fn any(v6: bool) -> Self {
        if v6 {
            Self { first: 0, length: 0 }
        } else {
            Self { first: u128::from_be_bytes(addr::from_v4([0; 4])), length: 96 }
        }
    }

    /// Its mask.
    pub const fn mask(self) -> u128 {
        mask(self.length)
    }

    /// Whether it holds all of `other`.
    pub const fn covers(self, other: Self) -> bool {
        self.length <= other.length && other.first & mask(self.length) == self.first
    }
}

/// So many leading ones.
pub const fn mask(length: u8) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length as u32) }
}

/// What a match asks beyond addresses, protocol and ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Extra<'a> {
    /// TCP flags.
    pub flags: Option<TcpFlags>,
    /// ICMP type and code.
    pub icmp: Option<(u8, Option<u8>)>,
    /// Name of the interface that the packet came in by.
    pub interface: Option<&'a str>,
    /// VLAN; 0: untagged.
    pub vlan: Option<u16>,
}

impl Extra<'_> {
    /// Whether each packet that `inner` lets in is let in by this one.
    pub fn covers(&self, inner: &Self) -> bool {
        self.interface.is_none_or(|name| inner.interface == Some(name))
            && self.vlan.is_none_or(|vlan| inner.vlan == Some(vlan))
            && self.icmp.is_none_or(|(kind, code)| {
                inner.icmp.is_some_and(|(other, of)| kind == other && (code.is_none() || code == of))
            })
            && self.flags.is_none_or(|flags| {
                inner.flags.is_some_and(|other| {
                    other.mask & flags.mask == flags.mask && other.value & flags.mask == flags.value
                })
            })
    }
}

/// One match of a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Match<'a> {
    /// IPv6, else IPv4.
    pub v6: bool,
    /// Source prefix.
    pub source: Prefix,
    /// Destination prefix.
    pub destination: Prefix,
    /// IP protocol; `None`: any.
    pub protocol: Option<u8>,
    /// First and last source port; `None`: any, and packets that have none.
    pub source_ports: Option<[u16; 2]>,
    /// Likewise.
    pub destination_ports: Option<[u16; 2]>,
    /// What else is asked.
    pub extra: Extra<'a>,
}

impl Match<'_> {
    /// Whether each packet that `inner` matches is matched by this one.
    pub fn covers(&self, inner: &Self) -> bool {
        self.v6 == inner.v6
            && self.source.covers(inner.source)
            && self.destination.covers(inner.destination)
            && self.protocol.is_none_or(|protocol| inner.protocol == Some(protocol))
            && ports_cover(self.source_ports, inner.source_ports)
            && ports_cover(self.destination_ports, inner.destination_ports)
            && self.extra.covers(&inner.extra)
    }
}

/// Whether the ports `inner` are among `outer`.
pub fn ports_cover(outer: Option<[u16; 2]>, inner: Option<[u16; 2]>) -> bool {
    match (outer, inner) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => outer[0] <= inner[0] && inner[1] <= outer[1],
    }
}

/// Sets by their names.
pub type Sets<'a> = HashMap<&'a str, &'a AddressSet>;

/// The sets of rules by their names.
pub fn by_name(sets: &[AddressSet]) -> Sets<'_> {
    sets.iter().map(|set| (set.name.as_str(), set)).collect()
}

/// The prefixes of an IP version that a field names; `None`: the field is not there.
fn prefixes<'a>(list: Option<&'a Many<Addresses>>, sets: &'a Sets<'a>, v6: bool) -> Option<Vec<Prefix>> {
    let nets = list?.iter().flat_map(move |item| match item {
        Addresses::Net(net) => std::slice::from_ref(net),
        Addresses::Set(name) => sets.get(name.as_str()).map_or(&[][..], |set| &set.addresses[..]),
    });
    Some(disjoint(nets.filter(move |net| net.addr().is_ipv6() == v6).map(Prefix::of).collect()))
}

/// Prefixes of which none holds another one, so that a packet meets a rule that counts once.
fn disjoint(mut prefixes: Vec<Prefix>) -> Vec<Prefix> {
    if prefixes.len() > 1 {
        // What holds others stands before them.
        prefixes.sort_unstable();
        let mut last: Option<Prefix> = None;
        prefixes.retain(|prefix| {
            let held = last.is_some_and(|last| last.covers(*prefix));
            if !held {
                last = Some(*prefix);
            }
            !held
        });
    }
    prefixes
}

/// Port ranges that do not overlap or touch.
fn merged(ranges: &[Ports]) -> Vec<Option<[u16; 2]>> {
    let mut ranges: Vec<[u16; 2]> = ranges.iter().map(|Ports(range)| [range.low, range.high]).collect();
    ranges.sort_unstable();
    let mut merged: Vec<Option<[u16; 2]>> = Vec::with_capacity(ranges.len());
    for [low, high] in ranges {
        match merged.last_mut() {
            Some(Some(last)) if u32::from(low) <= u32::from(last[1]) + 1 => last[1] = last[1].max(high),
            _ => merged.push(Some([low, high])),
        }
    }
    merged
}

/// The match of a rule without lists and sets, if it has one in this IP version: most rules of large sets are such, and
/// nothing is allocated for them. `None`: the rule has lists or sets.
fn only<'a>(rule: &'a FilterRule, v6: bool) -> Option<Option<Match<'a>>> {
    /// `Err`: there are several.
    fn one<T: Copy>(list: &Option<Many<T>>) -> Result<Option<T>, ()> {
        match list {
            None => Ok(None),
            Some(Many::One(value)) => Ok(Some(*value)),
            Some(Many::Several(_)) => Err(()),
        }
    }
    let prefix = |list: &Option<Many<Addresses>>| match list {
        None => Some(Some(Prefix::any(v6))),
        Some(Many::One(Addresses::Net(net))) => Some((net.addr().is_ipv6() == v6).then(|| Prefix::of(net))),
        Some(Many::One(Addresses::Set(_)) | Many::Several(_)) => None,
    };
    let (source, destination) = (prefix(&rule.src)?, prefix(&rule.dst)?);
    let (protocol, icmp) = (one(&rule.proto).ok()?, one(&rule.icmp).ok()?);
    let range = |ports: Option<Ports>| ports.map(|Ports(range)| [range.low, range.high]);
    let (source_ports, destination_ports) = (range(one(&rule.sport).ok()?), range(one(&rule.dport).ok()?));
    let (Some(source), Some(destination)) = (source, destination) else { return Some(None) };
    let protocol = protocol.map(|Protocol(number)| number);
    if matches!((protocol, v6), (Some(1), true) | (Some(58), false)) {
        return Some(None);
    }
    let icmp = match icmp {
        None => None,
        Some(kind) => match kind.type_in(v6) {
            None => return Some(None),
            Some(number) => Some((number, kind.code)),
        },
    };
    let extra = Extra { flags: rule.flags, icmp, interface: rule.interface.as_deref(), vlan: rule.vlan };
    Some(Some(Match { v6, source, destination, protocol, source_ports, destination_ports, extra }))
}

/// Calls `each` for every match of a rule.
pub fn for_each<'a>(rule: &'a FilterRule, sets: &Sets<'_>, mut each: impl FnMut(Match<'a>)) {
    for v6 in [false, true] {
        if rule.version.is_some_and(|version| (version == 6) != v6) {
            continue;
        }
        if let Some(only) = only(rule, v6) {
            only.into_iter().for_each(&mut each);
            continue;
        }
        let any = [Prefix::any(v6)];
        let (one, other) = (prefixes(rule.src.as_ref(), sets, v6), prefixes(rule.dst.as_ref(), sets, v6));
        let sources: &[Prefix] = one.as_deref().unwrap_or(&any);
        let destinations: &[Prefix] = other.as_deref().unwrap_or(&any);
        for transport in transports(rule, v6) {
            for &source in sources {
                for &destination in destinations {
                    each(Match { v6, source, destination, ..transport });
                }
            }
        }
    }
}

/// What is no address: protocols, ports, and the rest.
fn transports<'a>(rule: &'a FilterRule, v6: bool) -> Vec<Match<'a>> {
    let mut matches = Vec::with_capacity(1);
    let protocols: Vec<Option<u8>> = match &rule.proto {
        None => vec![None],
        // ICMP is of IPv4, ICMPv6 of IPv6: elsewhere no packet has them.
        Some(list) => list
            .iter()
            .filter(|proto| !matches!((proto.0, v6), (1, true) | (58, false)))
            .map(|Protocol(number)| Some(*number))
            .collect(),
    };
    let ports = |list: &Option<Many<Ports>>| -> Vec<Option<[u16; 2]>> {
        match list {
            None => vec![None],
            Some(list) => merged(list.as_slice()),
        }
    };
    let (sources, destinations) = (ports(&rule.sport), ports(&rule.dport));
    let kinds: Vec<Option<(u8, Option<u8>)>> = match &rule.icmp {
        None => vec![None],
        Some(list) => {
            let all = list.iter().filter_map(|kind| Some((kind.type_in(v6)?, kind.code)));
            let mut all: Vec<_> = all.collect();
            // A type without a code stands before those with one, which it holds.
            all.sort_unstable();
            all.dedup_by(|next, last| next.0 == last.0 && (last.1.is_none() || last.1 == next.1));
            all.into_iter().map(Some).collect()
        }
    };
    let mut protocols = protocols;
    protocols.sort_unstable();
    protocols.dedup();
    for protocol in protocols {
        for &source_ports in &sources {
            for &destination_ports in &destinations {
                for &icmp in &kinds {
                    let extra = Extra {
                        flags: rule.flags,
                        icmp,
                        interface: rule.interface.as_deref(),
                        vlan: rule.vlan,
                    };
                    matches.push(Match {
                        v6,
                        source: Prefix::any(v6),
                        destination: Prefix::any(v6),
                        protocol,
                        source_ports,
                        destination_ports,
                        extra,
                    });
                }
            }
        }
    }
    matches
}

/// How many matches a rule has.
pub fn count(rule: &FilterRule, sets: &Sets<'_>) -> usize {
    let mut sum = 0usize;
    for v6 in [false, true] {
        if rule.version.is_some_and(|version| (version == 6) != v6) {
            continue;
        }
        if let Some(only) = only(rule, v6) {
            sum = sum.saturating_add(usize::from(only.is_some()));
            continue;
        }
        let nets = |list| prefixes(list, sets, v6).map_or(1, |list| list.len());
        let addresses = nets(rule.src.as_ref()).saturating_mul(nets(rule.dst.as_ref()));
        if addresses > 0 {
            sum = sum.saturating_add(transports(rule, v6).len().saturating_mul(addresses));
        }
    }
    sum
}
