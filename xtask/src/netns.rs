//! Test beds: network namespaces, veth pairs, a bpffs and processes, all of which are gone when the [`Testbed`] is,
//! also after a panic, an interrupt (SIGINT, SIGTERM, SIGHUP) or, at the latest, at the next start of one with the
//! same tag. netfast's own tests include this file by `#[path]`: it needs anyhow, libc, nix and serde_json only.
//!
//! Nothing outside of namespaces named `nf-…` and a temporary directory of the same name is touched.

#![allow(dead_code, reason = "a shared file: not every crate that includes it uses all of it")]

use std::{
    ffi::OsStr,
    fs,
    io::{Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::MetadataExt as _, net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicI32, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction},
    unistd::{Pid, getuid},
};

#[path = "xdp_pass.rs"]
pub mod xdp_pass;

const NETNS: &str = "/run/netns";

/// Namespaces and what is in them; see the module.
#[derive(Debug)]
pub struct Testbed {
    prefix: String,
    dir: PathBuf,
    keep: bool,
}

impl Testbed {
    /// A new one. Its namespaces are named `nf-<tag>-<pid>-<n>-<role>`. Removes what a killed process of the same tag
    /// has left.
    pub fn new(tag: &str) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        sweep(tag);
        Self::named(format!("nf-{tag}-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)))
    }

    /// One with a fixed name, in the place of any of the same name: for topologies that are to be kept.
    pub fn fixed(tag: &str) -> Result<Self> {
        let prefix = fixed_prefix(tag);
        clean(&prefix);
        Self::named(prefix)
    }

    fn named(prefix: String) -> Result<Self> {
        ensure!(getuid().is_root(), "namespaces need root: run this again by sudo");
        clean_on_signals()?;
        lock().push(prefix.clone());
        let bed = Self { dir: directory(&prefix), prefix, keep: false };
        fs::create_dir_all(&bed.dir).with_context(|| format!("cannot make {}", bed.dir.display()))?;
        Ok(bed)
    }

    /// The first part of all its names.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// A directory that goes away with it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new namespace with its loopback up.
    pub fn namespace(&self, role: &str) -> Result<Namespace> {
        let namespace = Namespace { name: format!("{}-{role}", self.prefix), dir: self.dir.clone() };
        ip(&["netns", "add", &namespace.name])?;
        ip(&["-n", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// A veth pair between two namespaces, both ends up, without offloads that would leave checksums to hardware that
    /// is not there.
    pub fn veth(&self, a: (&Namespace, &str), b: (&Namespace, &str)) -> Result<()> {
        ip(&["-n", &a.0.name, "link", "add", a.1, "type", "veth", "peer", "name", b.1, "netns", &b.0.name])?;
        for (namespace, device) in [a, b] {
            namespace.offloads_off(device)?;
            namespace.ip(&["link", "set", device, "up"])?;
        }
        Ok(())
    }

    /// A bpffs of its own; mounted at the first call.
    pub fn bpffs(&self) -> Result<PathBuf> {
        let path = self.dir.join("bpf");
        if !path.exists() {
            fs::create_dir(&path)?;
            mount(Some("bpf"), &path, Some("bpf"), MsFlags::empty(), None::<&str>)
                .with_context(|| format!("cannot mount a bpffs at {}", path.display()))?;
        }
        Ok(path)
    }

    /// Leaves everything standing when this value goes.
    pub fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        lock().retain(|prefix| *prefix != self.prefix);
        if !self.keep {
            clean(&self.prefix);
        }
    }
}

/// A network namespace of a [`Testbed`].
#[derive(Clone, Debug)]
pub struct Namespace {
    name: String,
    dir: PathBuf,
}

impl Namespace {
    /// Its name, as `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS).join(&self.name)
    }

    /// A command that will run in it (with the mounts of the caller, so that a bpffs is seen).
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command to its end; its standard output. An error carries what it wrote.
    pub fn run(&self, line: &[&str]) -> Result<String> {
        let (program, arguments) = line.split_first().context("an empty command line")?;
        output(self.command(program).args(arguments), &line.join(" "))
    }

    /// Runs `ip` in it.
    pub fn ip(&self, arguments: &[&str]) -> Result<String> {
        let mut line = vec!["-n", self.name.as_str()];
        line.extend_from_slice(arguments);
        ip(&line)
    }

    /// Starts a command made by [`Namespace::command`]; `label` names its log file.
    pub fn spawn(&self, label: &str, command: &mut Command) -> Result<Process> {
        Process::spawn(&self.dir, label, command)
    }

    /// Runs a closure on a thread that is in the namespace: sockets made there stay in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = fs::File::open(self.path()).with_context(|| format!("no namespace {}", self.name))?;
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
                    Ok(work())
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Gives a device an address such as `192.0.2.1/24`; IPv6 ones are usable at once (no duplicate detection).
    pub fn address(&self, device: &str, address: &str) -> Result<()> {
        let mut line = vec!["address", "add", address, "dev", device];
        if address.contains(':') {
            line.push("nodad");
        }
        self.ip(&line).map(drop)
    }

    /// Adds a route: `default via 192.0.2.1`.
    pub fn route(&self, route: &str) -> Result<()> {
        let version = if route.contains(':') { "-6" } else { "-4" };
        let mut line = vec![version, "route", "add"];
        line.extend(route.split_whitespace());
        self.ip(&line).map(drop)
    }

    /// Writes a `net.…` sysctl of the namespace.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("cannot set {key}={value}"))
    }

    /// Makes it a router for both IP versions.
    pub fn forwarding(&self) -> Result<()> {
        self.sysctl("net.ipv4.ip_forward", "1")?;
        self.sysctl("net.ipv6.conf.all.forwarding", "1")
    }

    /// Index of a device.
    pub fn ifindex(&self, device: &str) -> Result<u32> {
        let index = self.enter(|| nix::net::if_::if_nametoindex(device))?;
        index.with_context(|| format!("no device {device} in {}", self.name))
    }

    /// MAC address of a device.
    pub fn mac(&self, device: &str) -> Result<[u8; 6]> {
        let links: serde_json::Value = serde_json::from_str(&self.ip(&["-j", "link", "show", device])?)?;
        let text = links[0]["address"].as_str().context("no MAC address in ip's answer")?;
        let bytes: Vec<u8> =
            text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>()?;
        bytes.try_into().map_err(|_| anyhow!("{text:?} is not a MAC address"))
    }

    /// Attaches a program that passes everything to a veth end. Frames that XDP sends to a veth reach it only if its
    /// peer has an XDP program: this makes one end ready to receive from a netfast at the other.
    pub fn xdp_pass(&self, device: &str) -> Result<()> {
        let index = self.ifindex(device)?;
        self.enter(|| xdp_pass::attach(index))?
            .with_context(|| format!("no XDP_PASS on {device} in {}", self.name))
    }

    /// What `ethtool -K DEVICE rx off tx off sg off tso off gso off gro off` does.
    pub fn offloads_off(&self, device: &str) -> Result<()> {
        /// `linux/ethtool.h`: ETHTOOL_STSO, _SGSO, _SGRO, _SSG, _STXCSUM, _SRXCSUM.
        const COMMANDS: [u32; 6] = [0x1f, 0x24, 0x2c, 0x19, 0x17, 0x15];
        #[repr(C)]
        struct EthtoolValue {
            command: u32,
            data: u32,
        }
        self.enter(|| {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
            for command in COMMANDS {
                let mut value = EthtoolValue { command, data: 0 };
                // SAFETY: ifreq is plain data for which zero is a value.
                let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
                for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
                    *to = from.cast_signed();
                }
                request.ifr_ifru.ifru_data = (&raw mut value).cast();
                // SAFETY: the ioctl reads and writes `request` and the `value` it points to, both of which live on.
                if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL, &raw mut request) } < 0 {
                    let error = std::io::Error::last_os_error();
                    // A driver that does not know an offload cannot have it on.
                    if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
                        return Err(error);
                    }
                }
            }
            Ok(())
        })?
        .with_context(|| format!("cannot switch the offloads of {device} off"))
    }
}

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
        answer.map_err(|error| error.context(format!("{} wrote:\n{}", self.label, self.log())))
    }

    /// Leaves it running.
    pub fn detach(self) {
        std::mem::forget(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
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

fn ip(arguments: &[&str]) -> Result<String> {
    output(Command::new("ip").args(arguments), &format!("ip {}", arguments.join(" ")))
}

/// Prefix of the names of [`Testbed::fixed`].
pub fn fixed_prefix(tag: &str) -> String {
    format!("nf-{tag}-kept")
}

fn directory(prefix: &str) -> PathBuf {
    std::env::temp_dir().join(prefix)
}

/// Removes everything that belongs to a prefix: processes in its namespaces, the namespaces, mounts and directory.
/// True if there was anything.
pub fn clean(prefix: &str) -> bool {
    let mut any = false;
    for entry in fs::read_dir(NETNS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')) {
            any = true;
            end_processes(&entry.path());
            let _ = ip(&["netns", "delete", &name]);
        }
    }
    let dir = directory(prefix);
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for path in mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
        if path.starts_with(&dir) {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
    any | fs::remove_dir_all(&dir).is_ok()
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
fn sweep(tag: &str) {
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
fn lock() -> MutexGuard<'static, Vec<String>> {
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

/// From now on an interrupt cleans every live [`Testbed`], then ends the process with 128 + the signal's number.
fn clean_on_signals() -> Result<()> {
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
