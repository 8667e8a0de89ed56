//! SIGINT, SIGTERM and SIGHUP end a verb in order: what it started is ended, what it put up is taken down.

use std::{
    fs, io,
    process::{Child, ExitStatus},
    sync::{
        Once,
        atomic::{AtomicI32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::Pid,
};

static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn note(signal: libc::c_int) {
    RECEIVED.store(signal, Ordering::Relaxed);
}

/// The exit code for an interrupted process, 128 + the signal's number; `None` if no signal came.
pub fn exit_code() -> Option<u8> {
    let signal = u8::try_from(RECEIVED.load(Ordering::Relaxed)).ok()?;
    (signal != 0).then(|| 128_u8.saturating_add(signal))
}

/// From now on the signals are noted for [`check`] and [`wait`] and no longer end the process.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let action = SigAction::new(SigHandler::Handler(note), SaFlags::empty(), SigSet::empty());
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            // SAFETY: the handler only stores to an atomic.
            if let Err(error) = unsafe { sigaction(signal, &action) } {
                eprintln!("cannot handle {signal}: {error}");
            }
        }
    });
}

/// An error once the process was interrupted.
pub fn check() -> Result<()> {
    install();
    if exit_code().is_some() {
        bail!("interrupted");
    }
    Ok(())
}

/// Waits for a child, calling `tick` some ten times a second; ends it with all its descendants when interrupted.
pub fn wait(child: &mut Child, mut tick: impl FnMut()) -> Result<ExitStatus> {
    install();
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for a child")? {
            // An interrupt from the terminal reaches the child too, which may be the first to go.
            check()?;
            return Ok(status);
        }
        if exit_code().is_some() {
            end(child);
            bail!("interrupted");
        }
        tick();
        thread::sleep(Duration::from_millis(80));
    }
}

/// Ends a child and its descendants: by SIGTERM, and after ten seconds by SIGKILL.
fn end(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    for (signal, patience) in [(Signal::SIGTERM, 10), (Signal::SIGKILL, 5)] {
        for pid in descendants(pid) {
            let _ = kill(pid, signal);
        }
        let deadline = Instant::now() + Duration::from_secs(patience);
        while Instant::now() < deadline {
            if matches!(child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A process and everything that it started, the children first.
fn descendants(root: Pid) -> Vec<Pid> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(children(parent).unwrap_or_default());
        next += 1;
    }
    found.reverse();
    found
}

fn children(parent: Pid) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir(format!("/proc/{parent}/task"))?.flatten() {
        let text = fs::read_to_string(task.path().join("children"))?;
        found.extend(text.split_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
    }
    Ok(found)
}
