//! Whether source NAT rules make sense.

use std::collections::HashMap;

use ipnet::IpNet;
use netfast_common::abi;

use crate::api::types::{Rules, Snat};

use super::{Check, Place, Verdict, comment, family, interface_name, name, prefix, station};

/// Largest number of mappings of one inside address: protocols and ports of one external address.
const MAX_PORTS_PER_SOURCE: u32 = 4 * 65_536;

pub(super) fn check(check: &mut Check, rules: &Rules) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    let mut prefixes = 0;
    for (at, snat) in rules.snats.iter().enumerate() {
        for (key, verdict) in verdicts(snat) {
            check.note(Place::Snat(at), key, verdict);
        }
        if names.insert(&snat.name, at).is_some() {
            let message =
                format!("two source NAT rules are named {:?}: give one of them another name", snat.name);
            check.add(Place::Snat(at), "name", message);
        }
        if rules.forwards.iter().any(|forward| forward.name == snat.name) {
            let message = format!("a forward is named {:?}, too: give one of them another name", snat.name);
            check.add(Place::Snat(at), "name", message);
        }
        for net in &snat.from {
            let twin = rules.snats[..at].iter().find(|other| same_match(other, snat, net));
            if let Some(twin) = twin {
                let message = format!(
                    "source NAT rules {:?} and {:?} both speak of what comes from {net} by the same interfaces",
                    twin.name, snat.name
                );
                check.add(Place::Snat(at), "from", message);
            }
        }
        prefixes += snat.from.len();
        if prefixes > abi::MAX_SNAT as usize {
            let message = format!(
                "the rules do not fit: source NAT rule {:?} is beyond the limit of {} inside prefixes; use wider ones",
                snat.name,
                abi::MAX_SNAT
            );
            check.add(Place::Snat(at), "from", message);
            break;
        }
    }
}

fn same_match(a: &Snat, b: &Snat, net: &IpNet) -> bool {
    a.in_interface == b.in_interface
        && a.out_interface == b.out_interface
        && a.from.iter().any(|other| other.trunc() == net.trunc())
}

fn verdicts(snat: &Snat) -> Vec<(&'static str, Verdict)> {
    let mut verdicts = vec![
        ("name", name("source NAT rule", &snat.name)),
        ("from", from(snat)),
        ("to", to(snat)),
        ("comment", comment(snat.comment.as_deref())),
    ];
    for (key, interface) in [("in", &snat.in_interface), ("out", &snat.out_interface)] {
        if let Some(interface) = interface {
            verdicts.push((key, interface_name(interface)));
        }
    }
    if let Some(ports) = snat.ports.filter(|ports| ports.low < 1024) {
        let message = format!("ports {ports} include system ports; begin at 1024 or above");
        verdicts.push(("ports", Err(message)));
    }
    if !(1..=MAX_PORTS_PER_SOURCE).contains(&snat.ports_per_source) {
        let message =
            format!("ports_per_source = {} is not in 1 to {MAX_PORTS_PER_SOURCE}", snat.ports_per_source);
        verdicts.push(("ports_per_source", Err(message)));
    }
    verdicts
}

fn from(snat: &Snat) -> Verdict {
    if snat.from.is_empty() {
        return Err("a source NAT rule needs inside prefixes, for instance 10.0.0.0/8".to_owned());
    }
    for (at, net) in snat.from.iter().enumerate() {
        prefix(net)?;
        if net.prefix_len() == 0 {
            return Err(format!(
                "{net} holds every address, so that none is outside and nothing would be translated: name the inside \
                 networks, for instance 10.0.0.0/8"
            ));
        }
        if snat.from[..at].iter().any(|other| other.trunc() == net.trunc()) {
            return Err(format!("{net} is there twice"));
        }
        if !snat.to.iter().any(|address| address.is_ipv4() == net.addr().is_ipv4()) {
            return Err(format!(
                "{net} is {}, and no address of that version is given for it to leave with",
                family(&net.addr())
            ));
        }
        if let Some(address) = snat.to.iter().find(|address| net.contains(*address)) {
            return Err(format!(
                "{net} holds {address}, which is to be seen from outside: use other prefixes"
            ));
        }
    }
    Ok(())
}

fn to(snat: &Snat) -> Verdict {
    for (at, address) in snat.to.iter().enumerate() {
        station("the external address", address)?;
        if snat.to[..at].contains(address) {
            return Err(format!("{address} is there twice"));
        }
        let family_count = snat.to.iter().filter(|other| other.is_ipv4() == address.is_ipv4()).count();
        if family_count > abi::SNAT_POOL {
            return Err(format!("the limit is {} addresses of one IP version", abi::SNAT_POOL));
        }
        if !snat.from.iter().any(|net| net.addr().is_ipv4() == address.is_ipv4()) {
            return Err(format!(
                "no inside prefix is {}, as {address} is: it would never be used",
                family(address)
            ));
        }
    }
    Ok(())
}
