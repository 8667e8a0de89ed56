//! The packages that verbs need, each declared once.

use std::path::Path;

use super::Group;
use crate::commands;

/// A package of the system's archives.
#[derive(Debug, Clone, Copy)]
pub struct Package {
    /// Its name in Debian.
    pub name: &'static str,
    /// What it is for.
    pub why: &'static str,
    /// What shows that it is there, whoever installed it.
    proof: Proof,
    /// Services that it would have the machine start at boot; they are not wanted.
    pub services: &'static [&'static str],
}

#[derive(Debug, Clone, Copy)]
enum Proof {
    Command(&'static str),
    File(&'static str),
}
use Proof::{Command, File};

const fn package(name: &'static str, proof: Proof, why: &'static str) -> Package {
    Package { name, why, proof, services: &[] }
}

/// For [`Group::Demo`]; the eBPF toolchain, which is all that [`Group::Build`] needs, is `ebpf`'s.
const DEMO: &[Package] = &[
    package("iproute2", Command("ip"), "makes namespaces and links"),
    package("procps", Command("sysctl"), "sets forwarding in namespaces"),
    package("curl", Command("curl"), "the HTTP client"),
    Package { services: &["nginx.service"], ..package("nginx", Command("nginx"), "HTTP targets") },
    package("iperf3", Command("iperf3"), "bulk TCP and UDP"),
    package("dnsmasq-base", Command("dnsmasq"), "a DNS server as UDP target"),
    package("bind9-dnsutils", Command("dig"), "a DNS client"),
    package("nftables", Command("nft"), "the kernel's NAT, to compare with"),
];

/// For [`Group::Test`], beside those of the demo.
const TEST: &[Package] = &[
    package("hping3", Command("hping3"), "odd TCP and UDP packets"),
    package("wrk", Command("wrk"), "a constant HTTP load"),
    package("openssl", Command("openssl"), "makes certificates for TLS servers"),
    package("iputils-ping", Command("ping"), "ICMP echo"),
    package("iputils-arping", Command("arping"), "asks for claimed addresses by ARP"),
    package("ndisc6", Command("ndisc6"), "asks for them by neighbour discovery"),
    package("traceroute", Command("traceroute"), "shows the way of packets"),
    package("ethtool", Command("ethtool"), "device settings and counters"),
    package("bpftool", Command("bpftool"), "loads the object by libbpf, reads pinned maps"),
    Package {
        services: &["prometheus.service"],
        ..package("prometheus", Command("promtool"), "scrapes the metrics; promtool checks rules")
    },
    package("tshark", Command("tshark"), "judges captured packets"),
    package(
        "python3-scapy",
        File("/usr/lib/python3/dist-packages/scapy/__init__.py"),
        "builds and judges packets",
    ),
    Package {
        services: &["coturn.service"],
        ..package("coturn", Command("turnutils_natdiscovery"), "a STUN server and client: what NAT is there")
    },
    package("stun-client", Command("stun"), "another STUN client"),
    package("systemd", Command("systemd-analyze"), "rates the unit file"),
    package("git", Command("git"), "lists the files that are linted"),
    package("python3-venv", File("/var/lib/dpkg/info/python3-venv.list"), "holds typos and aioquic"),
];

/// For [`Group::Test`] where the eBPF side is compiled by the distribution's rustc.
const TEST_DISTRIBUTION: &[Package] =
    &[package("rust-web-clippy", File("/usr/bin/clippy-driver"), "clippy for the eBPF side")];

/// The packages of a group; `distribution` tells whose rustc compiles the eBPF side.
pub fn of(group: Group, distribution: bool) -> impl Iterator<Item = Package> {
    let lists = [
        (group >= Group::Demo, DEMO),
        (group >= Group::Test, TEST),
        (group >= Group::Test && distribution, TEST_DISTRIBUTION),
    ];
    lists.into_iter().filter(|(wanted, _)| *wanted).flat_map(|(_, list)| list).copied()
}

impl Package {
    /// Whether it, or the same from elsewhere, is on this machine.
    pub fn is_there(&self) -> bool {
        match self.proof {
            Command(name) => commands::find(name).is_some(),
            File(path) => Path::new(path).exists(),
        }
    }
}
