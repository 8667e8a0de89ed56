//! `agent.toml`: what belongs to the host. Every key has a default; an empty file is a valid one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use netfast_common::abi::{MAX_FILTER_NUMBERS, MAX_INTERFACES, Policy, PolicyClass};
use serde::Deserialize;

use crate::{
    api::types::{AttachMode, PortRange},
    rules::validate,
};

use super::{Report, Step};

mod flows;
mod policy;
mod timeouts;

pub use flows::Flows;
pub use policy::PolicyTable;
pub use timeouts::Timeouts;

/// Where `agent.toml` is looked for.
pub const DEFAULT_PATH: &str = "/etc/netfast/agent.toml";
/// Default of [`Agent::state_dir`].
pub const DEFAULT_STATE_DIR: &str = "/var/lib/netfast";
/// Default of [`Agent::run_dir`].
pub const DEFAULT_RUN_DIR: &str = "/run/netfast";
/// Name of the API's socket in [`Agent::run_dir`].
pub const SOCKET_NAME: &str = "netfast.sock";

/// The agent's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentConfig {
    /// The agent's own places.
    pub agent: Agent,
    /// Interfaces to attach to; more can be attached by `netfast attach`.
    #[serde(rename = "interface")]
    pub interfaces: Vec<Interface>,
    /// The metrics' listener.
    pub metrics: Metrics,
    /// Sizes of the tables.
    pub tables: Tables,
    /// Address translation.
    pub nat: Nat,
    /// Idle times of flows.
    pub timeouts: Timeouts,
    /// How long flows may go on.
    pub flows: Flows,
    /// Rates that the program keeps to.
    pub limits: Limits,
    /// What happens to frames that the program does not classify.
    pub policy: PolicyTable,
    /// The log.
    pub log: Log,
    /// Where the rules come from, if not from the agent's store: then this file is the truth, and verbs that would change
    /// the rules are refused.
    pub rules_file: Option<PathBuf>,
}

/// `[agent]`: places and permissions.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agent {
    /// Directory of the store.
    pub state_dir: PathBuf,
    /// Directory of the lock and the socket.
    pub run_dir: PathBuf,
    /// The API's socket; default: `netfast.sock` in `run_dir`.
    pub socket: Option<PathBuf>,
    /// Group that may use the socket.
    pub socket_group: String,
    /// Mount point of the BPF file system.
    pub bpffs: PathBuf,
    /// Directory of the pins; default: `netfast` in `bpffs`.
    pub pin_dir: Option<PathBuf>,
}

impl Default for Agent {
    fn default() -> Self {
        Self {
            state_dir: DEFAULT_STATE_DIR.into(),
            run_dir: DEFAULT_RUN_DIR.into(),
            socket: None,
            socket_group: "netfast".to_owned(),
            bpffs: "/sys/fs/bpf".into(),
            pin_dir: None,
        }
    }
}

impl Agent {
    /// The API's socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join(SOCKET_NAME))
    }

    /// Directory of the pins.
    pub fn pin_dir(&self) -> PathBuf {
        self.pin_dir.clone().unwrap_or_else(|| self.bpffs.join("netfast"))
    }
}

/// `[[interface]]`: an interface to attach to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// How.
    #[serde(default)]
    pub mode: AttachMode,
}

/// `[metrics]`: the exporter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Address and port of `/metrics` and `/healthz`.
    pub listen: SocketAddr,
    /// False: no listener.
    pub enabled: bool,
    /// Series beyond this number are withheld, and their number told.
    pub max_series: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9460)), enabled: true, max_series: 10_000 }
    }
}

/// `[tables]`: sizes. A change of them takes effect when the agent makes its maps anew.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tables {
    /// Confirmed flows that fit (each takes two entries).
    pub flows: u32,
    /// Half-open flows that fit; as many of one packet fit in modes `dsr` and `ipip`.
    pub half_open: u32,
    /// Flows of forwards in modes `dsr` and `ipip` that fit (one entry each); those not seen for longest go first.
    pub direct: u32,
    /// Mappings of source NAT that fit: each is an external port in use. Memory is taken when it is needed.
    pub mappings: u32,
    /// Sets of the IPv4 flow cache, per CPU, of 64 bytes each; a power of two.
    pub cache4_sets: u32,
    /// Sets of the IPv6 flow cache, per CPU, of 128 bytes each; a power of two.
    pub cache6_sets: u32,
    /// Filter rules that fit; memory for their trees follows from it.
    pub filter_rules: u32,
}

impl Default for Tables {
    fn default() -> Self {
        Self {
            flows: 262_144,
            half_open: 65_536,
            direct: 131_072,
            mappings: 131_072,
            cache4_sets: 65_536,
            cache6_sets: 16_384,
            filter_rules: 131_072,
        }
    }
}

/// `[nat]`: address translation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Nat {
    /// Source ports that forwards in mode `nat` use. Keep them out of `net.ipv4.ip_local_port_range`.
    pub ports: PortRange,
}

impl Default for Nat {
    fn default() -> Self {
        Self { ports: PortRange { low: 20_000, high: 32_767 } }
    }
}

/// `[limits]`: rates.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// ICMP errors and TCP resets that each CPU may make in a second (RFC 1812 4.3.2.8, RFC 4443 2.4 f); 0: none.
    pub errors_per_second: u32,
    /// New flows that one source (IPv4 address, IPv6 /64) may open in a second; 0: any number.
    pub new_flows_per_source: u32,
    /// New flows that it may open at once.
    pub new_flows_burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { errors_per_second: 1_000, new_flows_per_source: 5_000, new_flows_burst: 10_000 }
    }
}

impl Limits {
    fn problems(&self, mut add: impl FnMut(&'static str, String)) {
        for (key, rate, least, most) in [
            ("errors_per_second", self.errors_per_second, 0, 10_000_000),
            ("new_flows_per_source", self.new_flows_per_source, 0, 10_000_000),
            ("new_flows_burst", self.new_flows_burst, 1, 100_000_000),
        ] {
            if !(least..=most).contains(&rate) {
                add(key, format!("{key} = {rate} is not in {least} to {most}"));
            }
        }
    }
}

/// `[log]`: how much is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `error`, `warn`, `info`, `debug` or `trace`, or a filter such as `info,netfast::netlink=debug`.
    pub level: String,
    /// Frames of the slow path that may be logged each second and CPU; 0: none.
    pub datapath_rate: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), datapath_rate: 10 }
    }
}

impl AgentConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// As [`Self::parse`]; also if the file cannot be read.
    pub fn load(path: &Path) -> Result<Self, Report> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Report::whole(&name, format!("cannot be read: {error}")))?;
        Self::parse(&name, &text)
    }

    /// Reads the file's text; `name` is its name for messages.
    ///
    /// # Errors
    /// An unknown key, a value that is not what it should be, or that is out of bounds: with line and column.
    pub fn parse(name: &str, text: &str) -> Result<Self, Report> {
        let config: Self = super::parse(name, text)?;
        let mut report = Report { file: name.to_owned(), problems: Vec::new() };
        for (path, message) in config.problems() {
            report.add(text, super::locate(text, &path), message);
        }
        if report.problems.is_empty() { Ok(config) } else { Err(report) }
    }

    /// What works, but is hardly meant or not what the RFCs ask for: a sentence each.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.timeouts.advice();
        for (class, key, ..) in PolicyClass::TABLE {
            if class.is_unread() && self.policy.get(class) == Policy::Pass {
                warnings.push(format!(
                    "[policy] {key} = \"pass\": the ports of such packets cannot be read, so they get to this host \
                     whatever the filter says of ports"
                ));
            }
        }
        warnings
    }

    /// What cannot work although it has the right form: paths of keys and what is wrong there.
    fn problems(&self) -> Vec<(Vec<Step>, String)> {
        let mut problems = Vec::new();
        let mut add = |table: &'static str, key: &'static str, message: String| {
            problems.push((vec![Step::Key(table), Step::Key(key)], message));
        };
        self.tables.problems(|key, message| add("tables", key, message));
        self.timeouts.problems(|key, message| add("timeouts", key, message));
        self.flows.problems(|key, message| add("flows", key, message));
        self.limits.problems(|key, message| add("limits", key, message));
        if self.nat.ports.low < 1024 {
            let message = format!("ports {} include system ports; begin at 1024 or above", self.nat.ports);
            add("nat", "ports", message);
        }
        for (key, path) in [
            ("state_dir", Some(&self.agent.state_dir)),
            ("run_dir", Some(&self.agent.run_dir)),
            ("socket", self.agent.socket.as_ref()),
            ("bpffs", Some(&self.agent.bpffs)),
            ("pin_dir", self.agent.pin_dir.as_ref()),
        ] {
            if let Some(path) = path.filter(|path| !path.is_absolute()) {
                add("agent", key, format!("{:?} is not an absolute path", path.display().to_string()));
            }
        }
        if let Some(path) = self.rules_file.as_ref().filter(|path| !path.is_absolute()) {
            let message = format!("{:?} is not an absolute path", path.display().to_string());
            problems.push((vec![Step::Key("rules_file")], message));
        }
        for (at, interface) in self.interfaces.iter().enumerate() {
            let path = vec![Step::Key("interface"), Step::Item(at), Step::Key("name")];
            if let Err(message) = validate::interface_name(&interface.name) {
                problems.push((path, message));
            } else if self.interfaces[..at].iter().any(|other| other.name == interface.name) {
                problems.push((path, format!("interface {:?} is there twice", interface.name)));
            } else if at >= MAX_INTERFACES as usize {
                problems.push((path, format!("at most {MAX_INTERFACES} interfaces can be attached at once")));
            }
        }
        problems
    }
}

impl Tables {
    fn problems(&self, mut add: impl FnMut(&'static str, String)) {
        for (key, size, least, most) in [
            ("flows", self.flows, 1_024, 1 << 24),
            ("half_open", self.half_open, 1_024, 1 << 24),
            ("direct", self.direct, 1_024, 1 << 24),
            ("mappings", self.mappings, 1_024, 1 << 24),
            ("cache4_sets", self.cache4_sets, 64, 1 << 20),
            ("cache6_sets", self.cache6_sets, 64, 1 << 20),
            ("filter_rules", self.filter_rules, 1_024, MAX_FILTER_NUMBERS),
        ] {
            if !(least..=most).contains(&size) {
                add(key, format!("{key} = {size} is not in {least} to {most}"));
            } else if key.starts_with("cache") && !size.is_power_of_two() {
                let above = size.next_power_of_two();
                let below = above / 2;
                add(
                    key,
                    format!("{key} = {size} is not a power of two; the nearest are {below} and {above}"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests;
