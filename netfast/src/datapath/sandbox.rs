//! One frame at a time through the real programs (BPF_PROG_TEST_RUN): for tools, tests and benchmarks, not for the agent.
//!
//! [`Sandbox::enter`] moves the calling *thread* into a network namespace of its own and pins into a BPF file system that
//! is mounted nowhere, so that nothing of it is seen outside and nothing outlives it; commands that the thread starts
//! (`ip`) run in there, too. The rules are compiled and published as the agent does it; only the host that they are
//! compiled for is made up: every target has a next hop whose MAC address is known, unless a test says otherwise.

mod answer;
mod bpffs;
mod host;
mod race;
mod run;
mod tables;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    io,
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use aya::{
    maps::{MapData, RingBuf},
    programs::Xdp,
};
use aya_obj::programs::XdpAttachType;
use netfast_common::abi::{self, Event, NextHop};
use nix::{
    sched::{CloneFlags, CpuSet, sched_getcpu, sched_setaffinity, unshare},
    unistd::Pid,
};

use super::{
    AttachError, Counters, Datapath, DatapathError, Link, Options, Settings, TableSizes, attach, events,
    load::{ENTRY, chain},
    lock,
};
use crate::{
    agent,
    api::types::{ErrorBody, Intent, Rules},
    config::agent::AgentConfig,
    netlink::HopTable as _,
    rules::{
        compile,
        ids::Ids,
        images::{Images, TargetStates},
    },
};
use bpffs::Bpffs;
use host::Host;
use run::Counted;
pub use run::{FIRST_BUFFER, LONGEST_FRAME, Ran, SHORTEST_FRAME};

/// What goes wrong in a sandbox.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Namespaces or the BPF file system.
    #[error("cannot make a sandbox: {what}: {error}{}", hint(error))]
    Namespace {
        /// The step.
        what: &'static str,
        /// Its error.
        error: io::Error,
    },
    /// An `ip` command.
    #[error("`ip {arguments}`: {error}")]
    Ip {
        /// What was asked of it.
        arguments: String,
        /// What it said.
        error: String,
    },
    /// The datapath.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// An interface.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The rules do not compile.
    #[error("{}", .0.message)]
    Rules(ErrorBody),
    /// The program did not run.
    #[error("BPF_PROG_TEST_RUN of a frame of {length} bytes: {error}")]
    Run {
        /// Length of the frame.
        length: usize,
        /// What the kernel said.
        error: String,
    },
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { " (run it as root)" } else { "" }
}

/// An interface of the sandbox: one end of a veth pair.
#[derive(Clone, Debug)]
struct Port {
    name: String,
    ifindex: u32,
    row: u16,
}

/// The loaded programs, in a namespace of the thread's own.
pub struct Sandbox {
    datapath: Datapath,
    program: Xdp,
    events: RefCell<RingBuf<MapData>>,
    settings: Settings,
    host: Host,
    intent: Intent,
    ids: Ids,
    images: Images,
    /// Targets that are down from the next [`Self::publish`] on.
    pub states: TargetStates,
    /// What the counters of a row stood at after the last run.
    counted: RefCell<BTreeMap<u16, Counted>>,
    // After everything that holds pins open.
    _bpffs: Bpffs,
    /// The namespace is that of one thread.
    _thread: PhantomData<*const ()>,
}

/// Source addresses of `nat` until others are set.
const SOURCES: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1))];

/// The agent's defaults, without the log, which nobody reads here, and with answers to every packet.
fn default_settings() -> Settings {
    Settings { log_rate: 0, error_rate: 1_000_000, ..agent::settings(&AgentConfig::default()) }
}

/// Tables that are large enough for tests, and quickly made.
pub const SMALL_TABLES: TableSizes = TableSizes {
    flows: 16_384,
    half_open: 16_384,
    direct: 16_384,
    mappings: 16_384,
    cache4_sets: 4096,
    cache6_sets: 4096,
    filter_rules: 4096,
};

impl Sandbox {
    /// Moves the calling thread into a network namespace of its own, for good, keeps it on the CPU that it is on (the flow cache is
    /// per CPU) and loads the programs. There is no interface yet, and no rule.
    ///
    /// # Errors
    ///
    /// Without root, or if the programs do not load.
    pub fn enter(tables: TableSizes) -> Result<Self, SandboxError> {
        let namespace = |what, error: nix::Error| SandboxError::Namespace { what, error: error.into() };
        let cpu = sched_getcpu().map_err(|error| namespace("getcpu", error))?;
        let mut cpus = CpuSet::new();
        cpus.set(cpu).map_err(|error| namespace("CPU set", error))?;
        sched_setaffinity(Pid::from_raw(0), &cpus).map_err(|error| namespace("sched_setaffinity", error))?;
        unshare(CloneFlags::CLONE_NEWNET).map_err(|error| namespace("unshare", error))?;
        let bpffs = Bpffs::new()?;

        let options = Options { pin_dir: bpffs.path().join("netfast"), tables };
        let (datapath, _) = Datapath::open(&options)?;
        let pin = lock(&datapath.loaded).pins.program(ENTRY);
        let program = Xdp::from_pin(pin, XdpAttachType::Interface)
            .map_err(|error| DatapathError::Object(chain(&error)))?;
        let events = RefCell::new(datapath.take_ring("EVENTS")?);
        let settings = default_settings();
        datapath.configure(&settings);
        Ok(Self {
            datapath,
            program,
            events,
            settings,
            host: Host {
                ports: Vec::new(),
                sources: SOURCES,
                ways: BTreeMap::new(),
                gateways: BTreeMap::new(),
            },
            intent: Intent::default(),
            ids: Ids::default(),
            images: Images::default(),
            states: TargetStates::default(),
            counted: RefCell::default(),
            _bpffs: bpffs,
            _thread: PhantomData,
        })
    }

    /// Back to the beginning: no rules, no flows, no cached lines, no learned next hops, default settings. Interfaces stay.
    ///
    /// # Errors
    ///
    /// If a table cannot be written.
    pub fn reset(&mut self) -> Result<(), SandboxError> {
        self.configure(|settings| *settings = default_settings());
        self.host.sources = SOURCES;
        self.host.ways.clear();
        self.host.gateways.clear();
        self.datapath.set_locals(&[])?;
        self.datapath.set_answer_addresses(&[])?;
        for (key, _) in self.datapath.claims() {
            self.datapath.remove_claim(&key)?;
        }
        self.publish(&Rules::default())?;
        self.forget_flows()?;
        self.forget_lines()?;
        self.forget_limits()?;
        for (key, index) in self.datapath.hop_entries() {
            self.datapath.remove_key(&key);
            self.datapath.free(index as u16);
        }
        self.events();
        // Nothing refers to what was removed any more, so that its indexes are free.
        let retired: Vec<_> = self.ids.retired().iter().map(|gone| (gone.kind, gone.index)).collect();
        for (kind, index) in retired {
            self.ids.release(kind, index);
        }
        Ok(())
    }

    /// Makes an interface (one end of a veth pair; the other end is called `pINDEX`) that the program knows by `mac`.
    ///
    /// # Errors
    ///
    /// If the name or the index is taken.
    pub fn add_interface(&mut self, name: &str, ifindex: u32, mac: [u8; 6]) -> Result<(), SandboxError> {
        self.ip(&format!("link add {name} index {ifindex} type veth peer name p{ifindex}"))?;
        let link = Link { name: name.to_owned(), ifindex, mac, mtu: 1500, driver: "veth".to_owned() };
        attach::register(&self.datapath, &link)?;
        let row = self.datapath.interface_rows().into_iter().find(|(index, _)| *index == ifindex);
        let row = row.map(|(_, row)| row).unwrap_or_default();
        self.host.ports.push(Port { name: name.to_owned(), ifindex, row });
        Ok(())
    }

    /// Runs `ip` in the sandbox.
    ///
    /// # Errors
    ///
    /// What it says.
    pub fn ip(&self, arguments: &str) -> Result<(), SandboxError> {
        let failed = |error| SandboxError::Ip { arguments: arguments.to_owned(), error };
        let output = Command::new("ip")
            .args(arguments.split_whitespace())
            .output()
            .map_err(|error| failed(format!("cannot be run (Debian's package iproute2): {error}")))?;
        if output.status.success() {
            return Ok(());
        }
        Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    }

    /// The datapath, for what is not offered here.
    pub const fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Changes the settings; they begin as the agent's defaults.
    pub fn configure(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.settings);
        self.datapath.configure(&self.settings);
    }

    /// The source address that `nat` uses towards targets of that IP version, from the next publication on.
    pub fn set_source(&mut self, source: IpAddr) {
        self.host.sources[usize::from(source.is_ipv6())] = source;
    }

    /// How a target is reached: changes its next hop at once, its route from the next publication on. `None`: no route.
    pub fn set_way(&mut self, target: IpAddr, hop: Option<NextHop>) {
        let Some(hop) = hop else {
            self.host.ways.insert(target, None);
            return;
        };
        let index = self.host.ways.get(&target).copied().flatten().unwrap_or_else(|| self.free_index());
        self.datapath.write(index, &hop);
        self.host.ways.insert(target, Some(index));
    }

    /// Puts a gateway on the way to a target, from the next publication on.
    pub fn set_gateway(&mut self, target: IpAddr, gateway: IpAddr) {
        self.host.gateways.insert(target, gateway);
    }

    fn free_index(&self) -> u16 {
        let used = self.host.ways.values().flatten().copied().max().unwrap_or_default();
        (used + 1).min(abi::FIRST_LEARNED_HOP as u16 - 1)
    }

    /// The next hop that a target has if nobody says otherwise: by the interface that was made last, with a MAC address
    /// ([`mac_of`]) that is known.
    pub fn default_way(&self, target: IpAddr) -> NextHop {
        let ifindex = self.host.ports.last().map_or(0, |port| port.ifindex);
        let source = attach::mac(&self.datapath, ifindex).unwrap_or_default();
        NextHop { destination: mac_of(target), vlan: 0, source, mtu: 1500, ifindex, longest: 1500 }
    }

    /// Compiles and publishes rules; returns the generation and the compiler's warnings.
    ///
    /// # Errors
    ///
    /// If the rules are not valid.
    pub fn publish(&mut self, rules: &Rules) -> Result<(u32, Vec<String>), SandboxError> {
        self.publish_with(rules, |_| {})
    }

    /// [`Self::publish`], with the images changed before they are written.
    ///
    /// # Errors
    ///
    /// As [`Self::publish`].
    pub fn publish_with(
        &mut self,
        rules: &Rules,
        change: impl FnOnce(&mut Images),
    ) -> Result<(u32, Vec<String>), SandboxError> {
        for target in rules.forwards.iter().flat_map(|forward| &forward.targets) {
            let address = target.address.address;
            if !self.host.ways.contains_key(&address) {
                self.set_way(address, Some(self.default_way(address)));
            }
        }
        self.intent.rules = rules.clone();
        let mut images: Images = compile::compile_beside(
            &self.intent,
            &mut self.ids,
            &self.host,
            &self.images,
            &self.datapath.filter_limits(),
            &self.states,
        )
        .map_err(SandboxError::Rules)?;
        change(&mut images);
        let (generation, warnings) = (self.datapath.publish(&images), images.warnings.clone());
        self.images = images;
        Ok((generation, warnings))
    }

    /// Indexes that the rules' objects have in the maps.
    pub const fn ids(&self) -> &Ids {
        &self.ids
    }

    /// The counters.
    pub const fn counters(&self) -> &Counters {
        self.datapath.counters()
    }

    /// Changes the MAC address that the program knows an interface by.
    pub fn set_mac(&self, ifindex: u32, mac: [u8; 6]) {
        self.datapath.set_interface_mac(ifindex, mac);
    }

    /// Events that the program has sent since the last call.
    pub fn events(&self) -> Vec<Event> {
        let mut ring = self.events.borrow_mut();
        let mut events = Vec::new();
        while let Some(record) = ring.next() {
            events.extend(events::event(&record));
        }
        events
    }
}

/// The MAC address that the sandbox makes up for an address: locally administered, from the address's last bytes.
pub const fn mac_of(address: IpAddr) -> [u8; 6] {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x04, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d] = v6.octets();
            [0x02, 0x06, a, b, c, d]
        }
    }
}
