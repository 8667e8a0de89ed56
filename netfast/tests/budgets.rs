//! The table of `cargo xtask bench check`: what makes a row exceed it, and what several runs make of it.

#[path = "../examples/bench/budgets.rs"]
mod budgets;

use budgets::{Budget, Judgement, SLACK, Table};
use serde_json::{Value, json};

const HERE: &str = "CPU";

fn machine() -> Value {
    json!({ "cpu": HERE, "cpus": 2, "kernel": "6.18" })
}

/// The table after runs that have measured such a ratio and reference.
fn blessed(runs: &[(f64, f64)], raise: bool) -> Table {
    let mut table = Table::new(machine());
    for (ratio, reference) in runs {
        table.bless("prog/echo", 1, Budget::new(*ratio, *reference), raise);
    }
    table
}

fn row(table: &Table) -> Option<Budget> {
    table.budget("prog/echo", 1)
}

#[test]
fn a_row_is_the_largest_of_its_runs() {
    let table = blessed(&[(0.30, 1.0), (0.33, 1.2), (0.29, 1.1)], true);
    assert_eq!(row(&table).unwrap().ratio(), 0.33);
    assert_eq!(row(&table).unwrap().judge(0.34, SLACK), Judgement::Kept);
    assert_eq!(row(&table).unwrap().judge(0.35, SLACK), Judgement::Exceeded);
}

#[test]
fn the_order_of_runs_does_not_matter() {
    let runs = [(0.30, 1.0), (0.33, 1.2), (0.29, 1.1)];
    let backwards: Vec<_> = runs.into_iter().rev().collect();
    assert_eq!(blessed(&runs, true), blessed(&backwards, true));
}

#[test]
fn without_raise_the_last_run_counts() {
    let table = blessed(&[(0.33, 1.2), (0.30, 1.0)], false);
    assert_eq!(table, blessed(&[(0.30, 1.0)], false));
}

#[test]
fn only_what_is_below_all_runs_is_faster() {
    let table = blessed(&[(0.40, 1.0), (0.30, 1.0)], true);
    assert_eq!(row(&table).unwrap().judge(0.28, SLACK), Judgement::Kept);
    assert_eq!(row(&table).unwrap().judge(0.26, SLACK), Judgement::Faster);
}

#[test]
fn the_reference_may_cost_what_it_did_in_any_run() {
    let table = blessed(&[(0.30, 1.0), (0.30, 1.4)], true);
    for (reference, is_like) in [(0.89, false), (0.91, true), (1.2, true), (1.53, true), (1.55, false)] {
        assert_eq!(row(&table).unwrap().has_reference(reference), is_like, "{reference}");
    }
}

#[test]
fn rows_that_a_run_does_not_measure_stay() {
    let mut table = blessed(&[(0.30, 1.0)], true);
    table.bless("prog/echo", 1024, Budget::new(0.5, 1.0), true);
    table.bless("prog/nat_hit", 1, Budget::new(0.4, 1.0), false);
    assert_eq!(row(&table), Some(Budget::new(0.30, 1.0)));
    assert_eq!(table.budget("prog/nat_hit", 1024), None);
    table.forget("prog/echo", 1024);
    assert_eq!((row(&table), table.budget("prog/echo", 1024)), (Some(Budget::new(0.30, 1.0)), None));
}

/// Written and read again it is the same, and the committed one is of this form.
#[test]
fn a_table_is_a_file() {
    let table = blessed(&[(0.30, 1.0), (0.33, 1.2)], true);
    let text = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<Table>(&text).unwrap(), table);
    assert!(table.is_of(&machine()) && !table.is_of(&json!({ "cpu": "other" })));
    let committed: Table =
        serde_json::from_str(include_str!("../examples/bench/budgets.json")).expect("the committed table");
    assert!(committed.machine["cpu"].is_string());
    let budget = committed.budget("prog/nat_hit", 1024).expect("a row of forwarded packets");
    assert_ne!(budget.judge(f64::MAX, budgets::SLACK_ELSEWHERE), Judgement::Kept);
}
