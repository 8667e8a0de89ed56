//! `cargo xtask build-ebpf`: the eBPF object alone.

use anyhow::Result;

use crate::{
    setup::{self, Group},
    toolchain, workspace,
};

/// Build the eBPF object alone and print where it is
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Sets up the toolchain if need be and builds.
pub fn run(_args: Args) -> Result<()> {
    setup::ensure(Group::Build)?;
    let object = toolchain::find()?.build(workspace::root(), &workspace::bpf_target_dir())?;
    println!("{}", object.display());
    Ok(())
}
