//! Addresses that are listened on, that targets have, and that tunnels begin with.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Verdict;
use crate::{
    api::types::{Endpoint, Forward, ForwardMode, Target},
    rules::{normal, tunnel},
};

pub(super) fn family(address: &IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}

/// An address of one station.
pub(super) fn station(what: &str, address: &IpAddr) -> Verdict {
    let problem = match address {
        _ if address.is_unspecified() => "stands for any address; name the address itself",
        _ if address.is_multicast() => "is a multicast group; only single stations can be served",
        _ if address.is_loopback() => "is a loopback address, which never comes in by an interface",
        IpAddr::V4(v4) if v4.is_broadcast() => "is the broadcast address; only single stations can be served",
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            "is an IPv4 address in IPv6 form; write it as IPv4"
        }
        _ => return Ok(()),
    };
    Err(format!("{what} {address} {problem}"))
}

pub(super) fn listen_address(listen: &Endpoint) -> Verdict {
    station("the listening address", &listen.address)
}

pub(super) fn target_address(forward: &Forward, target: &Target) -> Verdict {
    let address = &target.address.address;
    let listen = &forward.listen;
    station("the target", address)?;
    if let IpAddr::V6(v6) = address
        && v6.is_unicast_link_local()
    {
        return Err(format!("the target {address} is a link-local address, which no route leads to"));
    }
    if address.is_ipv4() != listen.address.is_ipv4() && forward.mode == ForwardMode::Dnat {
        return Err(format!(
            "target {} is {} and forward {:?} listens on {}, which is {}: in mode dnat the client's address stays, so that \
             it cannot go to another IP version; use mode nat or targets of the version that it listens on",
            target.address,
            family(address),
            forward.name,
            listen.address,
            family(&listen.address)
        ));
    }
    if address.is_ipv4() != listen.address.is_ipv4() && forward.mode == ForwardMode::Dsr {
        return Err(format!(
            "target {} is {} and forward {:?} listens on {}, which is {}: in mode dsr nothing but the link header changes, \
             so name the target by its address of that version",
            target.address,
            family(address),
            forward.name,
            listen.address,
            family(&listen.address)
        ));
    }
    if forward.mode.is_direct() && target.address.ports.low != listen.ports.low {
        return Err(format!(
            "forward {:?} listens on port {}, and its target {} is to be reached on port {}: in mode {} packets stay as they \
             are, so give the target the port {}",
            forward.name, listen.ports, target.address, target.address.ports, forward.mode, listen.ports
        ));
    }
    if *address == listen.address {
        return Err(format!(
            "forward {:?} listens on {address}, and its target {} has the same address: packets would come back to it \
             for ever",
            forward.name, target.address
        ));
    }
    if normal::target_ports(listen.ports, target.address.ports).is_none() {
        let count = listen.ports.count();
        return Err(if target.address.ports.count() == 1 {
            format!(
                "forward {:?} listens on {count} ports, and from port {} on there are not that many",
                forward.name, target.address.ports.low
            )
        } else {
            format!(
                "forward {:?} listens on {count} port{}, target {} has {}: give as many, or the first one only",
                forward.name,
                if count == 1 { "" } else { "s" },
                target.address,
                target.address.ports.count()
            )
        });
    }
    Ok(())
}

/// The outer source addresses of mode `ipip`.
pub(super) fn tunnel_source(forward: &Forward) -> Verdict {
    let Some(net) = &forward.tunnel_source else { return Ok(()) };
    if forward.mode != ForwardMode::Ipip {
        return Err(format!(
            "forward {:?} is in mode {}, which has no tunnel: leave its tunnel source out, or use mode ipip",
            forward.name, forward.mode
        ));
    }
    prefix(net)?;
    station("the tunnel source", &net.network())?;
    if !forward.targets.is_empty()
        && forward.targets.iter().all(|t| tunnel::prefix(forward, t.address.address).is_none())
    {
        return Err(format!(
            "the tunnel source {net} is {}, and no target of forward {:?} is: name a prefix of the targets' version",
            family(&net.addr()),
            forward.name
        ));
    }
    Ok(())
}

/// A prefix that does not mix the IP versions.
pub(super) fn prefix(net: &IpNet) -> Verdict {
    match net {
        IpNet::V6(v6) if v6.addr().to_ipv4_mapped().is_some() && v6.prefix_len() >= 96 => {
            Err(format!("{net} is an IPv4 prefix in IPv6 form; write it as IPv4"))
        }
        _ => Ok(()),
    }
}
