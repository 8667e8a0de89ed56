//! What runs inside the virtual machine: a client, netfast and a target in namespaces on four virtio cards, the checks, and
//! a line on the console for each.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    machine::{CARDS, MARK, Row, mac},
    traffic, verified,
};
use crate::netns::{Namespace, Process, Testbed, output, wait_for};

/// Emulated CPUs are slow.
const PATIENCE: Duration = Duration::from_secs(400);

/// The tagged networks: identifier, beside which device.
const CLIENT_VLAN: u16 = 7;
const TARGET_VLAN: u16 = 9;

/// The test executable with the program's scenarios.
pub const SCENARIOS: &str = "/usr/bin/prog_run";

/// netfast with its neighbours.
struct World {
    client: Namespace,
    host: Namespace,
    target: Namespace,
    agent: Process,
    netfast: PathBuf,
    socket: PathBuf,
    bpffs: PathBuf,
    _servers: Vec<Process>,
    /// After everything that runs in it.
    bed: Testbed,
}

/// All checks; each tells its result.
pub fn run() -> Result<()> {
    let world = match World::new() {
        Ok((world, detail)) => {
            tell("loads", Ok(detail));
            world
        }
        Err(error) => {
            tell("loads", Err(error));
            return Ok(());
        }
    };
    match super::programs_dir(&world.bpffs).and_then(|dir| verified::of(&dir)) {
        Ok(counts) => counts
            .into_iter()
            .for_each(|(name, count)| tell(&format!("verified {name}"), Ok(count.to_string()))),
        Err(error) => tell("verified", Err(error)),
    }
    tell("attaches", world.attached());
    tell("forward nat", world.forward("nat", "192.0.2.10", "10.0.1.11", 80));
    tell("forward nat v6", world.forward("nat", "[2001:db8::10]", "[2001:db8:1::11]", 80));
    tell("forward dnat", world.forward("dnat", "192.0.2.10", "10.0.1.11", 81));
    tell("forward dnat v6", world.forward("dnat", "[2001:db8::10]", "[2001:db8:1::11]", 81));
    tell("vlan", world.vlans());
    tell("echo", world.echo());
    tell("dsr, ipip", world.direct());
    tell("counters", world.counters());
    tell("adoption", world.adoption());
    if Path::new(SCENARIOS).exists() {
        drop(world);
        tell("scenarios", scenarios());
    }
    Ok(())
}

fn tell(check: &str, result: Result<String>) {
    let (ok, detail) = match result {
        Ok(detail) => (true, detail),
        Err(error) => (false, format!("{error:#}")),
    };
    let row = Row { check: check.to_owned(), ok, detail };
    println!("{MARK}{}", serde_json::to_string(&row).unwrap_or_default());
}

impl World {
    fn new() -> Result<(Self, String)> {
        let bed = Testbed::new("kernel")?;
        let (client, host, target) =
            (bed.namespace("client")?, bed.namespace("host")?, bed.namespace("target")?);
        for (name, last, _) in CARDS {
            let (namespace, device) = match name {
                "client" => (&client, "eth0"),
                "target" => (&target, "eth0"),
                name => (&host, name),
            };
            let now = device_of(&mac(last))?;
            let line = ["link", "set", &now, "netns", namespace.name(), "name", device];
            output(Command::new("ip").args(line), &line.join(" "))?;
            namespace.ip(&["link", "set", device, "up"])?;
        }
        host.forwarding()?;
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
        }
        let servers = traffic::servers(&target, bed.dir())?;
        let netfast = PathBuf::from(std::env::var_os("NETFAST_BIN").context("NETFAST_BIN is not set")?);
        let bpffs = bed.bpffs()?;
        let mut agent = start(&bed, &host, &netfast, &["wan0", "lan0"])?;
        let socket = bed.dir().join("run/netfast.sock");
        let began = std::time::Instant::now();
        let status = |line: &[&str]| {
            let mut command = host.command(&netfast);
            output(command.arg("--socket").arg(&socket).args(line), "netfast status")
        };
        agent.wait_ready(PATIENCE, || {
            let Ok(text) = status(&["status", "-o", "json"]) else { return Ok(None) };
            let status: Value = serde_json::from_str(&text)?;
            Ok((status["ready"] == true).then_some(()))
        })?;
        let detail = format!("ready after {:.1} s", began.elapsed().as_secs_f64());
        let world = Self { client, host, target, agent, netfast, socket, bpffs, _servers: servers, bed };
        Ok((world, detail))
    }

    fn cli(&self, line: &str) -> Result<String> {
        let mut command = self.host.command(&self.netfast);
        command.arg("--socket").arg(&self.socket).args(line.split_whitespace());
        output(&mut command, &format!("netfast {line}"))
    }

    fn json(&self, line: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.cli(&format!("{line} -o json"))?)?)
    }

    fn attached(&self) -> Result<String> {
        let status = self.json("status")?;
        let interfaces = status["interfaces"].as_array().context("no interfaces")?;
        ensure!(interfaces.len() == 2, "{status}");
        for interface in interfaces {
            let native = interface["attached"] == "native" && interface["driver"] == "virtio_net";
            ensure!(native, "{interface}");
        }
        Ok("native, virtio_net".to_owned())
    }

    /// A page a request, many connections, a large file by its hash, datagrams; by what the target saw, the mode.
    fn forward(&self, mode: &str, service: &str, target: &str, port: u16) -> Result<String> {
        let name = format!("{mode}{}", if service.contains(':') { 6 } else { 4 });
        for protocol in ["tcp", "udp"] {
            let to = if protocol == "tcp" { traffic::WEB } else { traffic::UDP };
            self.cli(&format!(
                "forward add {name}{protocol} {protocol} {service}:{port} --to {target}:{to} --mode {mode}"
            ))?;
        }
        let seen = traffic::web(&self.client, self.bed.dir(), &format!("http://{service}:{port}"))?;
        let client = if service.contains(':') { "2001:db8:ff::2" } else { "198.51.100.2" };
        ensure!((mode == "dnat") == (seen == client), "in mode {mode} the target saw {seen}");
        let datagrams = traffic::datagrams(&self.client, &format!("{service}:{port}"), 200)?;
        let stats = self.json("stats")?;
        for protocol in ["tcp", "udp"] {
            let row = row(&stats["forwards"], "forward", &format!("{name}{protocol}"))?;
            for side in ["to_target", "to_client"] {
                ensure!(row[side]["packets"].as_u64().is_some_and(|packets| packets > 0), "{row}");
            }
        }
        Ok(format!("4 MiB by its hash, 20 pages, {datagrams} datagrams"))
    }

    /// Into, out of and between tagged networks.
    fn vlans(&self) -> Result<String> {
        let (outer, inner) = (CLIENT_VLAN.to_string(), TARGET_VLAN.to_string());
        for (namespace, device, tag, address) in [
            (&self.client, "eth0", &outer, "198.51.101.2/24"),
            (&self.host, "wan0", &outer, "198.51.101.1/24"),
            (&self.host, "lan0", &inner, "10.0.9.1/24"),
            (&self.target, "eth0", &inner, "10.0.9.11/24"),
        ] {
            let name = format!("{device}.{tag}");
            namespace.ip(&["link", "add", "link", device, "name", &name, "type", "vlan", "id", tag])?;
            namespace.ip(&["link", "set", &name, "up"])?;
            namespace.address(&name, address)?;
        }
        self.host.address(&format!("wan0.{CLIENT_VLAN}"), "192.0.2.20/32")?;
        self.client.route(&format!("192.0.2.20/32 via 198.51.101.1 dev eth0.{CLIENT_VLAN}"))?;
        // An address by the untagged network for clients in the tagged one, and the other way round.
        for (port, service, target) in [
            (90, "192.0.2.20", "10.0.1.11"),
            (91, "192.0.2.10", "10.0.9.11"),
            (92, "192.0.2.20", "10.0.9.11"),
        ] {
            let name = format!("vlan{port}");
            self.cli(&format!("forward add {name} tcp {service}:{port} --to {target}:{}", traffic::WEB))?;
            wait_for("the way to the target", PATIENCE, || {
                Ok(traffic::page(&self.client, &format!("http://{service}:{port}/name")).ok())
            })?;
            let seen = traffic::web(&self.client, self.bed.dir(), &format!("http://{service}:{port}"))?;
            let own = if target == "10.0.9.11" { "10.0.9.1" } else { "10.0.1.1" };
            ensure!(seen == own, "by {service}:{port} the target saw {seen}");
            let stats = self.json("stats")?;
            let row = row(&stats["forwards"], "forward", &name)?;
            ensure!(row["to_target"]["packets"].as_u64().is_some_and(|packets| packets > 20), "{row}");
        }
        Ok("into, out of and between tagged networks".to_owned())
    }

    /// The modes whose targets answer themselves, by a link of their own; tunnels end in the kernel's own devices, as
    /// docs/balancing.md says.
    fn direct(&self) -> Result<String> {
        let (client, target) = (&self.client, &self.target);
        self.bed.veth((target, "back"), (client, "back"))?;
        for (namespace, last) in [(target, 1), (client, 2)] {
            namespace.address("back", &format!("10.7.1.{last}/24"))?;
            namespace.address("back", &format!("2001:db8:71::{last}/64"))?;
        }
        target.route("198.51.100.2/32 via 10.7.1.2")?;
        target.route("2001:db8:ff::2/128 via 2001:db8:71::2")?;
        for line in [
            "address add 192.0.2.10/32 dev lo",
            "address add 2001:db8::10/128 dev lo nodad",
            "link set lo up",
            "link set tunl0 up",
            "link set sit0 up",
            "link add lb6 type ip6tnl mode any local 2001:db8:1::11 remote any",
            "link set lb6 up",
        ] {
            target.ip(&line.split(' ').collect::<Vec<_>>())?;
        }
        for device in ["all", "eth0", "tunl0", "sit0", "lb6"] {
            target.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
        }
        client.sysctl("net.ipv4.conf.all.rp_filter", "0")?;
        client.sysctl("net.ipv4.conf.back.rp_filter", "0")?;
        let port = traffic::WEB;
        for (mode, service, seen, to) in [
            ("dsr", "192.0.2.10", "198.51.100.2", "10.0.1.11"),
            ("dsr", "[2001:db8::10]", "2001:db8:ff::2", "[2001:db8:1::11]"),
            ("ipip", "192.0.2.10", "198.51.100.2", "10.0.1.11"),
            ("ipip", "192.0.2.10", "198.51.100.2", "[2001:db8:1::11]"),
            ("ipip", "[2001:db8::10]", "2001:db8:ff::2", "10.0.1.11"),
            ("ipip", "[2001:db8::10]", "2001:db8:ff::2", "[2001:db8:1::11]"),
        ] {
            let name = if service.contains(':') { "direct6" } else { "direct4" };
            self.cli(&format!("forward set {name} tcp {service}:{port} --to {to}:{port} --mode {mode}"))?;
            let url = format!("http://{service}:{port}");
            let got = traffic::web(client, self.bed.dir(), &url)
                .with_context(|| format!("{mode} from {service} to {to}"))?;
            ensure!(got == seen, "in mode {mode} the target saw {got}");
            let stats = self.json("stats")?;
            let row = row(&stats["forwards"], "forward", name)?;
            ensure!(row["to_target"]["packets"].as_u64().is_some_and(|packets| packets > 100), "{row}");
            ensure!(row["to_client"]["packets"] == 0, "{row}");
        }
        Ok("both modes; ipip, sit and ip6tnl unpack, each version in each".to_owned())
    }

    fn echo(&self) -> Result<String> {
        for (service, allow) in [("192.0.2.10", "198.51.100.0/24"), ("[2001:db8::10]", "2001:db8:ff::/64")] {
            self.cli(&format!("echo add {service}:7 --allow {allow} --rate 100000"))?;
            traffic::datagrams(&self.client, &format!("{service}:7"), 200)?;
        }
        let stats = self.json("stats")?;
        for row in stats["echoes"].as_array().context("no echoes")? {
            ensure!(row["packets"].as_u64().is_some_and(|packets| packets >= 200), "{row}");
        }
        Ok("400 of 400 datagrams".to_owned())
    }

    /// Nothing that is a fault of ours was ever counted, and what the forwards carried was.
    fn counters(&self) -> Result<String> {
        let stats = self.json("stats")?;
        let rows = stats["interfaces"].as_array().context("no interfaces")?;
        let sum = |reason: &str| -> u64 {
            rows.iter().filter(|row| row["reason"] == reason).filter_map(|row| row["packets"].as_u64()).sum()
        };
        for reason in ["internal", "redirect_failed", "malformed", "unattached"] {
            ensure!(sum(reason) == 0, "{} packets with reason {reason}", sum(reason));
        }
        let (forwarded, replies, echoed) = (sum("forwarded"), sum("reply"), sum("echoed"));
        ensure!(forwarded > 500 && replies > 500 && echoed >= 400, "{stats}");
        Ok(format!("{forwarded} forwarded, {replies} replies, {echoed} echoed, no fault"))
    }

    /// The agent killed: its programs go on, and the next one adopts them.
    fn adoption(&self) -> Result<String> {
        self.agent.signal(nix::sys::signal::Signal::SIGKILL)?;
        traffic::datagrams(&self.client, "192.0.2.10:80", 100)?;
        let mut agent = start(&self.bed, &self.host, &self.netfast, &["wan0", "lan0"])?;
        let pid = agent.pid();
        agent.wait_ready(PATIENCE, || {
            let Ok(status) = self.json("status") else { return Ok(None) };
            Ok((status["ready"] == true && status["pid"] == pid).then_some(()))
        })?;
        traffic::datagrams(&self.client, "192.0.2.10:80", 100)?;
        Ok("no datagram lost without an agent, nor after the next".to_owned())
    }
}

fn start(bed: &Testbed, host: &Namespace, netfast: &Path, interfaces: &[&str]) -> Result<Process> {
    let config = super::configure(bed, interfaces)?;
    let mut command = host.command(netfast);
    host.spawn("agent", command.args(["agent", "--config"]).arg(config))
}

fn row<'a>(rows: &'a Value, key: &str, name: &str) -> Result<&'a Value> {
    let rows = rows.as_array().context("no rows")?;
    rows.iter().find(|row| row[key] == name).with_context(|| format!("no {name} in {rows:?}"))
}

/// The device with a MAC address.
fn device_of(mac: &str) -> Result<String> {
    let devices = fs::read_dir("/sys/class/net").context("no /sys/class/net")?.flatten();
    let mut names = devices.map(|device| device.file_name().to_string_lossy().into_owned());
    let found = names.find(|name| {
        let path = format!("/sys/class/net/{name}/address");
        fs::read_to_string(path).is_ok_and(|text| text.trim() == mac)
    });
    found.with_context(|| format!("no card {mac}"))
}

/// The scenarios of netfast's own tests, one frame after the other through the programs as this kernel runs them.
fn scenarios() -> Result<String> {
    // scapy is not here. Those with frames at random take their time on an emulated CPU.
    let skips = ["--skip", "scapy", "--skip", "random::"];
    let log = fs::File::create("/tmp/prog_run.log")?;
    let status = Command::new(SCENARIOS)
        .args(["--test-threads", "1"])
        .args(skips)
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .context("cannot run the scenarios")?;
    let text = fs::read_to_string("/tmp/prog_run.log")?;
    let result = text.lines().rev().find_map(|line| line.strip_prefix("test result: ")).unwrap_or_default();
    let tail: Vec<_> = text.lines().rev().take(40).collect();
    ensure!(status.success(), "{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n"));
    Ok(result.split(';').next().unwrap_or_default().trim_start_matches("ok. ").to_owned())
}
