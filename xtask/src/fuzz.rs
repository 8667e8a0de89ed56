//! `cargo xtask fuzz`: frames at random through the parser and the rewriting, for as long as one likes.

use anyhow::{Context as _, Result, ensure};

use crate::{
    commands, interrupt, sandbox,
    setup::{self, Group},
};

/// Run frames at random through the parser and the rewriting, judged by etherparse; or through the programs
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Through the real programs (BPF_PROG_TEST_RUN), which takes root; otherwise the parser and the rewriting on the host
    #[arg(long)]
    programs: bool,
}

/// A random generator of our own, which needs nothing; the same checks are a cargo-fuzz target in netfast-common/fuzz.
pub fn run(args: Args) -> Result<()> {
    let mut command = commands::cargo();
    command.env("NETFAST_FUZZ_SECONDS", args.seconds.to_string());
    if args.programs {
        setup::ensure(Group::Build)?;
        let (stdin, lifeline) = sandbox::lifeline()?;
        command
            .args([
                "test",
                "--package",
                "netfast",
                "--test",
                "prog_run",
                "--config",
                &sandbox::sandbox_runner()?,
            ])
            .args(["--", "--ignored", "--nocapture", "the_programs_for_longer"])
            .stdin(stdin);
        let status = interrupt::wait(&mut command.spawn().context("cannot run cargo")?, || {})?;
        drop(lifeline);
        ensure!(status.success(), "a frame broke something: it stands above, make a regression test of it");
        return Ok(());
    }
    command.args(["test", "--release", "--package", "netfast-common", "--features", "user"]).args([
        "--test",
        "random_frames",
        "--",
        "--ignored",
        "--nocapture",
        "for_longer",
    ]);
    let status = interrupt::wait(&mut command.spawn().context("cannot run cargo")?, || {})?;
    ensure!(status.success(), "a frame broke something: it stands above, make a regression test of it");
    Ok(())
}
