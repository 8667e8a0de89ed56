//! The agent as a process, with directories of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use netfast::api::types::Status;
use serde::de::DeserializeOwned;

use super::kernel;
use crate::netns::{Namespace, Process, Testbed, wait_for};

/// Longest time that a start may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running agent.
pub struct Agent {
    process: Process,
    binary: PathBuf,
    namespace: Namespace,
    config: PathBuf,
    name: String,
    socket: PathBuf,
    cpu: Option<usize>,
}

/// The program: what the user names, or what the same build has made.
pub fn binary(named: Option<&Path>) -> Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_owned(),
        // target/release/examples/bench -> target/release/netfast
        None => std::env::current_exe()?.ancestors().nth(2).context("no build folder")?.join("netfast"),
    };
    ensure!(
        path.is_file(),
        "there is no {}: `cargo build --release -p netfast --bin netfast`, or name one by --netfast",
        path.display()
    );
    Ok(path)
}

impl Agent {
    /// Starts one with these rules; waits until all interfaces are attached and the rules live. `top` are keys of agent.toml before
    /// its tables.
    pub fn start(
        bed: &Testbed,
        namespace: &Namespace,
        binary: &Path,
        (name, cpu): (&str, Option<usize>),
        (tables, rules): (&str, &str),
    ) -> Result<Self> {
        let dir = bed.dir().join(name);
        fs::create_dir_all(&dir)?;
        let bpffs = bed.bpffs()?;
        fs::write(dir.join("rules.toml"), rules)?;
        let config = dir.join("agent.toml");
        let at = dir.display();
        let text = format!(
            "[agent]\nstate_dir = \"{at}/state\"\nrun_dir = \"{at}/run\"\nbpffs = {bpffs:?}\npin_dir = {:?}\n\
             socket_group = \"root\"\n{tables}",
            bpffs.join(name),
        );
        fs::write(&config, text)?;
        let process = spawn(binary, namespace, &config, name, cpu)?;
        let socket = dir.join("run/netfast.sock");
        let mut agent = Self {
            process,
            binary: binary.to_owned(),
            namespace: namespace.clone(),
            config,
            name: name.to_owned(),
            socket,
            cpu,
        };
        agent.wait_ready()?;
        if !rules.is_empty() {
            agent.ok(&["apply", "-f", &dir.join("rules.toml").display().to_string()])?;
        }
        Ok(agent)
    }

    /// Kills it as a crash would, and starts it again; returns the time from the start until it answers and is ready.
    pub fn restart(&mut self) -> Result<Duration> {
        self.process.signal(nix::sys::signal::Signal::SIGKILL)?;
        self.process.wait(PATIENCE)?;
        let began = std::time::Instant::now();
        self.process = spawn(&self.binary, &self.namespace, &self.config, &self.name, self.cpu)?;
        self.wait_ready()?;
        Ok(began.elapsed())
    }

    /// Waits until it works on nothing any more: after many filter rules it looks for better trees for a while.
    pub fn wait_rest(&self) -> Result<()> {
        let mut before = self.cpu_time()?;
        wait_for("the agent to rest", PATIENCE, || {
            // The build begins half a second after the last change.
            std::thread::sleep(Duration::from_secs(1));
            let now = self.cpu_time()?;
            let rests = now - before <= 5;
            before = now;
            Ok(rests.then_some(()))
        })
    }

    /// Its CPU time so far, in hundredths of a second.
    pub fn cpu_time(&self) -> Result<u64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        // The name in parentheses may hold anything; user and system time are the 12th and 13th after it.
        let rest = text.rsplit(')').next().unwrap_or_default();
        Ok(rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Its API's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Its namespace.
    pub const fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.namespace.command(&self.binary);
        Ok(command.arg("--socket").arg(&self.socket).args(arguments).output()?)
    }

    /// Runs a verb that must succeed; its standard output.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "netfast {arguments:?}: {}\n{errors}{text}", output.status);
        Ok(text)
    }

    /// The answer of a verb as JSON.
    pub fn json<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let line: Vec<&str> = arguments.iter().copied().chain(["-o", "json"]).collect();
        serde_json::from_str(&self.ok(&line)?).with_context(|| format!("answer of {arguments:?}"))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let pid = self.process.pid();
        let (binary, socket, namespace) = (self.binary.clone(), self.socket.clone(), self.namespace.clone());
        self.process.wait_ready(PATIENCE, || {
            let mut command = namespace.command(&binary);
            let output = command.arg("--socket").arg(&socket).args(["status", "-o", "json"]).output()?;
            // An earlier agent's socket may still be there: the answer must be this one's.
            let status = serde_json::from_slice::<Status>(&output.stdout).ok();
            Ok(status.filter(|status| status.pid == pid && status.ready).map(drop))
        })
    }
}

fn spawn(
    binary: &Path,
    namespace: &Namespace,
    config: &Path,
    name: &str,
    cpu: Option<usize>,
) -> Result<Process> {
    // A child has the affinity of the thread that starts it.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Some(cpu) = cpu {
                kernel::take_cpu(cpu)?;
            }
            let mut command = namespace.command(binary);
            namespace.spawn(&format!("agent-{name}"), command.args(["agent", "--config"]).arg(config))
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
