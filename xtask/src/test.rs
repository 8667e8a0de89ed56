//! `cargo xtask test`: set-up, lints, and every test that there is. What `.ci/run` calls.

use anyhow::Result;

use crate::{
    commands, interrupt, lint, sandbox,
    setup::{self, Group},
    steps::Steps,
    workspace,
};

/// Set up, lint, and run every test, each test executable in a sandbox
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Leave the lints out
    #[arg(long)]
    no_lint: bool,
    /// Arguments for cargo test, as `-p netfast --test netns -- --nocapture`; then only these tests run
    #[arg(last = true)]
    cargo_test: Vec<String>,
}

/// Numbers of tests, summed over all test executables.
#[derive(Debug, Default)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

/// The verb. Its last line of output is `N passed, N failed, N skipped`.
pub fn run(args: Args) -> Result<()> {
    let mut counts = Counts::default();
    let result = all(&args, &mut counts);
    if let Err(error) = &result {
        eprintln!("error: {error:#}");
    }
    println!("{} passed, {} failed, {} skipped", counts.passed, counts.failed, counts.ignored);
    if result.is_err() {
        std::process::exit(i32::from(interrupt::exit_code().unwrap_or(1)));
    }
    Ok(())
}

fn all(args: &Args, counts: &mut Counts) -> Result<()> {
    let mut steps = Steps::new("test");
    // Without it nothing else can go well.
    if !steps.run("setup", || setup::ensure(Group::Test))? {
        return steps.finish();
    }
    if !args.no_lint && args.cargo_test.is_empty() {
        lint::all(&mut steps)?;
    }
    // Chosen tests run with the agent as cargo test builds it: a release build takes minutes.
    if args.cargo_test.is_empty() {
        steps.run("build the agent (release)", || {
            let args = ["build", "--release", "--package", "netfast", "--bin", "netfast"];
            commands::quiet("build-release", commands::cargo().args(args))
        })?;
    }
    steps.run("build the tests", || {
        let (cargo_args, _) = split(&args.cargo_test);
        commands::quiet("build-tests", commands::cargo().args(["test", "--no-run"]).args(cargo_args))
    })?;
    steps.run("tests", || cargo_test(args, counts))?;
    if args.cargo_test.is_empty() {
        steps.run("speed of the programs (short)", speed)?;
    }
    steps.finish()
}

/// Ratios of the program alone against the committed table. Where the machine is too noisy it says "void" and passes.
fn speed() -> Result<()> {
    let (stdin, lifeline) = sandbox::lifeline()?;
    let mut command = commands::cargo();
    // The example is there already, as cargo test builds it; what is measured is in the kernel.
    command.args([
        "run",
        "--package",
        "netfast",
        "--example",
        "bench",
        "--config",
        &sandbox::sandbox_runner()?,
    ]);
    command.args(["--", "check", "--short"]).stdin(stdin);
    let result = commands::streamed("speed", &mut command, |_| {});
    drop(lifeline);
    result
}

/// The arguments of cargo test for cargo and for the test executables.
fn split(args: &[String]) -> (&[String], &[String]) {
    args.split_at(args.iter().position(|arg| arg == "--").unwrap_or(args.len()))
}

/// Unit, integration and documentation tests. The agent that they start is the released one if all are run, as `NETFAST_BIN`; the set-up has
/// installed every program that a test wants, so one that is missing is a failure (`NETFAST_REQUIRE_PEERS`).
fn cargo_test(args: &Args, counts: &mut Counts) -> Result<()> {
    let (stdin, lifeline) = sandbox::lifeline()?;
    let (cargo_args, test_args) = split(&args.cargo_test);
    let mut command = commands::cargo();
    command
        .args(["test", "--no-fail-fast", "--config", &sandbox::sandbox_runner()?])
        .args(cargo_args)
        .args(test_args)
        .env("NETFAST_REQUIRE_PEERS", "1")
        .env("NETFAST_QUIC_PYTHON", setup::tools::AIOQUIC.path())
        .stdin(stdin);
    if args.cargo_test.is_empty() {
        command.env("NETFAST_BIN", workspace::target_dir().join("release/netfast"));
    }
    let result = commands::streamed("tests", &mut command, |line| counts.add(line));
    drop(lifeline);
    result
}

impl Counts {
    /// Adds a line like `test result: ok. 3 passed; 0 failed; 1 ignored; …`; other lines are none of its business.
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else { return };
        let words: Vec<_> = result.split_whitespace().collect();
        for pair in words.windows(2) {
            let [number, what] = pair else { continue };
            let Ok(number) = number.parse::<u64>() else { continue };
            match what.trim_end_matches(';') {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_result_lines() {
        let mut counts = Counts::default();
        for line in [
            "running 4 tests",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 2 passed; 5 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "7 passed",
        ] {
            counts.add(line);
        }
        assert_eq!((5, 5, 1), (counts.passed, counts.failed, counts.ignored));
    }
}
