//! The topology: a client, the netfast host, two targets in networks of their own.

use std::{
    fs,
    io::Read as _,
    path::PathBuf,
    sync::{RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use anyhow::{Context as _, Result, ensure};
use netfast::api::types::{FlowList, FlowRecord};

use crate::{
    peers,
    support::{
        Agent,
        netns::{Namespace, Process, Testbed},
    },
};

/// The services' addresses.
pub const SERVICE: &str = "192.0.2.10";
pub const SERVICE6: &str = "2001:db8::10";
/// The client's addresses.
pub const CLIENT: &str = "198.51.100.2";
pub const CLIENT6: &str = "2001:db8:ff::2";
/// The targets' addresses.
pub const TARGETS: [&str; 2] = ["10.0.1.11", "10.0.2.12"];
pub const TARGETS6: [&str; 2] = ["2001:db8:1::11", "2001:db8:2::12"];
/// Size of the file `/bulk` of the targets' web servers.
pub const BULK: u64 = 64 << 20;

/// Tests that depend on time run alone: two CPUs are soon busy.
static MACHINE: RwLock<()> = RwLock::new(());

/// What a test holds of the machine.
enum Hold {
    Shared(#[expect(dead_code, reason = "held")] RwLockReadGuard<'static, ()>),
    Alone(#[expect(dead_code, reason = "held")] RwLockWriteGuard<'static, ()>),
}

/// `client eth0 --- wan0 host lan1 --- eth0 target1`, `lan2 --- eth0 target2`, the agent on the host attached in native
/// mode to all three. The targets route by the host.
pub struct World {
    pub agent: Agent,
    pub client: Namespace,
    pub host: Namespace,
    pub targets: [Namespace; 2],
    /// Servers that end with the world.
    pub servers: Vec<Process>,
    /// After everything that runs in it.
    pub bed: Testbed,
    _hold: Hold,
}

/// What agent.toml says beside its paths: small tables, so that many agents fit beside each other.
pub const CONFIG: &str = "[[interface]]\nname = \"wan0\"\n[[interface]]\nname = \"lan1\"\n[[interface]]\n\
                          name = \"lan2\"\n[tables]\nflows = 65536\nhalf_open = 8192\n";

/// Added to it for load generators, which make thousands of connections a second: what is over gives its room back soon. The source
/// ports are apart from the host's own, which [`World::busy`] sees to: health checks come from those.
const BUSY: &str = "[nat]\nports = \"1024-59999\"\n[timeouts]\ntcp_closing = \"8s\"\ntcp_reset = \"8s\"\n\
                    [limits]\nnew_flows_per_source = 0\n";

impl World {
    /// One beside others.
    pub fn new(tag: &str) -> Result<Self> {
        let hold = MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        Self::with(tag, CONFIG, Hold::Shared(hold))
    }

    /// One that has the machine for itself, as far as these tests are concerned.
    pub fn alone(tag: &str) -> Result<Self> {
        let hold = MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        Self::with(tag, CONFIG, Hold::Alone(hold))
    }

    /// One with another agent.toml.
    pub fn configured(tag: &str, config: &str) -> Result<Self> {
        let hold = MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        Self::with(tag, config, Hold::Shared(hold))
    }

    /// One for load generators, with `more` in agent.toml, and nginx on both targets.
    pub fn busy(tag: &str, more: &str) -> Result<Self> {
        let larger = CONFIG.replace("flows = 65536", "flows = 262144");
        let world = Self::configured(tag, &format!("{larger}{BUSY}{more}"))?;
        world.host.sysctl("net.ipv4.ip_local_port_range", "60000 65535")?;
        world.web()
    }

    fn with(tag: &str, config: &str, hold: Hold) -> Result<Self> {
        let bed = Testbed::new(tag)?;
        let (client, host) = (bed.namespace("client")?, bed.namespace("host")?);
        let targets = [bed.namespace("target1")?, bed.namespace("target2")?];
        host.forwarding()?;
        bed.veth((&client, "eth0"), (&host, "wan0"))?;
        for address in ["198.51.100.1/24", "2001:db8:ff::1/64", "192.0.2.10/32", "2001:db8::10/128"] {
            host.address("wan0", address)?;
        }
        let mut ends =
            vec![(&client, CLIENT, CLIENT6, "198.51.100.1".to_owned(), "2001:db8:ff::1".to_owned())];
        for (index, target) in targets.iter().enumerate() {
            let (lan, number) = (format!("lan{}", index + 1), index + 1);
            let (v4, v6) = (format!("10.0.{number}.1"), format!("2001:db8:{number}::1"));
            bed.veth((target, "eth0"), (&host, &lan))?;
            host.address(&lan, &format!("{v4}/24"))?;
            host.address(&lan, &format!("{v6}/64"))?;
            ends.push((target, TARGETS[index], TARGETS6[index], v4, v6));
        }
        for (namespace, v4, v6, gateway4, gateway6) in ends {
            namespace.address("eth0", &format!("{v4}/24"))?;
            namespace.address("eth0", &format!("{v6}/64"))?;
            namespace.route(&format!("default via {gateway4}"))?;
            namespace.route(&format!("default via {gateway6}"))?;
            namespace.xdp_pass("eth0")?;
        }
        let agent = Agent::start(&bed, &host, config)?;
        let world = Self { agent, client, host, targets, servers: Vec::new(), bed, _hold: hold };
        let interfaces = config.matches("[[interface]]").count();
        world
            .agent
            .wait_status("the agent", |status| status.ready && status.interfaces.len() == interfaces)?;
        Ok(world)
    }

    /// Starts nginx on both targets; they are named by their numbers.
    pub fn web(mut self) -> Result<Self> {
        for (target, name) in self.targets.iter().zip(["target1", "target2"]) {
            self.servers.push(peers::nginx(target, self.bed.dir(), name)?);
        }
        Ok(self)
    }

    /// A UDP echo server on a target, at one of its addresses or at all (`::`); it ends with the world.
    pub fn udp_echo(&mut self, target: usize, address: &str, port: u16) -> Result<()> {
        self.servers.push(crate::support::udp_echo(&self.targets[target], address, port)?);
        Ok(())
    }

    /// Writes the file for `/bulk`; its hash.
    pub fn bulk(&self) -> Result<String> {
        let path = self.bulk_file();
        let mut random = fs::File::open("/dev/urandom")?.take(BULK);
        std::io::copy(&mut random, &mut fs::File::create(&path)?)?;
        peers::hash(&path)
    }

    /// The file of `/bulk`.
    pub fn bulk_file(&self) -> PathBuf {
        self.bed.dir().join("bulk")
    }

    /// `netfast LINE` on the host, which must succeed.
    pub fn netfast(&self, line: &str) -> Result<String> {
        self.agent.ok(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// curl by the client; what it got.
    pub fn curl(&self, url: &str) -> Result<String> {
        self.client.run(&["curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "10", url])
    }

    /// Requests as connections of their own; the answers in order.
    pub fn requests(&self, count: usize, url: &str) -> Result<Vec<String>> {
        let line = format!(
            "for i in $(seq {count}); do curl --silent --show-error --fail --globoff --max-time 10 '{url}' || exit 1; done"
        );
        let text = self.client.run(&["sh", "-c", &line])?;
        let answers: Vec<_> = text.lines().map(str::to_owned).collect();
        ensure!(answers.len() == count, "{} answers of {count}: {answers:?}", answers.len());
        Ok(answers)
    }

    /// The flows that the CLI lists.
    pub fn flows(&self, filter: &str) -> Result<Vec<FlowRecord>> {
        let list: FlowList = serde_json::from_str(&self.netfast(&format!("flows list -o json {filter}"))?)?;
        Ok(list.flows)
    }

    /// Packets counted with a reason, over all interfaces and verdicts.
    pub fn reason(&self, reason: &str) -> Result<u64> {
        let stats = self.agent.stats()?;
        Ok(stats.interfaces.iter().filter(|row| row.reason == reason).map(|row| row.count.packets).sum())
    }

    /// The value of a series of /metrics.
    pub fn metric(&self, series: &str) -> Result<f64> {
        let text = self.host.run(&["curl", "--silent", "--fail", "http://127.0.0.1:9460/metrics"])?;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.with_context(|| format!("no {series} in\n{text}"))?.parse().context("not a number")
    }

    /// Nothing went wrong inside the program in all this time: no reason that is a bug of ours.
    pub fn sound(&self) -> Result<()> {
        for reason in ["internal", "redirect_failed", "malformed", "unattached"] {
            let count = self.reason(reason)?;
            ensure!(
                count == 0,
                "{count} packets with reason {reason}: {:#?}",
                self.agent.stats()?.interfaces
            );
        }
        let log = self.agent.log();
        ensure!(!log.contains("panicked"), "{log}");
        Ok(())
    }
}
