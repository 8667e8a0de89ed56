//! What takes a test bed away, whatever became of the process that made it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI32, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, anyhow};
use nix::{
    mount::{MntFlags, umount2},
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use super::{NETNS, ip};

/// Prefix of the names of [`super::Testbed::fixed`].
pub fn fixed_prefix(tag: &str) -> String {
    format!("nf-{tag}-kept")
}

/// The directory that belongs to a prefix.
pub(super) fn directory(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(prefix)
}

/// Removes everything that belongs to a prefix: processes in its namespaces, the namespaces, mounts and directory.
/// True if there was anything.
pub fn clean(prefix: &str) -> bool {
    let dir = directory(prefix);
    let own: Vec<Pid> = children().extract_if(.., |(of, _)| *of == dir).map(|(_, pid)| pid).collect();
    signal_groups(&own, Signal::SIGTERM);
    let mut any = !own.is_empty();
    for entry in fs::read_dir(NETNS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')) {
            any = true;
            end_processes(&entry.path());
            let _ = ip(&["netns", "delete", &name]);
        }
    }
    signal_groups(&own, Signal::SIGKILL);
    for pid in own {
        let _ = waitpid(pid, None);
    }
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for path in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
        if path.starts_with(&dir) {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
    any | fs::remove_dir_all(&dir).is_ok()
}

/// Processes that beds of this process have started and nobody has waited for: one that has just been started may not be
/// in its namespace yet.
pub(super) fn children() -> MutexGuard<'static, Vec<(PathBuf, Pid)>> {
    static CHILDREN: Mutex<Vec<(PathBuf, Pid)>> = Mutex::new(Vec::new());
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn signal_groups(leaders: &[Pid], signal: Signal) {
    for pid in leaders {
        let _ = kill(Pid::from_raw(-pid.as_raw()), signal);
    }
}

/// Ends every process whose network namespace is this one.
fn end_processes(namespace: &Path) {
    let Ok(wanted) = fs::metadata(namespace).map(|data| (data.dev(), data.ino())) else { return };
    let members = || -> Vec<Pid> {
        let own = std::process::id().cast_signed();
        fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                fs::metadata(entry.path().join("ns/net")).is_ok_and(|data| (data.dev(), data.ino()) == wanted)
            })
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| *pid != own)
            .map(Pid::from_raw)
            .collect()
    };
    for (signal, attempts) in [(Signal::SIGTERM, 100), (Signal::SIGKILL, 100)] {
        for pid in members() {
            let _ = kill(pid, signal);
        }
        for _ in 0..attempts {
            if members().is_empty() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Removes what processes that are no more have left under `nf-<tag>-<pid>-…`.
pub(super) fn sweep(tag: &str) {
    let start = format!("nf-{tag}-");
    let names = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    for name in names(Path::new(NETNS)).into_iter().chain(names(&std::env::temp_dir())) {
        let mut parts = name.strip_prefix(&start).into_iter().flat_map(|rest| rest.split('-'));
        let (Some(pid), Some(number)) = (parts.next(), parts.next()) else { continue };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            clean(&format!("{start}{pid}-{number}"));
        }
    }
}

/// Prefixes that are to be cleaned when the process is interrupted.
pub(super) fn lock() -> MutexGuard<'static, Vec<String>> {
    static LIVE: Mutex<Vec<String>> = Mutex::new(Vec::new());
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Write end of the pipe by which the signal handler wakes the cleaning thread.
static WAKE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn on_signal(signal: libc::c_int) {
    let byte = signal.to_ne_bytes()[0];
    // SAFETY: write(2) is async-signal-safe; the descriptor is open for the life of the process.
    unsafe { libc::write(WAKE.load(Ordering::Relaxed), (&raw const byte).cast(), 1) };
}

/// From now on an interrupt cleans every live [`super::Testbed`], then ends the process with 128 + the signal's number.
pub(super) fn clean_on_signals() -> Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let install = || -> Result<()> {
        let (mut read, write) = UnixStream::pair()?;
        WAKE.store(write.as_raw_fd(), Ordering::Relaxed);
        std::mem::forget(write);
        std::thread::Builder::new().name("clean-up".to_owned()).spawn(move || {
            let mut byte = [0];
            if read.read_exact(&mut byte).is_ok() {
                let _ = writeln!(std::io::stderr(), "\ninterrupted: removing namespaces and processes");
                let live = lock();
                for prefix in &*live {
                    clean(prefix);
                }
                // No zombies, not even where the first process of the machine does not care for orphans.
                while waitpid(None, Some(WaitPidFlag::WNOHANG))
                    .is_ok_and(|status| status != WaitStatus::StillAlive)
                {}
                std::process::exit(128 + i32::from(byte[0]));
            }
        })?;
        let action = SigAction::new(SigHandler::Handler(on_signal), SaFlags::SA_RESTART, SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler only calls write(2).
            unsafe { sigaction(signal, &action) }?;
        }
        Ok(())
    };
    DONE.get_or_init(|| install().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(|error| anyhow!(error))
}
