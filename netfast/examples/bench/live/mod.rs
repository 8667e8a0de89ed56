//! `cargo xtask bench live`: packets a second through real devices (veth, native XDP), netfast beside bare programs and the kernel.
//!
//! A generator on the first CPU makes live frames (BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES), more than any box takes. The
//! box's NAPI is a kernel thread on the last CPU, where the sink counts, too. netfast is the real agent: its own binary,
//! `agent.toml`, rules by `netfast apply`.

pub mod agent;
pub mod cases;
mod kernel;
mod stream;
pub mod turns;
pub mod world;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use netfast_common::abi::bench::{SINK_ANSWERS, SINK_DROPS};
use serde_json::{Value, json};

use self::{
    cases::{Case, MARKS, REFERENCES},
    turns::Turns,
    world::{Kind, Tables, World},
};
use crate::{
    output::{self, Output},
    report,
};

/// Options of `bench live`.
#[derive(Clone, clap::Args)]
pub struct Args {
    /// Only cases whose name contains one of these, and what they are compared with.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds; each case has a turn in each.
    #[arg(long, default_value_t = 7, value_parser = output::rounds)]
    rounds: usize,
    /// Milliseconds of a turn.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(10..))]
    turn: u64,
    /// `[tables] cache4_sets` of agent.toml, if not its default.
    #[arg(long)]
    cache_sets: Option<u32>,
    /// The program netfast, if not the one of the same build.
    #[arg(long, value_name = "FILE")]
    netfast: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// Measures, prints, writes; returns whether the run is valid.
pub fn run(args: &Args) -> Result<bool> {
    args.output.check()?;
    let document = measure(args)?;
    print(&document);
    let is_valid = document["void"] == false;
    args.output.write(document)?;
    Ok(is_valid)
}

/// Measures.
fn measure(args: &Args) -> Result<Value> {
    let cpus = std::thread::available_parallelism()?.get();
    ensure!(cpus >= 2, "live traffic needs two CPUs: one sends, one is measured");
    private_mounts()?;
    let binary = agent::binary(args.netfast.as_deref())?;
    let chosen = cases::chosen(&args.only);
    ensure!(!chosen.is_empty(), "no case has such a name");
    let mut kinds: Vec<Kind> = Vec::new();
    for case in &chosen {
        if !kinds.contains(&case.kind) {
            kinds.push(case.kind);
        }
    }
    eprint!("\r\x1b[Kmaking {} boxes ...", kinds.len());
    let tables = Tables { cache_sets: args.cache_sets, flows: None };
    let mut world = World::new(&kinds, cpus - 1, &binary, tables)?;
    world.programs.set_sequence(&stream::zipf(cases::ZIPF_FLOWS, kernel::SEQUENCE))?;
    let turn = std::time::Duration::from_millis(args.turn);
    let mut turns = Turns::new(turn, cpus - 1);
    // Flows are made, and confirmed by answers, before anything is measured.
    world.programs.set_sink(SINK_ANSWERS)?;
    for case in chosen.iter().filter(|case| case.flows_first) {
        eprint!("\r\x1b[K{}: making flows ...", case.name);
        turns.make_flows(&mut world, case)?;
    }
    world.programs.set_sink(SINK_DROPS)?;
    for round in 0..=args.rounds {
        for case in cases::order(&chosen) {
            eprint!("\r\x1b[Kround {round} of {}: {} ...", args.rounds, case.name);
            // Round 0 warms up.
            turns.take(&mut world, case, round)?;
        }
    }
    eprint!("\r\x1b[K");
    Ok(document(&turns, &chosen))
}

/// Mounts and names that a killed run leaves behind go with its mount namespace.
pub fn private_mounts() -> Result<()> {
    use nix::mount::{MsFlags, mount};
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    let netns = Path::new("/run/netns");
    std::fs::create_dir_all(netns)?;
    Ok(mount(Some("tmpfs"), netns, Some("tmpfs"), MsFlags::empty(), none)?)
}

fn document(turns: &Turns, chosen: &[&Case]) -> Value {
    let number = |x: f64| if x.is_finite() { json!((x * 1000.0).round() / 1000.0) } else { Value::Null };
    let results: Vec<Value> = chosen
        .iter()
        .map(|case| {
            let to = REFERENCES.iter().find(|(name, _)| *name == case.name).map(|(_, to)| *to);
            let ratio = to.map_or(f64::NAN, |to| turns.ratio(case.name, to));
            let mpps = turns.median(case.name);
            json!({
                "name": case.name,
                "flows": case.flows,
                "ns": number(1000.0 / mpps),
                "net_ns": Value::Null,
                "floor_ns": Value::Null,
                "mpps": number(mpps),
                "offered_mpps": number(turns.offered(case.name)),
                "samples": turns.samples(case.name),
                "cache_missed": number(turns.missed(case.name)),
                "ratio_to": to.filter(|_| ratio.is_finite()),
                "ratio": number(ratio),
            })
        })
        .collect();
    let marks: Vec<Value> = MARKS
        .iter()
        .filter_map(|(of, to, at_least)| {
            let ratio = turns.ratio(of, to);
            ratio.is_finite().then(|| {
                json!({
                    "of": of, "to": to, "ratio": number(ratio), "at_least": at_least, "met": ratio >= *at_least,
                })
            })
        })
        .collect();
    let twice: Vec<&str> = cases::TWICE.iter().map(|(name, _)| *name).collect();
    let aa = turns.aa(&twice);
    json!({
        "schema": 1,
        "machine": report::machine(),
        "aa_ratio": number(aa),
        "void": !report::is_steady(aa),
        "dropped_turns": turns.dropped(),
        "results": results,
        "marks": marks,
    })
}

fn print(document: &Value) {
    println!(
        "{:<24} {:>8} {:>9} {:>9} {:>8} {:>8}  ratio to",
        "case", "flows", "Mpps", "offered", "missed", "ratio"
    );
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    for row in document["results"].as_array().into_iter().flatten() {
        println!(
            "{:<24} {:>8} {:>9} {:>9} {:>8} {:>8}  {}",
            text(&row["name"]),
            text(&row["flows"]),
            text(&row["mpps"]),
            text(&row["offered_mpps"]),
            text(&row["cache_missed"]),
            text(&row["ratio"]),
            text(&row["ratio_to"]),
        );
    }
    println!();
    for mark in document["marks"].as_array().into_iter().flatten() {
        let met = if mark["met"] == true { "met" } else { "MISSED" };
        println!(
            "{} / {}: {} (mark: at least {}): {met}",
            text(&mark["of"]),
            text(&mark["to"]),
            text(&mark["ratio"]),
            text(&mark["at_least"]),
        );
    }
    println!("\n{}", report::verdict(document));
}
