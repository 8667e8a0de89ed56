//! docs/rfc-compliance.md stays true: each row is whole, and every file and test that it names exists.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The requirements that the document must have a row for.
const ROWS: usize = 36;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A row of the document.
#[derive(Debug)]
struct Row {
    number: usize,
    state: String,
    code: Vec<String>,
    tests: Vec<String>,
    missing: String,
}

/// What stands in backquotes in a cell.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn rows(text: &str) -> Vec<Row> {
    let table = text.lines().filter(|line| line.starts_with('|'));
    let cells = table.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells
        .filter_map(|cells| {
            let number = cells[0].parse().ok()?;
            assert_eq!(7, cells.len(), "row {number} has all columns");
            assert!(cells.iter().all(|cell| !cell.is_empty()), "row {number} has an empty cell");
            Some(Row {
                number,
                state: cells[3].to_owned(),
                code: quoted(cells[4]),
                tests: quoted(cells[5]),
                missing: cells[6].to_owned(),
            })
        })
        .collect()
}

fn document() -> Vec<Row> {
    rows(&fs::read_to_string(root().join("docs/rfc-compliance.md")).unwrap())
}

/// Names of the tests in a source file: functions marked `#[test]` or `#[tokio::test]`, and those listed in `scenarios!`.
fn tests_of(source: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let (mut marked, mut listed) = (false, false);
    for line in source.lines().map(str::trim) {
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if line.contains("scenarios! {") {
            listed = true;
        }
        if listed {
            let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            names.extend(words.filter(|word| *word != "scenarios" && !word.is_empty()).map(str::to_owned));
            listed = !line.contains('}');
        } else if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some(function) = function.filter(|_| marked) {
            names.extend(function.split('(').next().map(str::to_owned));
            marked = false;
        }
    }
    names
}

fn all_tests() -> BTreeSet<String> {
    let mut folders: Vec<PathBuf> =
        ["netfast", "netfast-common", "xtask"].map(|folder| root().join(folder)).to_vec();
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                names.extend(tests_of(&fs::read_to_string(path).unwrap()));
            }
        }
    }
    names
}

#[test]
fn every_requirement_has_its_row() {
    let numbers: Vec<usize> = document().iter().map(|row| row.number).collect();
    assert_eq!((1..=ROWS).collect::<Vec<_>>(), numbers);
}

#[test]
fn states_say_what_they_mean() {
    for row in document() {
        match row.state.as_str() {
            "✅" => assert!(!row.tests.is_empty(), "{row:?}: done, but shown by no test"),
            "⚠️" | "❌" => {
                assert!(!row.missing.starts_with("nothing"), "{row:?}: says not what is missing")
            }
            other => panic!("row {}: {other:?} is no state", row.number),
        }
        assert!(!row.code.is_empty(), "{row:?}: no code");
    }
}

#[test]
fn every_file_and_test_exists() {
    let tests = all_tests();
    let mut wrong = Vec::new();
    for row in document() {
        let gone = row.code.iter().filter(|file| !root().join(file).is_file());
        wrong.extend(gone.map(|file| format!("row {}: there is no file {file}", row.number)));
        let gone = row.tests.iter().filter(|test| !tests.contains(*test));
        wrong.extend(gone.map(|test| format!("row {}: there is no test {test}", row.number)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn tests_are_found_where_they_stand() {
    let source = "scenarios! {\n    one, two,\n}\n#[test]\nfn three() {\n}\nfn helper() {}\n\
                  #[test]\n#[ignore = \"x\"]\nfn four() {}\nscenarios! { five }\n";
    let expected = ["one", "two", "three", "four", "five"].map(str::to_owned);
    assert_eq!(BTreeSet::from(expected), tests_of(source));
}
