//! Filter rules as they are listed: with positions, counters, and what hides them.

use std::{net::IpAddr, sync::Arc};

use serde::{Deserialize, Serialize};

use super::*;
use crate::rules::analysis::Hiding;

/// Query of `GET /v1/filters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterQuery {
    /// Position of the first rule that is wanted (1 is first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<usize>,
    /// So many rules at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The rule of this name or position alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Only rules that no packet has met since they exist.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unused: bool,
    /// Only rules that can never decide, with what hides them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub analysis: bool,
}

/// Answer of `GET /v1/filters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterList {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Revision that the rules are of.
    pub revision: u64,
    /// Number of all rules.
    pub total: usize,
    /// The rules that were asked for, in order.
    pub filters: Vec<FilterRow>,
    /// The policies of interfaces, with what they have decided.
    #[serde(default)]
    pub policies: Vec<PolicyRow>,
    /// Names of the sets of addresses, with their sizes.
    #[serde(default)]
    pub sets: Vec<SetRow>,
}

/// A rule of a [`FilterList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRow {
    /// Position (1 is first).
    pub position: usize,
    /// The rule.
    #[serde(flatten)]
    pub rule: Arc<FilterRule>,
    /// What it has met.
    #[serde(flatten)]
    pub count: Count,
    /// Why it can never decide; only of an analysis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<HiddenBy>,
}

/// Why a rule can never decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenBy {
    /// How it is hidden.
    pub kind: Hiding,
    /// Positions of the rules that hide it (1 is first); of many the first few.
    pub by: Vec<usize>,
    /// The same as a sentence.
    pub text: String,
}

/// A policy of a [`FilterList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The policy.
    #[serde(flatten)]
    pub policy: InterfacePolicy,
    /// What it has decided.
    #[serde(flatten)]
    pub count: Count,
}

/// A set of a [`FilterList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRow {
    /// Its name.
    pub name: String,
    /// Number of its prefixes.
    pub addresses: usize,
}

/// Body of `POST /v1/explain`: a packet that is made up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplainRequest {
    /// IP protocol.
    pub protocol: Protocol,
    /// Source address.
    pub source: IpAddr,
    /// Source port of TCP or UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_port: Option<u16>,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port of TCP or UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination_port: Option<u16>,
    /// Interface that it comes in by; without it rules on interfaces do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// TCP flags; without them those of an opening: SYN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<TcpFlags>,
    /// ICMP type and code; without them an echo request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<IcmpKind>,
    /// VLAN; without it untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// A TCP packet of an established flow: only rules on TCP flags that do something else than to allow are asked about it.
    #[serde(default)]
    pub established: bool,
}

/// Answer of `POST /v1/explain`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainReply {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Revision of the rules.
    pub revision: u64,
    /// What the filter does with the packet: `allow`, `drop`, `reject`.
    pub verdict: FilterAction,
    /// The rule that decides; none: a policy does, or nothing, and the packet goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<Decider>,
    /// The interface whose policy decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Rules before it that count the packet or hold it to their rate.
    #[serde(default)]
    pub passes: Vec<Decider>,
    /// The service that gets the packet if the filter lets it: `forward web`, `echo 192.0.2.10:7`; none: the kernel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// A rule that has to do with a packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decider {
    /// Position (1 is first).
    pub position: usize,
    /// The rule.
    #[serde(flatten)]
    pub rule: Arc<FilterRule>,
}
