//! What a single filter rule may say.

use ipnet::IpNet;

use crate::api::types::FilterRule;

use super::{Verdict, comment, interface_name, name, prefix};

/// Verdicts on the keys of a filter rule.
pub(super) fn verdicts(rule: &FilterRule) -> Vec<(&'static str, Verdict)> {
    let mut verdicts = Vec::new();
    if let Some(text) = rule.name.as_deref() {
        verdicts.push(("name", name("filter rule", text)));
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let message =
                format!("{text:?} cannot be the name of a filter rule: a number means its position");
            verdicts.push(("name", Err(message)));
        }
    }
    verdicts.push(("comment", comment(rule.comment.as_deref())));
    if let Some(interface) = rule.interface.as_deref() {
        verdicts.push(("interface", interface_name(interface)));
    }
    for (key, net) in [("src", &rule.src), ("dst", &rule.dst)] {
        if let Some(net) = net {
            verdicts.push((key, prefix(net)));
        }
    }
    verdicts.push(("version", version_verdict(rule)));
    if let Some((key, ports)) =
        [("sport", rule.sport), ("dport", rule.dport)].into_iter().find_map(|(key, p)| p.map(|p| (key, p)))
    {
        let verdict = match rule.proto {
            Some(proto) if proto.has_ports() => Ok(()),
            Some(proto) => Err(format!("{key} {ports} cannot be matched: packets of {proto} have no ports")),
            None => Err(format!(
                "{key} {ports} needs proto \"tcp\" or \"udp\" beside it; for both write two rules"
            )),
        };
        verdicts.push((key, verdict));
    }
    verdicts
}

/// The IP version that a filter rule is for, by what it names; 0: both. An error if it names both.
pub fn version(rule: &FilterRule) -> Result<u8, String> {
    let of_net = |net: &IpNet| if net.addr().is_ipv4() { 4 } else { 6 };
    let says = [
        rule.version.map(|v| (v, format!("version {v}"))),
        rule.src.map(|net| (of_net(&net), format!("src {net}"))),
        rule.dst.map(|net| (of_net(&net), format!("dst {net}"))),
        rule.proto.and_then(|proto| match proto.0 {
            1 => Some((4, "proto icmp".to_owned())),
            58 => Some((6, "proto icmpv6".to_owned())),
            _ => None,
        }),
    ];
    let mut said: Option<(u8, String)> = None;
    for (version, what) in says.into_iter().flatten() {
        match &said {
            Some((first, who)) if *first != version => {
                return Err(format!(
                    "{who} is IPv{first} and {what} is IPv{version}: no packet is both; write a rule for each"
                ));
            }
            Some(_) => {}
            None => said = Some((version, what)),
        }
    }
    Ok(said.map_or(0, |(version, _)| version))
}

fn version_verdict(rule: &FilterRule) -> Verdict {
    if let Some(version) = rule.version
        && !matches!(version, 4 | 6)
    {
        return Err(format!("there is no IP version {version}: use 4 or 6, or leave it out for both"));
    }
    version(rule).map(|_| ())
}
