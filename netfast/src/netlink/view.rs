//! What the compiler of rules may ask about the host, answered beforehand.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::host::{EgressError, HostState};
use crate::rules::images::{HostView, TargetRoute};

/// The kernel's answer about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Output interface, as the routing table names it.
    pub ifindex: u32,
    /// Whom the frame goes to: the gateway, or the destination itself.
    pub neighbour: IpAddr,
    /// The host's own address that the kernel would use as source.
    pub source: Option<IpAddr>,
    /// MTU that the route sets, in bytes; `u32::MAX` if it sets none.
    pub mtu: u32,
}

/// Why a target cannot be forwarded to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreachable {
    /// No route.
    #[error("there is no route to {0}; add one, or check that its interface is up")]
    NoRoute(IpAddr),
    /// A blackhole, unreachable, prohibit or throw route.
    #[error("the routing table refuses {target} ({by} route)")]
    Refused {
        /// The target.
        target: IpAddr,
        /// Type of the route.
        by: String,
    },
    /// The host's own address.
    #[error(
        "{0} is an address of this host; an XDP program cannot forward to a local program, use a remote target"
    )]
    OwnAddress(IpAddr),
    /// Multicast, broadcast.
    #[error("{0} is not a unicast address here")]
    NotUnicast(IpAddr),
    /// No source address.
    #[error("interface {interface} has no address that packets to {target} could come from; give it one")]
    NoSource {
        /// The target.
        target: IpAddr,
        /// Output interface.
        interface: String,
    },
    /// The output interface is of no use.
    #[error("{target} is routed over an unsuitable interface: {reason}")]
    Egress {
        /// The target.
        target: IpAddr,
        /// Why.
        reason: EgressError,
    },
    /// All indexes of next hops are taken.
    #[error("{0}: all {limit} next hops are taken; use fewer gateways or targets on the link",
        limit = netfast_common::abi::FIRST_LEARNED_HOP - 1)]
    TooManyHops(IpAddr),
    /// The kernel could not be asked.
    #[error("the kernel could not be asked for the route to {target}: {error}")]
    Query {
        /// The target.
        target: IpAddr,
        /// The error.
        error: String,
    },
}

/// [`Path`] or why there is none.
pub type Answer = Result<Path, Unreachable>;

/// The gateways of targets that are not on the same link.
pub(crate) fn gateways(answers: &[(IpAddr, Answer)]) -> HashMap<IpAddr, IpAddr> {
    answers
        .iter()
        .filter_map(|(target, answer)| {
            let neighbour = answer.as_ref().ok()?.neighbour;
            (neighbour != *target).then_some((*target, neighbour))
        })
        .collect()
}

/// The host as the compiler sees it: made by [`super::Netlink::resolve_targets`] for the targets given there.
#[derive(Clone, Debug, Default)]
pub struct ResolvedView {
    host: Arc<HostState>,
    routes: HashMap<IpAddr, Result<TargetRoute, Unreachable>>,
    unresolved: Vec<IpAddr>,
    gateways: HashMap<IpAddr, IpAddr>,
}

impl ResolvedView {
    pub(crate) fn new(
        host: Arc<HostState>,
        routes: HashMap<IpAddr, Result<TargetRoute, Unreachable>>,
        mut unresolved: Vec<IpAddr>,
    ) -> Self {
        unresolved.sort_unstable();
        Self { host, routes, unresolved, gateways: HashMap::new() }
    }

    pub(crate) fn with_gateways(self, gateways: HashMap<IpAddr, IpAddr>) -> Self {
        Self { gateways, ..self }
    }

    /// The host's links and addresses at that time.
    pub fn host(&self) -> &Arc<HostState> {
        &self.host
    }

    /// Why a target cannot be forwarded to; `None` if it can, or was not asked for.
    pub fn problem(&self, target: IpAddr) -> Option<&Unreachable> {
        self.routes.get(&target)?.as_ref().err()
    }

    /// Every target that cannot be forwarded to.
    pub fn problems(&self) -> impl Iterator<Item = (IpAddr, &Unreachable)> {
        self.routes.iter().filter_map(|(target, route)| Some((*target, route.as_ref().err()?)))
    }

    /// Targets that have a route but whose neighbour has not answered (yet). Packets to them are dropped and counted.
    pub fn unresolved(&self) -> &[IpAddr] {
        &self.unresolved
    }

    /// Indexes of all next hops that the view refers to.
    pub fn next_hops(&self) -> impl Iterator<Item = u16> {
        self.routes.values().filter_map(|route| Some(route.as_ref().ok()?.next_hop))
    }
}

impl HostView for ResolvedView {
    fn ifindex(&self, name: &str) -> Option<u32> {
        self.host.ifindex(name)
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.host.owns(address)
    }

    fn route(&self, target: IpAddr) -> Option<TargetRoute> {
        self.routes.get(&target)?.as_ref().ok().copied()
    }

    fn gateway(&self, target: IpAddr) -> Option<IpAddr> {
        self.gateways.get(&target).copied()
    }
}
