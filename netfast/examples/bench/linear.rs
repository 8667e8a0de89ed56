//! The same rules by nftables, one by one: for `ns_linear` of `bench classify`.
//!
//! The trace comes in by a veth interface with threaded NAPI on the last CPU, and meets a chain at the ingress hook of that
//! interface (`table netdev`) with a rule for each rule, all of which accept. A second chain behind it counts and drops
//! every packet. The rate of that counter, with the rules and with an empty chain in turn, gives nanoseconds a packet; their
//! difference is what the rules take.

use std::{fmt::Write as _, process::Command, time::Duration};

use anyhow::{Context as _, Result};
use netfast::classifier::{Addresses, Ports, Rule, classbench::Header};

use crate::{
    classify::frame,
    measure::median,
    road::{Generator, IN, Road, nft, rate},
};

/// More rules are not given to nftables: a packet takes milliseconds then.
const MOST: usize = 20_000;
/// Different packets.
const PACKETS: usize = 8192;
/// Time of a turn.
const TURN: Duration = Duration::from_millis(400);

/// Nanoseconds a packet that the rules take; `None`: they are too many, or nftables cannot say what they say.
pub fn measure(rules: &[Rule], headers: &[Header], rounds: usize) -> Result<Option<f64>> {
    let lines: Option<Vec<String>> = rules.iter().map(line).collect();
    let Some(lines) = lines.filter(|lines| lines.len() <= MOST) else { return Ok(None) };
    let _road = Road::new()?;
    let frames = headers.iter().step_by(headers.len().div_ceil(PACKETS)).map(frame).collect();
    let generator = Generator::start(frames)?;
    let mut differences = Vec::new();
    for _ in 0..rounds {
        let mut each = [0.0; 2];
        for (text, ns) in [String::new(), lines.join("\n")].iter().zip(&mut each) {
            nft(&format!(
                "flush ruleset\ntable netdev nf_bench {{\n counter done {{ }}\n \
                 chain rules {{ type filter hook ingress device {IN} priority 0; policy accept;\n{text}\n}}\n \
                 chain end {{ type filter hook ingress device {IN} priority 10; policy accept; counter name done drop\n}}\n}}\n"
            ))?;
            *ns = 1e9 / rate(TURN, counted)?;
        }
        differences.push(each[1] - each[0]);
    }
    generator.end()?;
    nft("flush ruleset\n")?;
    Ok(Some(median(&mut differences)))
}

/// Packets that have come to the end.
fn counted() -> Result<u64> {
    let output = Command::new("nft").args("list counter netdev nf_bench done".split(' ')).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|number| number.parse().ok()).with_context(|| format!("no counter in {text:?}"))
}

/// A rule as nftables writes it, accepting.
fn line(rule: &Rule) -> Option<String> {
    let mut text = String::new();
    let family = match rule.ip_version()? {
        6 => "ip6",
        _ => "ip",
    };
    for (key, addresses) in [("saddr", rule.source), ("daddr", rule.destination)] {
        match addresses {
            Addresses::V4 { first: 0, last: u32::MAX } | Addresses::V6 { length: 0, .. } | Addresses::Any => {
            }
            Addresses::V4 { first, last } => {
                let [first, last] = [first, last].map(std::net::Ipv4Addr::from_bits);
                let _ = if first == last {
                    write!(text, "{family} {key} {first} ")
                } else {
                    write!(text, "{family} {key} {first}-{last} ")
                };
            }
            Addresses::V6 { address, length } => {
                let address = std::net::Ipv6Addr::from_bits(address);
                let _ = write!(text, "{family} {key} {address}/{length} ");
            }
        }
    }
    if text.is_empty() {
        let _ = write!(text, "meta protocol {family} ");
    }
    let any_port = [0, u16::MAX];
    let ports = match rule.ports {
        Ports::Any => [any_port; 2],
        Ports::Ports { source, destination } => [source, destination],
        Ports::Icmp { .. } => return None,
    };
    match rule.protocol {
        Some(protocol) => {
            let _ = write!(text, "meta l4proto {protocol} ");
        }
        None if ports != [any_port; 2] => text.push_str("meta l4proto { tcp, udp } "),
        None => {}
    }
    for (key, [low, high]) in ["sport", "dport"].iter().zip(ports) {
        if low == high {
            let _ = write!(text, "th {key} {low} ");
        } else if [low, high] != any_port {
            let _ = write!(text, "th {key} {low}-{high} ");
        }
    }
    let plain = rule.tcp_flags.is_none() && rule.vlan.is_none() && rule.ifindex == 0;
    plain.then(|| text + "accept")
}
