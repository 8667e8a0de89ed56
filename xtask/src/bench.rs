//! `cargo xtask bench`: measurements of the real program. The tool is `netfast/examples/bench/`.

use std::ffi::OsString;

use anyhow::Result;

use crate::examples;

/// Measure the program; `bench --help` tells more
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// What to measure, and how
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Passes everything on.
pub fn run(args: Args) -> Result<()> {
    examples::run("bench", &args.args)
}
