//! Help, completion, man pages and the reference: what clap makes.

use clap::Command;

use crate::mock::{Ran, netfast};

fn run(line: &str) -> Ran {
    Ran::of(netfast().args(line.split_whitespace()))
}

/// Every command line that has help of its own: `["forward", "add"]`.
fn verbs() -> Vec<Vec<String>> {
    fn below(command: &Command, path: &[String], found: &mut Vec<Vec<String>>) {
        for one in command.get_subcommands().filter(|one| one.get_name() != "help") {
            let path = [path, &[one.get_name().to_owned()]].concat();
            found.push(path.clone());
            below(one, &path, found);
        }
    }
    let mut found = Vec::new();
    below(&netfast::cli::command(), &[], &mut found);
    found
}

#[test]
fn every_verb_has_a_line_about_it_and_examples_that_parse() {
    let verbs = verbs();
    assert!(verbs.len() > 35, "{}", verbs.len());
    for verb in verbs {
        let name = verb.join(" ");
        let help = run(&format!("{name} --help")).good();
        assert!(help.lines().next().is_some_and(|line| line.len() > 10), "{name}");
        if help.contains("\nCommands:\n") {
            continue;
        }
        let (_, examples) =
            help.split_once("Examples:\n").unwrap_or_else(|| panic!("{name} has no examples"));
        for example in examples.lines().filter(|line| line.trim_start().starts_with("netfast ")) {
            let example = example.split(['|', '>', '#', '&']).next().unwrap();
            let words = example.replace(['\'', '"'], "");
            let parsed = netfast::cli::command().try_get_matches_from(words.split_whitespace());
            assert!(parsed.is_ok(), "{name}: {example}: {parsed:?}");
        }
        assert!(examples.contains(&format!("netfast {name}")), "{name}: {examples}");
    }
}

#[test]
fn help_lists_exit_codes_and_ends_well() {
    let help = run("--help").good();
    assert!(help.contains("Exit codes:\n") && help.contains("  7  no permission"), "{help}");
    assert_eq!(run("--version").good(), format!("netfast {}\n", env!("CARGO_PKG_VERSION")));
    run("").bad(2);
}

#[test]
fn completion_knows_every_verb() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&format!("completion {shell}")).good();
        for verb in verbs() {
            assert!(script.contains(verb.last().unwrap().as_str()), "{shell}: {verb:?}");
        }
    }
    let syntax = std::process::Command::new("bash").arg("-n").stdin(std::process::Stdio::piped()).spawn();
    if let Ok(mut bash) = syntax {
        let script = run("completion bash").good();
        std::io::Write::write_all(&mut bash.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(bash.wait().unwrap().success());
    }
    run("completion tcsh").bad(2);
}

#[test]
fn there_is_a_man_page_for_every_verb() {
    let page = run("man").good();
    assert!(page.contains(".TH netfast 1"), "{page}");
    let dir = tempfile::tempdir().unwrap();
    let man = dir.path().join("man1");
    let ran = run(&format!("man {}", man.display()));
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
    for verb in verbs() {
        let page = std::fs::read_to_string(man.join(format!("netfast-{}.1", verb.join("-")))).unwrap();
        assert!(page.contains(&format!(".TH netfast-{} 1", verb.join("-"))), "{verb:?}");
        assert!(page.contains("\n.SH EXAMPLES\n") || page.contains(".SH SUBCOMMANDS"), "{verb:?}: {page}");
    }
}

#[test]
fn the_reference_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let wanted = netfast::cli::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &wanted).unwrap();
    }
    let present = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        present == wanted,
        "docs/cli.md is not up to date: UPDATE_DOCS=1 cargo test -p netfast --test cli"
    );
}
