//! `bench control`: 100,000 filter rules by the agent: loaded, changed one by one, listed, explained, analysed.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use netfast::{
    api::{
        client::Client,
        types::{self, ExplainRequest, FilterList, FilterRule, Many, Operation, Protocol},
    },
    classifier::{Addresses, Ports, Rule, classbench::Header},
};
use serde_json::{Value, json};

use super::{Times, memory, milliseconds, request, scrape_text, seconds};
use crate::{
    generate::{self, Family},
    live::agent::Agent,
};

/// Changes of each kind, most of them at one place: more than halves of a gap between two orders.
const CHANGES: usize = 200;
/// Packets that are explained.
const PACKETS: usize = 40;

/// `filter_load` with 100,000 rules is `control/filter_load_100k`.
fn name(what: &str, rules: u32) -> String {
    match rules {
        0..1000 => format!("control/{what}_{rules}"),
        _ => format!("control/{what}_{}k", rules / 1000),
    }
}

/// All that is measured with so many rules; they are gone after it.
pub fn measure(agent: &Agent, rules: u32, mut say: impl FnMut(Value)) -> Result<()> {
    let any = Addresses::V4 { first: 0, last: u32::MAX };
    // A few in ten thousand speak of all addresses, and would hide most rules behind them.
    let made = generate::rules(Family::Acl, rules + rules / 100, false, 1).into_iter();
    let made: Vec<Rule> =
        made.filter(|rule| (rule.source, rule.destination) != (any, any)).take(rules as usize).collect();
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), classbench(&made))?;
    let path = file.path().display().to_string();
    say(load(agent, &path, rules)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let client = Client::new(agent.socket());
    let change = |operation: Operation| -> Result<f64> {
        let began = Instant::now();
        let reply = runtime.block_on(client.change(&request(operation)));
        reply.map_err(|error| anyhow::anyhow!("{}", error.message))?;
        Ok(began.elapsed().as_secs_f64())
    };
    for (what, operation) in CHANGE_KINDS {
        let mut times = Times::default();
        for number in 0..CHANGES {
            times.push(change(operation(rules as usize, number))?);
        }
        let mut row = times.row(&name(what, rules));
        row["rules"] = json!(rules);
        say(row);
    }
    let began = Instant::now();
    agent.ok(&["filter", "add", "drop", "--src", "203.0.113.9", "--proto", "tcp", "--dport", "22"])?;
    say(json!({
        "name": name("filter_add_by_cli", rules), "rules": rules,
        "milliseconds": milliseconds(vec![began.elapsed().as_secs_f64()]),
    }));
    say(explain(agent, &client, &runtime, &generate::trace(&made, PACKETS, 1), rules)?);
    say(memory(agent, &name("memory_with_filter", rules), 0)?);
    say(list(agent, rules)?);
    say(analysis(agent, rules, &change)?);
    let began = Instant::now();
    agent.ok(&["filter", "flush"])?;
    say(json!({ "name": name("filter_flush", rules), "rules": rules, "seconds": seconds(began.elapsed()) }));
    Ok(())
}

type Kind = (&'static str, fn(usize, usize) -> Operation);

/// What is changed: of so many rules, the change of this number.
const CHANGE_KINDS: [Kind; 6] = [
    ("filter_add", |_, number| Operation::FilterAdd { rule: one(number), position: None }),
    ("filter_insert", |rules, number| Operation::FilterAdd {
        rule: one(CHANGES + number),
        position: Some(rules / 2),
    }),
    ("filter_insert_behind", |rules, number| Operation::FilterAdd {
        rule: one(2 * CHANGES + number),
        position: Some(rules / 4 + number),
    }),
    ("filter_insert_front", |_, number| Operation::FilterAdd {
        rule: one(3 * CHANGES + number),
        position: Some(1),
    }),
    ("filter_move", |rules, number| Operation::FilterMove {
        rule: (number * rules / CHANGES + 1).to_string(),
        position: rules - number * rules / CHANGES,
    }),
    ("filter_delete", |rules, number| Operation::FilterDelete {
        rule: (number * (rules - CHANGES) / CHANGES + 1).to_string(),
    }),
];

/// A rule that is not there yet.
fn one(number: usize) -> FilterRule {
    let net = ipnet::Ipv4Net::from(std::net::Ipv4Addr::from_bits(0xcb00_7100 + number as u32));
    FilterRule {
        src: Some(Many::One(types::Addresses::Net(net.into()))),
        proto: Some(Many::One(Protocol(17))),
        ..FilterRule::default()
    }
}

/// Rules as `netfast filter load --format classbench` reads them.
fn classbench(rules: &[Rule]) -> String {
    let mut text = String::new();
    let net = |addresses: Addresses| match addresses {
        Addresses::V4 { first, last } => {
            format!("{}/{}", std::net::Ipv4Addr::from_bits(first), (first ^ last).leading_zeros())
        }
        _ => "0.0.0.0/0".to_owned(),
    };
    for rule in rules {
        let ([a, b], [c, d]) = match rule.ports {
            Ports::Ports { source, destination } => (source, destination),
            _ => ([0, u16::MAX], [0, u16::MAX]),
        };
        let (protocol, mask) = rule.protocol.map_or((0, 0), |protocol| (protocol, 0xff));
        let _ = writeln!(
            text,
            "@{}\t{}\t{a} : {b}\t{c} : {d}\t0x{protocol:02x}/0x{mask:02x}\t0x0000/0x0000",
            net(rule.source),
            net(rule.destination)
        );
    }
    text
}

/// The engine's time for changes so far: from the request that is read until the answer, stored and published.
fn engine(agent: &Agent) -> Result<f64> {
    let text = scrape_text(agent)?;
    let line = text.lines().find_map(|line| line.strip_prefix("netfast_config_apply_duration_seconds_sum "));
    line.context("no time of applies in /metrics")?.parse().context("time of applies")
}

/// `netfast filter load`: all of it, and what of that is the engine's; then the same file once more.
fn load(agent: &Agent, path: &str, rules: u32) -> Result<Value> {
    let once = || -> Result<(f64, f64)> {
        let (before, began) = (engine(agent)?, Instant::now());
        agent.ok(&["filter", "load", path, "--format", "classbench", "--action", "drop"])?;
        let took = seconds(began.elapsed());
        Ok((took, ((engine(agent)? - before) * 1e6).round() / 1e6))
    };
    let (took, of_engine) = once()?;
    let (again, _) = once()?;
    Ok(json!({
        "name": name("filter_load", rules), "rules": rules,
        "seconds": took, "engine_seconds": of_engine, "again_seconds": again,
    }))
}

/// `netfast explain`, and the same question by the API.
fn explain(
    agent: &Agent,
    client: &Client,
    runtime: &tokio::runtime::Runtime,
    packets: &[Header],
    rules: u32,
) -> Result<Value> {
    let (mut times, mut decided) = (Times::default(), 0);
    for header in packets {
        let has_ports = matches!(header.protocol, 6 | 17);
        let question = ExplainRequest {
            protocol: Protocol(header.protocol),
            source: header.source,
            source_port: has_ports.then_some(header.ports[0]),
            destination: header.destination,
            destination_port: has_ports.then_some(header.ports[1]),
            interface: None,
            flags: None,
            icmp: None,
            vlan: None,
            established: false,
        };
        let began = Instant::now();
        let reply = runtime.block_on(client.explain(&question));
        let reply = reply.map_err(|error| anyhow::anyhow!("{}", error.message))?;
        times.push(began.elapsed().as_secs_f64());
        decided += usize::from(reply.decided_by.is_some());
    }
    let mut row = times.row(&name("explain", rules));
    let line = ["explain", "tcp", "198.51.100.7:40000", "192.0.2.10:443"];
    let began = Instant::now();
    agent.ok(&line)?;
    row["cli_milliseconds"] = json!(milliseconds(vec![began.elapsed().as_secs_f64()]));
    (row["rules"], row["decided"]) = (json!(rules), json!(decided));
    Ok(row)
}

/// `netfast filter list` of all rules, and of the first hundred.
fn list(agent: &Agent, rules: u32) -> Result<Value> {
    let time = |arguments: &[&str]| -> Result<f64> {
        let began = Instant::now();
        let text = agent.ok(arguments)?;
        ensure!(!text.is_empty(), "{arguments:?} says nothing");
        Ok(seconds(began.elapsed()))
    };
    Ok(json!({
        "name": name("filter_list", rules), "rules": rules,
        "seconds": time(&["filter", "list"])?,
        "json_seconds": time(&["filter", "list", "-o", "json"])?,
        "of_100_seconds": time(&["filter", "list", "--limit", "100"])?,
    }))
}

/// `netfast filter list --analysis`, and the slowest change meanwhile.
fn analysis(agent: &Agent, rules: u32, change: &impl Fn(Operation) -> Result<f64>) -> Result<Value> {
    let ended = AtomicBool::new(false);
    let (took, found, slowest, changes) = std::thread::scope(|scope| -> Result<_> {
        let analysis = scope.spawn(|| -> Result<_> {
            let began = Instant::now();
            let list = agent.json::<FilterList>(&["filter", "list", "--analysis"]);
            let took = seconds(began.elapsed());
            ended.store(true, Ordering::Relaxed);
            Ok((took, list?.filters.len()))
        });
        let (mut slowest, mut changes) = (0.0f64, 0);
        let mut changed = Ok(());
        while !ended.load(Ordering::Relaxed) && changed.is_ok() {
            let operation = Operation::FilterAdd { rule: one(4 * CHANGES + changes), position: None };
            changed = change(operation).map(|time| slowest = slowest.max(time));
            changes += 1;
        }
        let (took, found) = analysis.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        changed?;
        Ok((took, found, slowest, changes))
    })?;
    Ok(json!({
        "name": name("filter_analysis", rules), "rules": rules, "seconds": took, "hidden": found,
        "changes_meanwhile": changes, "slowest_change_milliseconds": milliseconds(vec![slowest]),
    }))
}
