//! `cargo xtask bench`: measurements of the real program. The tool is `netfast/examples/bench/`.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    commands, examples,
    setup::{self, Group},
};

/// Measure the program; `bench --help` tells more
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// What to measure, and how
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Passes everything on. Where the real agent is measured, it is built before.
pub fn run(args: Args) -> Result<()> {
    let agents = ["live", "rules", "control", "all"];
    if args.args.iter().any(|arg| agents.iter().any(|name| arg == name)) {
        setup::ensure(Group::Build)?;
        let line = ["build", "--release", "--package", "netfast", "--bin", "netfast"];
        commands::quiet("build-release", commands::cargo().args(line))?;
    }
    // Interfaces are made with ip; nft, nginx and curl are what others are measured with.
    examples::run("bench", &args.args, Group::Demo)
}
