//! Verbs whose code needs the netfast library: they are examples of the crate netfast, run from here after set-up.

use std::ffi::OsString;

use anyhow::{Context as _, Result};

use crate::{
    commands, interrupt, sandbox,
    setup::{self, Group},
    workspace,
};

/// Builds `netfast/examples/NAME` in release and runs it as root with these arguments and our standard streams. `needs`: what is to
/// be on this machine.
pub fn run(name: &str, args: &[OsString], needs: Group) -> Result<()> {
    setup::ensure(needs)?;
    let mut command = commands::cargo();
    command.args(["run", "--release", "--package", "netfast", "--example", name, "--manifest-path"]);
    command.arg(workspace::root().join("Cargo.toml"));
    if let Some(runner) = sandbox::sudo_runner()? {
        command.arg("--config").arg(runner);
    }
    command.arg("--").args(args);
    // The caller's relative file names keep their meaning.
    command.current_dir(std::env::current_dir().context("no current folder")?);
    let status = interrupt::wait(&mut command.spawn().context("cannot run cargo")?, || {})?;
    if !status.success() {
        // The example has said why; its exit code is part of its interface.
        std::process::exit(status.code().unwrap_or(1));
    }
    Ok(())
}
