//! `bench control`: the agent. Changes, an apply, scrapes, memory, filter rules, ageing and restarts, with many rules and a
//! million flows.

mod filter;
mod forwards;
mod process;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use netfast::api::types::{ChangeRequest, Operation};
use netfast_common::{
    abi::bench::{SINK_ANSWERS, SINK_DROPS},
    maglev,
};
use serde_json::{Value, json};

use self::process::{ageing, memory, scrape, scrape_text};
use crate::{
    live::{
        self, agent,
        cases::{Case, case},
        turns::Turns,
        world::{Kind, SERVICE, Tables, World},
    },
    measure::median,
    output::Output,
    report,
};

/// Builds and scrapes of which the median counts.
const TIMES: usize = 5;

/// A part of the run, with an agent of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// 1,000 forwards of 10 targets: apply, changes, scrape, memory.
    Forwards,
    /// 100,000 filter rules: load, changes, explain, list, analysis.
    Filter,
    /// A million flows beside the forwards: scrape, memory, ageing, restart.
    Flows,
}

/// Options of `bench control`.
#[derive(clap::Args)]
pub struct Args {
    /// Only these parts of the run.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Flows that stand in the table; a power of two.
    #[arg(long, default_value_t = 1 << 20)]
    flows: u32,
    /// Changes whose latency is measured.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// Filter rules.
    #[arg(long, default_value_t = 100_000)]
    rules: u32,
    /// Seconds that the agent is watched for while it only ages flows; two sweeps of a million of them, and the pauses behind, take 120.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..))]
    idle: u64,
    /// The program netfast, if not the one of the same build.
    #[arg(long, value_name = "FILE")]
    netfast: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Measures, prints, writes.
pub fn run(args: &Args) -> Result<bool> {
    ensure!(args.flows.is_power_of_two(), "--flows {}: use a power of two", args.flows);
    ensure!((1_000..=120_000).contains(&args.rules), "--rules {}: use 1,000 to 120,000", args.rules);
    args.output.check()?;
    let cpus = std::thread::available_parallelism()?.get();
    live::private_mounts()?;
    let binary = agent::binary(args.netfast.as_deref())?;
    let wanted = |part: Part| args.only.is_empty() || args.only.contains(&part);
    let mut rows = Vec::new();
    let mut say = |row: Value| {
        println!("{row}");
        rows.push(row);
    };
    if wanted(Part::Filter) {
        let world = World::new(&[Kind::Netfast], cpus - 1, &binary, Tables::default())?;
        filter::measure(world.stations[0].agent()?, args.rules, &mut say)?;
    }
    if wanted(Part::Forwards) || wanted(Part::Flows) {
        let tables = Tables { flows: Some(args.flows + args.flows / 8), ..Tables::default() };
        let mut world = World::new(&[Kind::Netfast], cpus - 1, &binary, tables)?;
        let agent = world.stations[0].agent()?;
        let applied = forwards::apply(agent)?;
        if wanted(Part::Forwards) {
            say(maglev_build());
            say(applied);
            forwards::changes(agent, args.changes)?.into_iter().for_each(&mut say);
            say(scrape(agent, "control/scrape", 0)?);
            say(memory(agent, "control/memory", 0)?);
        }
        if wanted(Part::Flows) {
            flows(&mut world, args, cpus - 1, &mut say)?;
        }
    }
    let marks = marks(&rows);
    for mark in &marks {
        println!("{mark}");
    }
    let document = json!({ "schema": 1, "machine": report::machine(), "results": rows, "marks": marks });
    args.output.write(document)?;
    Ok(true)
}

/// What the agent does beside so many flows.
fn flows(world: &mut World, args: &Args, cpu: usize, mut say: impl FnMut(Value)) -> Result<()> {
    world.programs.set_sink(SINK_ANSWERS)?;
    let case = case("control/flows", Kind::Netfast, (SERVICE, 53));
    let turns = Turns::new(Duration::from_millis(100), cpu);
    let began = std::time::Instant::now();
    // Some find no source port at the first attempt, and others are still half-open: all but a few is enough.
    let made = turns.make_flows(world, &Case { flows: args.flows - args.flows / 32, ..case })?;
    say(json!({ "name": "control/flows_made", "flows": made, "seconds": seconds(began.elapsed()) }));
    world.programs.set_sink(SINK_DROPS)?;
    let agent = world.stations[0].agent()?;
    say(scrape(agent, "control/scrape_with_flows", made)?);
    say(memory(agent, "control/memory_with_flows", made)?);
    say(ageing(agent, made, Duration::from_secs(args.idle))?);
    let agent = world.stations[0].agent.as_mut().context("no agent")?;
    let time = agent.restart()?;
    let count = agent.json::<Value>(&["flows", "count"])?["count"].as_u64();
    say(json!({ "name": "control/restart", "flows": count, "seconds": seconds(time) }));
    Ok(())
}

/// Row, figure, at most.
const MARKS: [(&str, &str, f64); 15] = [
    ("control/filter_load_100k", "seconds", 1.5),
    ("control/filter_add_100k", "milliseconds", 50.0),
    ("control/filter_add_100k", "most_milliseconds", 50.0),
    ("control/filter_insert_100k", "most_milliseconds", 50.0),
    ("control/filter_insert_behind_100k", "most_milliseconds", 50.0),
    ("control/filter_insert_front_100k", "most_milliseconds", 50.0),
    ("control/filter_move_100k", "most_milliseconds", 50.0),
    ("control/filter_delete_100k", "most_milliseconds", 50.0),
    ("control/explain_100k", "milliseconds", 50.0),
    ("control/apply_1000x10", "seconds", 1.0),
    ("control/scrape", "milliseconds", 100.0),
    ("control/scrape_with_flows", "milliseconds", 100.0),
    ("control/memory", "over_maps_mib", 64.0),
    ("control/memory_with_flows", "over_maps_mib", 64.0),
    ("control/ageing", "share_of_a_core", 0.02),
];

fn marks(rows: &[Value]) -> Vec<Value> {
    let mark = |(name, figure, at_most): &(&str, &str, f64)| {
        let value = rows.iter().find(|row| row["name"] == *name)?[*figure].as_f64()?;
        Some(
            json!({ "of": name, "figure": figure, "value": value, "at_most": at_most, "met": value <= *at_most }),
        )
    };
    MARKS.iter().filter_map(mark).collect()
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// Median of some times of something, in milliseconds.
fn milliseconds(mut times: Vec<f64>) -> f64 {
    (median(&mut times) * 1e6).round() / 1e3
}

/// Times of one thing done again and again, in seconds.
#[derive(Default)]
struct Times(Vec<f64>);

impl Times {
    fn push(&mut self, time: f64) {
        self.0.push(time);
    }

    /// Their median and their nearly worst.
    fn row(mut self, name: &str) -> Value {
        self.0.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let at = (self.0.len().saturating_sub(1) as f64 * q) as usize;
            self.0.get(at).map(|time| (time * 1e6).round() / 1e3)
        };
        json!({
            "name": name, "times": self.0.len(), "milliseconds": quantile(0.5), "p99_milliseconds": quantile(0.99),
            "most_milliseconds": quantile(1.0),
        })
    }
}

/// A request of one operation.
fn request(operation: Operation) -> ChangeRequest {
    ChangeRequest { operations: vec![operation], dry_run: false, if_revision: None }
}

/// The look-up table of 1,000 targets.
fn maglev_build() -> Value {
    let candidates: Vec<_> = (0..1000u16)
        .map(|n| {
            let mut address = [0; 16];
            address[14..].copy_from_slice(&n.to_be_bytes());
            maglev::Candidate { address, port: 80, weight: 1, index: n }
        })
        .collect();
    let size = maglev::size_for(maglev::units(&candidates), maglev::ENTRIES_PER_UNIT);
    let mut table = vec![0; size as usize];
    let times = (0..TIMES).map(|_| {
        let began = std::time::Instant::now();
        maglev::build(&candidates, 1, &mut table);
        began.elapsed().as_secs_f64()
    });
    json!({ "name": "control/maglev_1000", "entries": size, "milliseconds": milliseconds(times.collect()) })
}
