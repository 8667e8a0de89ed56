//! A BPF file system of one's own.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::PathBuf,
};

use super::SandboxError;

/// A BPF file system that is mounted nowhere: it is reached through this descriptor and goes with it.
pub(super) struct Bpffs(OwnedFd);

impl Bpffs {
    /// Makes one; needs CAP_SYS_ADMIN.
    pub(super) fn new() -> Result<Self, SandboxError> {
        let made = |what, result: libc::c_long| {
            // SAFETY: the kernel has just made this descriptor for us and nobody else knows it.
            i32::try_from(result)
                .ok()
                .filter(|fd| *fd >= 0)
                .map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
                .ok_or_else(|| SandboxError::Namespace { what, error: io::Error::last_os_error() })
        };
        // SAFETY: the name ends with a zero byte.
        let context =
            made("fsopen", unsafe { libc::syscall(libc::SYS_fsopen, c"bpf".as_ptr(), FSOPEN_CLOEXEC) })?;
        let (raw, none) = (context.as_raw_fd(), std::ptr::null::<libc::c_char>());
        // SAFETY: the command takes neither key nor value.
        let created = unsafe { libc::syscall(libc::SYS_fsconfig, raw, FSCONFIG_CMD_CREATE, none, none, 0) };
        if created < 0 {
            return Err(SandboxError::Namespace { what: "fsconfig", error: io::Error::last_os_error() });
        }
        // SAFETY: no pointers.
        made("fsmount", unsafe { libc::syscall(libc::SYS_fsmount, raw, FSMOUNT_CLOEXEC, 0) }).map(Self)
    }

    /// Where it is reached, in this process.
    pub(super) fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }
}

/// `FSOPEN_CLOEXEC` of linux/mount.h.
const FSOPEN_CLOEXEC: libc::c_uint = 1;
/// `FSMOUNT_CLOEXEC`.
const FSMOUNT_CLOEXEC: libc::c_uint = 1;
/// `FSCONFIG_CMD_CREATE`.
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
