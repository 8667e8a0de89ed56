//! `cargo xtask fuzz`: frames at random through the parser and the rewriting, for as long as one likes.

use anyhow::{Context as _, Result, ensure};

use crate::{commands, interrupt};

/// Run the parser and the rewriting on frames at random, on the host, judged by etherparse
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How long
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

/// A random generator of our own, which needs nothing; the same checks are a cargo-fuzz target in netfast-common/fuzz.
pub fn run(args: Args) -> Result<()> {
    let mut command = commands::cargo();
    command
        .args(["test", "--release", "--package", "netfast-common", "--features", "user"])
        .args(["--test", "random_frames", "--", "--ignored", "--nocapture", "for_longer"])
        .env("NETFAST_FUZZ_SECONDS", args.seconds.to_string());
    let status = interrupt::wait(&mut command.spawn().context("cannot run cargo")?, || {})?;
    ensure!(status.success(), "a frame broke something: it stands above, make a regression test of it");
    Ok(())
}
