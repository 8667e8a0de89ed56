//! Claimed addresses on a real link: arping, ndisc6, ping and curl find them, tshark reads what is announced, and a station
//! that has one already keeps it.

use std::{path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};
use netfast::api::types::{ClaimState, ClaimStatus};

use crate::{
    peers::{can_run, need},
    support::{
        Agent, PATIENCE,
        netns::{Namespace, Process, Testbed, output, wait_for},
    },
    world::{TARGETS, World},
};

/// Addresses of the client's networks that nobody has.
const FREE: &str = "198.51.100.50";
const FREE6: &str = "2001:db8:ff::50";

fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Whether anybody answers ARP or neighbour solicitations for an address; the MAC address.
fn asked(from: &Namespace, address: &str) -> Option<String> {
    let line: &[&str] = if address.contains(':') {
        &["ndisc6", "-1", "-q", "-n", "-r", "2", "-w", "500", address, "eth0"]
    } else {
        &["arping", "-c", "1", "-w", "2", "-I", "eth0", address]
    };
    let text = from.run(line).ok()?.to_ascii_lowercase();
    let is_mac = |word: &&str| word.len() == 17 && word.matches(':').count() == 5;
    text.split(|c: char| c.is_whitespace() || c == '[' || c == ']').find(is_mac).map(str::to_owned)
}

fn claims(agent: &Agent) -> Result<Vec<ClaimStatus>> {
    Ok(agent.stats()?.claims)
}

/// What a CLI verb that must be refused says: exit code and standard error.
fn refused(agent: &Agent, line: &str) -> Result<(Option<i32>, String)> {
    let output = agent.cli(&line.split_whitespace().collect::<Vec<_>>())?;
    ensure!(!output.status.success(), "{line} went through");
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[test]
fn claimed_addresses_are_found_and_served() -> Result<()> {
    need!("nginx", "curl", "ping", "arping", "ndisc6");
    let mut world = World::new("claim")?.web()?;
    let mac = text(world.host.mac("wan0")?);
    for address in [FREE, FREE6] {
        assert_eq!(None, asked(&world.client, address), "control: nobody has {address}");
    }
    world.netfast(&format!("forward add web tcp {FREE}:80 --to {}:8080 --claim", TARGETS[0]))?;
    world.netfast(&format!("forward add web6 tcp [{FREE6}]:80 --to {}:8080 --claim", TARGETS[0]))?;
    world.netfast(&format!("forward add more tcp {FREE}:81 --to {}:8080 --claim", TARGETS[1]))?;
    let held = |claims: &[ClaimStatus]| {
        claims.len() == 2 && claims.iter().all(|row| row.state == ClaimState::Held && row.interface == "wan0")
    };
    assert!(held(&claims(&world.agent)?), "{:?}", claims(&world.agent)?);
    assert!(world.netfast("forward show web")?.contains("held on wan0"));
    let served = |world: &World| -> Result<()> {
        for (address, url) in [(FREE, format!("http://{FREE}/")), (FREE6, format!("http://[{FREE6}]/"))] {
            assert_eq!(Some(mac.clone()), asked(&world.client, address), "{address}");
            world.client.ip(&["neighbour", "flush", "dev", "eth0"])?;
            assert!(world.curl(&url)?.starts_with("target1"));
            let neighbours = world.client.ip(&["neighbour", "show", "to", address])?;
            assert!(neighbours.contains(&mac), "{neighbours}");
            world.client.run(&["ping", "-c", "2", "-i", "0.2", "-W", "2", address])?;
            assert!(!world.host.ip(&["address", "show"])?.contains(address), "the kernel has it");
        }
        Ok(())
    };
    served(&world)?;
    // A port that nobody serves is refused at once; the kernel would look for the address on the link, and time out.
    let url = format!("http://{FREE}:82/");
    let closed = world.client.command("curl").args(["--silent", "--max-time", "2", &url]).output()?;
    assert_eq!(Some(7), closed.status.code(), "{closed:?}");

    world.agent.kill()?;
    served(&world).context("without an agent")?;
    world.agent.restart()?;
    world.agent.wait_status("the agent after its restart", |status| status.ready)?;
    served(&world).context("after a restart")?;
    let rows = claims(&world.agent)?;
    assert!(held(&rows) && rows.iter().all(|row| row.conflicts == 0), "{rows:?}");

    world.netfast("forward delete web")?;
    assert_eq!(Some(mac.clone()), asked(&world.client, FREE), "the other forward has it still");
    world.netfast("forward delete more web6")?;
    for address in [FREE, FREE6] {
        wait_for("the claim's end", PATIENCE, || Ok(claims(&world.agent)?.is_empty().then_some(())))?;
        assert_eq!(None, asked(&world.client, address), "{address} was given up");
    }
    world.sound()
}

#[test]
fn what_another_station_has_is_not_claimed() -> Result<()> {
    need!("arping", "ndisc6");
    let world = World::new("claimtaken")?;
    let mac = text(world.client.mac("eth0")?);
    world.client.address("eth0", "198.51.100.60/24")?;
    world.client.address("eth0", "2001:db8:ff::60/64")?;
    for listen in ["198.51.100.60:80", "[2001:db8:ff::60]:80"] {
        let (code, said) =
            refused(&world.agent, &format!("forward add web tcp {listen} --to {}:8080 --claim", TARGETS[0]))?;
        assert_eq!(Some(5), code, "{said}");
        assert!(said.contains(&mac) && said.contains("wan0"), "{said}");
    }
    assert!(world.netfast("forward list -o jsonl")?.is_empty());
    assert!(claims(&world.agent)?.is_empty());
    // Not where the address is this host's, nor where it is routed to it: said, and nothing claimed.
    let told = |line: &str| -> Result<String> {
        let output = world.agent.cli(&line.split_whitespace().collect::<Vec<_>>())?;
        ensure!(output.status.success(), "{line}: {output:?}");
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let own = told("forward add own tcp 198.51.100.1:8081 --to 10.0.1.11:80 --claim")?;
    assert!(own.contains("the kernel answers for it"), "{own}");
    let routed = told("forward add routed tcp 203.0.113.9:80 --to 10.0.1.11:80 --claim")?;
    assert!(routed.contains("routed to this host"), "{routed}");
    assert!(claims(&world.agent)?.is_empty());
    // Each is told once, not with every change that follows.
    world.netfast("set put other")?;
    let log = world.agent.log();
    for address in ["198.51.100.1", "203.0.113.9"] {
        assert_eq!(1, log.matches(&format!("claim of {address}: ")).count(), "{log}");
    }
    world.sound()
}

/// Writes the ARP and neighbour discovery that a namespace's eth0 sees, from now on, into a file.
fn captured(namespace: &Namespace, dir: &std::path::Path) -> Result<(Process, PathBuf)> {
    let file = dir.join(format!("{}.pcap", namespace.name()));
    let script = format!(
        "from scapy.all import PcapWriter, sniff\nw=PcapWriter('{}',sync=True)\n\
         sniff(iface='eth0',filter='arp or icmp6',store=False,prn=w.write,\
         started_callback=lambda: print('ready',flush=True))",
        file.display()
    );
    let mut process =
        namespace.spawn("capture", namespace.command("/usr/bin/python3").args(["-c", &script]))?;
    wait_for("the capture", PATIENCE, || {
        ensure!(process.exited()?.is_none(), "it ended: {}", process.log());
        Ok(process.log().contains("ready").then_some(()))
    })?;
    Ok((process, file))
}

/// The frames of a capture that tshark's filter selects.
fn seen(file: &std::path::Path, filter: &str) -> Result<usize> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-Y", filter]);
    Ok(output(&mut command, "tshark")?.lines().count())
}

#[test]
fn claims_are_announced_and_defended() -> Result<()> {
    need!("tshark", "python3", "arping", "ndisc6");
    if !can_scapy() {
        return Ok(());
    }
    let world = World::new("claimtold")?;
    let (_capture, file) = captured(&world.client, world.bed.dir())?;
    let count = |filter: &str, least: usize| {
        wait_for(filter, PATIENCE, || {
            // The last frame may be half written.
            Ok(seen(&file, filter).ok().filter(|count| *count >= least))
        })
    };
    world.netfast(&format!("echo add {FREE}:7 --allow 198.51.100.0/24 --claim"))?;
    world.netfast(&format!("echo add [{FREE6}]:7 --allow 2001:db8:ff::/64 --claim"))?;
    let mac = text(world.host.mac("wan0")?);
    let probes = format!("arp.isprobe == 1 && arp.dst.proto_ipv4 == {FREE} && eth.src == {mac}");
    let announced =
        format!("arp.isannouncement == 1 && arp.src.proto_ipv4 == {FREE} && arp.src.hw_mac == {mac}");
    let probes6 = format!(
        "icmpv6.type == 135 && ipv6.src == :: && icmpv6.nd.ns.target_address == {FREE6} && ipv6.hlim == 255 && \
         icmpv6.checksum.status == 1"
    );
    let announced6 = format!(
        "icmpv6.type == 136 && ipv6.dst == ff02::1 && icmpv6.nd.na.target_address == {FREE6} && \
         icmpv6.nd.na.flag.o == 1 && icmpv6.nd.na.flag.s == 0 && icmpv6.opt.linkaddr == {mac} && \
         icmpv6.checksum.status == 1"
    );
    for (filter, least) in [(&probes, 3), (&announced, 3), (&probes6, 3), (&announced6, 3)] {
        count(filter, least)?;
    }
    // Another station announces the address: netfast keeps it, says so, and announces it once more.
    let before = seen(&file, &announced)?;
    let forged = format!(
        "from scapy.all import *\nm='02:00:00:00:00:99'\n\
         sendp(Ether(src=m,dst='ff:ff:ff:ff:ff:ff')/ARP(op=1,hwsrc=m,psrc='{FREE}',pdst='{FREE}'),iface='eth0')\n\
         sendp(Ether(src=m,dst='33:33:00:00:00:01')/IPv6(src='{FREE6}',dst='ff02::1',hlim=255)\
         /ICMPv6ND_NA(tgt='{FREE6}',O=1,S=0,R=0)/ICMPv6NDOptDstLLAddr(lladdr=m),iface='eth0')"
    );
    world.client.run(&["/usr/bin/python3", "-c", &forged])?;
    world.agent.wait_status("the conflict", |status| {
        status.ready && status.problems.iter().filter(|text| text.contains("02:00:00:00:00:99")).count() == 2
    })?;
    let rows = claims(&world.agent)?;
    assert!(rows.iter().all(|row| row.state == ClaimState::Held && row.conflicts == 1), "{rows:?}");
    assert!(
        world.metric(&format!("netfast_claim_conflicts_total{{address=\"{FREE}\",interface=\"wan0\"}}"))?
            >= 1.0
    );
    count(&announced, before + 1)?;
    assert_eq!(Some(mac), asked(&world.client, FREE), "kept");
    // Under another MAC address it is announced anew.
    world.host.ip(&["link", "set", "wan0", "address", "02:00:00:00:00:77"])?;
    count(
        &format!(
            "arp.isannouncement == 1 && arp.src.proto_ipv4 == {FREE} && arp.src.hw_mac == 02:00:00:00:00:77"
        ),
        1,
    )?;
    count("icmpv6.type == 136 && icmpv6.opt.linkaddr == 02:00:00:00:00:77", 1)?;
    assert_eq!(Some("02:00:00:00:00:77".to_owned()), asked(&world.client, FREE));
    world.sound()
}

fn can_scapy() -> bool {
    let there = Command::new("/usr/bin/python3").args(["-c", "import scapy.contrib.stamp"]).output();
    if there.is_ok_and(|output| output.status.success()) {
        return can_run(&[]);
    }
    let required = std::env::var_os("NETFAST_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "/usr/bin/python3 has no scapy: apt-get install python3-scapy");
    eprintln!("skipped: /usr/bin/python3 has no scapy (Debian's package python3-scapy)");
    false
}

/// Two hosts with netfast on one link.
#[test]
fn two_hosts_do_not_claim_one_address() -> Result<()> {
    need!();
    let (bed, beside) = (Testbed::new("claimtwo")?, Testbed::new("claimtwob")?);
    let (one, two) = (bed.namespace("one")?, bed.namespace("two")?);
    bed.veth((&one, "eth0"), (&two, "eth0"))?;
    one.address("eth0", "192.0.2.1/24")?;
    two.address("eth0", "192.0.2.2/24")?;
    let config = "[[interface]]\nname = \"eth0\"\n[metrics]\nenabled = false\n[tables]\nflows = 65536\nhalf_open = 8192\n";
    let agents = [Agent::start(&bed, &one, config)?, Agent::start(&beside, &two, config)?];
    for agent in &agents {
        agent.wait_status("the agent", |status| status.ready)?;
    }
    let line = "echo add 192.0.2.50:7 --allow 192.0.2.0/24 --claim";
    let words: Vec<_> = line.split(' ').collect();
    agents[0].ok(&words)?;
    let (code, said) = refused(&agents[1], line)?;
    assert_eq!(Some(5), code, "{said}");
    assert!(said.contains(&text(one.mac("eth0")?)), "{said}");
    agents[0].ok(&["echo", "delete", "192.0.2.50:7"])?;
    wait_for("the first one's claim to end", PATIENCE, || Ok(claims(&agents[0])?.is_empty().then_some(())))?;
    agents[1].ok(&words)?;
    assert_eq!(1, claims(&agents[1])?.len());
    let (code, _) = refused(&agents[0], line)?;
    assert_eq!(Some(5), code, "now the other way round");
    Ok(())
}

/// scapy's STAMP session-sender: what it reads of the answers, and delays by the host's own clock.
const SENDER: &str = r#"
import socket, struct, sys, time
from scapy.contrib.stamp import *
from scapy.layers.inet import UDP
host, port = sys.argv[1], int(sys.argv[2])
s = socket.socket(socket.AF_INET6 if ':' in host else socket.AF_INET, socket.SOCK_DGRAM)
s.settimeout(5)
def ntp(ns): return (ns // 10**9 + 2208988800 << 32) + (ns % 10**9 << 32) // 10**9
def ns(raw):
    a, b = struct.unpack('>II', raw)
    return (a - 2208988800) * 10**9 + (b * 10**9 >> 32)
for seq in range(20):
    tlvs = bytes([0x80, 1, 0, 4, 1, 2, 3, 4]) if seq % 2 else b''
    t1 = time.time_ns()
    asked = bytes(STAMPSessionSenderTestUnauthenticated(seq=seq, ssid=0x1234, err_estimate=ErrorEstimate(S=1, scale=3, multiplier=7)))
    asked = asked[:4] + struct.pack('>Q', ntp(t1)) + asked[12:44] + tlvs
    s.sendto(asked, (host, port))
    told, where = s.recvfrom(2000)
    t4 = time.time_ns()
    assert where[:2] == (host, port) and len(told) == len(asked), (where, len(told))
    r = STAMPSessionReflectorTestUnauthenticated(told, _parent=UDP(len=8 + len(told)))
    assert (r.seq, r.seq_sender, r.ssid, r.ttl_sender, r.mbz1, r.mbz2) == (seq, seq, 0x1234, 64, 0, 0), r.show(dump=True)
    e = r.err_estimate_sender
    assert (e.S, e.Z, e.scale, e.multiplier) == (1, 0, 3, 7) and r.err_estimate.Z == 0 and r.err_estimate.multiplier > 0
    assert told[28:36] == asked[4:12] and told[44:] == tlvs
    if tlvs: assert int(r.tlv_objects[0].flags) == 0x80 and r.tlv_objects[0].value == bytes([1, 2, 3, 4])
    t2, t3 = ns(told[16:24]), ns(told[4:12])
    assert t1 - 2 <= t2 <= t3 <= t4 + 2, (t1, t2, t3, t4)
    print('there %.1f us, at the reflector %.1f us, back %.1f us' % ((t2 - t1) / 1e3, (t3 - t2) / 1e3, (t4 - t3) / 1e3))
print('20 answers')
"#;

#[test]
fn scapy_measures_by_stamp() -> Result<()> {
    need!("python3");
    if !can_scapy() {
        return Ok(());
    }
    let world = World::new("stamp")?;
    world.netfast("echo add 192.0.2.10:862 --protocol stamp --allow 198.51.100.0/24 --rate 1000")?;
    world.netfast("echo add [2001:db8::10]:862 --protocol stamp --allow 2001:db8:ff::/64")?;
    for service in ["192.0.2.10", "2001:db8::10"] {
        let said = world.client.run(&["/usr/bin/python3", "-c", SENDER, service, "862"])?;
        assert!(said.ends_with("20 answers\n"), "{said}");
        println!("{service}: {}", said.lines().nth(10).unwrap_or_default());
    }
    assert_eq!(40, world.reason("stamp_reflected")?);
    assert_eq!(20.0, world.metric("netfast_echo_packets_total{echo=\"192.0.2.10:862\"}")?);
    world.sound()
}
