//! docs/configuration.md says what the program does: its tables have every key, the right defaults and the right bounds.

#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::{collections::BTreeMap, path::Path};

use netfast::config::{Report, agent::AgentConfig, rules};

/// A row of a table.
struct Row {
    key: String,
    default: String,
    range: String,
}

/// Part of the document (`agent.toml`, `rules.toml`) and heading of the table (empty: before the first one) to rows.
type Tables = BTreeMap<(String, String), Vec<Row>>;

fn tables() -> Tables {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let text = std::fs::read_to_string(path).unwrap();
    let (mut file, mut section) = (String::new(), String::new());
    let mut tables = Tables::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            (file, section) = (heading.to_owned(), String::new());
        } else if let Some(heading) = line.strip_prefix("### ") {
            section = heading.to_owned();
        } else if line.starts_with("| `") {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(5, cells.len(), "{line}");
            tables.entry((file.clone(), section.clone())).or_default().push(Row {
                key: cells[0].trim_matches('`').to_owned(),
                default: cells[2].trim_matches('`').to_owned(),
                range: cells[3].to_owned(),
            });
        }
    }
    tables
}

fn parse(file: &str, text: &str) -> Result<(), Report> {
    match file {
        "agent.toml" => AgentConfig::parse(file, text).map(drop),
        "rules.toml" => rules::parse(file, text).map(drop),
        _ => panic!("{file}?"),
    }
}

fn message(file: &str, text: &str) -> String {
    let Err(error) = parse(file, text) else { panic!("accepted: {text}") };
    error.lines().collect::<Vec<_>>().join("\n")
}

/// A file that is good but for the lines that are to be added to the section.
fn file(section: &str, lines: &str) -> String {
    let forward = "[[forward]]\nname = \"a\"\nprotocol = \"tcp\"\nlisten = \"192.0.2.1:1\"\n";
    match section {
        "" => lines.to_owned(),
        "[[interface]]" => format!("{section}\nname = \"a\"\n{lines}"),
        "[[forward]]" => format!("{forward}{lines}"),
        "[[forward.target]]" => format!("{forward}{section}\naddress = \"192.0.2.2:1\"\n{lines}"),
        "[forward.health]" => format!("{forward}{section}\ntype = \"http\"\n{lines}"),
        "[[echo]]" => format!("{section}\nlisten = \"192.0.2.1:1\"\nallow = [\"192.0.2.0/24\"]\n{lines}"),
        "[[filter]]" => format!("{section}\naction = \"drop\"\n{lines}"),
        "[[set]]" => format!("{section}\nname = \"a\"\naddresses = [\"192.0.2.0/24\"]\n{lines}"),
        "[[policy]]" => format!("{section}\ninterface = \"a\"\nfilter = \"drop\"\n{lines}"),
        "[[snat]]" => {
            format!("{section}\nname = \"a\"\nfrom = [\"10.0.0.0/8\"]\nto = [\"192.0.2.1\"]\n{lines}")
        }
        _ => format!("{section}\n{lines}"),
    }
}

#[test]
fn every_key_is_there_and_no_other() {
    let tables = tables();
    assert!(tables.len() >= 18, "{}", tables.len());
    for ((name, section), rows) in &tables {
        // The parser names the keys that it knows when it meets one that it does not. Tables of the top level have
        // sections of their own here.
        if section.is_empty() {
            continue;
        }
        let said = message(name, &file(section, "qqqqqqqqqq = 1\n"));
        let (_, known) = said.split_once("expected one of: ").unwrap_or_else(|| panic!("{section}: {said}"));
        let mut known: Vec<_> = known.split(", ").collect();
        let mut documented: Vec<_> = rows.iter().map(|row| row.key.as_str()).collect();
        known.sort_unstable();
        documented.sort_unstable();
        assert_eq!(known, documented, "{name} {section}");
    }
    for name in ["agent.toml", "rules.toml"] {
        let said = message(name, "qqqqqqqqqq = 1\n");
        let (_, known) = said.split_once("expected one of: ").unwrap();
        for key in known.split(", ") {
            let heading = |(file, section): &(String, String)| {
                file == name && section.trim_matches(['[', ']']) == key
                    || section.is_empty()
                        && tables[&(file.clone(), String::new())].iter().any(|row| row.key == key)
            };
            assert!(tables.keys().any(heading), "{name}: {key} is not documented");
        }
    }
}

#[test]
fn defaults_are_the_programs() {
    let mut text = String::new();
    for ((name, section), rows) in &tables() {
        if name != "agent.toml" || section.is_empty() || section.starts_with("[[") {
            continue;
        }
        text += section;
        for row in rows {
            text += &format!("\n{} = {}", row.key, row.default);
        }
        text += "\n";
    }
    let default = AgentConfig::default();
    let mut written = AgentConfig::parse("agent.toml", &text).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(default.agent.socket(), written.agent.socket());
    assert_eq!(default.agent.pin_dir(), written.agent.pin_dir());
    (written.agent.socket, written.agent.pin_dir) = (None, None);
    assert_eq!(default, written);
}

/// A value beside the default of a key: the same rules come out with and without it.
#[test]
fn defaults_of_rules_and_lists_are_the_programs() {
    let mut seen = 0;
    for ((name, section), rows) in &tables() {
        for row in rows.iter().filter(|row| {
            (section.starts_with("[[") || section == "[forward.health]") && row.default != "none"
        }) {
            if row.default == "required" {
                let all = file(section, "");
                // The first line with the key, in the last table.
                let at = all
                    .rfind(&format!("\n{} = ", row.key))
                    .unwrap_or_else(|| panic!("{section} {}", row.key));
                let end = all[at + 1..].find('\n').unwrap() + at + 1;
                let without = format!("{}{}", &all[..at], &all[end..]);
                let said = message(name, &without);
                assert!(
                    said.contains(&format!("key {:?} is missing", row.key)),
                    "{section} {}: {said}",
                    row.key
                );
            } else {
                let with = file(section, &format!("{} = {}\n", row.key, row.default));
                if name == "agent.toml" {
                    assert_eq!(
                        AgentConfig::parse(name, &with).unwrap(),
                        AgentConfig::parse(name, &file(section, "")).unwrap()
                    );
                } else {
                    assert_eq!(
                        rules::parse(name, &with).unwrap(),
                        rules::parse(name, &file(section, "")).unwrap()
                    );
                }
            }
            seen += 1;
        }
    }
    assert!(seen >= 12, "{seen}");
}

/// A bound of a range, and the next value beyond it.
fn beyond(bound: &str, step: i64) -> (String, String) {
    match bound.strip_suffix(['s', 'd']) {
        None => (bound.to_owned(), (bound.parse::<i64>().unwrap() + step).to_string()),
        Some(number) => {
            let unit = if bound.ends_with('d') { 86_400 } else { 1 };
            let seconds = number.parse::<i64>().unwrap() * unit;
            (format!("{bound:?}"), format!("\"{}s\"", seconds + step))
        }
    }
}

#[test]
fn ranges_are_the_programs() {
    let mut seen = 0;
    for ((name, section), rows) in &tables() {
        for row in rows {
            let Some((low, high)) = row.range.split_once(" to ") else { continue };
            for (good, bad) in [beyond(low, -1), beyond(high, 1)] {
                let with = |value: &str| file(section, &format!("{} = {value}\n", row.key));
                assert!(parse(name, &with(&good)).is_ok(), "{section} {} = {good}", row.key);
                assert!(parse(name, &with(&bad)).is_err(), "{section} {} = {bad}", row.key);
            }
            seen += 1;
        }
    }
    assert!(seen >= 24, "{seen}");
}
