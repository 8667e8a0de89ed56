//! Has the ABI between kernel and agent changed without a new `ABI_VERSION`?
//!
//! `netfast-common/src/abi/ABI.lock` holds the version and a checksum of the ABI's sources without comments and white
//! space. It has to fit the sources, so that every change of the ABI shows in a diff as what it is. And where a release
//! (the last tag `v…`) had another checksum, the version has to be another one too: pinned maps of that release may be
//! alive on a host. Between releases a version is free to change.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::workspace;

const SOURCES: &str = "netfast-common/src/abi";
const LOCK: &str = "netfast-common/src/abi/ABI.lock";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Abi {
    version: u32,
    checksum: u64,
}

/// The lint.
pub fn check() -> Result<()> {
    let present = of_sources()?;
    let lock = Abi::parse(&fs::read_to_string(workspace::root().join(LOCK)).context(LOCK)?)?;
    differs_from_release(present)?;
    ensure!(
        present == lock,
        "the ABI changed (netfast-common/src/abi): see whether ABI_VERSION has to, then `cargo xtask lint --bless-abi`"
    );
    Ok(())
}

/// Writes the lock.
pub fn bless() -> Result<()> {
    let present = of_sources()?;
    differs_from_release(present)?;
    fs::write(workspace::root().join(LOCK), present.to_string()).context(LOCK)?;
    println!("{LOCK}: version {}", present.version);
    Ok(())
}

/// An error if the last release has the same version for another ABI.
fn differs_from_release(present: Abi) -> Result<()> {
    let Some(tag) = git(&["describe", "--tags", "--abbrev=0", "--match", "v*"]) else { return Ok(()) };
    let Some(lock) = git(&["show", &format!("{}:{LOCK}", tag.trim())]) else { return Ok(()) };
    let released = Abi::parse(&lock)?;
    if released.version == present.version && released.checksum != present.checksum {
        bail!("the ABI is not the one of {}: raise ABI_VERSION above {}", tag.trim(), released.version);
    }
    Ok(())
}

/// What git prints; `None` if it fails, as where there are no tags.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").current_dir(workspace::root()).args(args).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn of_sources() -> Result<Abi> {
    let mut files = Vec::new();
    rust_files(&workspace::root().join(SOURCES), &mut files).context(SOURCES)?;
    files.sort();
    let mut code = String::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        code.push_str(&essence(&text));
    }
    let version = code
        .split_once("pubconstABI_VERSION:u32=")
        .and_then(|(_, rest)| rest.split(';').next()?.parse().ok())
        .context("no `pub const ABI_VERSION: u32 = N;` in netfast-common/src/abi")?;
    Ok(Abi { version, checksum: fnv1a(code.as_bytes()) })
}

fn rust_files(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            rust_files(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
    Ok(())
}

/// A source without line comments, white space, and the tests at its end.
fn essence(source: &str) -> String {
    let code = source.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    lines.flat_map(str::chars).filter(|c| !c.is_whitespace()).collect()
}

/// FNV-1a: it tells a change from none, it is no defence against anyone.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

impl fmt::Display for Abi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Written by `cargo xtask lint --bless-abi`; what it is for stands in xtask/src/abi.rs."
        )?;
        writeln!(f, "version = {}\nchecksum = {:016x}", self.version, self.checksum)
    }
}

impl Abi {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix('='));
            value.map(str::trim).with_context(|| format!("no {name} in {LOCK}"))
        };
        Ok(Self {
            version: field("version")?.parse().context("version")?,
            checksum: u64::from_str_radix(field("checksum")?, 16).context("checksum")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_reads_as_written() {
        let abi = Abi { version: 7, checksum: 0x00ab_cdef_0123_4567 };
        assert_eq!(abi, Abi::parse(&abi.to_string()).unwrap());
    }

    #[test]
    fn comments_layout_and_tests_do_not_count() {
        let plain = essence("pub struct A { pub b: u32 }");
        assert_eq!(
            plain,
            essence("//! Doc.\n/// A.\npub struct A {\n    pub b: u32 // b\n}\n#[cfg(test)]\nmod tests {}")
        );
        assert_ne!(plain, essence("pub struct A { pub b: u64 }"));
    }
}
