//! Source NAT rules.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{rules::is_false, *};

/// A source NAT rule: what comes from inside prefixes and goes outside leaves with an address of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snat {
    /// Name: as a forward's, and no forward's.
    pub name: String,
    /// Inside prefixes. What goes from one to another is left to the kernel's routing.
    pub from: Vec<IpNet>,
    /// Addresses of this host that take the place of the inside address. An inside address always uses the same one of its
    /// IP version (RFC 4787 REQ-2).
    pub to: Vec<IpAddr>,
    /// Interface that the packets come in by; none: any.
    #[serde(default, rename = "in", skip_serializing_if = "Option::is_none")]
    pub in_interface: Option<String>,
    /// Interface that the packets go out by; none: any.
    #[serde(default, rename = "out", skip_serializing_if = "Option::is_none")]
    pub out_interface: Option<String>,
    /// External ports, and identifiers of ICMP queries; none: `[nat] ports` of agent.toml.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// Who may send to a mapping from the outside.
    #[serde(default)]
    pub filtering: SnatFiltering,
    /// Mappings that one inside address may have at once.
    #[serde(default = "default_ports_per_source")]
    pub ports_per_source: u32,
    /// netfast answers ARP and neighbour solicitations for the pool addresses, which are not to be this host's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub claim: bool,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Default of [`Snat::ports_per_source`].
pub const DEFAULT_PORTS_PER_SOURCE: u32 = 4096;

fn default_ports_per_source() -> u32 {
    DEFAULT_PORTS_PER_SOURCE
}

words! {
    /// Who may send to a mapping of source NAT from the outside (RFC 4787 5).
    #[derive(Default)]
    SnatFiltering {
        /// Whom the inside endpoint has sent to, from that port.
        #[default]
        AddressAndPortDependent = "address-and-port-dependent",
        /// Anybody.
        EndpointIndependent = "endpoint-independent",
    }
}

/// A row of [`Stats::snats`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnatCount {
    /// Name of the rule.
    pub snat: String,
    /// Inside to outside.
    pub outward: Count,
    /// Outside to inside.
    pub inward: Count,
    /// Flows that exist now.
    pub flows: u64,
    /// Flows made since the rule exists.
    pub flows_total: u64,
    /// External ports and identifiers in use.
    pub ports: u64,
}
