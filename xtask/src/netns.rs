//! Test beds: network namespaces, veth pairs, a bpffs and processes, all of which are gone when the [`Testbed`] is,
//! also after a panic, an interrupt (SIGINT, SIGTERM, SIGHUP) or, at the latest, at the next start of one with the
//! same tag. netfast's own tests include this file by `#[path]`: it needs anyhow, libc, nix and serde_json only.
//!
//! Nothing outside of namespaces named `nf-…` and a temporary directory of the same name is touched.

#![allow(dead_code, reason = "a shared file: not every crate that includes it uses all of it")]

use std::{
    ffi::OsStr,
    fs,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, anyhow, ensure};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns},
    unistd::getuid,
};

#[path = "netns/cleanup.rs"]
mod cleanup;
#[path = "netns/process.rs"]
mod process;
#[path = "netns/xdp_pass.rs"]
mod xdp_pass;

use self::cleanup::{clean_on_signals, directory, lock, sweep};
pub use self::{
    cleanup::{clean, fixed_prefix},
    process::{Process, output, wait_for},
};

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

    /// What `ethtool -K DEVICE rx off tx off sg off tso off gso off gro off txvlan off rxvlan off` does.
    pub fn offloads_off(&self, device: &str) -> Result<()> {
        /// `linux/ethtool.h`: ETHTOOL_STSO, _SGSO, _SGRO, _SSG, _STXCSUM, _SRXCSUM, _SFLAGS (the VLAN offloads among them).
        const COMMANDS: [u32; 7] = [0x1f, 0x24, 0x2c, 0x19, 0x17, 0x15, 0x26];
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

fn ip(arguments: &[&str]) -> Result<String> {
    output(Command::new("ip").args(arguments), &format!("ip {}", arguments.join(" ")))
}
