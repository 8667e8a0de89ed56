//! What is measured live, in which order, and what is compared with what.

use super::world::{Kind, SERVICE, TARGET};

/// A case.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Name in the report.
    pub name: &'static str,
    /// The box.
    pub kind: Kind,
    /// Destination of the datagrams: the service, or the target behind a router.
    pub to: (std::net::Ipv4Addr, u16),
    /// Number of flows.
    pub flows: u32,
    /// Flows come by Zipf's law, not evenly.
    pub zipf: bool,
    /// Flows must be made and answered before they count.
    pub flows_first: bool,
    /// Packets come from half a million addresses of the rules' range, not from 256 others.
    pub spread: bool,
    /// CPUs that generate (and, in boxes with queues, receive).
    pub generators: usize,
}

/// Flows of `live/nat_zipf`.
pub const ZIPF_FLOWS: u32 = 100_000;

const FLOWS: u32 = 1024;
/// More than any cache holds.
const MANY: u32 = 1 << 20;

/// A case with 1,024 flows from one generator.
pub const fn case(name: &'static str, kind: Kind, to: (std::net::Ipv4Addr, u16)) -> Case {
    Case { name, kind, to, flows: FLOWS, zipf: false, flows_first: false, spread: false, generators: 1 }
}

const DNS: (std::net::Ipv4Addr, u16) = (SERVICE, 53);
const ECHO: (std::net::Ipv4Addr, u16) = (SERVICE, 7);
/// A target behind a router.
pub const ROUTED: (std::net::Ipv4Addr, u16) = (TARGET, 5353);

/// All cases, in the order of their turns: those that are compared stand beside each other.
pub const CASES: &[Case] = &[
    case("live/xdp_drop", Kind::Drop, DNS),
    case("live/xdp_tx", Kind::Tx, ECHO),
    case("live/echo", Kind::Netfast, ECHO),
    case("live/user_echo", Kind::UserEcho, ECHO),
    case("live/xdp_redirect", Kind::Redirect, DNS),
    Case { flows_first: true, ..case("live/nat", Kind::Netfast, DNS) },
    case("live/nft_dnat", Kind::NftDnat, DNS),
    Case { flows_first: true, flows: ZIPF_FLOWS, zipf: true, ..case("live/nat_zipf", Kind::Netfast, DNS) },
    case("live/kernel_forward", Kind::Kernel, ROUTED),
    case("live/nft_linear_1000", Kind::NftLinear(1000), ROUTED),
    Case { flows_first: true, ..case("live/filter_1000", Kind::Filter(1000), DNS) },
    Case { flows_first: true, ..case("live/filter_10", Kind::Filter(10), DNS) },
    Case { flows_first: true, ..case("live/filter_10000", Kind::Filter(10_000), DNS) },
    // Of no flow: the kernel routes them, as it does for nftables. Of so many that hardly one comes again while its verdict is
    // cached, the filter is asked for each packet.
    case("live/filter_10_routed", Kind::Filter(10), ROUTED),
    case("live/filter_10000_routed", Kind::Filter(10_000), ROUTED),
    Case { flows: MANY, ..case("live/filter_10_uncached", Kind::Filter(10), ROUTED) },
    Case { flows: MANY, ..case("live/filter_10000_uncached", Kind::Filter(10_000), ROUTED) },
    case("live/nft_linear_10", Kind::NftLinear(10), ROUTED),
    case("live/nft_linear_10000", Kind::NftLinear(10_000), ROUTED),
    case("live/redirect_1_cpu", Kind::QueuesRedirect, DNS),
    Case { generators: 2, ..case("live/redirect_2_cpus", Kind::QueuesRedirect, DNS) },
    Case { flows_first: true, ..case("live/nat_1_cpu", Kind::QueuesNetfast, DNS) },
    Case { flows_first: true, generators: 2, ..case("live/nat_2_cpus", Kind::QueuesNetfast, DNS) },
];

/// `ratio_to` of the rows.
pub const REFERENCES: &[(&str, &str)] = &[
    ("live/echo", "live/xdp_tx"),
    ("live/user_echo", "live/echo"),
    ("live/nat", "live/xdp_redirect"),
    ("live/nft_dnat", "live/nat"),
    ("live/nat_zipf", "live/nat"),
    ("live/kernel_forward", "live/nat"),
    ("live/filter_1000", "live/nat"),
    ("live/nft_linear_1000", "live/filter_1000"),
    ("live/filter_10000", "live/filter_10"),
    ("live/filter_10000_routed", "live/filter_10_routed"),
    ("live/filter_10000_uncached", "live/filter_10_uncached"),
    ("live/nft_linear_10000", "live/nft_linear_10"),
    ("live/nat_1_cpu", "live/redirect_1_cpu"),
    ("live/redirect_2_cpus", "live/redirect_1_cpu"),
    ("live/nat_2_cpus", "live/nat_1_cpu"),
];

/// What is to be reached: of, to, at least.
pub const MARKS: &[(&str, &str, f64)] = &[
    ("live/echo", "live/xdp_tx", 0.95),
    ("live/nat", "live/xdp_redirect", 0.90),
    ("live/nat", "live/nft_dnat", 6.0),
    ("live/echo", "live/user_echo", 20.0),
    ("live/nat_zipf", "live/nat", 0.75),
    ("live/filter_10000", "live/filter_10", 0.85),
    ("live/filter_10000_routed", "live/filter_10_routed", 0.85),
    ("live/filter_10000_uncached", "live/filter_10_uncached", 0.85),
];

/// Cases that have a turn twice in a round, before and after the one that they are compared with: A/A.
pub const TWICE: &[(&str, &str)] = &[("live/xdp_tx", "live/echo"), ("live/xdp_redirect", "live/nat")];

/// Cases whose names contain one of these, and those that they are compared with; none if there is no such name.
pub fn chosen(only: &[String]) -> Vec<&'static Case> {
    let named = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part.as_str()));
    if !CASES.iter().any(|case| named(case.name)) {
        return Vec::new();
    }
    let wanted = |name: &str| {
        named(name)
            || REFERENCES.iter().any(|(of, to)| *to == name && named(of))
            // Something must be there for the A/A control.
            || name == "live/xdp_redirect"
    };
    CASES.iter().filter(|case| wanted(case.name)).collect()
}

/// The turns of a round.
pub fn order<'a>(chosen: &[&'a Case]) -> Vec<&'a Case> {
    let mut turns = Vec::new();
    for case in chosen {
        turns.push(*case);
        let after = TWICE.iter().find(|(first, second)| {
            *second == case.name || *first == case.name && chosen.iter().all(|case| case.name != *second)
        });
        let again = after.and_then(|(first, _)| chosen.iter().find(|case| case.name == *first));
        turns.extend(again);
    }
    turns
}
