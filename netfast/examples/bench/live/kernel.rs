//! The benchmark's own programs for live frames, loaded and attached, and the generator that runs one of them.

use std::{
    os::unix::thread::JoinHandleExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, PerCpuArray, PerCpuValues, xdp::DevMap},
    programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp, xdp::XdpMode},
};
use aya_obj::programs::XdpAttachType;
use netfast_common::abi::bench::{LIVE_PAD, Stream};

use crate::{
    bed::{self, program},
    measure::is_interrupted,
    netns::{Namespace, wait_for},
};

/// Frames that the kernel makes at once; what a NAPI poll takes.
const BATCH: u32 = 64;
/// Bytes of a live frame as the kernel is given it.
const FRAME: usize = 64 + LIVE_PAD;
/// Elements of `SEQUENCE`.
pub const SEQUENCE: u32 = 1 << 20;

/// The object, loaded once more for each place that needs maps of its own.
pub struct Programs {
    object: Ebpf,
    generator: PathBuf,
}

impl Programs {
    /// Loads it; `dir` on a BPF file system is where the generator is pinned, for the threads that run it.
    pub fn load(dir: &Path) -> Result<Self> {
        let mut object = EbpfLoader::new().map_max_entries("SEQUENCE", SEQUENCE).load(bed::BENCH)?;
        for name in ["bench_generate", "bench_sink", "bench_tx", "bench_redirect"] {
            program(&mut object, name)?.load()?;
        }
        let generator = dir.join("generate");
        if !generator.exists() {
            program(&mut object, "bench_generate")?.pin(&generator)?;
        }
        Ok(Self { object, generator })
    }

    /// Attaches a program to a device in native mode, for as long as `self` lives.
    pub fn attach(&mut self, name: &str, namespace: &Namespace, device: &str) -> Result<()> {
        let index = namespace.ifindex(device)?;
        let program = program(&mut self.object, name)?;
        namespace
            .enter(|| program.attach_to_if_index(index, XdpMode::Driver).map(drop))?
            .with_context(|| format!("{name} on {device}"))
    }

    /// Where `bench_redirect` sends frames: a device in the namespace of the one that it is attached to.
    pub fn way_out(&mut self, namespace: &Namespace, device: &str) -> Result<()> {
        let index = namespace.ifindex(device)?;
        let map = self.object.map_mut("WAY_OUT").context("no map WAY_OUT")?;
        let mut map = DevMap::try_from(map)?;
        // The kernel takes the index in the caller's namespace.
        namespace.enter(|| map.set(0, index, None, 0))?.with_context(|| format!("redirect to {device}"))
    }

    /// Writes the order in which flows come.
    pub fn set_sequence(&mut self, flows: &[u32]) -> Result<()> {
        let map = self.object.map_mut("SEQUENCE").context("no map SEQUENCE")?;
        let mut map = Array::<_, u32>::try_from(map)?;
        (0..).zip(flows).try_for_each(|(index, flow)| Ok(map.set(index, flow, 0)?))
    }

    /// What the sinks do with datagrams: [`SINK_DROPS`](netfast_common::abi::bench::SINK_DROPS) or
    /// [`SINK_ANSWERS`](netfast_common::abi::bench::SINK_ANSWERS).
    pub fn set_sink(&mut self, mode: u32) -> Result<()> {
        let map = self.object.map_mut("SINK_MODE").context("no map SINK_MODE")?;
        Ok(Array::<_, u32>::try_from(map)?.set(0, mode, 0)?)
    }

    /// What the generator of each CPU sends.
    pub fn set_streams(&mut self, stream: impl Fn(usize) -> Stream) -> Result<()> {
        let map = self.object.map_mut("STREAM").context("no map STREAM")?;
        let mut map = PerCpuArray::<_, Stream>::try_from(map)?;
        let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow!("{path}: {error}"))?;
        Ok(map.set(0, PerCpuValues::try_from((0..cpus).map(stream).collect::<Vec<_>>())?, 0)?)
    }

    /// Frames that were made, on all CPUs, since the streams were set.
    pub fn made(&self) -> Result<u64> {
        let map = self.object.map("STREAM").context("no map STREAM")?;
        let streams = PerCpuArray::<_, Stream>::try_from(map)?.get(&0, 0)?;
        Ok(streams.iter().map(|stream| stream.made).sum())
    }

    /// Datagrams that the sinks have seen, ever.
    pub fn seen(&self) -> Result<u64> {
        let map = self.object.map("SEEN").context("no map SEEN")?;
        let counts = PerCpuArray::<_, u64>::try_from(map)?.get(&0, 0)?;
        Ok(counts.iter().sum())
    }

    /// Starts the generator on a CPU: it sends by a device of a namespace until the value goes.
    pub fn generate(&self, namespace: &Namespace, device: &str, cpu: usize) -> Result<Generator> {
        let index = namespace.ifindex(device)?;
        let (pin, namespace) = (self.generator.clone(), namespace.clone());
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        install_handler()?;
        let thread = std::thread::spawn(move || -> Result<()> {
            let file = std::fs::File::open(namespace.path())?;
            nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET)?;
            take_cpu(cpu)?;
            let program = Xdp::from_pin(&pin, XdpAttachType::Interface)?;
            let mut context = [0u8; 24];
            context[4..8].copy_from_slice(&(FRAME as u32).to_ne_bytes());
            context[12..16].copy_from_slice(&index.to_ne_bytes());
            while !flag.load(Ordering::Relaxed) {
                let run = program.test_run(TestRunOptions {
                    data_in: Some(&[0; FRAME]),
                    ctx_in: Some(&context),
                    repeat: u32::MAX / 2,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                    ..TestRunOptions::new()
                });
                // It ends by our signal, or goes on after somebody else's.
                match run {
                    Err(error) if !is_interrupted(&error) => {
                        return Err(error).context("live frames (Linux 5.18)");
                    }
                    _ => {}
                }
            }
            Ok(())
        });
        Ok(Generator { thread: Some(thread), stop })
    }
}

/// A running generator.
pub struct Generator {
    thread: Option<JoinHandle<Result<()>>>,
    stop: Arc<AtomicBool>,
}

impl Generator {
    /// Whether it runs no more, which it only does after an error; see [`Generator::stop`].
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends it.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else { return Ok(()) };
        self.stop.store(true, Ordering::Relaxed);
        while !thread.is_finished() {
            // SAFETY: the thread has not been joined, so its handle is valid.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
            std::thread::sleep(Duration::from_millis(1));
        }
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// A signal that does nothing but end a system call.
fn install_handler() -> Result<()> {
    extern "C" fn nothing(_: libc::c_int) {}
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| {
        use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing.
        result = unsafe { sigaction(Signal::SIGUSR1, &action) }.map(drop);
    });
    Ok(result?)
}

/// Pins the calling thread, and puts it before what else runs on the machine.
pub fn take_cpu(cpu: usize) -> Result<()> {
    pin(0, cpu)?;
    prefer(0)
}

fn pin(pid: i32, cpu: usize) -> Result<()> {
    let mut set = nix::sched::CpuSet::new();
    set.set(cpu)?;
    Ok(nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(pid), &set)?)
}

/// Gives a thread the highest weight that is not real-time: generator, NAPI, agent and server alike, so that they share a CPU as they
/// would without it.
fn prefer(pid: i32) -> Result<()> {
    // SAFETY: a plain system call.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, pid.cast_unsigned(), -20) };
    ensure!(result == 0, "cannot raise the priority: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Gives a device's receive queue a kernel thread of its own on a CPU.
pub fn thread_napi(namespace: &Namespace, device: &str, cpu: usize) -> Result<()> {
    // `ip netns exec` mounts a sysfs that shows the namespace's devices.
    let script = format!("echo 1 > /sys/class/net/{device}/threaded");
    crate::netns::output(
        std::process::Command::new("ip").args(["netns", "exec", namespace.name(), "sh", "-c", &script]),
        &script,
    )?;
    let prefix = format!("napi/{device}-");
    let pids = wait_for(&prefix, Duration::from_secs(5), || {
        let pids: Vec<i32> = std::fs::read_dir("/proc")?
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
            .filter(|pid| {
                std::fs::read_to_string(format!("/proc/{pid}/comm"))
                    .is_ok_and(|name| name.starts_with(&prefix))
            })
            .collect();
        Ok((!pids.is_empty()).then_some(pids))
    })
    .context("threads of NAPI are seen in the first PID namespace only: run this outside of a sandbox")?;
    ensure!(pids.len() == 1, "{device} of an earlier run is still there ({} NAPI threads)", pids.len());
    pids.into_iter().try_for_each(|pid| pin(pid, cpu).and_then(|()| prefer(pid)))
}
