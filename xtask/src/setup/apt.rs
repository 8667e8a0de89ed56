//! Installing packages by apt-get, without removing any and without starting services.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use super::packages::Package;
use crate::commands;

/// Asked by every Debian maintainer script before it starts a service.
const POLICY: &str = "/usr/sbin/policy-rc.d";
const POLICY_MARK: &str = "# netfast: cargo xtask setup";

/// Installs packages, and keeps their services from running now and at boot.
pub fn install_packages(packages: &[Package]) -> Result<()> {
    let names: Vec<_> = packages.iter().map(|package| package.name).collect();
    let result = install(&names);
    // Also after a failure: others may have been installed.
    for service in packages.iter().filter(|package| package.is_there()).flat_map(|package| package.services) {
        if commands::find("systemctl").is_some() {
            let mut disable = commands::as_root("systemctl")?;
            commands::quiet("systemctl", disable.args(["disable", "--quiet", service]))
                .with_context(|| format!("{service} may start at boot: disable it by hand"))?;
            eprintln!("setup: {service} was left disabled");
        }
    }
    result?;
    match packages.iter().find(|package| !package.is_there()) {
        Some(package) => {
            bail!("{} was installed and still lacks what it is for: {}", package.name, package.why)
        }
        None => Ok(()),
    }
}

/// Installs packages by name; those that are installed already stay as they are.
pub fn install(names: &[&str]) -> Result<()> {
    if commands::find("apt-get").is_none() {
        bail!("there is no apt-get here: install the like of {} by this system's means", names.join(" "));
    }
    if names.iter().any(|name| !can_be_had(name)) {
        update()?;
    }
    let (there, absent): (Vec<&str>, Vec<&str>) = names.iter().copied().partition(|name| can_be_had(name));
    if !there.is_empty() {
        let _no_services = NoServices::new()?;
        if let Err(first) = apt_get_install(&there) {
            let removal = fs::read_to_string(crate::workspace::log_dir().join("apt-get-install.log"))
                .is_ok_and(|log| log.contains("remove is disabled"));
            if removal {
                bail!(
                    "apt-get would have to remove packages for {}, which setup never does",
                    there.join(" ")
                );
            }
            // Lists that are too old name files that are gone from the archive.
            eprintln!("setup: {first:#}; trying once more with fresh package lists");
            update()?;
            apt_get_install(&there)?;
        }
    }
    if !absent.is_empty() {
        bail!("not in this system's archives: {}", absent.join(" "));
    }
    Ok(())
}

/// Whether apt knows a version of it that could be installed.
pub fn can_be_had(name: &str) -> bool {
    let policy = Command::new("apt-cache").args(["policy", name]).env("LC_ALL", "C").output();
    policy.is_ok_and(|output| {
        let text = String::from_utf8_lossy(&output.stdout);
        text.lines()
            .filter_map(|line| line.trim().strip_prefix("Candidate:"))
            .any(|version| version.trim() != "(none)")
    })
}

/// Fetches the package lists anew.
pub fn update() -> Result<()> {
    commands::quiet("apt-get-update", apt_get()?.arg("update"))
}

fn apt_get_install(names: &[&str]) -> Result<()> {
    let options = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    commands::quiet("apt-get-install", apt_get()?.args(options).args(names))
}

fn apt_get() -> Result<Command> {
    let mut command = commands::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "apt-get", "--quiet"]);
    // Somebody else's apt-get may be at work.
    command.args(["-o", "DPkg::Lock::Timeout=600"]);
    Ok(command)
}

/// While this lives, packages that are being installed start no services.
struct NoServices {
    ours: bool,
}

impl NoServices {
    fn new() -> Result<Self> {
        if Path::new(POLICY).exists()
            && !fs::read_to_string(POLICY).is_ok_and(|text| text.contains(POLICY_MARK))
        {
            // The owner of this machine has decided already.
            return Ok(Self { ours: false });
        }
        // Should we be killed, it forbids nothing any more.
        let script = format!(
            "#!/bin/sh\n{POLICY_MARK}\nkill -0 {} 2>/dev/null && exit 101\nexit 0\n",
            std::process::id()
        );
        let source = std::env::temp_dir().join(format!("netfast-policy-rc.d-{}", std::process::id()));
        fs::write(&source, script).with_context(|| format!("cannot write {}", source.display()))?;
        let mut install = commands::as_root("install")?;
        let result = commands::quiet("policy-rc.d", install.args(["-m", "755"]).arg(&source).arg(POLICY));
        fs::remove_file(&source)?;
        result.map(|()| Self { ours: true })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours {
            // Not by `quiet`: an interrupted setup has to do this too.
            let removed = commands::as_root("rm").and_then(|mut rm| Ok(rm.args(["-f", POLICY]).status()?));
            if !removed.is_ok_and(|status| status.success()) {
                eprintln!("setup: cannot remove {POLICY}: remove it by hand");
            }
        }
    }
}
