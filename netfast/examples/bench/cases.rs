//! What is measured.

use netfast_common::abi::bench::Plan;

use crate::bed;

/// The program under test.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Under {
    /// `bench_empty`.
    Empty,
    /// `bench_reference`.
    Reference,
    /// netfast's entry program.
    Netfast,
}

/// A case.
#[derive(Clone)]
pub struct Case {
    /// Its name in the report.
    pub name: &'static str,
    /// The program under test.
    pub under: Under,
    /// Whether it is measured with several numbers of flows.
    pub by_flows: bool,
    /// Number of flows otherwise.
    pub flows: u32,
    /// What the program has to answer, as XDP action.
    pub answer: u32,
    /// The packets.
    pub plan: Plan,
}

const DROP: u32 = 1;
const PASS: u32 = 2;
const TX: u32 = 3;

/// Ethernet header, then `packet`, as a plan's template.
fn template(kind: u16, packet: &[u8]) -> [u64; 8] {
    let mut frame = Vec::with_capacity(64);
    frame.extend(bed::MAC);
    frame.extend(bed::PEER);
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame.resize(64, 0);
    std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|j| frame[8 * i + j])))
}

/// A UDP datagram over IPv4 in 64 bytes of frame. The checksums are not right: nothing on the way looks at them.
fn udp4(source: [u8; 4], destination: [u8; 4], ports: [u16; 2]) -> [u64; 8] {
    let mut packet = vec![0x45, 0, 0, 50, 0, 1, 0x40, 0, 64, 17, 0x12, 0x34];
    packet.extend(source);
    packet.extend(destination);
    packet.extend(ports[0].to_be_bytes());
    packet.extend(ports[1].to_be_bytes());
    packet.extend([0, 30, 0xab, 0xcd]);
    template(0x0800, &packet)
}

fn udp6(source: [u8; 16], destination: [u8; 16], ports: [u16; 2]) -> [u64; 8] {
    let mut packet = vec![0x60, 0, 0, 0, 0, 10, 17, 64];
    packet.extend(source);
    packet.extend(destination);
    packet.extend(ports[0].to_be_bytes());
    packet.extend(ports[1].to_be_bytes());
    packet.extend([0, 10, 0xab, 0xcd]);
    template(0x86dd, &packet)
}

/// Client's address and port vary.
fn from_clients(template: [u64; 8]) -> Plan {
    Plan {
        template,
        address_at: 26,
        port_at: 34,
        address: u32::from_be_bytes(bed::CLIENTS),
        ..Plan::default()
    }
}

/// A case by its name.
pub fn named(name: &str) -> anyhow::Result<Case> {
    all().into_iter().find(|case| case.name == name).ok_or_else(|| anyhow::anyhow!("no case {name}"))
}

/// Packets of the forward's flows, from their clients.
pub fn forwarded() -> Plan {
    from_clients(udp4(bed::CLIENTS, bed::SERVICE, [0, 53]))
}

/// All cases.
pub fn all() -> Vec<Case> {
    let clients = bed::CLIENTS;
    let service = forwarded();
    let reply = Plan {
        template: udp4(bed::TARGET, bed::SOURCES, [5353, 0]),
        address_at: 30,
        port_at: 36,
        address: u32::from_be_bytes(bed::SOURCES),
        ..Plan::default()
    };
    let service6 = Plan {
        template: udp6(bed::clients6(0), bed::SERVICE6.octets(), [0, 53]),
        address_at: 34,
        port_at: 54,
        address: 0,
        ..Plan::default()
    };
    let new = Plan { fresh: 1, address: u32::from_be_bytes(bed::NEW_CLIENTS), ..service };
    let to = |port| from_clients(udp4(clients, bed::SERVICE, [0, port]));
    let case = |name, under, answer, plan| Case { name, under, by_flows: false, flows: 1024, answer, plan };
    vec![
        case("prog/empty_tx", Under::Empty, TX, service),
        Case { by_flows: true, ..case("prog/ref_hash_dnat", Under::Reference, TX, service) },
        Case { by_flows: true, ..case("prog/nat_hit", Under::Netfast, TX, service) },
        Case { by_flows: true, ..case("prog/nat_reply", Under::Netfast, TX, reply) },
        Case { by_flows: true, ..case("prog/nat6_hit", Under::Netfast, TX, service6) },
        case("prog/dsr_hit", Under::Netfast, TX, to(54)),
        case("prog/ipip_hit", Under::Netfast, TX, to(55)),
        case("prog/ip6ip_hit", Under::Netfast, TX, to(56)),
        Case { flows: 131_072, ..case("prog/nat_new", Under::Netfast, TX, new) },
        Case {
            by_flows: true,
            ..case("prog/echo", Under::Netfast, TX, from_clients(udp4(clients, bed::SERVICE, [0, 7])))
        },
        case(
            "prog/filter_drop",
            Under::Netfast,
            DROP,
            Plan {
                address: u32::from_be_bytes(bed::BLOCKED),
                ..from_clients(udp4(bed::BLOCKED, bed::SERVICE, [0, 53]))
            },
        ),
        case("prog/pass", Under::Netfast, PASS, from_clients(udp4(clients, bed::SERVICE, [0, 9999]))),
    ]
}
