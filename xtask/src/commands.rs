//! Running other programs: quietly with a log and a spinner, or with their output passed on.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use nix::unistd::getuid;

use crate::{interrupt, workspace};

/// `cargo`, as the one that runs us.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What is built decides nothing about the user's toolchains; see `toolchain::forget_outer_cargo`.
    command.current_dir(workspace::root()).env("RUSTUP_AUTO_INSTALL", "0");
    command
}

/// A command that is run as root: by sudo where we are not.
pub fn as_root(program: &str) -> Result<Command> {
    if getuid().is_root() {
        return Ok(Command::new(program));
    }
    if find("sudo").is_none() {
        bail!("`{program}` has to run as root: there is no sudo, so run this as root");
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

/// The path of a program: on `PATH` or where system programs are, which a user's `PATH` may lack.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// Runs a command with its output in the log file `NAME.log`, and a spinner on a terminal.
///
/// # Errors
/// When it fails; its output is on standard error by then.
pub fn quiet(name: &str, command: &mut Command) -> Result<()> {
    let (path, log) = log_file(name)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", line(command)))?;
    let spinner = ProgressBar::new_spinner();
    spinner.set_style(ProgressStyle::with_template("  {spinner} {elapsed} {msg}")?);
    spinner.set_message(format!("log: {}", path.display()));
    spinner.enable_steady_tick(Duration::from_millis(200));
    let status = interrupt::wait(&mut child, || {});
    spinner.finish_and_clear();
    let status = status?;
    if !status.success() {
        let _ = io::copy(&mut File::open(&path)?, &mut io::stderr());
        bail!("{}: {status} (log: {})", line(command), path.display());
    }
    Ok(())
}

/// Runs a command and passes its output on while it runs, into the log file `NAME.log` too; `on_line` sees each line of
/// its standard output.
///
/// # Errors
/// When it fails.
pub fn streamed(name: &str, command: &mut Command, on_line: impl FnMut(&str) + Send) -> Result<()> {
    let (_, log) = log_file(name)?;
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot run {}", line(command)))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let status = thread::scope(|scope| -> Result<_> {
        let (log, err_log) = (log.try_clone()?, log);
        scope.spawn(move || stdout.map(|stdout| pass_on(stdout, io::stdout(), log, on_line)));
        scope.spawn(move || stderr.map(|stderr| pass_on(stderr, io::stderr(), err_log, |_| {})));
        interrupt::wait(&mut child, || {})
    })?;
    if !status.success() {
        bail!("{}: {status}", line(command));
    }
    Ok(())
}

/// Copies line by line. What a test writes need not be UTF-8.
fn pass_on(from: impl Read, mut to: impl Write, mut log: File, mut on_line: impl FnMut(&str)) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        let _ = to.write_all(&line).and_then(|()| to.flush());
        let _ = log.write_all(&line);
        on_line(String::from_utf8_lossy(&line).trim_end());
        line.clear();
    }
}

fn log_file(name: &str) -> Result<(PathBuf, File)> {
    let dir = workspace::log_dir();
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let path = dir.join(format!("{name}.log"));
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, file))
}

/// A command as one would type it, for messages.
fn line(command: &Command) -> String {
    let program = command.get_program().to_string_lossy();
    let program = program.rsplit('/').next().unwrap_or_default();
    let args = command.get_args().map(|arg| arg.to_string_lossy());
    std::iter::once(program.into()).chain(args).collect::<Vec<_>>().join(" ")
}
