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
    /// A Python package that scripts import, with all that it needs; the executable is the environment's Python.
    Library(&'static [&'static str]),
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

/// QUIC.
pub const AIOQUIC: Tool = Tool {
    name: "aioquic",
    why: "by pip in a venv, a QUIC server and client",
    version: "1.7.2",
    source: Source::Library(&[
        "attrs==26.1.0",
        "certifi==2026.10.18",
        "cffi==2.1.1",
        "cryptography==50.0.2",
        "pycparser==3.12",
        "pylsqpack==1.0.0",
        "pyOpenSSL==26.4.0",
        "service-identity==26.1.0",
        "typing_extensions==4.16.0",
    ]),
};

/// All of them.
pub const ALL: [Tool; 3] = [CARGO_DENY, TYPOS, AIOQUIC];

impl Tool {
    /// Its executable.
    pub fn path(&self) -> PathBuf {
        match self.source {
            Source::Cargo => toolchain::tools_dir().join("bin").join(self.name),
            Source::Pip => self.venv().join("bin").join(self.name),
            Source::Library(_) => self.venv().join("bin/python"),
        }
    }

    /// Whether this version is installed.
    pub fn is_there(&self) -> bool {
        let complete = match self.source {
            Source::Cargo => {
                toolchain::installed_features(&toolchain::tools_dir(), self.name, self.version).is_some()
            }
            // The folder's name tells.
            Source::Pip => true,
            // The environment's Python is there before the library.
            Source::Library(needs) => {
                fs::read_to_string(self.mark()).is_ok_and(|text| text == needs.join("\n"))
            }
        };
        complete && self.path().is_file()
    }

    /// Installs it.
    pub fn install(&self) -> Result<()> {
        match self.source {
            Source::Cargo => commands::quiet(self.name, &mut cargo_install(self.name, self.version)),
            Source::Pip => self.install_by_pip(&[]),
            Source::Library(needs) => {
                self.install_by_pip(needs)?;
                let mark = self.mark();
                fs::write(&mark, needs.join("\n")).with_context(|| format!("cannot write {}", mark.display()))
            }
        }
    }

    fn venv(&self) -> PathBuf {
        toolchain::tools_dir().join(format!("{}-{}", self.name, self.version))
    }

    /// Says that all packages of a library are installed, and which.
    fn mark(&self) -> PathBuf {
        self.venv().join("netfast-installed")
    }

    fn install_by_pip(&self, needs: &[&str]) -> Result<()> {
        let venv = self.venv();
        fs::create_dir_all(&venv).with_context(|| format!("cannot make {}", venv.display()))?;
        // The system's own Python, which has the package python3-venv; another may come first on PATH.
        let mut make = Command::new("/usr/bin/python3");
        commands::quiet("venv", make.args(["-m", "venv", "--clear"]).arg(&venv))?;
        let mut pip = Command::new(venv.join("bin/pip"));
        let requirement = format!("{}=={}", self.name, self.version);
        pip.args(["install", "--no-deps", "--only-binary=:all:", &requirement]).args(needs);
        commands::quiet(self.name, &mut pip)
    }
}
