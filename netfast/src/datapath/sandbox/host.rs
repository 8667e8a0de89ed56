//! The host that rules are compiled for: made up.

use std::{collections::BTreeMap, net::IpAddr};

use super::Port;
use crate::rules::images::{HostView, TargetRoute};

/// The host that rules are compiled for.
pub(super) struct Host {
    pub(super) ports: Vec<Port>,
    /// Source addresses of `nat`, IPv4 and IPv6.
    pub(super) sources: [IpAddr; 2],
    /// Index of the next hop by target; `None`: no route.
    pub(super) ways: BTreeMap<IpAddr, Option<u16>>,
    /// Gateways of targets.
    pub(super) gateways: BTreeMap<IpAddr, IpAddr>,
}

impl HostView for Host {
    fn ifindex(&self, name: &str) -> Option<u32> {
        self.ports.iter().find(|port| port.name == name).map(|port| port.ifindex)
    }

    fn owns(&self, _address: IpAddr) -> bool {
        true
    }

    fn route(&self, target: IpAddr) -> Option<TargetRoute> {
        let source = self.sources[usize::from(target.is_ipv6())];
        self.ways.get(&target).copied().flatten().map(|next_hop| TargetRoute { source, next_hop })
    }

    fn gateway(&self, target: IpAddr) -> Option<IpAddr> {
        self.gateways.get(&target).copied()
    }
}
