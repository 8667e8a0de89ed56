//! The test bed: a network namespace of its own, the real datapath in it with one forward of each family, an echo
//! reflector, a filter rule, and as many flows as wanted.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData, ProgramArray},
    programs::{ProgramFd, Xdp, xdp::XdpMode},
};
use aya_obj::programs::XdpAttachType;
use netfast::{
    api::types::{Echo, Forward, ForwardMode, Intent, Rules, Target, Transport},
    datapath::{self, Datapath, Idle, Options, Settings, TableSizes},
    rules::{
        compile,
        ids::Ids,
        images::{HostView, Images, TargetRoute},
    },
};
use netfast_common::{
    abi::{
        self, Config, Flow, FlowKey, Interface, NextHop, Policy, PolicyClass,
        bench::{FIRST_PORT, PORTS_PER_ADDRESS, Plan, ReferenceFlow, ReferenceKey},
    },
    addr,
    flow::{self, State},
};
use nix::sched::CloneFlags;

use crate::{cases::Under, measure};

/// Most flows that fit.
pub const MAX_FLOWS: u32 = 1 << 20;
/// The interface's MAC address.
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// Everybody else's.
pub const PEER: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// First client.
pub const CLIENTS: [u8; 4] = [198, 18, 0, 0];
/// First client of flows that are not there yet.
pub const NEW_CLIENTS: [u8; 4] = [100, 64, 0, 0];
/// First blocked client.
pub const BLOCKED: [u8; 4] = [203, 0, 113, 0];
/// The service's address: UDP 53 is forwarded, UDP 7 echoed.
pub const SERVICE: [u8; 4] = [192, 0, 2, 10];
/// The target.
pub const TARGET: [u8; 4] = [10, 0, 0, 2];
/// First source address towards the target.
pub const SOURCES: [u8; 4] = [10, 1, 0, 0];
/// The IPv6 service.
pub const SERVICE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const TARGET6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
const SOURCE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);

/// The benchmark's own programs.
pub const BENCH: &[u8] = aya::include_bytes_aligned!(env!("NETFAST_BENCH_OBJECT"));
const HOP: u16 = 1;
/// Targets of the IPv4 forward; the IPv6 one's only target has the next index.
const TARGETS: u16 = 16;

/// The IPv6 client with number `n`.
pub const fn clients6(n: u32) -> [u8; 16] {
    let n = n.to_be_bytes();
    [0x20, 0x01, 0x0d, 0xb8, 0xff, 0, 0, 0, 0, 0, 0, 0, n[0], n[1], n[2], n[3]]
}

struct Host;

impl HostView for Host {
    fn ifindex(&self, _name: &str) -> Option<u32> {
        None
    }

    fn owns(&self, _address: IpAddr) -> bool {
        true
    }

    fn route(&self, target: IpAddr) -> Option<TargetRoute> {
        let source = if target.is_ipv4() { Ipv4Addr::from(SOURCES).into() } else { SOURCE6.into() };
        Some(TargetRoute { source, next_hop: HOP })
    }
}

/// Moves the process into namespaces of its own for good, with a BPF file system and an interface.
pub fn namespace() -> Result<(tempfile::TempDir, u32)> {
    nix::sched::unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
        .context("cannot make namespaces (needs root)")?;
    let dir = tempfile::tempdir()?;
    let none: Option<&str> = None;
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(none, "/", none, private, none)?;
    nix::mount::mount(Some("bpf"), dir.path(), Some("bpf"), nix::mount::MsFlags::empty(), none)
        .context("cannot mount a BPF file system")?;
    run("ip link add nf-bench type veth peer name nf-peer")?;
    run("ip link set nf-bench address 02:00:00:00:00:01 up")?;
    let ifindex = nix::net::if_::if_nametoindex("nf-bench")?;
    Ok((dir, ifindex))
}

/// Makes the interface known to the program.
pub fn announce(pin_dir: &std::path::Path, ifindex: u32) -> Result<()> {
    store(pin_dir, "INTERFACES", ifindex, Interface { ifindex, row: 0, mac: MAC, flags: 0 })
}

/// Stores an element of a table that is the one value of a map.
fn store<T: Pod>(pin_dir: &std::path::Path, name: &str, index: u32, value: T) -> Result<()> {
    use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
    let map = MapData::from_pin(pin_dir.join("maps").join(name)).with_context(|| format!("map {name}"))?;
    let length = map.info()?.value_size() as usize;
    let place = index as usize * size_of::<T>();
    anyhow::ensure!(place + size_of::<T>() <= length, "{name} has no element {index}");
    let length = std::num::NonZeroUsize::new(length.next_multiple_of(4096)).context("an empty value")?;
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; the element lies inside it, as just checked, and nothing
    // refers to it when it ends.
    unsafe {
        let base = mmap(None, length, access, MapFlags::MAP_SHARED, map.fd(), 0)?;
        base.cast::<u8>().add(place).cast::<T>().write_volatile(value);
        munmap(base, length.get())?;
    }
    Ok(())
}

/// See the module.
pub struct Bed {
    pin_dir: PathBuf,
    bench: Ebpf,
    ifindex: u32,
    installed: u32,
    images: Images,
    datapath: Datapath,
    _dir: tempfile::TempDir,
}

impl Bed {
    /// Makes it. The process moves into the namespaces for good.
    pub fn new() -> Result<Self> {
        let (dir, ifindex) = namespace()?;
        let pin_dir = dir.path().join("netfast");
        let tables = TableSizes {
            flows: 2 * MAX_FLOWS + 262_144,
            half_open: 65_536,
            direct: 65_536,
            mappings: 1024,
            cache4_sets: MAX_FLOWS,
            cache6_sets: MAX_FLOWS,
            filter_rules: 1024,
        };
        let (datapath, _) = Datapath::open(&Options { pin_dir: pin_dir.clone(), tables })?;
        datapath.configure(&settings());
        let mut images = compile::compile(&intent()?, &mut Ids::default(), &Host)?;
        for (_, echo) in &mut images.echoes {
            // The limiter does its work but never says no.
            (echo.rate, echo.burst) = (u32::MAX, u32::MAX);
        }
        datapath.publish(&images);

        let mut bench = EbpfLoader::new().map_max_entries("REFERENCE", MAX_FLOWS + 262_144).load(BENCH)?;
        for name in ["bench_packet", "bench_empty", "bench_reference"] {
            program(&mut bench, name)?.load()?;
        }
        keep_in_dispatcher(&mut bench, "bench_packet")?;
        let bed = Self {
            pin_dir: pin_dir.join(format!("v{}", abi::ABI_VERSION)),
            bench,
            ifindex,
            installed: 0,
            images,

            datapath,
            _dir: dir,
        };
        announce(&bed.pin_dir, ifindex)?;
        store(
            &bed.pin_dir,
            "NEXT_HOPS",
            u32::from(HOP),
            NextHop { destination: PEER, vlan: 0, source: MAC, mtu: 1500, ifindex, longest: 1500 },
        )?;
        Ok(bed)
    }

    /// Programs with the numbers of instructions that the verifier went through.
    pub fn verified(&self) -> Result<Vec<(String, u32)>> {
        let mut rows = Vec::new();
        for (_, name) in [(0, "netfast")].into_iter().chain(abi::TAIL_CALLS.iter().copied()) {
            let info = aya::programs::ProgramInfo::from_pin(self.pin_dir.join("programs").join(name))?;
            rows.push((name.to_owned(), info.verified_instruction_count().unwrap_or(0)));
        }
        Ok(rows)
    }

    fn map(&self, name: &str) -> Result<MapData> {
        MapData::from_pin(self.pin_dir.join("maps").join(name)).with_context(|| format!("map {name}"))
    }

    /// The datapath, as the agent has it.
    pub const fn datapath(&self) -> &Datapath {
        &self.datapath
    }

    /// Bytes that the kernel has set aside for a map.
    pub fn bytes(&self, name: &str) -> Result<u64> {
        let map = self.map(name)?;
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd()))?;
        let memlock = info.lines().find_map(|line| line.strip_prefix("memlock:"));
        memlock.and_then(|bytes| bytes.trim().parse().ok()).with_context(|| format!("no memlock of {name}"))
    }

    /// From now on all flows that are in the tables are dead, or live again.
    pub fn let_flows_die(&self, dead: bool) -> Result<()> {
        let mut array = Array::<_, Config>::try_from(Map::Array(self.map("CONFIG")?))?;
        let mut config = array.get(&0, 0)?;
        (config.timeouts.udp, config.timeouts.udp_one_way) = if dead { (0, 0) } else { (1 << 30, 1 << 30) };
        Ok(array.set(0, config, 0)?)
    }

    /// Puts flows `0..count` into the tables, and gives the plan to the program that makes packets.
    pub fn prepare(&mut self, count: u32, plan: &Plan) -> Result<()> {
        // A new generation: no line that another case has left in the flow cache takes up room.
        self.datapath.publish(&self.images);
        let mut flows = HashMap::try_from(Map::HashMap(self.map("FLOWS")?))?;
        let generation = self.datapath.generation();
        while self.installed < count {
            self.install(self.installed, generation, &mut flows)?;
            self.installed += 1;
        }
        self.aim_at(plan)
    }

    /// Puts as large a part of the flow cache into use as the agent would for `flows` lines: it counts flows, which have two.
    pub fn fit(&mut self, flows: u32) -> Result<()> {
        let mask = datapath::fit(u64::from(flows.div_ceil(2)), 0, MAX_FLOWS);
        let mut array = Array::<_, Config>::try_from(Map::Array(self.map("CONFIG")?))?;
        let mut config = array.get(&0, 0)?;
        (config.cache4_mask, config.cache6_mask) = (mask, mask);
        // Nothing expires or is confirmed anew while it is measured; that has its own cost and its own figures.
        config.line_lifetime = 1 << 30;
        array.set(0, config, 0)?;
        Ok(())
    }

    /// Does something with another plan, and puts the present one back as it stands.
    pub fn instead<T>(&mut self, plan: &Plan, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let map = self.bench.map("PLAN").context("no map PLAN")?;
        let present = Array::<_, Plan>::try_from(map)?.get(&0, 0)?;
        self.aim_at(plan)?;
        let result = work(self);
        self.aim_at(&present)?;
        result
    }

    /// Gives a plan to the program that makes packets.
    pub fn aim_at(&mut self, plan: &Plan) -> Result<()> {
        let map = self.bench.map_mut("PLAN").context("no map PLAN")?;
        Ok(Array::<_, Plan>::try_from(map)?.set(0, *plan, 0)?)
    }

    fn aim(&mut self, entry: &ProgramFd) -> Result<()> {
        let map = self.bench.map_mut("UNDER_TEST").context("no map UNDER_TEST")?;
        Ok(ProgramArray::try_from(map)?.set(0, entry, 0)?)
    }

    /// The program under test.
    pub fn under(&mut self, under: Under) -> Result<ProgramFd> {
        Ok(match under {
            Under::Empty => program(&mut self.bench, "bench_empty")?.fd()?.try_clone()?,
            Under::Reference => program(&mut self.bench, "bench_reference")?.fd()?.try_clone()?,
            Under::Netfast => Xdp::from_pin(self.pin_dir.join("programs/netfast"), XdpAttachType::Interface)?
                .fd()?
                .try_clone()?,
        })
    }

    /// Runs `packets` packets through the program aimed at; returns time and last answer.
    pub fn run(&mut self, under: &ProgramFd, packets: u32) -> Result<(Duration, u32)> {
        self.aim(under)?;
        let frame = [0u8; 64];
        let mut context = [0u8; 24];
        context[4..8].copy_from_slice(&64u32.to_ne_bytes());
        context[12..16].copy_from_slice(&self.ifindex.to_ne_bytes());
        measure::test_run(program(&mut self.bench, "bench_packet")?, &frame, &context, packets)
    }

    fn install(
        &mut self,
        n: u32,
        generation: u32,
        flows: &mut HashMap<MapData, FlowKey, Flow>,
    ) -> Result<()> {
        let (high, port) = (n / PORTS_PER_ADDRESS, (FIRST_PORT + n % PORTS_PER_ADDRESS) as u16);
        let at = |base: [u8; 4]| Ipv4Addr::from(u32::from_be_bytes(base) + high);
        let (client, source) = (at(CLIENTS), at(SOURCES));
        let uids: Vec<(u16, u32)> =
            self.images.forwards.iter().map(|(i, forward)| (*i, forward.uid)).collect();
        let uid = |forward| uids.iter().find(|(i, _)| *i == forward).map_or(0, |(_, uid)| *uid);
        let mut put =
            |client: [u8; 16], service: [u8; 16], source: [u8; 16], target: [u8; 16], index: u16| {
                let key = FlowKey {
                    source: client,
                    destination: service,
                    source_port: port.to_be_bytes(),
                    destination_port: 53u16.to_be_bytes(),
                    protocol: 17,
                    pad: [0; 3],
                };
                let translated =
                    FlowKey { source, destination: target, destination_port: 5353u16.to_be_bytes(), ..key };
                let original = Flow {
                    translated,
                    generation,
                    forward_uid: uid(u16::from(index == TARGETS)),
                    target: index,
                    next_hop: HOP,
                    forward: u16::from(index == TARGETS),
                    state: State::TwoWay as u8,
                    ..Flow::default()
                };
                let reply = Flow { translated: flow::reverse(&key), direction: flow::REPLY, ..original };
                flows.insert(key, original, 0)?;
                flows.insert(flow::reverse(&translated), reply, 0)
            };
        let v4 = |a: Ipv4Addr| addr::from_v4(a.octets());
        put(v4(client), addr::from_v4(SERVICE), v4(source), addr::from_v4(TARGET), 0)?;
        let mut source6 = SOURCE6.octets();
        source6[11] = high as u8;
        put(clients6(high), SERVICE6.octets(), source6, TARGET6.octets(), TARGETS)?;
        let map = self.bench.map_mut("REFERENCE").context("no map REFERENCE")?;
        let mut reference = HashMap::<_, ReferenceKey, ReferenceFlow>::try_from(map)?;
        let ports = |source: u16, destination: u16| {
            let (s, d) = (source.to_be_bytes(), destination.to_be_bytes());
            u32::from_ne_bytes([s[0], s[1], d[0], d[1]])
        };
        let native = |a: [u8; 4]| u32::from_ne_bytes(a);
        let key = ReferenceKey {
            source: native(client.octets()),
            destination: native(SERVICE),
            ports: ports(port, 53),
            protocol: 17,
        };
        let value = ReferenceFlow {
            source: native(source.octets()),
            destination: native(TARGET),
            ports: ports(port, 5353),
            ..ReferenceFlow::default()
        };
        Ok(reference.insert(key, value, 0)?)
    }
}

/// Attaches the program that test runs begin with to the far end of the veth pair, where no frame ever comes: then it stays in the
/// kernel's XDP dispatcher. Else each run would put it there and take it out again, some 30 ms that are no packet's.
pub fn keep_in_dispatcher(bench: &mut Ebpf, name: &str) -> Result<()> {
    program(bench, name)?.attach("nf-peer", XdpMode::Driver).with_context(|| format!("{name} on nf-peer"))?;
    Ok(())
}

/// A program of the benchmark's own.
pub fn program<'a>(bench: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(bench.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?)
}

fn run(command: &str) -> Result<()> {
    let mut words = command.split(' ');
    let program = words.next().context("no command")?;
    let status = std::process::Command::new(program).args(words).status()?;
    anyhow::ensure!(status.success(), "{command}: {status}");
    Ok(())
}

/// Settings under which nothing expires.
pub fn settings() -> Settings {
    // Longer than the clock can tell: nothing expires.
    let forever = Duration::from_secs(100 * 86_400);
    let mut policies = PolicyClass::TABLE.map(|(_, _, policy, _)| policy);
    // The packet maker gives each packet another address, and does not sum its header up: that would be in each figure.
    policies[PolicyClass::BadChecksum as usize] = Policy::Accept;
    Settings {
        nat_ports: 1024..=65_535,
        idle: Idle {
            udp: forever,
            udp_one_way: forever,
            icmp: forever,
            tcp_opening: forever,
            tcp_established: forever,
            tcp_half_closed: forever,
            tcp_closing: forever,
            tcp_reset: forever,
        },
        policies,
        log_rate: 0,
        error_rate: 0,
        flow_quota: (0, 1),
    }
}

fn intent() -> Result<Intent> {
    let forward = |name: &str, listen: &str, targets: &[String]| -> Result<Forward> {
        let target = |t: &String| anyhow::Ok(Target::new(t.parse()?));
        Ok(Forward {
            targets: targets.iter().map(target).collect::<Result<_>>()?,
            ..Forward::new(name.to_owned(), Transport::Udp, listen.parse()?)
        })
    };
    Ok(Intent {
        rules: Rules {
            forwards: vec![
                // So many that new flows never look long for a source port.
                forward(
                    "dns",
                    "192.0.2.10:53",
                    &(2..2 + TARGETS).map(|n| format!("10.0.0.{n}:5353")).collect::<Vec<_>>(),
                )?,
                forward("dns6", "[2001:db8::10]:53", &["[fd00::2]:5353".to_owned()])?,
                Forward {
                    mode: ForwardMode::Dsr,
                    ..forward("dsr", "192.0.2.10:54", &["10.0.0.2:54".to_owned()])?
                },
                Forward {
                    mode: ForwardMode::Ipip,
                    ..forward("ipip", "192.0.2.10:55", &["10.0.0.2:55".to_owned()])?
                },
                Forward {
                    mode: ForwardMode::Ipip,
                    ..forward("ip6ip", "192.0.2.10:56", &["[fd00::2]:56".to_owned()])?
                },
            ],
            echoes: vec![Echo {
                rate: 1_000_000,
                ..Echo::new("192.0.2.10:7".parse()?, vec!["198.18.0.0/15".parse()?])
            }],
            filters: vec![
                netfast::api::types::FilterRule {
                    src: Some("203.0.113.0/24".parse()?),
                    ..Default::default()
                }
                .into(),
            ]
            .into(),
            ..Default::default()
        },
        ..Intent::default()
    })
}
