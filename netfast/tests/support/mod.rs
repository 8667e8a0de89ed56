//! What the tests in namespaces share: the test bed, a small topology around one netfast host, and the agent as a process.
#![allow(dead_code, reason = "every test file includes it and none uses all of it")]
#![allow(missing_docs, reason = "a test's own")]

#[path = "../../../xtask/src/netns.rs"]
pub mod netns;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use netfast::api::types::{Stats, Status};
use nix::sys::signal::Signal;

use netns::{Namespace, Process, Testbed, wait_for};

/// Longest time that something may take that takes a second.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The binary under test.
pub const NETFAST: &str = env!("CARGO_BIN_EXE_netfast");

/// `client eth0 --- wan0 host lan0 --- eth0 target`, with both IP versions and XDP on the far ends.
///
/// The client is 198.51.100.2 and 2001:db8:ff::2, the target 10.0.1.11 and 2001:db8:1::11; the host has 198.51.100.1,
/// 10.0.1.1 and their IPv6 twins, and the services' addresses 192.0.2.10 and 2001:db8::10.
pub struct Topology {
    pub client: Namespace,
    pub host: Namespace,
    pub target: Namespace,
    /// Last, so that all else is gone before it.
    pub bed: Testbed,
}

impl Topology {
    pub fn new(tag: &str) -> Result<Self> {
        let bed = Testbed::new(tag)?;
        let (client, host, target) =
            (bed.namespace("client")?, bed.namespace("host")?, bed.namespace("target")?);
        host.forwarding()?;
        bed.veth((&client, "eth0"), (&host, "wan0"))?;
        bed.veth((&target, "eth0"), (&host, "lan0"))?;
        for (namespace, device, addresses) in [
            (&client, "eth0", ["198.51.100.2/24", "2001:db8:ff::2/64"].as_slice()),
            (&host, "wan0", &["198.51.100.1/24", "2001:db8:ff::1/64", "192.0.2.10/32", "2001:db8::10/128"]),
            (&host, "lan0", &["10.0.1.1/24", "2001:db8:1::1/64"]),
            (&target, "eth0", &["10.0.1.11/24", "2001:db8:1::11/64"]),
        ] {
            for address in addresses {
                namespace.address(device, address)?;
            }
        }
        for (namespace, v4, v6) in
            [(&client, "198.51.100.1", "2001:db8:ff::1"), (&target, "10.0.1.1", "2001:db8:1::1")]
        {
            namespace.route(&format!("default via {v4}"))?;
            namespace.route(&format!("default via {v6}"))?;
            namespace.xdp_pass("eth0")?;
        }
        Ok(Self { client, host, target, bed })
    }

    /// Starts an agent on the host with both interfaces attached in native mode, and waits until it is ready.
    pub fn agent(&self) -> Result<Agent> {
        Agent::start(
            &self.bed,
            &self.host,
            "[[interface]]\nname = \"wan0\"\n[[interface]]\nname = \"lan0\"\n",
        )
    }

    /// Answers UDP datagrams on the target with themselves, until the value goes.
    pub fn udp_echo(&self, port: u16) -> Result<Process> {
        udp_echo(&self.target, "::", port)
    }
}

/// Answers UDP datagrams to an address of a namespace (`::`: all of both IP versions) with themselves, until the value
/// goes.
pub fn udp_echo(namespace: &Namespace, address: &str, port: u16) -> Result<Process> {
    let address = if address.contains(':') { address.to_owned() } else { format!("::ffff:{address}") };
    let program = format!(
        "import socket\ns=socket.socket(socket.AF_INET6,socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,0)\ns.bind(('{address}',{port}))\n\
         print('ready',flush=True)\n\
         while True:\n d,a=s.recvfrom(65535)\n s.sendto(d,a)"
    );
    let label = format!("{}-echo-{}-{port}", namespace.name(), address.replace(':', "."));
    let mut server = namespace.spawn(&label, namespace.command("python3").args(["-c", &program]))?;
    wait_for("the UDP echo server", PATIENCE, || {
        ensure!(server.exited()?.is_none(), "it ended: {}", server.log());
        Ok(server.log().contains("ready").then_some(()))
    })?;
    Ok(server)
}

/// A running agent.
pub struct Agent {
    process: Process,
    host: Namespace,
    config: PathBuf,
    socket: PathBuf,
}

impl Agent {
    /// Writes an agent.toml whose directories are in the bed, followed by `config`.
    pub fn configure(bed: &Testbed, config: &str) -> Result<PathBuf> {
        let (dir, bpffs) = (bed.dir().display(), bed.bpffs()?);
        // Top-level keys stand before the tables.
        let (top, tables) = config.split_at(config.find('[').unwrap_or(config.len()));
        let text = format!(
            "{top}\n[agent]\nstate_dir = \"{dir}/state\"\nrun_dir = \"{dir}/run\"\nbpffs = {bpffs:?}\n\
             socket_group = \"root\"\n{tables}"
        );
        let path = bed.dir().join("agent.toml");
        fs::write(&path, text)?;
        Ok(path)
    }

    /// Starts one and waits until it answers.
    pub fn start(bed: &Testbed, host: &Namespace, config: &str) -> Result<Self> {
        Self::start_by(&[], bed, host, config)
    }

    /// As `start`, by a program that runs it with other privileges: its command line up to netfast's.
    pub fn start_by(wrapper: &[&str], bed: &Testbed, host: &Namespace, config: &str) -> Result<Self> {
        let config = Self::configure(bed, config)?;
        let mut words = wrapper.iter().copied().chain([NETFAST, "agent", "--config"]);
        let mut command = host.command(words.next().unwrap_or_default());
        let process = host.spawn("agent", command.args(words).arg(&config))?;
        let socket = bed.dir().join("run/netfast.sock");
        let mut agent = Self { process, host: host.clone(), config, socket };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts it again with the same configuration, after it has ended.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = self.host.command(NETFAST);
        command.args(["agent", "--config"]).arg(&self.config);
        self.process = self.host.spawn("agent", &mut command)?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
        let pid = self.process.pid();
        let cli = Cli { host: self.host.clone(), socket: self.socket.clone() };
        self.process.wait_ready(PATIENCE, || {
            // An earlier agent's socket may still be there: the answer must be this one's.
            Ok(cli.status().ok().filter(|status| status.pid == pid && status.generation > 0).map(drop))
        })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Kills it as a crash would, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGKILL)?;
        self.process.wait(PATIENCE).map(drop)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Waits for its end; its exit code.
    pub fn wait(&mut self) -> Result<Option<i32>> {
        Ok(self.process.wait(PATIENCE)?.code())
    }

    fn cli_of(&self) -> Cli {
        Cli { host: self.host.clone(), socket: self.socket.clone() }
    }

    /// Runs a verb of the CLI against it.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.cli_of().run(arguments)
    }

    /// Runs a verb that must succeed; its standard output.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.cli_of().ok(arguments)
    }

    pub fn status(&self) -> Result<Status> {
        self.cli_of().status()
    }

    pub fn stats(&self) -> Result<Stats> {
        Ok(serde_json::from_str(&self.ok(&["stats", "-o", "json"])?)?)
    }

    /// Waits until its status is as wanted.
    pub fn wait_status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Result<Status> {
        let mut last = None;
        let found = wait_for(what, PATIENCE, || {
            let status = self.status()?;
            let done = wanted(&status).then(|| status.clone());
            last = Some(status);
            Ok(done)
        });
        found.with_context(|| format!("the last status was {last:#?}; the log:\n{}", self.log()))
    }
}

/// The CLI as a client of one agent.
struct Cli {
    host: Namespace,
    socket: PathBuf,
}

impl Cli {
    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let mut command: Command = self.host.command(NETFAST);
        Ok(command.arg("--socket").arg(&self.socket).args(arguments).output()?)
    }

    fn ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.run(arguments)?;
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "netfast {arguments:?}: {}\n{stderr}{stdout}", output.status);
        Ok(stdout.into_owned())
    }

    fn status(&self) -> Result<Status> {
        // Not ready is an answer, too (exit code 1).
        let output = self.run(&["status", "-o", "json"])?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}
