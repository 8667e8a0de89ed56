//! Modes `dsr` and `ipip`: targets that own the service's address and answer the client themselves, by a link of their own.
//!
//! Where the kernel has no tunnel devices, a small program at the target takes the packets out of the tunnel: it reads
//! them from the link and hands what is inside to the kernel by a TUN device.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{
    peers::{self, need},
    support::{
        PATIENCE,
        netns::{Namespace, Process, wait_for},
    },
    world::{CLIENT, CLIENT6, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// Ports of the web server and of iperf3: in these modes they are the service's.
const WEB: u16 = 8080;
const IPERF: u16 = 5201;

/// Gives both targets the services' addresses, and a link to the client by which their answers go.
fn return_ways(world: &World) -> Result<()> {
    for (number, target) in (1..).zip(&world.targets) {
        let (own, far) = (format!("10.7.{number}"), format!("2001:db8:7{number}:"));
        let back = format!("back{number}");
        world.bed.veth((target, "back"), (&world.client, &back))?;
        for (namespace, device, last) in [(target, "back", 1), (&world.client, back.as_str(), 2)] {
            namespace.address(device, &format!("{own}.{last}/24"))?;
            namespace.address(device, &format!("{far}:{last}/64"))?;
        }
        target.route(&format!("{CLIENT}/32 via {own}.2"))?;
        target.route(&format!("{CLIENT6}/128 via {far}:2"))?;
        // Owned, and not told to anybody (docs/balancing.md).
        for key in ["arp_ignore", "arp_announce"] {
            target
                .sysctl(&format!("net.ipv4.conf.all.{key}"), if key == "arp_ignore" { "1" } else { "2" })?;
        }
        for device in ["all", "default", "eth0", "back"] {
            target.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
        }
        target.ip(&["address", "add", &format!("{SERVICE}/32"), "dev", "lo"])?;
        target.ip(&["address", "add", &format!("{SERVICE6}/128"), "dev", "lo", "nodad"])?;
    }
    for device in ["all", "back1", "back2"] {
        world.client.sysctl(&format!("net.ipv4.conf.{device}.rp_filter"), "0")?;
    }
    Ok(())
}

/// The program that unpacks: IPv4 and IPv6 in IPv4 and IPv6, to a device `tun0`. It knows nothing of netfast.
const UNPACK: &str = r#"
import fcntl, os, socket, struct
tun = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', b'tun0', 0x1001))
os.system('ip link set tun0 up')
link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
link.bind(('eth0', 3))
print('ready', flush=True)
while True:
    packet, address = link.recvfrom(65535)
    if address[2] != 0 or len(packet) < 40:
        continue
    if packet[0] >> 4 == 4 and packet[9] in (4, 41):
        inner = packet[(packet[0] & 15) * 4:int.from_bytes(packet[2:4], 'big')]
    elif packet[0] >> 4 == 6 and packet[6] in (4, 41):
        inner = packet[40:40 + int.from_bytes(packet[4:6], 'big')]
    else:
        continue
    os.write(tun, inner)
"#;

/// Unpacks what comes to a target in tunnels, until the value goes.
fn unpack(target: &Namespace) -> Result<Process> {
    target.offloads_off("eth0")?;
    let label = format!("{}-unpack", target.name());
    let mut program = target.spawn(&label, target.command("python3").args(["-c", UNPACK]))?;
    wait_for("the program that unpacks", PATIENCE, || {
        ensure!(program.exited()?.is_none(), "it ended: {}", program.log());
        Ok(program.log().contains("ready").then_some(()))
    })?;
    target.sysctl("net.ipv4.conf.tun0.rp_filter", "0")?;
    Ok(program)
}

/// A page from each target, a large file by its hash, and iperf3, by the service of one IP version.
fn serves(world: &World, service: &str, url: &str, hash: &str) -> Result<()> {
    let answers = world.requests(30, &format!("http://{url}:{WEB}/"))?;
    for target in ["target1", "target2"] {
        ensure!(answers.iter().any(|answer| answer.contains(target)), "nothing of {target}: {answers:?}");
    }
    let up = world.bed.dir().join("up-source");
    fs::copy(world.bulk_file(), &up)?;
    let down = world.bed.dir().join("down");
    world.client.run(&[
        "curl",
        "-sSf",
        "-g",
        "--max-time",
        "60",
        "-o",
        &down.display().to_string(),
        &format!("http://{url}:{WEB}/bulk"),
    ])?;
    assert_eq!(hash, peers::hash(&down)?);
    let text = world.client.run(&["iperf3", "-c", service, "-p", &IPERF.to_string(), "-n", "8M", "-J"])?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let received = report["end"]["sum_received"]["bytes"].as_u64().context("no sum in iperf3's report")?;
    // It counts until the sender is done, not until all has come.
    ensure!(received >= 1_000_000, "{received} bytes by iperf3");
    Ok(())
}

/// The forwards of both versions; `of`: target addresses for the IPv4 and for the IPv6 service.
fn forwards(world: &World, mode: &str, of: [[&str; 2]; 2], more: &str) -> Result<()> {
    for (service, targets, name) in
        [(SERVICE.to_owned(), of[0], "v4"), (format!("[{SERVICE6}]"), of[1], "v6")]
    {
        let bracketed = targets.map(|t| if t.contains(':') { format!("[{t}]") } else { t.to_owned() });
        let [a, b] = &bracketed;
        world.netfast(&format!(
            "forward set web{name} tcp {service}:{WEB} --to {a}:{WEB} --to {b}:{WEB} --mode {mode}{more}"
        ))?;
        // iperf3's two connections have to meet one server.
        world.netfast(&format!(
            "forward set perf{name} tcp {service}:{IPERF} --to {a}:{IPERF} --mode {mode}{more}"
        ))?;
    }
    Ok(())
}

fn iperf(world: &mut World) -> Result<()> {
    let server = world.targets[0]
        .spawn("iperf3-server", world.targets[0].command("iperf3").args(["-s", "-p", &IPERF.to_string()]))?;
    wait_for("iperf3's server", PATIENCE, || {
        let listens = world.targets[0].run(&["ss", "-Hltn", &format!("sport = {IPERF}")])?;
        Ok((!listens.trim().is_empty()).then_some(()))
    })?;
    world.servers.push(server);
    Ok(())
}

/// What a target gets, as tshark tells it: a line a packet, fields by tabs.
struct Capture(Process);

impl Capture {
    fn start(target: &Namespace, tag: &str, filter: &str, fields: &[&str]) -> Result<Self> {
        let mut command = target.command("tshark");
        command.args(["-l", "-n", "-i", "eth0", "-f", filter, "-T", "fields", "-E", "occurrence=a"]);
        for field in fields {
            command.args(["-e", field]);
        }
        let process = target.spawn(&format!("{}-tshark-{tag}", target.name()), &mut command)?;
        let capture = Self(process);
        wait_for("tshark", PATIENCE, || Ok(capture.0.log().contains("Capturing on").then_some(())))?;
        Ok(capture)
    }

    /// The first `count` lines.
    fn lines(&self, count: usize) -> Result<Vec<Vec<String>>> {
        wait_for("packets in the capture", PATIENCE, || {
            let log = self.0.log();
            let lines: Vec<Vec<String>> = log
                .lines()
                .filter(|line| line.contains('\t'))
                .map(|line| line.split('\t').map(str::to_owned).collect())
                .collect();
            Ok((lines.len() >= count).then_some(lines))
        })
    }
}

#[test]
fn dsr_targets_answer_by_themselves() -> Result<()> {
    need!("nginx", "curl", "iperf3", "tshark");
    let mut world = World::new("dsr")?.web()?;
    return_ways(&world)?;
    iperf(&mut world)?;
    let hash = world.bulk()?;
    forwards(&world, "dsr", [TARGETS, TARGETS6], "")?;
    let capture = Capture::start(
        &world.targets[0],
        "dsr",
        "tcp",
        &["eth.dst", "ip.dst", "ipv6.dst", "ip.ttl", "ipv6.hlim"],
    )?;
    for (service, url) in [(SERVICE, SERVICE.to_owned()), (SERVICE6, format!("[{SERVICE6}]"))] {
        serves(&world, service, &url, &hash)?;
    }
    // To the target's MAC address, else as the client has sent it.
    let mac = world.targets[0].mac("eth0")?.map(|byte| format!("{byte:02x}")).join(":");
    for line in capture.lines(100)?.iter().take(100) {
        assert_eq!(mac, line[0]);
        assert!(line[1] == SERVICE || line[2] == SERVICE6, "{line:?}");
        assert!(line[3] == "64" || line[4] == "64", "{line:?}");
    }
    let stats = world.agent.stats()?;
    for forward in &stats.forwards {
        ensure!(forward.to_target.packets > 10 && forward.to_client.packets == 0, "{forward:?}");
    }
    ensure!(world.flows("--forward webv4")?.iter().any(|flow| flow.state == "closing"), "no flow of webv4");
    world.netfast("flows flush --forward webv4")?;
    ensure!(world.flows("--forward webv4")?.is_empty(), "flushed flows are there");
    world.sound()
}

/// Each version in each. The client learns the tunnel's MTU by ICMP errors, as its segments are too large at first.
#[test]
fn ipip_targets_unpack_and_answer() -> Result<()> {
    need!("nginx", "curl", "iperf3", "tshark", "python3");
    let mut world = World::new("ipip")?.web()?;
    return_ways(&world)?;
    iperf(&mut world)?;
    let hash = world.bulk()?;
    for index in 0..2 {
        let program = unpack(&world.targets[index])?;
        world.servers.push(program);
    }
    for (of, more, filter, outer) in [
        ([TARGETS, TARGETS], "", "ip proto 4 or ip proto 41", ("ip.dst", TARGETS[0])),
        ([TARGETS6, TARGETS6], "", "ip6 proto 4 or ip6 proto 41", ("ipv6.dst", TARGETS6[0])),
        (
            [TARGETS, TARGETS],
            " --tunnel-source 172.16.0.0/16",
            "ip proto 4 or ip proto 41",
            ("ip.dst", TARGETS[0]),
        ),
    ] {
        forwards(&world, "ipip", of, more)?;
        let source = if outer.0 == "ip.dst" { "ip.src" } else { "ipv6.src" };
        let fields =
            [outer.0, source, "ip.proto", "ipv6.nxt", "ip.ttl", "ipv6.hlim", "ip.flags.df", "_ws.expert"];
        let capture =
            Capture::start(&world.targets[0], &format!("{}{}", outer.0, more.len()), filter, &fields)?;
        for (service, url) in [(SERVICE, SERVICE.to_owned()), (SERVICE6, format!("[{SERVICE6}]"))] {
            serves(&world, service, &url, &hash)?;
        }
        let mut sources = std::collections::HashSet::new();
        for line in capture.lines(100)? {
            // Of several occurrences the first is the outer header's.
            let first = |at: usize| line[at].split(',').next().unwrap_or_default().to_owned();
            assert_eq!(outer.1, first(0), "{line:?}");
            assert_eq!("64", if outer.0 == "ip.dst" { first(4) } else { first(5) }, "{line:?}");
            let inside = if outer.0 == "ip.dst" { first(2) } else { first(3) };
            assert!(inside == "4" || inside == "41", "{line:?}");
            sources.insert(first(1));
        }
        let spread = more.is_empty();
        ensure!(if spread { sources.len() == 1 } else { sources.len() > 5 }, "outer sources: {sources:?}");
        ensure!(sources.iter().all(|s| spread || s.starts_with("172.16.")), "outer sources: {sources:?}");
    }
    ensure!(world.reason("mtu_exceeded")? > 0, "no packet was too large for the tunnel");
    let page = world.netfast("forward show webv4")?;
    ensure!(page.contains("172.16.0.0/16"), "{page}");
    world.sound()
}
