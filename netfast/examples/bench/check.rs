//! `bench check`: has the program become slower, as a ratio to the reference of the same run?
//!
//! The table is `budgets.json` beside this file; `--bless` writes it. A row that is over its budget is measured again before it is
//! believed. A row says nothing if its A/A control fails, its rounds disagree, or the reference itself is not what it was for the
//! table (another machine, or neighbours that take the caches): it is void, which is neither good nor bad.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    bed::Bed,
    cases::{self, Under},
    measure::{self, Measured},
    output, report,
};

/// Numbers of flows of the whole table and of the short form, whose flows fit the caches of any CPU.
const FLOWS: [u32; 6] = [1, 1024, 8192, 32_768, 131_072, 1_048_576];
const SHORT: [u32; 2] = [1, 1024];
/// So much may a ratio be above its budget.
const SLACK: f64 = 0.05;
/// The same on another kind of CPU than the table's: caches and prices of instructions differ.
const SLACK_ELSEWHERE: f64 = 0.30;
/// Attempts at a row that is over its budget or void.
const ATTEMPTS: usize = 3;
/// Attempts that must agree on a row's being over its budget.
const AGREE: usize = 2;
/// Most that the rounds of a row may disagree.
const SPREAD: f64 = 0.10;
/// Most that the reference may differ from the table's.
const DRIFT: f64 = 0.10;

/// Options of `bench check`.
#[derive(clap::Args)]
pub struct Args {
    /// 1 and 1,024 flows only, in less than a minute: what CI runs.
    #[arg(long)]
    short: bool,
    /// Measure and write the table, on a quiet machine.
    #[arg(long, conflicts_with = "short")]
    bless: bool,
    /// Rounds of turns.
    #[arg(long, default_value_t = 7, value_parser = output::rounds)]
    rounds: usize,
    /// The table, if not the committed one.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
}

/// The committed table.
#[derive(Default, Serialize, Deserialize)]
struct Table {
    schema: u32,
    machine: Value,
    /// Case -> flows -> what was measured.
    rows: BTreeMap<String, BTreeMap<u32, Budget>>,
}

/// A row of the table.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Budget {
    /// Net time as a ratio to the reference's.
    ratio: f64,
    /// The reference's net time as a ratio to the floor.
    reference: f64,
}

/// What became of a row.
enum Outcome {
    Kept,
    Faster,
    Exceeded,
    Void,
    Missing,
}

/// Compares or blesses; returns whether nothing has become slower.
pub fn run(args: &Args) -> Result<bool> {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench/budgets.json");
    let path = args.table.clone().unwrap_or_else(|| committed.into());
    let mut bed = Bed::new()?;
    measure::settle()?;
    if args.bless {
        return bless(&mut bed, args.rounds, &path);
    }
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let table: Table = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let here = report::machine();
    let slack = if here["cpu"] == table.machine["cpu"] {
        SLACK
    } else {
        println!(
            "the table is of {}: ratios may be {:.0} % above it here",
            table.machine["cpu"],
            SLACK_ELSEWHERE * 100.0
        );
        SLACK_ELSEWHERE
    };
    let (mut over, mut void, mut kept) = (0, 0, 0);
    for (case, flows) in rows(if args.short { &SHORT } else { &FLOWS }) {
        let budget = table.rows.get(case.name).and_then(|row| row.get(&flows)).copied();
        let (row, outcome) = compare(&mut bed, &case, flows, args.rounds, budget, slack)?;
        let said = match outcome {
            Outcome::Kept => "ok",
            Outcome::Faster => "ok, and faster: bless the table",
            Outcome::Exceeded => "OVER BUDGET",
            Outcome::Void => "void",
            Outcome::Missing => "not in the table: bless it",
        };
        let budget = budget.map_or("-".to_owned(), |budget| format!("{:.3}", budget.ratio));
        println!("{:<20} {flows:>9} {:>7.3} of {budget:>6}  {said}", case.name, row.ratio);
        match outcome {
            Outcome::Exceeded => over += 1,
            Outcome::Void => void += 1,
            _ => kept += 1,
        }
    }
    if over > 0 {
        println!(
            "{over} ratios are over their budgets. If that is meant: `cargo xtask bench check --bless --rounds 15` on a quiet machine"
        );
    } else if void > 0 {
        println!("void: the machine is too noisy for {void} rows ({kept} others are within their budgets)");
    } else {
        println!("ok: {kept} rows are within their budgets");
    }
    Ok(over == 0)
}

/// The rows of the table.
fn rows(flows: &[u32]) -> Vec<(cases::Case, u32)> {
    cases::all()
        .into_iter()
        .filter(|case| case.under == Under::Netfast)
        .flat_map(|case| {
            let flows = if case.by_flows { flows.to_vec() } else { vec![case.flows] };
            flows.into_iter().map(move |flows| (case.clone(), flows))
        })
        .collect()
}

/// Measures a row until it is within its budget and valid, or often enough.
fn compare(
    bed: &mut Bed,
    case: &cases::Case,
    flows: u32,
    rounds: usize,
    budget: Option<Budget>,
    slack: f64,
) -> Result<(Measured, Outcome)> {
    let mut over = 0;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        let row = measure::measure(bed, case, flows, rounds)?;
        let Some(budget) = budget else { return Ok((row, Outcome::Missing)) };
        // On another kind of CPU the reference differs by nature.
        let same = slack > SLACK || (row.yardstick / budget.reference).ln().abs() <= DRIFT;
        if steady(&row) && same {
            if row.ratio < budget.ratio * (1.0 - 2.0 * slack) {
                return Ok((row, Outcome::Faster));
            }
            if row.ratio <= budget.ratio * (1.0 + slack) {
                return Ok((row, Outcome::Kept));
            }
            over += 1;
            if over >= AGREE {
                return Ok((row, Outcome::Exceeded));
            }
        }
        last = Some(row);
    }
    Ok((last.context("no attempt")?, Outcome::Void))
}

fn steady(row: &Measured) -> bool {
    report::is_steady(row.aa) && row.spread <= SPREAD
}

/// Writes the table. Rows that are void stay as they were; returns whether there are none.
fn bless(bed: &mut Bed, rounds: usize, path: &Path) -> Result<bool> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let before: Table = serde_json::from_str(&text).unwrap_or_default();
    let mut table = Table { schema: 1, machine: report::machine(), rows: BTreeMap::new() };
    let mut void = 0;
    for (case, flows) in rows(&FLOWS) {
        eprint!("\r\x1b[K{} with {flows} flows ...", case.name);
        let mut row = measure::measure(bed, &case, flows, rounds)?;
        for _ in 1..ATTEMPTS {
            if steady(&row) {
                break;
            }
            row = measure::measure(bed, &case, flows, rounds)?;
        }
        let old = before.rows.get(case.name).and_then(|row| row.get(&flows)).copied();
        let budget = if steady(&row) {
            let round = |x: f64| (x * 1000.0).round() / 1000.0;
            Some(Budget { ratio: round(row.ratio), reference: round(row.yardstick) })
        } else {
            println!(
                "\r\x1b[K{} with {flows} flows: A/A ratio {:.3}, void: left as it was",
                case.name, row.aa
            );
            void += 1;
            old
        };
        if let Some(budget) = budget {
            table.rows.entry(case.name.to_owned()).or_default().insert(flows, budget);
        }
    }
    eprint!("\r\x1b[K");
    std::fs::write(path, serde_json::to_string_pretty(&table)? + "\n")?;
    println!("wrote {}", path.display());
    Ok(void == 0)
}
