//! One frame at a time through the real programs: description, frame in, verdict and reason expected, frame out.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod balance;
mod bed;
#[path = "../../examples/replay/checksums.rs"]
mod checksums;
mod claim;
mod direct;
mod echo;
mod errors;
mod family;
mod family_icmp;
mod filter;
mod filter_actions;
mod filter_flows;
mod flows;
mod forward;
mod fragments;
mod frames;
mod hops;
mod icmp;
#[path = "../../examples/replay/judge.rs"]
mod judge;
mod jumbo;
mod kernel;
#[path = "../../../netfast-common/fuzz/mutate.rs"]
mod mutate;
mod one_way;
mod peers;
mod policy;
mod quic;
mod random;
mod snat;
mod snat_icmp;
mod snat_ports;
mod stamp;
mod swaps;
mod tracking;
mod two_cpus;
mod verdicts;

/// All scenarios, for tests that look at everything that left.
const ALL: &[&[(&str, bed::Scenario)]] = &[
    balance::SCENARIOS,
    direct::SCENARIOS,
    claim::SCENARIOS,
    echo::SCENARIOS,
    errors::SCENARIOS,
    family::SCENARIOS,
    family_icmp::SCENARIOS,
    filter::SCENARIOS,
    filter_actions::SCENARIOS,
    filter_flows::SCENARIOS,
    flows::SCENARIOS,
    forward::SCENARIOS,
    hops::SCENARIOS,
    icmp::SCENARIOS,
    jumbo::SCENARIOS,
    kernel::SCENARIOS,
    one_way::SCENARIOS,
    policy::SCENARIOS,
    quic::SCENARIOS,
    tracking::SCENARIOS,
    two_cpus::SCENARIOS,
    snat::SCENARIOS,
    snat_icmp::SCENARIOS,
    snat_ports::SCENARIOS,
    stamp::SCENARIOS,
    verdicts::SCENARIOS,
];
