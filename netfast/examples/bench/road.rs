//! A road for packets through the kernel: a generator, a router, a sink, each in a network namespace of its own.
//!
//! The router is this process's namespace. The generator sends frames of a trace by BPF_PROG_TEST_RUN with live frames, from
//! a thread on the first CPU; the router receives them in a thread of the kernel's (threaded NAPI) on the last one.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    EbpfLoader,
    maps::{Array, ProgramArray},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions},
};
use netfast_common::abi::bench::{TRACE_FRAME, TraceFrame, TraceState};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, setns};
use nix::unistd::Pid;

use crate::{bed, measure::is_interrupted};

/// The router's interface that packets come in by.
pub const IN: &str = "nf-in";
/// The one that they leave by.
const OUT: &str = "nf-out";
const NAMESPACES: &str = "/run/netns";
/// Frames that the generator hands over at a time.
const BATCH: u32 = 64;

/// Runs a command line; words are separated by single spaces.
pub fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let program = words.next().context("no command")?;
    let output =
        Command::new(program).args(words).output().with_context(|| format!("cannot run {program}"))?;
    ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Gives nftables a ruleset.
pub fn nft(rules: &str) -> Result<()> {
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), rules)?;
    run(&format!("nft -f {}", file.path().display()))
}

/// See the module.
pub struct Road {
    sysfs: tempfile::TempDir,
}

impl Road {
    /// Builds it. The process is in namespaces of its own, for network and mounts.
    pub fn new() -> Result<Self> {
        let none: Option<&str> = None;
        let flags = nix::mount::MsFlags::empty();
        fs::create_dir_all(NAMESPACES)?;
        nix::mount::mount(Some("tmpfs"), NAMESPACES, Some("tmpfs"), flags, none)?;
        let sysfs = tempfile::tempdir()?;
        for command in [
            "ip netns add nf-src",
            "ip netns add nf-sink",
            "ip link add nf-in type veth peer name nf-gen netns nf-src",
            "ip link add nf-out type veth peer name nf-end netns nf-sink",
            "ip link set nf-in address 02:00:00:00:00:01",
            "ip -n nf-src link set nf-gen address 02:00:00:00:00:02",
            "ip -n nf-sink link set nf-end address 02:00:00:00:00:03",
            "ip link set lo up",
            "ip -n nf-sink link set nf-end up",
            "ip -n nf-src link set nf-gen up",
            "ip link set nf-in up",
            "ip link set nf-out up",
            "ip address add 192.0.2.1/30 dev nf-out",
            "ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:03 dev nf-out",
            "ip route add default via 192.0.2.2",
            // NAPI at the receiving end, whether or not an XDP program is attached.
            "ethtool -K nf-in gro on",
            "ip netns exec nf-sink nft add table netdev end",
            "ip netns exec nf-sink nft add chain netdev end in { type filter hook ingress device nf-end priority 0; policy drop; }",
        ] {
            run(command)?;
        }
        for (key, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0"), ("conf/nf-in/rp_filter", "0")]
        {
            fs::write(Path::new("/proc/sys/net/ipv4").join(key), value)
                .with_context(|| format!("sysctl {key}"))?;
        }
        nix::mount::mount(Some("sysfs"), sysfs.path(), Some("sysfs"), flags, none)?;
        let road = Self { sysfs };
        fs::write(road.sysfs.path().join("class/net/nf-in/threaded"), "1").context("threaded NAPI")?;
        road.pin()?;
        Ok(road)
    }

    /// Puts the receiving thread onto the last CPU.
    pub fn pin(&self) -> Result<()> {
        let mut last = CpuSet::new();
        last.set(std::thread::available_parallelism().map_or(1, usize::from).max(cpus()) - 1)?;
        let mut found = false;
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            if name.starts_with("napi/nf-in")
                && let Some(pid) = entry.file_name().to_str().and_then(|pid| pid.parse().ok())
            {
                sched_setaffinity(Pid::from_raw(pid), &last)?;
                found = true;
            }
        }
        ensure!(found, "the kernel has made no thread for {IN}");
        Ok(())
    }
}

impl Drop for Road {
    fn drop(&mut self) {
        let _ = nix::mount::umount(self.sysfs.path());
        for name in ["nf-src", "nf-sink"] {
            let _ = run(&format!("ip netns delete {name}"));
        }
        for name in [IN, OUT] {
            let _ = run(&format!("ip link delete {name}"));
        }
        let _ = nix::mount::umount(NAMESPACES);
    }
}

fn cpus() -> usize {
    // What this thread may run on now is not all that there is.
    fs::read_to_string("/sys/devices/system/cpu/online")
        .ok()
        .and_then(|text| text.trim().rsplit(['-', ',']).next()?.parse::<usize>().ok())
        .map_or(1, |last| last + 1)
}

/// Something that sends until it is dropped.
pub struct Generator {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Generator {
    /// Sends these frames in turn.
    pub fn start(frames: Vec<[u8; TRACE_FRAME]>) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = std::sync::mpsc::channel();
        let until = Arc::clone(&stop);
        let thread = std::thread::spawn(move || send(&frames, &until, &ready));
        let generator = Self { stop, thread: Some(thread) };
        match is_ready.recv() {
            Ok(()) => Ok(generator),
            // It has ended; its error is the one to tell.
            Err(_) => match generator.end() {
                Ok(()) => bail!("the generator has ended"),
                Err(error) => Err(error),
            },
        }
    }

    /// Ends it, with its error if it has one.
    pub fn end(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("ended already")?;
        thread.join().map_err(|_| anyhow::anyhow!("the generator has panicked"))?
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn send(frames: &[[u8; TRACE_FRAME]], stop: &AtomicBool, ready: &std::sync::mpsc::Sender<()>) -> Result<()> {
    // Whoever started it may be at real-time priority on the router's CPU.
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the struct is whole and lives during the call.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER, &raw const parameters) };
    let mut first = CpuSet::new();
    first.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &first)?;
    let namespace: PathBuf = [NAMESPACES, "nf-src"].iter().collect();
    setns(File::open(namespace)?, CloneFlags::CLONE_NEWNET)?;
    let ifindex = nix::net::if_::if_nametoindex("nf-gen")?;

    let mut bench = EbpfLoader::new().map_max_entries("TRACE", frames.len() as u32).load(bed::BENCH)?;
    bed::program(&mut bench, "bench_trace")?.load()?;
    bed::program(&mut bench, "bench_empty")?.load()?;
    let empty = bed::program(&mut bench, "bench_empty")?.fd()?.try_clone()?;
    let map = bench.map_mut("UNDER_TEST").context("no map UNDER_TEST")?;
    ProgramArray::try_from(map)?.set(0, &empty, 0)?;
    let mut trace = Array::<_, TraceFrame>::try_from(bench.map_mut("TRACE").context("no map TRACE")?)?;
    for (at, bytes) in (0..).zip(frames) {
        let word = |i: usize| u64::from_ne_bytes(std::array::from_fn(|j| bytes[8 * i + j]));
        trace.set(at, TraceFrame { words: std::array::from_fn(word) }, 0)?;
    }
    let map = bench.map_mut("TRACE_STATE").context("no map TRACE_STATE")?;
    let state = TraceState { position: 0, count: frames.len() as u32 };
    Array::<_, TraceState>::try_from(map)?.set(0, state, 0)?;

    let mut context = [0u8; 24];
    context[4..8].copy_from_slice(&(TRACE_FRAME as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&ifindex.to_ne_bytes());
    let xdp = bed::program(&mut bench, "bench_trace")?;
    let _ = ready.send(());
    while !stop.load(Ordering::Relaxed) {
        // XDP_TX of a live frame leaves by the interface of the context.
        let run = xdp.test_run(TestRunOptions {
            data_in: Some(&[0; TRACE_FRAME]),
            ctx_in: Some(&context),
            repeat: 1 << 15,
            attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
            ..TestRunOptions::new()
        });
        // The end of a child process wakes this thread, too.
        match run {
            Err(error) if !is_interrupted(&error) => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// By how much a counter rises in a second, over about `time`, once it has risen for a while.
pub fn rate(time: Duration, count: impl Fn() -> Result<u64>) -> Result<f64> {
    std::thread::sleep(time / 4);
    let (begin, before) = (Instant::now(), count()?);
    std::thread::sleep(time);
    let after = count()?;
    Ok((after - before) as f64 / begin.elapsed().as_secs_f64())
}
