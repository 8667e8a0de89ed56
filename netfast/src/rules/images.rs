//! What the compiler makes and the datapath publishes.

use netfast_common::abi;

use crate::classifier::Compiled;

/// The map images of one rule set. Indexes are those of the maps' slot-relative parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// Sorted by (address, protocol, first port).
    pub services: Vec<abi::Service>,
    /// Forwards by index.
    pub forwards: Vec<(u16, abi::Forward)>,
    /// Targets by index; those in the map that are not here keep what they have (flows may still refer to them).
    pub targets: Vec<(u16, abi::Target)>,
    /// Targets that are none any more but may have flows, which follow the routes as all others do.
    pub leaving: Vec<Leaving>,
    /// Inside prefixes of the source NAT rules, in order.
    pub snats: Vec<abi::SnatRule>,
    /// Echo reflectors by index.
    pub echoes: Vec<(u16, abi::Echo)>,
    /// Allow-lists of all echo reflectors.
    pub echo_allow: Vec<abi::AllowEntry>,
    /// The filter.
    pub filter: Compiled,
    /// What its limits let through.
    pub filter_rates: Vec<abi::FilterRate>,
    /// Look-up tables of all forwards.
    pub maglev: Vec<abi::MaglevCell>,
    /// What does not work at present (targets without a route, filter rules of interfaces that are gone), a sentence each.
    pub warnings: Vec<String>,
}

/// A target that gets no new flows: it was removed, or `nat` uses another source address towards it by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// Its index.
    pub index: u16,
    /// Its uid.
    pub uid: u32,
    /// Index of its next hop; 0: no route.
    pub next_hop: u16,
}

/// How the host reaches a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetRoute {
    /// The host's own address that the routing table would use as source.
    pub source: std::net::IpAddr,
    /// Index of the next hop in the next-hop table.
    pub next_hop: u16,
}

/// What the compiler asks about the host.
pub trait HostView {
    /// Index of an interface, if it exists.
    fn ifindex(&self, name: &str) -> Option<u32>;
    /// Whether an address is one of this host's own.
    fn owns(&self, address: std::net::IpAddr) -> bool;
    /// How a target is reached; `None` while there is no route.
    fn route(&self, target: std::net::IpAddr) -> Option<TargetRoute>;
}
