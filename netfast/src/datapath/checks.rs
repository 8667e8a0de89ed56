//! What the host must offer before anything is loaded, checked one by one so that the message can name what is missing.

use std::path::Path;

use caps::{CapSet, Capability};
use nix::sys::{
    statfs::{BPF_FS_MAGIC, statfs},
    utsname::uname,
};

use super::DatapathError;

/// First kernel that has everything the program and the agent need, newest first: NTF_EXT_MANAGED neighbour entries
/// (5.16), BPF_F_MMAPABLE arrays (5.5), XDP links (5.9), `bpf_xdp_load_bytes` (5.18). 6.1 is the oldest long-term
/// kernel that has them all; `cargo xtask kernels` runs on it.
pub const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Fails with the first thing that is missing.
pub(super) fn host() -> Result<(), DatapathError> {
    kernel(&uname().map(|name| name.release().to_string_lossy().into_owned()).unwrap_or_default())?;
    capabilities(|capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false))?;
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err(DatapathError::Host(
            "the kernel has no type information (/sys/kernel/btf/vmlinux is missing): use a kernel that is built with \
             CONFIG_DEBUG_INFO_BTF=y"
                .to_owned(),
        ));
    }
    Ok(())
}

fn kernel(release: &str) -> Result<(), DatapathError> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse::<u32>().ok());
    let (Some(major), Some(minor)) = (numbers.next(), numbers.next()) else {
        return Err(DatapathError::Host(format!(
            "{release:?} is not a Linux version that netfast understands"
        )));
    };
    if (major, minor) < OLDEST_KERNEL {
        let missing = match (major, minor) {
            version if version < (5, 5) => "memory-mapped BPF arrays (BPF_F_MMAPABLE, Linux 5.5)",
            version if version < (5, 9) => "XDP links (BPF_LINK_TYPE_XDP, Linux 5.9)",
            version if version < (5, 16) => "managed neighbour entries (NTF_EXT_MANAGED, Linux 5.16)",
            _ => "everything that netfast is tested with",
        };
        return Err(DatapathError::Host(format!(
            "Linux {major}.{minor} is too old: it lacks {missing}; netfast needs {}.{} or newer",
            OLDEST_KERNEL.0, OLDEST_KERNEL.1
        )));
    }
    Ok(())
}

fn capabilities(has: impl Fn(Capability) -> bool) -> Result<(), DatapathError> {
    // CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON in the kernel's own checks, not for CAP_NET_ADMIN.
    let admin = has(Capability::CAP_SYS_ADMIN);
    let missing: Vec<String> = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON]
        .into_iter()
        .filter(|capability| !(has(*capability) || (admin && *capability != Capability::CAP_NET_ADMIN)))
        .map(|capability| capability.to_string())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(DatapathError::Permission(format!(
        "missing {}: start the agent as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (the systemd unit does)",
        missing.join(", ")
    )))
}

/// Fails unless `pin_dir`, or the nearest folder above it that exists, is on a BPF file system.
pub(super) fn bpffs(pin_dir: &Path) -> Result<(), DatapathError> {
    let mut existing = pin_dir;
    while !existing.exists() {
        match existing.parent() {
            Some(parent) => existing = parent,
            None => break,
        }
    }
    let on_bpffs = statfs(existing).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if on_bpffs {
        return Ok(());
    }
    let mount = pin_dir.parent().unwrap_or(pin_dir);
    Err(DatapathError::Host(format!(
        "{} is not on a BPF file system: mount one with `mount -t bpf bpf {}` or set `bpffs` in agent.toml",
        pin_dir.display(),
        mount.display()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_told_apart() {
        assert!(kernel("6.1.0-18-amd64").is_ok());
        assert!(kernel("6.18.44-fc").is_ok());
        assert!(kernel("7.0").is_ok());
        let text = |release: &str| kernel(release).map_err(|error| error.to_string()).unwrap_err();
        assert!(text("5.15.0").contains("NTF_EXT_MANAGED"));
        assert!(text("5.4.0").contains("BPF_F_MMAPABLE"));
        assert!(text("6.0.9").contains("6.1"));
        assert!(text("strange").contains("strange"));
    }

    #[test]
    fn a_missing_capability_is_named() {
        assert!(capabilities(|_| true).is_ok());
        assert!(capabilities(|c| c != Capability::CAP_SYS_ADMIN).is_ok());
        assert!(capabilities(|c| c != Capability::CAP_BPF).is_ok(), "CAP_SYS_ADMIN implies it");
        let error = capabilities(|c| !matches!(c, Capability::CAP_NET_ADMIN)).unwrap_err().to_string();
        assert!(error.starts_with("missing CAP_NET_ADMIN:"), "{error}");
        let error = capabilities(|_| false).unwrap_err().to_string();
        assert!(error.starts_with("missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON:"), "{error}");
    }

    #[test]
    fn another_file_system_is_refused_with_the_command() {
        let error = bpffs(Path::new("/proc/netfast")).unwrap_err().to_string();
        assert!(error.contains("mount -t bpf bpf /proc"), "{error}");
    }
}
