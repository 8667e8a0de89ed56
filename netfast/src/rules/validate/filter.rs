//! What a single filter rule may say.

use std::collections::HashMap;

use ipnet::IpNet;

use crate::api::types::{AddressSet, Addresses, FilterAction, FilterRule, Many, Protocol, Rate, RejectWith};

use super::{Verdict, comment, interface_name, name, prefix};

/// Largest rate of a limit, packets a second.
pub const MAX_PACKET_RATE: u64 = 100_000_000;
/// Largest rate of a limit, bits a second.
pub const MAX_BIT_RATE: u64 = 400_000_000_000;

/// Sets by their names.
pub(super) type Sets<'a> = HashMap<&'a str, &'a AddressSet>;

/// Verdicts on the keys of a filter rule: those that say no.
pub(super) fn verdicts(rule: &FilterRule, sets: &Sets<'_>) -> Vec<(&'static str, Verdict)> {
    // Nothing is allocated for a rule that is right: there may be 100,000 of them.
    let mut verdicts = Vec::new();
    let mut note = |key, verdict: Verdict| {
        if verdict.is_err() {
            verdicts.push((key, verdict));
        }
    };
    if let Some(text) = rule.name.as_deref() {
        note("name", name("filter rule", text));
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let message =
                format!("{text:?} cannot be the name of a filter rule: a number means its position");
            note("name", Err(message));
        }
    }
    note("comment", comment(rule.comment.as_deref()));
    if let Some(interface) = rule.interface.as_deref() {
        note("interface", interface_name(interface));
    }
    for (key, list) in [("src", &rule.src), ("dst", &rule.dst)] {
        note(key, not_empty(list));
        for item in list.iter().flat_map(Many::iter) {
            note(key, addresses(item, sets));
        }
    }
    note("proto", not_empty(&rule.proto));
    note("version", version_verdict(rule, sets));
    note("vlan", vlan(rule));
    for (key, ports) in [("sport", &rule.sport), ("dport", &rule.dport)] {
        note(key, not_empty(ports));
        if let Some(ports) = ports {
            note(key, with_ports(key, ports, rule));
        }
    }
    note("flags", flags(rule));
    note("icmp", not_empty(&rule.icmp));
    note("icmp", icmp(rule));
    action(rule, &mut note);
    verdicts
}

fn not_empty<T>(list: &Option<Many<T>>) -> Verdict {
    match list {
        Some(list) if list.as_slice().is_empty() => {
            Err("an empty list matches nothing: leave the key out to match anything".to_owned())
        }
        _ => Ok(()),
    }
}

fn addresses(item: &Addresses, sets: &Sets<'_>) -> Verdict {
    match item {
        Addresses::Net(net) => prefix(net),
        Addresses::Set(name) if sets.contains_key(name.as_str()) => Ok(()),
        Addresses::Set(name) => {
            let hint = crate::rules::suggest::hint(name, sets.keys().copied());
            Err(format!(
                "there is no set @{name}{hint}: `netfast set put` makes one, or `[[set]]` in a rules file"
            ))
        }
    }
}

fn protocols(rule: &FilterRule) -> &[Protocol] {
    rule.proto.as_ref().map_or(&[], Many::as_slice)
}

fn with_ports<T: std::fmt::Display>(key: &str, ports: &Many<T>, rule: &FilterRule) -> Verdict {
    match protocols(rule).iter().find(|proto| !proto.has_ports()) {
        Some(proto) => Err(format!("{key} {ports} cannot be matched: packets of {proto} have no ports")),
        None if protocols(rule).is_empty() => Err(format!(
            "{key} {ports} needs proto \"tcp\" or \"udp\" beside it; for both [\"tcp\", \"udp\"]"
        )),
        None => Ok(()),
    }
}

fn vlan(rule: &FilterRule) -> Verdict {
    match rule.vlan {
        Some(id) if id > 4094 => {
            Err(format!("there is no VLAN {id}: use 1 to 4094, or 0 for packets without a tag"))
        }
        _ => Ok(()),
    }
}

fn flags(rule: &FilterRule) -> Verdict {
    match rule.flags {
        Some(flags) if !matches!(protocols(rule), [Protocol(6)]) => {
            Err(format!("flags {flags} need proto \"tcp\" beside them"))
        }
        _ => Ok(()),
    }
}

fn icmp(rule: &FilterRule) -> Verdict {
    let Some(kinds) = &rule.icmp else { return Ok(()) };
    let list = protocols(rule);
    if list.is_empty() || list.iter().any(|proto| !matches!(proto.0, 1 | 58)) {
        return Err(format!("icmp {kinds} needs proto \"icmp\" or \"icmpv6\" beside it"));
    }
    for kind in kinds.iter() {
        if let Some(proto) = list.iter().find(|proto| kind.type_in(proto.0 == 58).is_none()) {
            return Err(format!("{proto} has no type {kind}; write its number if you mean one"));
        }
    }
    Ok(())
}

fn action(rule: &FilterRule, note: &mut impl FnMut(&'static str, Verdict)) {
    let FilterRule { action, with, rate, burst, per, .. } = rule;
    if with.is_some() && *action != FilterAction::Reject {
        note("with", Err(format!("with goes with action \"reject\", not with {:?}", action.as_str())));
    }
    if *with == Some(RejectWith::TcpReset) && !matches!(protocols(rule), [Protocol(6)]) {
        note(
            "with",
            Err("tcp-reset answers TCP only: write proto \"tcp\" beside it, or leave with out".to_owned()),
        );
    }
    if *action == FilterAction::Limit {
        note("rate", limit_rate(*rate));
        if *burst == Some(0) {
            note(
                "burst",
                Err("a burst of 0 lets nothing through: use 1 and more, or leave it out".to_owned()),
            );
        }
        return;
    }
    let given = [("rate", rate.is_some()), ("burst", burst.is_some()), ("per", per.is_some())];
    for (key, _) in given.into_iter().filter(|(_, given)| *given) {
        note(key, Err(format!("{key} goes with action \"limit\", not with {:?}", action.as_str())));
    }
}

fn limit_rate(rate: Option<Rate>) -> Verdict {
    match rate {
        None => Err("a limit needs a rate: 1000/s (packets) or 10mbit".to_owned()),
        Some(Rate::Packets(1..=MAX_PACKET_RATE)) | Some(Rate::Bits(8..=MAX_BIT_RATE)) => Ok(()),
        Some(rate) => Err(format!(
            "rate {rate} is not in 1/s to {MAX_PACKET_RATE}/s, or 8bit to {}",
            Rate::Bits(MAX_BIT_RATE)
        )),
    }
}

/// A set of IP versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    /// IPv4.
    pub v4: bool,
    /// IPv6.
    pub v6: bool,
}

impl Versions {
    const BOTH: Self = Self { v4: true, v6: true };

    const fn and(self, other: Self) -> Self {
        Self { v4: self.v4 && other.v4, v6: self.v6 && other.v6 }
    }

    const fn or(self, other: Self) -> Self {
        Self { v4: self.v4 || other.v4, v6: self.v6 || other.v6 }
    }

    const fn none(self) -> bool {
        !self.v4 && !self.v6
    }

    const fn of(number: u8) -> Self {
        Self { v4: number == 4, v6: number == 6 }
    }

    fn of_net(net: &IpNet) -> Self {
        Self { v4: net.addr().is_ipv4(), v6: net.addr().is_ipv6() }
    }

    fn show(self) -> &'static str {
        match (self.v4, self.v6) {
            (true, true) => "IPv4 and IPv6",
            (true, false) => "IPv4",
            (false, true) => "IPv6",
            (false, false) => "neither IPv4 nor IPv6",
        }
    }
}

/// The fields of a rule that are of some IP version, with the versions.
fn said(rule: &FilterRule, sets: &Sets<'_>) -> [(&'static str, Versions); 4] {
    let none = Versions { v4: false, v6: false };
    let list = |list: &Option<Many<Addresses>>| match list {
        None => Versions::BOTH,
        Some(list) => list.iter().fold(none, |versions, item| {
            versions.or(match item {
                Addresses::Net(net) => Versions::of_net(net),
                // A set that is not there is another error.
                Addresses::Set(name) => sets.get(name.as_str()).map_or(Versions::BOTH, |set| {
                    set.addresses.iter().fold(none, |versions, net| versions.or(Versions::of_net(net)))
                }),
            })
        }),
    };
    let proto = match protocols(rule) {
        [] => Versions::BOTH,
        list => list.iter().fold(none, |versions, proto| {
            versions.or(match proto.0 {
                1 => Versions::of(4),
                58 => Versions::of(6),
                _ => Versions::BOTH,
            })
        }),
    };
    [
        ("version", rule.version.map_or(Versions::BOTH, Versions::of)),
        ("src", list(&rule.src)),
        ("dst", list(&rule.dst)),
        ("proto", proto),
    ]
}

/// Whether a rule's version goes without saying: its own prefixes and protocols are of no other. A set's addresses may change.
pub fn is_version_needless(rule: &FilterRule) -> bool {
    let [_, others @ ..] = said(rule, &Sets::default());
    let implied = others.into_iter().fold(Versions::BOTH, |so_far, (_, versions)| so_far.and(versions));
    rule.version.is_some_and(|version| Versions::of(version) == implied)
}

fn version_verdict(rule: &FilterRule, sets: &Sets<'_>) -> Verdict {
    if let Some(version) = rule.version
        && !matches!(version, 4 | 6)
    {
        return Err(format!("there is no IP version {version}: use 4 or 6, or leave it out for both"));
    }
    let mut so_far = Versions::BOTH;
    let mut who = "";
    let says = said(rule, sets);
    for (key, versions) in says {
        let next = so_far.and(versions);
        if next.none() {
            // An empty set is of neither, and matches nothing; that is no contradiction.
            if versions.none() {
                return Ok(());
            }
            return Err(format!(
                "{} is {} and {} is {}: no packet is both; write a rule for each",
                show(rule, who),
                so_far.show(),
                show(rule, key),
                versions.show()
            ));
        }
        if next != so_far {
            who = key;
        }
        so_far = next;
    }
    Ok(())
}

/// A field as the operator wrote it.
fn show(rule: &FilterRule, key: &str) -> String {
    let value = match key {
        "version" => rule.version.map(|version| version.to_string()),
        "src" => rule.src.as_ref().map(ToString::to_string),
        "dst" => rule.dst.as_ref().map(ToString::to_string),
        _ => rule.proto.as_ref().map(ToString::to_string),
    };
    format!("{key} {}", value.unwrap_or_default())
}

/// The IP versions of the packets that a valid rule matches.
pub fn versions(rule: &FilterRule, sets: &[AddressSet]) -> Versions {
    let sets = sets.iter().map(|set| (set.name.as_str(), set)).collect();
    said(rule, &sets).into_iter().fold(Versions::BOTH, |so_far, (_, versions)| so_far.and(versions))
}
