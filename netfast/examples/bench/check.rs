//! `bench check`: has the program become slower, as a ratio to the reference of the same run?
//!
//! The table is `budgets.json` beside this file; `--bless` writes it, `--bless --raise` widens it. A row that is over its budget is measured again before it is
//! believed, also with programs and maps loaded anew: where they lie in memory changes a ratio by more than the slack, and stays the same
//! for as long as they are loaded. A row says nothing if its A/A control fails, its rounds disagree, or the reference itself is not what it was for the
//! table (another machine, or neighbours that take the caches): it is void, which is neither good nor bad.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::{
    bed::Bed,
    budgets::{Budget, Judgement, SLACK, SLACK_ELSEWHERE, Table},
    cases::{self, Under},
    measure::{self, Measured},
    output, report,
};

/// Numbers of flows of the whole table and of the short form, whose flows fit the caches of any CPU.
const FLOWS: [u32; 6] = [1, 1024, 8192, 32_768, 131_072, 1_048_576];
const SHORT: [u32; 2] = [1, 1024];
/// Attempts at a row that is over its budget or void.
const ATTEMPTS: usize = 3;
/// Attempts that must agree on a row's being over its budget.
const AGREE: usize = 2;
/// Times that programs and maps are loaded, all of which must agree on it.
const LOADS: usize = 3;
/// Most that the rounds of a row may disagree.
const SPREAD: f64 = 0.10;

/// Options of `bench check`.
#[derive(clap::Args)]
pub struct Args {
    /// 1 and 1,024 flows only, in less than a minute: what CI runs.
    #[arg(long)]
    short: bool,
    /// Measure and write the table, on a quiet machine.
    #[arg(long)]
    bless: bool,
    /// Keep what the table has, and widen rows by what is measured: it holds the largest of several runs.
    #[arg(long, requires = "bless")]
    raise: bool,
    /// Only cases whose name contains one of these; the table's other rows stay as they are.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rounds of turns.
    #[arg(long, default_value_t = 7, value_parser = output::rounds)]
    rounds: usize,
    /// The table, if not the committed one.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
}

/// What became of a row.
enum Outcome {
    Judged(Judgement),
    Void,
    Missing,
}

impl Args {
    /// The rows that are asked for.
    fn rows(&self) -> Result<Vec<(cases::Case, u32)>> {
        let flows: &[u32] = if self.short { &SHORT } else { &FLOWS };
        let wanted =
            |name: &str| self.only.is_empty() || self.only.iter().any(|part| name.contains(part.as_str()));
        let rows: Vec<_> = cases::all()
            .into_iter()
            .filter(|case| case.under == Under::Netfast && wanted(case.name))
            .flat_map(|case| {
                let flows = if case.by_flows { flows.to_vec() } else { vec![case.flows] };
                flows.into_iter().map(move |flows| (case.clone(), flows))
            })
            .collect();
        ensure!(!rows.is_empty(), "no case has such a name");
        Ok(rows)
    }
}

/// Compares or blesses; returns whether nothing has become slower.
pub fn run(args: &Args) -> Result<bool> {
    let committed = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/bench/budgets.json");
    let path = args.table.clone().unwrap_or_else(|| committed.into());
    let rows = args.rows()?;
    let table = read(&path);
    if args.bless {
        return bless(args, &rows, table, &path);
    }
    let table = table?;
    let mut bed = Bed::new()?;
    measure::settle()?;
    let slack = if table.is_of(&report::machine()) {
        SLACK
    } else {
        println!(
            "the table is of {}: ratios may be {:.0} % above it here",
            table.machine["cpu"],
            SLACK_ELSEWHERE * 100.0
        );
        SLACK_ELSEWHERE
    };
    let (mut void, mut missing, mut kept) = (0, 0, 0);
    let mut open: Vec<_> = rows.iter().collect();
    for load in 1..=LOADS {
        let mut over = Vec::new();
        for row in open {
            let (case, flows) = row;
            let budget = table.budget(case.name, *flows);
            let (measured, outcome) = compare(&mut bed, case, *flows, args.rounds, budget, slack)?;
            let said = match outcome {
                Outcome::Judged(Judgement::Kept) => "ok",
                Outcome::Judged(Judgement::Faster) => "ok, and faster: bless the table",
                Outcome::Judged(Judgement::Exceeded) if load < LOADS => "over: again, loaded anew",
                Outcome::Judged(Judgement::Exceeded) => "OVER BUDGET",
                Outcome::Void => "void",
                Outcome::Missing => "not in the table",
            };
            let budget = budget.map_or("-".to_owned(), |budget| format!("{:.3}", budget.ratio()));
            println!("{:<20} {flows:>9} {:>7.3} of {budget:>6}  {said}", case.name, measured.ratio);
            match outcome {
                Outcome::Judged(Judgement::Exceeded) => over.push(row),
                Outcome::Void => void += 1,
                Outcome::Missing => missing += 1,
                Outcome::Judged(_) => kept += 1,
            }
        }
        open = over;
        if open.is_empty() {
            break;
        }
        if load < LOADS {
            drop(bed);
            bed = Bed::new()?;
        }
    }
    let over = open.len();
    if missing > 0 {
        println!("{missing} rows are not in the table, so nothing is known of them (`--bless --raise`)");
    }
    if over > 0 {
        println!(
            "{over} ratios are over their budgets. If that is meant: `cargo xtask bench check --bless` on a quiet machine (docs/benchmarks.md)"
        );
    } else if void > 0 {
        println!("void: the machine is too noisy for {void} rows ({kept} others are within their budgets)");
    } else {
        println!("ok: {kept} rows are within their budgets");
    }
    Ok(over == 0)
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
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
        let same = slack > SLACK || budget.has_reference(row.yardstick);
        if steady(&row) && same {
            match budget.judge(row.ratio, slack) {
                Judgement::Exceeded => over += 1,
                kept => return Ok((row, Outcome::Judged(kept))),
            }
            if over >= AGREE {
                return Ok((row, Outcome::Judged(Judgement::Exceeded)));
            }
        }
        last = Some(row);
    }
    Ok((last.context("no attempt")?, Outcome::Void))
}

fn steady(row: &Measured) -> bool {
    report::is_steady(row.aa) && row.spread <= SPREAD
}

/// Writes the table. Rows that are not asked for stay as they were, and so do void ones with `--raise`; returns whether none is void.
fn bless(args: &Args, rows: &[(cases::Case, u32)], before: Result<Table>, path: &Path) -> Result<bool> {
    let machine = report::machine();
    let mut table = match before {
        Ok(table) if table.is_of(&machine) => table,
        // Ratios of another kind of CPU are nothing to these.
        Ok(table) => {
            ensure!(
                !args.raise,
                "the table is of {}: begin one of this CPU by `--bless` without `--raise`",
                table.machine["cpu"]
            );
            Table::new(machine)
        }
        Err(error) if args.raise => return Err(error),
        Err(_) => Table::new(machine),
    };
    let mut bed = Bed::new()?;
    measure::settle()?;
    let mut void = 0;
    for (case, flows) in rows {
        eprint!("\r\x1b[K{} with {flows} flows ...", case.name);
        let mut row = measure::measure(&mut bed, case, *flows, args.rounds)?;
        for _ in 1..ATTEMPTS {
            if steady(&row) {
                break;
            }
            row = measure::measure(&mut bed, case, *flows, args.rounds)?;
        }
        let said = if steady(&row) {
            table.bless(case.name, *flows, Budget::new(row.ratio, row.yardstick), args.raise);
            ""
        } else {
            void += 1;
            if args.raise {
                "  void: left as it was"
            } else {
                table.forget(case.name, *flows);
                "  void: not in the table"
            }
        };
        println!(
            "\r\x1b[K{:<20} {flows:>9} {:>7.3} A/A {:.3} spread {:.3}{said}",
            case.name, row.ratio, row.aa, row.spread
        );
    }
    std::fs::write(path, serde_json::to_string_pretty(&table)? + "\n")?;
    println!("wrote {}", path.display());
    Ok(void == 0)
}
