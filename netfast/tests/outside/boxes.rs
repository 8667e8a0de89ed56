//! Two boxes of the same addresses, MAC addresses and rules, one translating by netfast, one by the kernel's nftables; and
//! their wires, on which this test alone sends.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    support::{
        Agent,
        netns::{Namespace, Testbed, output},
    },
    wire::Raw,
};

pub type Mac = [u8; 6];
pub const WAN: Mac = [2, 0, 0, 0, 0, 1];
pub const LAN: Mac = [2, 0, 0, 0, 0, 2];
pub const CLIENT: Mac = [2, 0, 0, 0, 0, 3];
pub const TARGET: Mac = [2, 0, 0, 0, 0, 4];

/// How many addresses clients have: the last bytes are 10 and what follows.
pub const CLIENTS: u8 = 20;

/// Ports of the services in the two modes; the same ports for TCP and UDP.
pub const NAT: u16 = 80;
pub const DNAT: u16 = 81;
/// Port of the target.
pub const PORT: u16 = 8080;

/// One of them.
pub struct TestBox {
    pub wan: Raw,
    pub lan: Raw,
    pub namespace: Namespace,
    _wires: Namespace,
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl TestBox {
    /// The box `name`, which routes.
    pub fn new(bed: &Testbed, name: &str) -> Result<Self> {
        let (namespace, wires) = (bed.namespace(name)?, bed.namespace(&format!("{name}-wires"))?);
        namespace.forwarding()?;
        wires.sysctl("net.ipv6.conf.all.disable_ipv6", "1")?;
        wires.sysctl("net.ipv6.conf.default.disable_ipv6", "1")?;
        for key in ["all", "default"] {
            namespace.sysctl(&format!("net.ipv4.conf.{key}.rp_filter"), "0")?;
        }
        // Answers of the kernel are compared, too: none may be left out.
        namespace.sysctl("net.ipv4.icmp_ratelimit", "0")?;
        namespace.sysctl("net.ipv6.icmp.ratelimit", "0")?;
        // The limit of all destinations together (50 at once) asks the masks alone: no type is limited but one that nobody sends.
        namespace.sysctl("net.ipv4.icmp_ratemask", "0")?;
        namespace.sysctl("net.ipv6.icmp.ratemask", "255")?;
        namespace.sysctl("net.ipv4.tcp_invalid_ratelimit", "0")?;
        for (wire, device, mac, addresses) in [
            (
                "client",
                "wan",
                WAN,
                ["198.51.100.1/24", "2001:db8:ff::1/64", "192.0.2.10/32", "2001:db8::10/128"].as_slice(),
            ),
            ("target", "lan", LAN, &["10.0.1.1/24", "2001:db8:1::1/64"]),
        ] {
            bed.veth((&wires, wire), (&namespace, device))?;
            wires.xdp_pass(wire)?;
            namespace.ip(&["link", "set", device, "address", &text(mac)])?;
            for address in addresses {
                namespace.address(device, address)?;
            }
        }
        let mut neighbours =
            vec![("10.0.1.11".to_owned(), TARGET, "lan"), ("2001:db8:1::11".to_owned(), TARGET, "lan")];
        for number in 10..10 + CLIENTS {
            neighbours.push((format!("198.51.100.{number}"), CLIENT, "wan"));
            neighbours.push((format!("2001:db8:ff::{number:x}"), CLIENT, "wan"));
        }
        let lines: String = neighbours
            .iter()
            .map(|(address, mac, device)| {
                format!("neigh add {address} lladdr {} dev {device} nud permanent\n", text(*mac))
            })
            .collect();
        let file = bed.dir().join(format!("{name}-neighbours"));
        std::fs::write(&file, lines)?;
        namespace.run(&["ip", "-batch", &file.to_string_lossy()])?;
        let open = |wire: &str| -> Result<Raw> {
            let index = wires.ifindex(wire)?;
            Ok(wires.enter(|| Raw::open(index))??)
        };
        let (wan, lan) = (open("client")?, open("target")?);
        Ok(Self { wan, lan, namespace, _wires: wires })
    }

    /// Makes it translate by the kernel.
    pub fn by_kernel(&self) -> Result<()> {
        let mut rules =
            String::from("table inet oracle {\n chain pre { type nat hook prerouting priority -100;\n");
        for protocol in ["tcp", "udp"] {
            for port in [NAT, DNAT] {
                rules +=
                    &format!("  ip daddr 192.0.2.10 {protocol} dport {port} dnat ip to 10.0.1.11:{PORT}\n");
                rules += &format!(
                    "  ip6 daddr 2001:db8::10 {protocol} dport {port} dnat ip6 to [2001:db8:1::11]:{PORT}\n"
                );
            }
        }
        rules += " }\n chain post { type nat hook postrouting priority 100;\n";
        for protocol in ["tcp", "udp"] {
            rules += &format!(
                "  oifname \"lan\" meta l4proto {protocol} ct original proto-dst {NAT} masquerade\n"
            );
        }
        rules += " }\n}\n";
        let mut command = self.namespace.command("nft");
        let file = std::env::temp_dir().join(format!("nf-oracle-{}.nft", self.namespace.name()));
        std::fs::write(&file, &rules)?;
        let loaded = output(command.arg("-f").arg(&file), "nft");
        std::fs::remove_file(&file)?;
        loaded.with_context(|| rules)?;
        for (key, value) in SYSCTLS {
            self.namespace.sysctl(&format!("net.netfilter.{key}"), value)?;
        }
        Ok(())
    }

    /// Makes it translate by netfast.
    pub fn by_netfast(&self, bed: &Testbed) -> Result<Agent> {
        let config = "[[interface]]\nname = \"wan\"\n[[interface]]\nname = \"lan\"\n[tables]\nflows = 65536\nhalf_open = 65536\n";
        let agent = Agent::start(bed, &self.namespace, config)?;
        agent.wait_status("the agent", |status| status.ready && status.interfaces.len() == 2)?;
        for protocol in ["tcp", "udp"] {
            for (mode, port) in [("nat", NAT), ("dnat", DNAT)] {
                for (version, service, target) in
                    [(4, "192.0.2.10", "10.0.1.11"), (6, "[2001:db8::10]", "[2001:db8:1::11]")]
                {
                    let line = format!(
                        "forward add {protocol}{mode}{version} {protocol} {service}:{port} --to {target}:{PORT} --mode {mode}"
                    );
                    agent.ok(&line.split(' ').collect::<Vec<_>>())?;
                }
            }
        }
        Ok(agent)
    }

    /// All frames on one side until one for which `last` holds; that one is left out.
    pub fn collect(&self, lan: bool, last: impl Fn(&[u8]) -> bool) -> Result<Vec<Vec<u8>>> {
        let end = Instant::now() + Duration::from_secs(20);
        let (side, mut frames) = (if lan { &self.lan } else { &self.wan }, Vec::new());
        loop {
            let frame = side.receive(end)?;
            ensure!(
                frame.is_some(),
                "the last packet of a round did not come through: {} others did",
                frame_count(&frames)
            );
            match frame {
                Some(frame) if last(&frame) => return Ok(frames),
                Some(frame) => frames.push(frame),
                None => {}
            }
        }
    }
}

fn frame_count(frames: &[Vec<u8>]) -> usize {
    frames.len()
}

/// Where the kernel is told to be as liberal as netfast is by design:
/// * netfast keeps no TCP windows (RFC 5382 asks for none), so the kernel is not to judge by them;
/// * netfast takes over no connection that it has not seen begin, so the kernel is not to either;
/// * netfast does not look at transport checksums: a wrong one stays wrong, and the receiver judges.
const SYSCTLS: [(&str, &str); 3] =
    [("nf_conntrack_tcp_be_liberal", "1"), ("nf_conntrack_tcp_loose", "0"), ("nf_conntrack_checksum", "0")];
