//! `cargo xtask bench`: what the program costs, by BPF_PROG_TEST_RUN, as ratios within one run.
//!
//! Method: one CPU, real-time priority; the program under test, the empty program (the floor) and the reference run in turns of
//! some 60 ms, the program under test twice (A/A). Reported are medians of paired differences and ratios; a run whose A/A
//! leaves 0.97 to 1.03 is void and says so.

mod ageing;
mod bed;
mod budgets;
mod cases;
mod check;
mod classify;
mod control;
mod generate;
mod health;
mod html;
mod linear;
mod live;
mod measure;
#[path = "../../../xtask/src/netns.rs"]
mod netns;
mod output;
mod report;
mod road;
mod rules;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

use output::Output;

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
    /// What filter rules cost live traffic, against their number: netfast, nftables rule by rule, a set of nftables.
    Rules(rules::Args),
    /// Health checks of 10,000 targets: CPU, memory, delay; look-up tables after a change of health.
    Health(health::Args),
    /// The agent: changes, apply, scrapes, memory, ageing and restarts, with many rules and a million flows.
    Control(control::Args),
    /// Everything: prog, live, rules, control, ageing and a made-up rule set for classify.
    All(AllArgs),
    /// Compare ratios of the program alone with the committed table; a noisy machine's answer is "void".
    Check(check::Args),
    /// A million flows: memory, sweeps, new flows beside them, a flood of openings.
    Ageing {
        #[command(flatten)]
        output: Output,
    },
}

/// Options of `bench prog`.
#[derive(Clone, clap::Args)]
struct ProgArgs {
    /// Numbers of flows that packets are spread over; powers of two.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1024, 8192, 32_768, 131_072, 1_048_576])]
    flows: Vec<u32>,
    /// Only cases whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Rounds of turns; more are slower and steadier.
    #[arg(long, default_value_t = 7, value_parser = output::rounds)]
    rounds: usize,
    #[command(flatten)]
    output: Output,
}

/// Options of `bench all`.
#[derive(clap::Args)]
struct AllArgs {
    /// Rounds of turns.
    #[arg(long, default_value_t = 7, value_parser = output::rounds)]
    rounds: usize,
    /// Fewer flows, rounds and rules: to see whether everything runs, not for figures.
    #[arg(long)]
    quick: bool,
    #[command(flatten)]
    output: Output,
    /// Make the page of these files of earlier runs (as `--json` has written them) instead of measuring.
    #[arg(long, value_name = "FILE", value_delimiter = ',', requires = "html")]
    from: Vec<PathBuf>,
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
        What::Control(args) => return control::run(&args),
        What::Check(args) => return check::run(&args),
        What::All(args) => return all(&args),
        What::Ageing { output } => return ageing::run(&output).map(|()| true),
    };
    args.output.check()?;
    let report = prog(&args)?;
    print!("{report}");
    args.output.write(report.json())?;
    Ok(report.is_valid())
}

/// Measures the program alone.
fn prog(args: &ProgArgs) -> Result<report::Report> {
    for flows in &args.flows {
        anyhow::ensure!(
            flows.is_power_of_two() && *flows <= bed::MAX_FLOWS,
            "--flows {flows}: use powers of two up to {}",
            bed::MAX_FLOWS
        );
    }
    let mut chosen = cases::all();
    chosen.retain(|case| args.only.as_ref().is_none_or(|only| case.name.contains(only.as_str())));
    anyhow::ensure!(!chosen.is_empty(), "no case has such a name");
    let mut bed = bed::Bed::new()?;
    measure::settle()?;
    let mut results = Vec::new();
    for case in chosen {
        let flows = if case.by_flows { args.flows.clone() } else { vec![case.flows] };
        for flows in flows {
            eprint!("\r\x1b[K{} with {flows} flows ...", case.name);
            results.push(measure::measure(&mut bed, &case, flows, args.rounds)?);
        }
    }
    eprint!("\r\x1b[K");
    Ok(report::Report::new(results, bed.verified()?))
}

/// Runs each part as a process of its own, since each moves into namespaces for good, and gathers what they have written.
fn all(args: &AllArgs) -> Result<bool> {
    args.output.check()?;
    let mut parts = Vec::new();
    let mut failed = Vec::new();
    let mut valid = true;
    for path in &args.from {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        parts.push(serde_json::from_str(&text).with_context(|| path.display().to_string())?);
    }
    if args.from.is_empty() {
        let dir = tempfile::tempdir()?;
        let rounds = if args.quick { 2 } else { args.rounds }.to_string();
        let flows = if args.quick { "1,1024" } else { "1,1024,8192,32768,131072,1048576" };
        let control: &[&str] = if args.quick {
            &["--flows", "65536", "--changes", "20", "--rules", "10000", "--idle", "10"]
        } else {
            &[]
        };
        let mut lines: Vec<Vec<&str>> = vec![
            vec!["prog", "--rounds", &rounds, "--flows", flows],
            vec!["live", "--rounds", &rounds],
            vec!["rules", "--rounds", &rounds],
            [&["control"], control].concat(),
        ];
        let counts: &[&str] = if args.quick { &["10", "1000"] } else { &["10", "1000", "10000", "100000"] };
        for count in counts {
            lines.push(vec!["classify", "--count", count, "--sample", "1000", "--rounds", &rounds]);
        }
        if !args.quick {
            lines.push(vec!["ageing"]);
        }
        for (number, line) in lines.iter().enumerate() {
            println!("== {}", line.join(" "));
            let file = dir.path().join(number.to_string());
            let mut command = std::process::Command::new(std::env::current_exe()?);
            let status = command.args(line).arg("--json").arg(&file).status()?;
            valid &= status.success();
            if status.code().is_some_and(|code| code <= 1) {
                parts.push(serde_json::from_str(&std::fs::read_to_string(&file)?)?);
            } else {
                eprintln!("{}: {status}; going on with the others", line.join(" "));
                failed.push(line.join(" "));
            }
        }
    }
    let mut document = report::merge(&parts);
    document["failed_parts"] = serde_json::json!(failed);
    args.output.write(document)?;
    anyhow::ensure!(failed.is_empty(), "no figures of: {}", failed.join("; "));
    Ok(valid)
}
