//! Tools that no Debian package has, in the tools folder.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use super::ebpf::cargo_install;
use crate::{commands, toolchain};

/// A tool of a fixed version: what a newer one would find is no reason for a test to fail.
#[derive(Debug, Clone, Copy)]
pub struct Tool {
    /// Its name, and its executable's.
    pub name: &'static str,
    /// Where from and what for.
    pub why: &'static str,
    version: &'static str,
    source: Source,
}

#[derive(Debug, Clone, Copy)]
enum Source {
    /// Built by `cargo install`.
    Cargo,
    /// A Python package that carries the ready-made executable.
    Pip,
}

/// Licences, bans and sources of the crates.
pub const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    why: "by cargo install (two to three minutes), lints the crates' licences",
    version: "0.20.2",
    source: Source::Cargo,
};

/// Spelling.
pub const TYPOS: Tool =
    Tool { name: "typos", why: "by pip in a venv, lints spelling", version: "1.52.0", source: Source::Pip };

/// All of them.
pub const ALL: [Tool; 2] = [CARGO_DENY, TYPOS];

impl Tool {
    /// Its executable.
    pub fn path(&self) -> PathBuf {
        match self.source {
            Source::Cargo => toolchain::tools_dir().join("bin").join(self.name),
            Source::Pip => self.venv().join("bin").join(self.name),
        }
    }

    /// Whether this version is installed.
    pub fn is_there(&self) -> bool {
        let version = match self.source {
            Source::Cargo => {
                toolchain::installed_features(&toolchain::tools_dir(), self.name, self.version).is_some()
            }
            // The folder's name tells.
            Source::Pip => true,
        };
        version && self.path().is_file()
    }

    /// Installs it.
    pub fn install(&self) -> Result<()> {
        match self.source {
            Source::Cargo => commands::quiet(self.name, &mut cargo_install(self.name, self.version)),
            Source::Pip => self.install_by_pip(),
        }
    }

    fn venv(&self) -> PathBuf {
        toolchain::tools_dir().join(format!("{}-{}", self.name, self.version))
    }

    fn install_by_pip(&self) -> Result<()> {
        let venv = self.venv();
        fs::create_dir_all(&venv).with_context(|| format!("cannot make {}", venv.display()))?;
        // The system's own Python, which has the package python3-venv; another may come first on PATH.
        let mut make = Command::new("/usr/bin/python3");
        commands::quiet("venv", make.args(["-m", "venv", "--clear"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        let requirement = format!("{}=={}", self.name, self.version);
        commands::quiet(self.name, pip.args(["install", "--no-deps", "--only-binary=:all:", &requirement]))
    }
}
