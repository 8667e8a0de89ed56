//! How many instructions the kernel's verifier walked for a pinned program (`bpf_prog_info.verified_insns`, Linux 5.16).

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use anyhow::{Context as _, Result};

/// `linux/bpf.h`.
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// Offset of `verified_insns` in `struct bpf_prog_info`, which grows at its end only.
const VERIFIED: usize = 216;

/// The counts of all programs that are pinned in a folder, by their pins' names.
pub fn of(dir: &Path) -> Result<Vec<(String, u32)>> {
    let entries = std::fs::read_dir(dir).with_context(|| format!("no programs in {}", dir.display()))?;
    let mut rows = Vec::new();
    for entry in entries.flatten() {
        let count = one(&entry.path()).with_context(|| format!("program {}", entry.path().display()))?;
        rows.push((entry.file_name().to_string_lossy().into_owned(), count));
    }
    rows.sort();
    Ok(rows)
}

fn one(pin: &Path) -> Result<u32> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = [0_u64; 16];
    attributes[0] = path.as_ptr() as u64;
    let fd = bpf(BPF_OBJ_GET, &attributes)?;
    // SAFETY: the descriptor is new and nobody else's.
    let program = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) };

    let mut info = [0_u32; 64];
    // bpf_fd, info_len; info.
    let length = size_of_val(&info) as u64;
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(program.as_raw_fd().cast_unsigned()) | length << 32;
    attributes[1] = info.as_mut_ptr() as u64;
    bpf(BPF_OBJ_GET_INFO_BY_FD, &attributes)?;
    info.get(VERIFIED / size_of::<u32>()).copied().context("no such field")
}

fn bpf(command: libc::c_long, attributes: &[u64; 16]) -> Result<libc::c_long> {
    // SAFETY: the kernel reads the attributes, and writes only what they point to, which lives in the caller.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    if result < 0 {
        return Err(io::Error::last_os_error()).context("bpf");
    }
    Ok(result)
}
