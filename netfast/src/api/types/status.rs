//! Status and statistics.

use serde::{Deserialize, Serialize};

use super::*;

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// ABI version of program and maps.
    pub abi_version: u32,
    /// Revision of the intent.
    pub revision: u64,
    /// Revision that the datapath runs.
    pub applied_revision: u64,
    /// Generation of the rule set in the datapath.
    pub generation: u32,
    /// True if everything that was asked for is in place.
    pub ready: bool,
    /// What is not in place, a line each.
    pub problems: Vec<String>,
    /// Interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// Numbers of rules.
    pub forwards: usize,
    /// See `forwards`.
    pub targets: usize,
    /// See `forwards`.
    #[serde(default)]
    pub snats: usize,
    /// See `forwards`.
    pub echoes: usize,
    /// See `forwards`.
    pub filters: usize,
    /// Flows in the table.
    pub flows: u64,
    /// Flows that fit.
    pub flows_max: u64,
}

/// State of an attached interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name at present.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// Driver, as ethtool tells it.
    pub driver: String,
    /// Mode asked for.
    pub mode: AttachMode,
    /// `native` or `generic`, if attached.
    pub attached: Option<AttachMode>,
    /// Carrier is there.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Why it is not attached.
    pub problem: Option<String>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Answer of `GET /v1/stats`: the one source of statistics for the CLI and the exporter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Per interface, verdict and reason; rows without packets are left out.
    pub interfaces: Vec<InterfaceCount>,
    /// Per forward.
    pub forwards: Vec<ForwardCount>,
    /// Per target.
    pub targets: Vec<TargetCount>,
    /// Per source NAT rule.
    #[serde(default)]
    pub snats: Vec<SnatCount>,
    /// Per echo reflector.
    pub echoes: Vec<NamedCount>,
    /// Per named filter rule, in order.
    pub filters: Vec<NamedCount>,
    /// Flow tables.
    pub flows: FlowSummary,
    /// The flow cache.
    #[serde(default)]
    pub cache: CacheSummary,
    /// Fill of the maps that can run full.
    #[serde(default)]
    pub maps: Vec<MapFill>,
    /// Events of the datapath that the agent could not take in, since it started.
    #[serde(default)]
    pub events_lost: u64,
    /// How the health checks get on.
    #[serde(default)]
    pub health: HealthSummary,
    /// Claimed addresses, one row for each link.
    #[serde(default)]
    pub claims: Vec<ClaimStatus>,
}

/// The flow cache: the programs decide most packets by it alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSummary {
    /// Packets that it did not decide, by interface; those that it did are the rest of [`Stats::interfaces`].
    pub misses: Vec<CacheMisses>,
    /// Its IPv4 part.
    pub ipv4: CacheSets,
    /// Its IPv6 part.
    pub ipv6: CacheSets,
}

/// A row of [`CacheSummary::misses`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheMisses {
    /// Name of the interface that the packets came in by.
    pub interface: String,
    /// How many.
    pub packets: u64,
}

/// Size of a part of the flow cache on each CPU, in sets of two lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheSets {
    /// In use, fitted to the number of flows: four times as many, if there are so many.
    pub sets: u32,
    /// As many as there are (`[tables]` of agent.toml).
    pub max_sets: u32,
}

/// Fill of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// Name of the map.
    pub map: String,
    /// Entries in use (a flow has two).
    pub entries: u64,
    /// Entries that fit.
    pub max_entries: u64,
}

/// A row of [`Stats::interfaces`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceCount {
    /// Name of the interface.
    pub interface: String,
    /// Label of the verdict.
    pub verdict: String,
    /// Label of the reason.
    pub reason: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// A row of [`Stats::forwards`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardCount {
    /// Name of the forward.
    pub forward: String,
    /// Client to target.
    pub to_target: Count,
    /// Target to client.
    pub to_client: Count,
    /// Flows that exist now.
    pub flows: u64,
    /// Flows made since the forward exists.
    pub flows_total: u64,
    /// Its targets.
    #[serde(default)]
    pub targets: u64,
    /// Of these, the ones that no health check has found down.
    #[serde(default)]
    pub healthy: u64,
    /// Entries of its look-up table; 0: nobody gets new flows.
    #[serde(default)]
    pub entries: u32,
    /// Its health checks.
    #[serde(default)]
    pub checks: CheckCounts,
}

/// A row of [`Stats::targets`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCount {
    /// Name of the forward.
    pub forward: String,
    /// Address of the target.
    pub target: String,
    /// Client to target.
    pub to_target: Count,
    /// Target to client.
    pub to_client: Count,
    /// Flows that exist now.
    pub flows: u64,
    /// Of these, the ones that are not over (a TCP connection that was closed or reset is remembered for some minutes).
    #[serde(default)]
    pub open: u64,
    /// Whether it drains: it keeps its flows and gets no new ones.
    #[serde(default)]
    pub draining: bool,
    /// Entries of the forward's look-up table that lead to it: its share of new flows.
    #[serde(default)]
    pub entries: u32,
    /// Its health; none without health checks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<TargetHealth>,
}

/// A counter with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCount {
    /// Listening address of an echo reflector; name of a filter rule.
    pub name: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}
