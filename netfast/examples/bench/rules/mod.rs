//! `bench rules`: what filter rules cost a packet, against their number: netfast, nftables one rule after the other, and a set of
//! nftables.
//!
//! Boxes, generator and turns are those of `bench live`. No packet matches a rule, and all of them are routed by the kernel, so that
//! what rules cost is seen as fewer packets a second behind the same router. A packet comes from an address beside one that
//! a rule drops, to the same port. Each round begins and ends the cases of a group with the group's box without rules: the
//! difference to these two is what the rules take, and the two themselves are the A/A control.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use netfast_common::abi::bench::SINK_DROPS;
use serde_json::{Value, json};

use crate::{
    html,
    live::{
        Run,
        cases::{Case, ROUTED, case},
        turns::Turns,
        world::{Kind, Tables},
    },
    output::{number, text},
    report,
};

/// Options of `bench rules`.
#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// Write the chart by itself.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// More flows than any cache holds: netfast's filter is asked for each packet.
const MANY: u32 = 1 << 20;
/// Flows whose verdicts all are in netfast's flow cache.
const FEW: u32 = 1024;

const fn routed(name: &'static str, kind: Kind, flows: u32) -> Case {
    Case { flows, spread: true, ..case(name, kind, ROUTED) }
}

/// Groups: the case without rules first, which the others are compared with.
const GROUPS: [&[Case]; 4] = [
    &[
        routed("rules/kernel_forward", Kind::Kernel, MANY),
        routed("rules/nft_set_10", Kind::NftSet(10), MANY),
        routed("rules/nft_set_100", Kind::NftSet(100), MANY),
        routed("rules/nft_set_1000", Kind::NftSet(1000), MANY),
        routed("rules/nft_set_10000", Kind::NftSet(10_000), MANY),
        routed("rules/nft_set_100000", Kind::NftSet(100_000), MANY),
    ],
    &[
        routed("rules/kernel_forward", Kind::Kernel, MANY),
        routed("rules/nft_linear_10", Kind::NftLinear(10), MANY),
        routed("rules/nft_linear_100", Kind::NftLinear(100), MANY),
        routed("rules/nft_linear_1000", Kind::NftLinear(1000), MANY),
        routed("rules/nft_linear_10000", Kind::NftLinear(10_000), MANY),
    ],
    &[
        routed("rules/netfast_0_uncached", Kind::Filter(0), MANY),
        routed("rules/netfast_10_uncached", Kind::Filter(10), MANY),
        routed("rules/netfast_100_uncached", Kind::Filter(100), MANY),
        routed("rules/netfast_1000_uncached", Kind::Filter(1000), MANY),
        routed("rules/netfast_10000_uncached", Kind::Filter(10_000), MANY),
        routed("rules/netfast_100000_uncached", Kind::Filter(100_000), MANY),
    ],
    &[
        routed("rules/netfast_0_cached", Kind::Filter(0), FEW),
        routed("rules/netfast_10_cached", Kind::Filter(10), FEW),
        routed("rules/netfast_100_cached", Kind::Filter(100), FEW),
        routed("rules/netfast_1000_cached", Kind::Filter(1000), FEW),
        routed("rules/netfast_10000_cached", Kind::Filter(10_000), FEW),
        routed("rules/netfast_100000_cached", Kind::Filter(100_000), FEW),
    ],
];

const fn rules_of(kind: Kind) -> u32 {
    match kind {
        Kind::NftSet(count) | Kind::NftLinear(count) | Kind::Filter(count) => count,
        _ => 0,
    }
}

/// Returns whether the machine was steady.
pub fn run(args: &Args) -> Result<bool> {
    args.run.output.check()?;
    let document = measure(args)?;
    print(&document);
    if let Some(path) = &args.svg {
        let chart = html::rules_picture(document["results"].as_array().map_or(&[], Vec::as_slice));
        match chart {
            Some(chart) => {
                std::fs::write(path, chart).with_context(|| format!("cannot write {}", path.display()))?
            }
            None => {
                eprintln!("{} is not written: a chart takes a case with two numbers of rules", path.display())
            }
        }
    }
    let is_valid = document["void"] == false;
    args.run.output.write(document)?;
    Ok(is_valid)
}

fn measure(args: &Args) -> Result<Value> {
    let only = &args.run.only;
    let wanted = |case: &Case| only.is_empty() || only.iter().any(|part| case.name.contains(part.as_str()));
    let mut groups: Vec<Vec<Case>> = Vec::new();
    for group in GROUPS {
        let cases: Vec<Case> = group
            .iter()
            .enumerate()
            .filter(|(at, case)| *at == 0 || wanted(case))
            .map(|(_, case)| *case)
            .collect();
        if cases.len() > 1 {
            groups.push(cases);
        }
    }
    ensure!(!groups.is_empty(), "no case with rules has such a name");
    let (mut world, mut turns) = args.run.world(groups.iter().flatten(), Tables::default())?;
    eprint!("\r\x1b[Kwaiting until the agents rest ...");
    for station in world.stations.iter().filter_map(|station| station.agent.as_ref()) {
        station.wait_rest()?;
    }
    world.programs.set_sink(SINK_DROPS)?;
    for round in 0..=args.run.rounds {
        for case in groups.iter().flat_map(|group| group.iter().chain(&group[..1])) {
            eprint!("\r\x1b[Kround {round} of {}: {} ...", args.run.rounds, case.name);
            // Round 0 warms up.
            turns.take(&mut world, case, round)?;
        }
    }
    eprint!("\r\x1b[K");
    Ok(document(&turns, &groups))
}

fn document(turns: &Turns, groups: &[Vec<Case>]) -> Value {
    let mut names: Vec<&str> = Vec::new();
    let mut results = Vec::new();
    let bases: Vec<&str> = groups.iter().map(|group| group[0].name).collect();
    let resolution = turns.spread_ns(&bases);
    for group in groups {
        let base = group[0].name;
        for case in group {
            if names.contains(&case.name) {
                continue;
            }
            names.push(case.name);
            let to = (case.name != base).then_some(base);
            let net = to.map_or(f64::NAN, |base| turns.difference_ns(case.name, base));
            let mut row = turns.row(case, to);
            row["rules"] = json!(rules_of(case.kind));
            row["net_ns"] = number(net);
            row["floor_ns"] = number(1000.0 / turns.median(base));
            row["resolution_ns"] = number(resolution);
            results.push(row);
        }
    }
    let mut document = turns.document(&bases, results, Vec::new());
    document["resolution_ns"] = number(resolution);
    document
}

fn print(document: &Value) {
    println!(
        "{:<30} {:>8} {:>10} {:>8} {:>10} {:>10} {:>8} {:>8}",
        "case", "rules", "flows", "Mpps", "ns", "net ns", "missed", "ratio"
    );
    let tenths = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
    for row in document["results"].as_array().into_iter().flatten() {
        println!(
            "{:<30} {:>8} {:>10} {:>8} {:>10} {:>10} {:>8} {:>8}",
            text(&row["name"]),
            text(&row["rules"]),
            text(&row["flows"]),
            text(&row["mpps"]),
            tenths(&row["ns"]),
            tenths(&row["net_ns"]),
            text(&row["cache_missed"]),
            text(&row["ratio"]),
        );
    }
    println!(
        "\nTwo turns of one case without rules differ by {} ns (median).",
        tenths(&document["resolution_ns"])
    );
    println!("{}", report::verdict(document));
}
