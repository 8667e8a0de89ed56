//! `cargo xtask sandbox -- COMMAND`: runs a command where nothing that it leaves can outlive it, and says what it left.
//!
//! The command gets mount, PID and network namespaces of its own, with an own `/run/netns`, bpffs at `/sys/fs/bpf` and
//! temporary folder. So named network namespaces, links, pinned programs, agents and files of a test that fails, hangs or
//! is killed go away with it, and two test runs on one machine cannot see each other. `cargo xtask test` runs every
//! test executable this way.
//!
//! Two processes: the outer one makes the namespaces; its child is the first process in them, as init is on a machine.
//! When the first goes, the kernel kills all others and drops the mounts.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getuid},
};

use crate::workspace;

/// Run a command in namespaces of its own (mounts, processes, network) and report what it leaves behind
#[derive(Debug, clap::Args)]
pub struct Args {
    /// End when standard input is closed: the process at its other end is gone. The command reads nothing then.
    #[arg(long)]
    lifeline: bool,
    /// We are the first process in the namespaces; a flag for our own use.
    #[arg(long, hide = true)]
    init: bool,
    /// What to run
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

const NETNS: &str = "/run/netns";
const BPFFS: &str = "/sys/fs/bpf";

/// The exit code for a command that succeeded and left something behind.
const LEFT_BEHIND: u8 = 70;

/// How long processes that are about to end may take.
const GRACE: Duration = Duration::from_secs(2);

/// Runs the command; ends this process with its exit code.
pub fn run(args: Args) -> Result<()> {
    let code = if args.init { init(&args.command)? } else { outer(&args)? };
    std::process::exit(i32::from(code));
}

/// cargo's `--config` for running what it built by sudo; `None` where we are root.
pub fn sudo_runner() -> Result<Option<String>> {
    if getuid().is_root() {
        return Ok(None);
    }
    Ok(Some(runner(&sudo()?)))
}

/// cargo's `--config` for running what it built in a sandbox, as root. Give cargo a [`lifeline`] for standard input.
pub fn sandbox_runner() -> Result<String> {
    let mut line = if getuid().is_root() { Vec::new() } else { sudo()? };
    line.extend([own_copy()?.display().to_string(), "sandbox".into(), "--lifeline".into(), "--".into()]);
    Ok(runner(&line))
}

/// A copy of this executable: cargo may replace the original while it runs, as it builds the tests of xtask.
pub fn own_copy() -> Result<PathBuf> {
    let path = workspace::log_dir().join("sandbox");
    let new = path.with_extension(std::process::id().to_string());
    let copied = fs::create_dir_all(workspace::log_dir())
        .and_then(|()| fs::copy("/proc/self/exe", &new))
        .and_then(|_| fs::rename(&new, &path));
    copied.with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// A standard input for [`sandbox_runner`]: sandboxes end when the returned writer is dropped, or its process killed.
pub fn lifeline() -> Result<(Stdio, io::PipeWriter)> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    Ok((reader.into(), writer))
}

fn sudo() -> Result<Vec<String>> {
    ensure!(crate::commands::find("sudo").is_some(), "this needs root and there is no sudo: run it as root");
    // sudo puts another PATH in place even with -E.
    let path = env::var("PATH").unwrap_or_default();
    Ok(["sudo", "-E", "env", &format!("PATH={path}")].map(Into::into).into())
}

fn runner(line: &[String]) -> String {
    // TOML's literal strings take everything but their own quote.
    let line: Vec<_> = line.iter().map(|word| format!("'{word}'")).collect();
    format!("target.'cfg(all())'.runner=[{}]", line.join(","))
}

fn outer(args: &Args) -> Result<u8> {
    ensure!(getuid().is_root(), "a sandbox needs root: run this by sudo");
    if !args.lifeline {
        nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("prctl")?;
    }
    // Only the mount point is on the machine's own file system, and it stays empty.
    let dir = TemporaryDir::new()?;
    if args.lifeline {
        outlive_signals()?;
        let dir = dir.0.clone();
        thread::spawn(move || {
            // Nobody writes: this returns when the other end is closed.
            let _ = io::copy(&mut io::stdin(), &mut io::sink());
            let _ = fs::remove_dir(dir);
            std::process::exit(128 + libc::SIGHUP);
        });
    }
    // From now on children are in these namespaces. This process stays in its PID namespace.
    unshare(CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET).context("cannot make namespaces")?;
    let mut command = Command::new(env::current_exe().context("cannot tell the path of xtask")?);
    command.args(["sandbox", "--init", "--"]).args(&args.command).env("TMPDIR", &dir.0);
    if args.lifeline {
        command.stdin(Stdio::null());
    }
    let status = command.status().context("cannot run xtask")?;
    Ok(exit_code(status.code(), status.signal()))
}

/// Signals end the command; this process goes after it, or with the lifeline, and leaves no folder behind.
fn outlive_signals() -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    // Not SIG_IGN: the command would inherit that.
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::SA_RESTART, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // SAFETY: the handler does nothing.
        unsafe { sigaction(signal, &action) }.context("sigaction")?;
    }
    Ok(())
}

/// A process that ended by a signal has the exit code that a shell gives it.
fn exit_code(code: Option<i32>, signal: Option<i32>) -> u8 {
    code.or(signal.map(|signal| 128 + signal)).and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

struct TemporaryDir(PathBuf);

impl TemporaryDir {
    fn new() -> Result<Self> {
        let path = env::temp_dir().join(format!("nf-sandbox-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

fn init(line: &[OsString]) -> Result<u8> {
    ensure!(std::process::id() == 1, "--init is for xtask's own use");
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).context("prctl")?;
    set_up()?;
    let before = traces();

    let [program, args @ ..] = line else { bail!("no command") };
    let child = Command::new(program)
        .args(args)
        .spawn()
        .with_context(|| format!("cannot run {}", program.to_string_lossy()))?;
    let code = reap_until(Pid::from_raw(child.id().cast_signed()))?;

    let mut left: Vec<_> = processes().into_iter().map(|process| format!("process {process}")).collect();
    left.extend(traces().into_iter().filter(|trace| !before.contains(trace)));
    if left.is_empty() {
        return Ok(code);
    }
    let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy();
    eprintln!("sandbox: {name} left behind: {}", left.join("; "));
    Ok(if code == 0 { LEFT_BEHIND } else { code })
}

fn set_up() -> Result<()> {
    // Here and not before: the outer process has to see its temporary folder without our mount on it.
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .context("cannot make mounts private")?;
    let put = |fs: &str, at: &Path| {
        mount(Some(fs), at, Some(fs), MsFlags::empty(), none)
            .with_context(|| format!("cannot mount a {fs} at {}", at.display()))
    };
    put("proc", Path::new("/proc"))?;
    fs::create_dir_all(NETNS).with_context(|| format!("cannot make {NETNS}"))?;
    put("tmpfs", Path::new(NETNS))?;
    put("tmpfs", &env::temp_dir())?;
    put("bpf", Path::new(BPFFS))?;
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("cannot run ip")?;
    ensure!(status.success(), "ip link set lo up: {status}");
    Ok(())
}

/// Waits for the command, and meanwhile for the orphans that every namespace's first process inherits.
fn reap_until(command: Pid) -> Result<u8> {
    loop {
        match waitpid(None, None) {
            Ok(WaitStatus::Exited(pid, code)) if pid == command => return Ok(exit_code(Some(code), None)),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => {
                return Ok(exit_code(None, Some(signal as i32)));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("waitpid"),
        }
    }
}

/// What a command can leave, but for processes.
fn traces() -> Vec<String> {
    let entries = |dir: &Path| -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let namespaces = entries(Path::new(NETNS)).into_iter().map(|name| format!("network namespace {name}"));
    let pins = entries(Path::new(BPFFS)).into_iter().map(|name| format!("{BPFFS}/{name}"));
    let mounts = bpf_mounts().into_iter().map(|at| format!("bpffs at {at}"));
    let folders = entries(&env::temp_dir()).into_iter().filter(|name| name.starts_with("nf-"));
    let folders = folders.map(|name| format!("temporary {name}"));
    namespaces.chain(pins).chain(mounts).chain(folders).collect()
}

/// The command lines of the other processes here that are not on their way out.
fn processes() -> Vec<String> {
    let deadline = Instant::now() + GRACE;
    loop {
        while matches!(waitpid(None, Some(WaitPidFlag::WNOHANG)), Ok(status) if status != WaitStatus::StillAlive)
        {
        }
        let found: Vec<_> = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                entry.file_name().to_str().is_some_and(|pid| pid.parse::<u32>().is_ok_and(|pid| pid > 1))
            })
            .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
            // Kernel threads and the dead have none.
            .filter(|line| !line.is_empty())
            .map(|line| String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " "))
            .collect();
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Where each bpffs is mounted.
fn bpf_mounts() -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    fields.filter(|fields| fields.get(2) == Some(&"bpf")).map(|fields| fields[1].to_owned()).collect()
}
