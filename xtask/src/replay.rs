//! `cargo xtask replay`: captured frames through the real program. The tool is `netfast/examples/replay/`.

use std::ffi::OsString;

use anyhow::Result;

use crate::{examples, setup::Group};

/// Run the frames of a capture file through the real program and report violations; `replay --help` tells more
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// FILE.pcap|pcapng [--rules rules.toml] [--out OUT.pcap] [--json]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Passes everything on.
pub fn run(args: Args) -> Result<()> {
    examples::run("replay", &args.args, Group::Build)
}
