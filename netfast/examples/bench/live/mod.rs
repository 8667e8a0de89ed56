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
    output::{self, Output, number, text},
    report,
};

/// Options of `bench live`.
#[derive(Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    run: Run,
    /// `[tables] cache4_sets` of agent.toml, if not its default.
    #[arg(long)]
    cache_sets: Option<u32>,
}

/// Options of everything that runs in turns.
#[derive(Clone, clap::Args)]
pub struct Run {
    /// Only cases whose name contains one of these, and what they are compared with.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<String>,
    /// Rounds; each case has a turn in each.
    #[arg(long, default_value_t = 7, value_parser = output::rounds)]
    pub rounds: usize,
    /// Milliseconds of a turn.
    #[arg(long, default_value_t = 150, value_parser = clap::value_parser!(u64).range(10..))]
    turn: u64,
    /// The program netfast, if not the one of the same build.
    #[arg(long, value_name = "FILE")]
    netfast: Option<PathBuf>,
    #[command(flatten)]
    pub output: Output,
}

impl Run {
    /// The boxes of cases, and turns on them.
    pub fn world<'a>(&self, cases: impl Iterator<Item = &'a Case>, tables: Tables) -> Result<(World, Turns)> {
        let cpus = std::thread::available_parallelism()?.get();
        ensure!(cpus >= 2, "live traffic needs two CPUs: one sends, one is measured");
        private_mounts()?;
        let binary = agent::binary(self.netfast.as_deref())?;
        let mut kinds: Vec<Kind> = Vec::new();
        for case in cases {
            if !kinds.contains(&case.kind) {
                kinds.push(case.kind);
            }
        }
        eprint!("\r\x1b[Kmaking {} boxes ...", kinds.len());
        let world = World::new(&kinds, cpus - 1, &binary, tables)?;
        Ok((world, Turns::new(std::time::Duration::from_millis(self.turn), cpus - 1)))
    }
}

/// Measures, prints, writes; returns whether the run is valid.
pub fn run(args: &Args) -> Result<bool> {
    args.run.output.check()?;
    let document = measure(args)?;
    print(&document);
    let is_valid = document["void"] == false;
    args.run.output.write(document)?;
    Ok(is_valid)
}

/// Measures.
fn measure(args: &Args) -> Result<Value> {
    let chosen = cases::chosen(&args.run.only);
    ensure!(!chosen.is_empty(), "no case has such a name");
    let tables = Tables { cache_sets: args.cache_sets, flows: None };
    let (mut world, mut turns) = args.run.world(chosen.iter().copied(), tables)?;
    world.programs.set_sequence(&stream::zipf(cases::ZIPF_FLOWS, kernel::SEQUENCE))?;
    // Flows are made, and confirmed by answers, before anything is measured.
    world.programs.set_sink(SINK_ANSWERS)?;
    for case in chosen.iter().filter(|case| case.flows_first) {
        eprint!("\r\x1b[K{}: making flows ...", case.name);
        // The generator goes through a power of two of them. Each must be there: one of the first ranks that is not confirmed is a
        // tenth of all packets, none of which finds a line.
        turns.make_flows(&mut world, &Case { flows: case.flows.next_power_of_two(), ..**case })?;
    }
    world.programs.set_sink(SINK_DROPS)?;
    for round in 0..=args.run.rounds {
        for case in cases::order(&chosen) {
            eprint!("\r\x1b[Kround {round} of {}: {} ...", args.run.rounds, case.name);
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
    let row = |case: &&Case| {
        let to = REFERENCES.iter().find(|(name, _)| *name == case.name).map(|(_, to)| *to);
        turns.row(case, to)
    };
    let mark = |(of, to, at_least): &(&str, &str, f64)| {
        let ratio = turns.ratio(of, to);
        ratio.is_finite().then(|| {
            json!({ "of": of, "to": to, "ratio": number(ratio), "at_least": at_least, "met": ratio >= *at_least })
        })
    };
    let twice: Vec<&str> = cases::TWICE.iter().map(|(name, _)| *name).collect();
    turns.document(&twice, chosen.iter().map(row).collect(), MARKS.iter().filter_map(mark).collect())
}

fn print(document: &Value) {
    println!(
        "{:<24} {:>8} {:>9} {:>9} {:>8} {:>8}  ratio to",
        "case", "flows", "Mpps", "offered", "missed", "ratio"
    );
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
