//! `cargo xtask lint`: everything that is checked without running the code.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    abi, commands,
    setup::{self, Group, tools},
    steps::Steps,
    toolchain, workspace,
};

/// Check format, clippy (host and eBPF), documentation, licences, spelling, the ABI's version
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the checksum of the present ABI to netfast-common/src/abi/ABI.lock
    #[arg(long)]
    bless_abi: bool,
}

/// The verb.
pub fn run(args: Args) -> Result<()> {
    if args.bless_abi {
        return abi::bless();
    }
    setup::ensure(Group::Test)?;
    let mut steps = Steps::new("lint");
    all(&mut steps)?;
    steps.finish()
}

/// Runs every lint as a step.
pub fn all(steps: &mut Steps) -> Result<()> {
    steps.run("lint: format", || cargo("lint-fmt", &["fmt", "--all", "--check"]))?;
    steps.run("lint: clippy for the host", || {
        cargo("lint-clippy", &["clippy", "--all-targets", "--", "--deny", "warnings"])
    })?;
    steps.run("lint: clippy for eBPF", || {
        let mut clippy = toolchain::find()?.clippy(workspace::root(), &workspace::bpf_target_dir());
        commands::quiet("lint-clippy-ebpf", clippy.args(["--", "--deny", "warnings"]))
    })?;
    steps.run("lint: documentation", || {
        // For the people who work on it: private items are in, so links to them are no mistake.
        let flags = "--deny warnings --allow rustdoc::private_intra_doc_links";
        let mut doc = commands::cargo();
        doc.args(["doc", "--no-deps", "--document-private-items"]).env("RUSTDOCFLAGS", flags);
        commands::quiet("lint-doc", &mut doc)
    })?;
    steps.run("lint: licences, bans and sources of crates", || {
        let mut deny = Command::new(tools::CARGO_DENY.path());
        // Advisories need a database from the network; they are a matter for a scheduled job.
        deny.current_dir(workspace::root()).args(["check", "licenses", "bans", "sources"]);
        commands::quiet("lint-deny", &mut deny)
    })?;
    steps.run("lint: spelling", || {
        let mut typos = Command::new(tools::TYPOS.path());
        commands::quiet("lint-typos", typos.current_dir(workspace::root()))
    })?;
    steps.run("lint: version of the ABI", abi::check)?;
    steps.run("lint: no paths of a developer's machine", no_private_paths)?;
    Ok(())
}

fn cargo(log: &str, args: &[&str]) -> Result<()> {
    commands::quiet(log, commands::cargo().args(args))
}

/// Paths that are right on one machine only have no place in a tracked file.
fn no_private_paths() -> Result<()> {
    // In two parts, or this line would be a find.
    const PRIVATE: [&str; 3] = [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/home/", "user/")];
    let listing = Command::new("git")
        .current_dir(workspace::root())
        .args(["ls-files", "-z"])
        .output()
        .context("cannot run git")?;
    if !listing.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listing.stderr).trim());
    }
    let mut finds = Vec::new();
    for name in String::from_utf8_lossy(&listing.stdout).split_terminator('\0') {
        // A file that is deleted and not yet committed, or a binary one, has nothing to be read.
        let Ok(text) = fs::read_to_string(workspace::root().join(name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if PRIVATE.iter().any(|path| line.contains(path)) {
                finds.push(format!("{name}:{}", number + 1));
            }
        }
    }
    if finds.is_empty() { Ok(()) } else { bail!("found in {}", finds.join(", ")) }
}
