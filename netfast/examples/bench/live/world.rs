//! The boxes under test: a namespace each, between the generator's namespace and the sinks'.
//!
//!     generator  nfg3 ─── nfw3  box 3  nfl3 ─── nfs3  sink
//!
//! All boxes stand beside each other from the beginning, so that cases take turns without anything being set up anew.

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{
    agent::Agent,
    kernel::{Programs, take_cpu, thread_napi},
    stream,
};
use crate::netns::{Namespace, Testbed, output};

/// The services' address.
pub const SERVICE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The first target's.
pub const TARGET: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
/// Targets of the forward: so many that 131,072 flows find source ports.
pub const TARGETS: u8 = 32;

/// What stands in a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `bench_sink` on the way in.
    Drop,
    /// `bench_tx`.
    Tx,
    /// `bench_redirect`.
    Redirect,
    /// netfast: a forward and an echo reflector.
    Netfast,
    /// netfast: a forward, and so many filter rules that match nothing.
    Filter(u32),
    /// A UDP echo server as a process.
    UserEcho,
    /// The kernel as a router.
    Kernel,
    /// nftables' DNAT with connection tracking.
    NftDnat,
    /// The kernel as a router with so many nftables rules that match nothing, one after the other.
    NftLinear(u32),
    /// The kernel as a router with one nftables rule, and a set of so many elements that match nothing.
    NftSet(u32),
    /// `bench_redirect`, with a queue for each of two CPUs.
    QueuesRedirect,
    /// netfast, with a queue for each of two CPUs.
    QueuesNetfast,
}

impl Kind {
    /// Whether frames leave by another interface.
    const fn forwards(self) -> bool {
        !matches!(self, Self::Drop | Self::Tx | Self::UserEcho)
    }

    /// Whether the box has two queues, and no thread of its own for the first.
    pub const fn queues(self) -> bool {
        matches!(self, Self::QueuesRedirect | Self::QueuesNetfast)
    }
}

/// What agent.toml says beside the interfaces.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tables {
    /// `[tables] cache4_sets`, if not its default.
    pub cache_sets: Option<u32>,
    /// `[tables] flows`, if not its default; then all ports from 1024 on are given out.
    pub flows: Option<u32>,
}

impl Tables {
    fn text(self) -> String {
        let mut text = String::new();
        if self.flows.is_some() {
            text += "[nat]\nports = \"1024-65535\"\n";
        }
        text += "[tables]\n";
        for (key, value) in [("cache4_sets", self.cache_sets), ("flows", self.flows)] {
            if let Some(value) = value {
                text += &format!("{key} = {value}\n");
            }
        }
        text
    }
}

/// A box.
pub struct Station {
    /// What it is.
    pub kind: Kind,
    /// The generator's device.
    pub generator: String,
    /// MAC address of that.
    pub generator_mac: [u8; 6],
    /// MAC address of the box's device towards it.
    pub mac: [u8; 6],
    /// netfast's agent.
    pub agent: Option<Agent>,
    _server: Option<Server>,
    /// Programs with maps of their own, attached in the box.
    _programs: Option<Programs>,
}

impl Station {
    /// Its agent.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("the box has no agent")
    }
}

/// All that there is.
pub struct World {
    /// The generator's namespace.
    pub generator: Namespace,
    /// The boxes.
    pub stations: Vec<Station>,
    /// The generator's and the sinks' programs.
    pub programs: Programs,
    /// The CPU of the boxes.
    cpu: usize,
    sink: Namespace,
    /// Last, so that all else is gone before it.
    bed: Testbed,
}

impl World {
    /// Makes boxes of these kinds; they work on `cpu`.
    pub fn new(kinds: &[Kind], cpu: usize, binary: &Path, tables: Tables) -> Result<Self> {
        let bed = Testbed::new("bench")?;
        let (generator, sink) = (bed.namespace("gen")?, bed.namespace("sink")?);
        let programs = Programs::load(&bed.bpffs()?)?;
        let mut world = Self { generator, stations: Vec::new(), programs, cpu, sink, bed };
        for (number, kind) in kinds.iter().enumerate() {
            let station = world.station(number, *kind, binary, tables);
            world.stations.push(station.with_context(|| format!("{kind:?}"))?);
        }
        Ok(world)
    }

    fn station(&mut self, number: usize, kind: Kind, binary: &Path, tables: Tables) -> Result<Station> {
        let host = self.bed.namespace(&format!("box{number}"))?;
        host.forwarding()?;
        let name = |role: char| format!("nf{role}{number}");
        let (generator, wan, lan, sink) = (name('g'), name('w'), name('l'), name('s'));
        let queues = if kind.queues() { 2 } else { 1 };
        veth((&self.generator, &generator), (&host, &wan), queues)?;
        self.programs.attach("bench_sink", &self.generator, &generator)?;
        let (generator_mac, mac) = (self.generator.mac(&generator)?, host.mac(&wan)?);
        host.address(&wan, "198.51.100.1/24")?;
        host.address(&wan, &format!("{SERVICE}/32"))?;
        neighbour(&host, "198.51.100.2", generator_mac, &wan)?;
        for clients in ["198.18.0.0/15", "100.64.0.0/10"] {
            host.route(&format!("{clients} via 198.51.100.2"))?;
        }
        if kind.forwards() {
            veth((&self.sink, &sink), (&host, &lan), queues)?;
            self.programs.attach("bench_sink", &self.sink, &sink)?;
            host.address(&lan, "10.0.0.1/24")?;
            let mac = self.sink.mac(&sink)?;
            for target in 0..TARGETS {
                neighbour(&host, &format!("10.0.0.{}", TARGET.octets()[3] + target), mac, &lan)?;
            }
        }

        let (mut server, mut programs, mut agent) = (None, None, None);
        match kind {
            Kind::Drop => self.programs.attach("bench_sink", &host, &wan)?,
            Kind::Tx => self.programs.attach("bench_tx", &host, &wan)?,
            Kind::Redirect | Kind::QueuesRedirect => {
                let mut own = Programs::load(&self.bed.bpffs()?)?;
                own.attach("bench_redirect", &host, &wan)?;
                own.way_out(&host, &lan)?;
                programs = Some(own);
            }
            Kind::Netfast | Kind::Filter(_) | Kind::QueuesNetfast => {
                let tables = format!(
                    "[[interface]]\nname = \"{wan}\"\n[[interface]]\nname = \"{lan}\"\n\
                     [limits]\nnew_flows_per_source = 0\n{}",
                    tables.text()
                );
                let filters = if let Kind::Filter(count) = kind { count } else { 0 };
                let rules = forward_rules() + &filter_rules(filters);
                let named = (format!("box{number}"), Some(0));
                agent = Some(Agent::start(&self.bed, &host, binary, (&named.0, named.1), (&tables, &rules))?);
            }
            // Frames of XDP reach a veth's peer only if it has an XDP program; one that passes all is what it costs least.
            Kind::UserEcho => {
                host.xdp_pass(&wan)?;
                server = Some(Server::start(&host, self.cpu)?);
            }
            Kind::Kernel => host.xdp_pass(&wan)?,
            Kind::NftDnat => {
                host.xdp_pass(&wan)?;
                nft(
                    &host,
                    &format!(
                        "table ip nat {{ chain pre {{ type nat hook prerouting priority dstnat; \
                         ip daddr {SERVICE} udp dport 53 dnat to {TARGET}:5353; }}; }}"
                    ),
                )?;
            }
            Kind::NftLinear(count) => {
                host.xdp_pass(&wan)?;
                let rules: String = blocked(count)
                    .map(|(source, port)| format!("ip saddr {source} udp dport {port} drop\n"))
                    .collect();
                nft(
                    &host,
                    &format!(
                        "table ip bench {{ chain linear {{ type filter hook forward priority 0;\n{rules}}}; }}"
                    ),
                )?;
            }
            Kind::NftSet(count) => {
                host.xdp_pass(&wan)?;
                let elements: String =
                    blocked(count).map(|(source, port)| format!("{source} . {port},\n")).collect();
                nft(
                    &host,
                    &format!(
                        "table ip bench {{ set bad {{ type ipv4_addr . inet_service; elements = {{\n{elements}}}; }}\n\
                         chain drops {{ type filter hook forward priority 0;\nip saddr . udp dport @bad drop\n}}; }}"
                    ),
                )?;
            }
        }
        if !kind.queues() {
            thread_napi(&host, &wan, self.cpu)?;
        }
        Ok(Station { kind, generator, generator_mac, mac, agent, _server: server, _programs: programs })
    }
}

/// A veth pair with a number of queues, without offloads.
fn veth(a: (&Namespace, &str), b: (&Namespace, &str), queues: u32) -> Result<()> {
    let queues = queues.to_string();
    let many = ["numrxqueues", &queues, "numtxqueues", &queues];
    let mut line = vec!["link", "add", a.1];
    line.extend(many);
    line.extend(["type", "veth", "peer", "name", b.1]);
    line.extend(many);
    line.extend(["netns", b.0.name()]);
    a.0.ip(&line)?;
    for (namespace, device) in [a, b] {
        namespace.offloads_off(device)?;
        namespace.ip(&["link", "set", device, "up"])?;
    }
    Ok(())
}

/// A neighbour that needs no resolution: under a flood its answers would be lost.
fn neighbour(namespace: &Namespace, address: &str, mac: [u8; 6], device: &str) -> Result<()> {
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    namespace
        .ip(&["neigh", "replace", address, "lladdr", &mac.join(":"), "nud", "permanent", "dev", device])
        .map(drop)
}

fn nft(namespace: &Namespace, rules: &str) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("rules.nft");
    std::fs::write(&file, rules)?;
    output(namespace.command("nft").arg("-f").arg(&file), "nft").map(drop)
}

/// netfast's rules: the forward `nat`, and the echo reflector on port 7.
fn forward_rules() -> String {
    let targets: String = (0..TARGETS)
        .map(|n| format!("[[forward.target]]\naddress = \"10.0.0.{}:5353\"\n", TARGET.octets()[3] + n))
        .collect();
    format!(
        "[[forward]]\nname = \"dns\"\nprotocol = \"udp\"\nlisten = \"{SERVICE}:53\"\nmode = \"nat\"\n{targets}\
         [[echo]]\nlisten = \"{SERVICE}:7\"\nallow = [\"198.18.0.0/15\"]\nrate = 1000000\n"
    )
}

/// Sources and ports of the filters' rules: the addresses between those of [`stream::BESIDE`], and the target's port. No packet
/// matches one of them.
fn blocked(count: u32) -> impl Iterator<Item = (Ipv4Addr, u16)> {
    // A multiplication by an odd number takes no two to the same address.
    let at = |n: u32| n.wrapping_mul(0x9e37_79b1) & ((1 << stream::BESIDE_BITS) - 1);
    (0..count).map(move |n| (Ipv4Addr::from_bits(stream::BESIDE.to_bits() | at(n) << 1 | 1), 5353))
}

fn filter_rules(count: u32) -> String {
    blocked(count)
        .map(|(source, port)| {
            format!("[[filter]]\naction = \"drop\"\nsrc = \"{source}/32\"\nproto = \"udp\"\ndport = {port}\n")
        })
        .collect()
}

/// A UDP echo server like any other: receive, send back.
struct Server {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(namespace: &Namespace, cpu: usize) -> Result<Self> {
        let socket = namespace.enter(|| UdpSocket::bind((SERVICE, 7)))??;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // Before the NAPI thread, which would leave it nothing of the CPU while packets come faster than it answers.
            let _ = take_cpu(cpu).and_then(|()| crate::measure::real_time(1));
            let mut buffer = [0; 2048];
            while !flag.load(Ordering::Relaxed) {
                if let Ok((size, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&buffer[..size], from);
                }
            }
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
