//! The host without its routes: for rules that are only looked at, so that no next hop need be resolved.

use std::net::IpAddr;

use crate::{
    netlink::HostState,
    rules::images::{HostView, TargetRoute},
};

/// The host's interfaces and addresses.
pub struct HostNames<'a>(pub &'a HostState);

impl HostView for HostNames<'_> {
    fn ifindex(&self, name: &str) -> Option<u32> {
        self.0.ifindex(name)
    }

    fn owns(&self, address: IpAddr) -> bool {
        self.0.owns(address)
    }

    fn route(&self, _target: IpAddr) -> Option<TargetRoute> {
        None
    }
}
