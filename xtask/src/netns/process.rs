//! Processes that end with the value that stands for them, and waiting with a limit.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use super::cleanup::children;
use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A background process (and the group that it leads) that ends with this value.
#[derive(Debug)]
pub struct Process {
    label: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with its output in `dir/label.log`.
    pub fn spawn(dir: &Path, label: &str, command: &mut Command) -> Result<Self> {
        let log = dir.join(format!("{label}.log"));
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {label}"))?;
        children().push((dir.to_owned(), Pid::from_raw(child.id().cast_signed())));
        Ok(Self { label: label.to_owned(), child, log })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Sends it (not its group) a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(self.child.id().cast_signed()), signal)?)
    }

    /// Its exit status if it has ended.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    pub fn wait(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let what = format!("the end of {}", self.label);
        wait_for(&what, timeout, || self.exited())
    }

    /// Waits until `ready` has an answer; an error with its log if it ends or that takes too long.
    pub fn wait_ready<T>(
        &mut self,
        timeout: Duration,
        mut ready: impl FnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let what = format!("{} to be ready", self.label);
        let answer = wait_for(&what, timeout, || {
            if let Some(status) = self.exited()? {
                bail!("{} ended with {status}", self.label);
            }
            ready()
        });
        answer.map_err(|error| anyhow!("{error:#}; it wrote:\n{}", self.log()))
    }

    /// Leaves it running.
    pub fn detach(self) {
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        children().retain(|(_, pid)| pid.as_raw() != self.child.id().cast_signed());
        let group = Pid::from_raw(-self.child.id().cast_signed());
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = kill(group, Signal::SIGTERM);
            let end = Instant::now() + Duration::from_secs(2);
            while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = kill(group, Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Polls every 20 ms until there is an answer.
pub fn wait_for<T>(what: &str, timeout: Duration, mut poll: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let end = Instant::now() + timeout;
    loop {
        if let Some(answer) = poll()? {
            return Ok(answer);
        }
        ensure!(Instant::now() < end, "waited {timeout:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end; its standard output. An error carries what it wrote.
pub fn output(command: &mut Command, line: &str) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {line}"))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{line}: {}\n{}{}", output.status, stderr.trim_end(), stdout.trim_end());
    }
    Ok(stdout.into_owned())
}
