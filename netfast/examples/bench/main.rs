//! `cargo xtask bench`: what the program costs, by BPF_PROG_TEST_RUN, as ratios within one run.
//!
//! Method: one CPU, real-time priority; the program under test, the empty program (the floor) and the reference run in turns of
//! some 60 ms, the program under test twice (A/A). Reported are medians of paired differences and ratios; a run whose A/A
//! leaves 0.97 to 1.03 is void and says so.

mod ageing;
mod bed;
mod cases;
mod classify;
mod generate;
mod health;
mod linear;
mod live;
mod measure;
#[path = "../../../xtask/src/netns.rs"]
mod netns;
mod report;
mod rules;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Measure netfast's XDP program.
#[derive(Parser)]
#[command(
    name = "cargo xtask bench",
    after_help = "EXAMPLES:\n  cargo xtask bench prog\n  cargo xtask bench prog --flows 1024,32768 --json prog.json"
)]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The program alone: nanoseconds a packet beside an empty program and a one-hash DNAT.
    Prog(ProgArgs),
    /// The filter's classifier: a rule set and a trace in ClassBench's format, or made up.
    Classify(classify::Args),
    /// Packets a second through veth pairs: netfast beside bare XDP programs, the kernel and nftables.
    Live(live::Args),
    /// Filter rules in live traffic over veth: netfast, nftables rule by rule, a set of nftables; draws them.
    Rules(rules::Args),
    /// Health checks of 10,000 targets: CPU, memory, delay; look-up tables after a change of health.
    Health(health::Args),
    /// A million flows: memory, sweeps, new flows beside them, a flood of openings.
    Ageing {
        /// Write the results as JSON.
        #[arg(long, value_name = "FILE")]
        json: Option<PathBuf>,
    },
}

/// Options of `bench prog`.
#[derive(clap::Args)]
struct ProgArgs {
    /// Numbers of flows that packets are spread over; powers of two.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1024, 32_768, 1_048_576])]
    flows: Vec<u32>,
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Rounds of turns; more are slower and steadier.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Returns whether the run is valid.
fn run() -> Result<bool> {
    let args = match Args::parse().what {
        What::Prog(args) => args,
        What::Classify(args) => return classify::run(&args),
        What::Live(args) => return live::run(&args),
        What::Rules(args) => return rules::run(&args),
        What::Health(args) => return health::run(&args).map(|()| true),
        What::Ageing { json } => return ageing::run(json.as_deref()).map(|()| true),
    };
    for flows in &args.flows {
        anyhow::ensure!(
            flows.is_power_of_two() && *flows <= bed::MAX_FLOWS,
            "--flows {flows}: use powers of two up to {}",
            bed::MAX_FLOWS
        );
    }
    let mut bed = bed::Bed::new()?;
    measure::settle()?;
    let mut results = Vec::new();
    for case in cases::all() {
        if args.only.as_ref().is_some_and(|only| !case.name.contains(only.as_str())) {
            continue;
        }
        let flows = if case.by_flows { args.flows.clone() } else { vec![case.flows] };
        for flows in flows {
            eprint!("\r\x1b[K{} with {flows} flows ...", case.name);
            results.push(measure::measure(&mut bed, &case, flows, args.rounds)?);
        }
    }
    eprint!("\r\x1b[K");
    let report = report::Report::new(results, bed.verified()?);
    print!("{report}");
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_string_pretty(&report.json())?)?;
    }
    Ok(report.is_valid())
}
