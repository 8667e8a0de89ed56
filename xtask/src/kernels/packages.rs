//! Debian's kernels, QEMU and busybox, fetched by apt-get and unpacked into a folder of their own: nothing is installed on
//! the machine, and what is there already (another QEMU, say) is in nobody's way.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{commands, setup::apt, toolchain};

/// A kernel to be tried: what it is called here, and the package of Debian that depends on its newest build.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Version as one says it.
    pub name: &'static str,
    /// Meta packages, the first that the archive knows counts.
    metas: &'static [&'static str],
}

/// The long-term kernels that netfast promises to run on. A release's own cloud kernel has no version in its package's name.
pub const WANTED: [Wanted; 2] = [
    Wanted { name: "6.1", metas: &["linux-image-6.1-cloud-amd64", "linux-image-cloud-amd64"] },
    Wanted { name: "6.12", metas: &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"] },
];

/// A kernel, unpacked.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The image.
    pub image: PathBuf,
    /// The folder of its modules.
    pub modules: PathBuf,
}

/// QEMU and busybox, unpacked or installed.
#[derive(Debug, Clone)]
pub struct Machine {
    /// The emulator.
    pub qemu: PathBuf,
    /// Where QEMU and its libraries were unpacked; `None` if it is the system's.
    pub prefix: Option<PathBuf>,
    /// A busybox that needs no libraries.
    pub busybox: PathBuf,
}

/// `~/.cache/netfast/kernels`, beside the tools.
fn cache() -> PathBuf {
    toolchain::tools_dir().with_file_name("kernels")
}

/// Brings a kernel here; `None` if the archive does not have it.
pub fn kernel(wanted: Wanted) -> Result<Option<Kernel>> {
    let Some(package) = wanted.metas.iter().find_map(|meta| image_of(meta, wanted.name)) else {
        // What was fetched before still serves.
        return Ok(unpacked(wanted.name));
    };
    let dir = cache().join(&package);
    if !dir.is_dir() {
        unpack(&[package], &dir)?;
    }
    read(&dir).map(Some)
}

/// The package that a meta package depends on, if it is of this version.
fn image_of(meta: &str, version: &str) -> Option<String> {
    let output = Command::new("apt-cache").args(["depends", meta]).env("LC_ALL", "C").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut images = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    let start = format!("linux-image-{version}.");
    images.find(|name| name.starts_with(&start)).map(str::to_owned)
}

/// A kernel of this version that was unpacked before.
fn unpacked(version: &str) -> Option<Kernel> {
    let start = format!("linux-image-{version}.");
    let entries = fs::read_dir(cache()).ok()?.flatten();
    let mut dirs: Vec<_> = entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&start))
        .map(|entry| entry.path())
        .collect();
    dirs.sort();
    dirs.iter().rev().find_map(|dir| read(dir).ok())
}

fn read(dir: &Path) -> Result<Kernel> {
    let entries = fs::read_dir(dir.join("boot")).with_context(|| format!("no boot in {}", dir.display()))?;
    let image = entries.flatten().map(|entry| entry.path()).find(|path| name(path).starts_with("vmlinuz-"));
    let image = image.with_context(|| format!("no kernel in {}", dir.display()))?;
    let release = name(&image).trim_start_matches("vmlinuz-").to_owned();
    let modules = ["lib/modules", "usr/lib/modules"].map(|folder| dir.join(folder).join(&release));
    let modules =
        modules.into_iter().find(|path| path.is_dir()).context("the kernel came without modules")?;
    Ok(Kernel { release, image, modules })
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Brings QEMU and busybox here, unless the system has them.
pub fn machine() -> Result<Machine> {
    let own = "qemu-system-x86_64";
    let prefix = cache().join("qemu");
    let unpacked = Machine {
        qemu: prefix.join("usr/bin").join(own),
        busybox: prefix.join("bin/busybox"),
        prefix: Some(prefix.clone()),
    };
    if unpacked.qemu.is_file() {
        return Ok(unpacked);
    }
    let (qemu, busybox) = (commands::find(own), commands::find("busybox").filter(|path| is_static(path)));
    if let (Some(qemu), Some(busybox)) = (qemu, busybox) {
        return Ok(Machine { qemu, prefix: None, busybox });
    }
    unpack(&missing(&["qemu-system-x86", "busybox-static"])?, &prefix)?;
    ensure!(unpacked.busybox.is_file(), "busybox-static is installed, and yet there is no static busybox");
    Ok(unpacked)
}

fn is_static(path: &Path) -> bool {
    Command::new("ldd").arg(path).output().is_ok_and(|output| !output.status.success())
}

/// These packages and what they need and this machine lacks, as apt-get would install them.
fn missing(names: &[&str]) -> Result<Vec<String>> {
    let mut command = Command::new("apt-get");
    command.args(["install", "--simulate", "--no-install-recommends"]).args(names).env("LC_ALL", "C");
    let output = command.output().context("cannot run apt-get")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let installs = text.lines().filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next());
    let found: Vec<_> = installs.map(str::to_owned).collect();
    if found.is_empty() {
        bail!("apt-get knows no way to {}: {}", names.join(", "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(found)
}

/// Downloads packages and unpacks them all into `dir`, which appears only when it is complete.
fn unpack(packages: &[String], dir: &Path) -> Result<()> {
    let new = dir.with_extension(format!("new-{}", std::process::id()));
    let (debs, tree) = (new.join("debs"), new.join("tree"));
    for path in [&debs, &tree] {
        fs::create_dir_all(path).with_context(|| format!("cannot make {}", path.display()))?;
    }
    let download = || {
        let mut command = Command::new("apt-get");
        commands::quiet("apt-get-download", command.arg("download").args(packages).current_dir(&debs))
    };
    if download().is_err() {
        // Lists that are too old name files that are gone from the archive.
        apt::update()?;
        download()?;
    }
    for deb in fs::read_dir(&debs)?.flatten() {
        commands::quiet("dpkg-x", Command::new("dpkg").arg("-x").arg(deb.path()).arg(&tree))?;
    }
    fs::rename(&tree, dir).with_context(|| format!("cannot make {}", dir.display()))?;
    fs::remove_dir_all(&new)?;
    Ok(())
}
