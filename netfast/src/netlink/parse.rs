//! From netlink messages to netfast's own types.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    InfoData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteNextHop, RouteType, RouteVia,
};

use super::host::{HostAddress, Link, Mac, VlanOf};
use super::neighbours::{Neighbour, NeighbourKey};
use super::view::{Path, Unreachable};

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().filter(|mac| *mac != [0; 6])
}

/// The link of a message; `None` for messages of the bridge family, which are about bridge ports.
pub(crate) fn link(message: &LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    let mut below = None;
    let mut vlan = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(address) => link.mac = mac(address),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => below = Some(*index),
            LinkAttribute::Controller(index) => link.master = Some(*index).filter(|index| *index != 0),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                        LinkInfo::Data(InfoData::Vlan(data)) => vlan = Some(vlan_data(data)),
                        _ => {}
                    }
                }
            }
            LinkAttribute::Xdp(xdp) => link.xdp = xdp_programs(xdp),
            _ => {}
        }
    }
    link.vlan = vlan.zip(below).map(|((id, dot1q), parent)| VlanOf { parent, id, dot1q });
    Some(link)
}

fn vlan_data(data: &[InfoVlan]) -> (u16, bool) {
    let mut id = 0;
    let mut dot1q = true;
    for item in data {
        match item {
            InfoVlan::Id(value) => id = *value,
            InfoVlan::Protocol(protocol) => dot1q = *protocol == VlanProtocol::Ieee8021Q,
            _ => {}
        }
    }
    (id, dot1q)
}

fn xdp_programs(attributes: &[LinkXdp]) -> Vec<u32> {
    let mut ids: Vec<u32> = attributes
        .iter()
        .filter_map(|attribute| match attribute {
            LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) | LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id)
                if *id != 0 =>
            {
                Some(*id)
            }
            _ => None,
        })
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// The address of a message.
pub(crate) fn address(message: &AddressMessage) -> Option<HostAddress> {
    // The peer of a point-to-point link stands in `Address`, the own address in `Local`; IPv6 has only `Address`.
    let mut local = None;
    let mut plain = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => plain = Some(*ip),
            _ => {}
        }
    }
    Some(HostAddress {
        ifindex: message.header.index,
        address: local.or(plain)?,
        length: message.header.prefix_len,
    })
}

/// The neighbour of a message; `None` for anything but IPv4 and IPv6 (a bridge's forwarding entries come the same way).
pub(crate) fn neighbour(message: &NeighbourMessage) -> Option<(NeighbourKey, Neighbour)> {
    if !matches!(message.header.family, AddressFamily::Inet | AddressFamily::Inet6)
        || message.header.flags.contains(NeighbourFlags::Proxy)
    {
        return None;
    }
    let mut address = None;
    let mut entry = Neighbour {
        mac: None,
        state: message.header.state,
        managed: false,
        learned: message.header.flags.contains(NeighbourFlags::ExtLearned),
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            NeighbourAttribute::LinkLayerAddress(bytes) => entry.mac = mac(bytes),
            NeighbourAttribute::ExtFlags(flags) => entry.managed = flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    if !usable_state(entry.state) {
        entry.mac = None;
    }
    Some(((message.header.ifindex, address?), entry))
}

/// Whether the kernel would send to the link-layer address of an entry in this state.
fn usable_state(state: NeighbourState) -> bool {
    matches!(
        state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
            | NeighbourState::Noarp
    )
}

/// The kernel's answer to "how is `target` reached".
pub(crate) fn route(target: IpAddr, message: &RouteMessage) -> Result<Path, Unreachable> {
    match message.header.kind {
        RouteType::Unicast => {}
        RouteType::Local | RouteType::Anycast => return Err(Unreachable::OwnAddress(target)),
        RouteType::Broadcast | RouteType::Multicast => return Err(Unreachable::NotUnicast(target)),
        kind => return Err(Unreachable::Refused { target, by: format!("{kind:?}").to_lowercase() }),
    }
    let mut path = Path { ifindex: 0, neighbour: target, source: None, mtu: u32::MAX };
    let mut mtu = None;
    let mut learned = false;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::MultiPath(hops) => multipath(&mut path, hops),
            RouteAttribute::PrefSource(source) => path.source = ip(source),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(value) if *value > 0 => Some(*value),
                    _ => None,
                });
            }
            // A path MTU that was learned for this one destination says nothing about the next hop.
            RouteAttribute::CacheInfo(info) => learned = info.expires != 0,
            other => hop(&mut path, other),
        }
    }
    if let (Some(mtu), false) = (mtu, learned) {
        path.mtu = mtu;
    }
    if path.ifindex == 0 { Err(Unreachable::NoRoute(target)) } else { Ok(path) }
}

/// The kernel picks one path for a look-up; should an answer carry all of them, the first one is taken.
fn multipath(path: &mut Path, hops: &[RouteNextHop]) {
    if let Some(first) = hops.first().filter(|_| path.ifindex == 0) {
        path.ifindex = first.interface_index;
        first.attributes.iter().for_each(|attribute| hop(path, attribute));
    }
}

fn hop(path: &mut Path, attribute: &RouteAttribute) {
    match attribute {
        RouteAttribute::Oif(index) => path.ifindex = *index,
        RouteAttribute::Gateway(gateway) => {
            if let Some(gateway) = ip(gateway).filter(|gateway| !gateway.is_unspecified()) {
                path.neighbour = gateway;
            }
        }
        RouteAttribute::Via(RouteVia::Inet(v4)) => path.neighbour = IpAddr::V4(*v4),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => path.neighbour = IpAddr::V6(*v6),
        _ => {}
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

/// VLAN and MAC address that a next hop's key of the kind `Mac` names.
pub(crate) fn mac_key(address: &[u8; 16]) -> (Mac, u16) {
    let [a, b, c, d, e, f, high, low, ..] = *address;
    ([a, b, c, d, e, f], u16::from_be_bytes([high, low]))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn answer(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    const TARGET: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 1));
    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    #[test]
    fn a_target_on_the_link_is_its_own_neighbour() {
        let source = RouteAttribute::PrefSource(RouteAddress::Inet(Ipv4Addr::new(10, 9, 0, 2)));
        let path = route(TARGET, &answer(RouteType::Unicast, vec![RouteAttribute::Oif(4), source])).unwrap();
        assert_eq!(
            path,
            Path { ifindex: 4, neighbour: TARGET, source: Some([10, 9, 0, 2].into()), mtu: u32::MAX }
        );
    }

    #[test]
    fn a_gateway_of_either_family_is_the_neighbour() {
        let oif = RouteAttribute::Oif(4);
        let v4 = RouteAttribute::Gateway(RouteAddress::Inet(GATEWAY));
        let path = route(TARGET, &answer(RouteType::Unicast, vec![oif.clone(), v4])).unwrap();
        assert_eq!(path.neighbour, IpAddr::V4(GATEWAY));
        let v6 = RouteAttribute::Via(RouteVia::Inet6("fe80::1".parse().unwrap()));
        let path = route(TARGET, &answer(RouteType::Unicast, vec![oif, v6])).unwrap();
        assert_eq!(path.neighbour, "fe80::1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_mtu_of_a_route_counts_but_not_a_learned_one() {
        let metrics = RouteAttribute::Metrics(vec![RouteMetric::Mtu(1280)]);
        let attributes = vec![RouteAttribute::Oif(4), metrics];
        assert_eq!(route(TARGET, &answer(RouteType::Unicast, attributes)).unwrap().mtu, 1280);
    }

    #[test]
    fn what_is_no_unicast_route_says_so() {
        let local = answer(RouteType::Local, vec![RouteAttribute::Oif(1)]);
        assert_eq!(route(TARGET, &local), Err(Unreachable::OwnAddress(TARGET)));
        let broadcast = answer(RouteType::Broadcast, vec![RouteAttribute::Oif(1)]);
        assert_eq!(route(TARGET, &broadcast), Err(Unreachable::NotUnicast(TARGET)));
        let blackhole = answer(RouteType::BlackHole, vec![]);
        assert!(matches!(route(TARGET, &blackhole), Err(Unreachable::Refused { .. })));
        assert_eq!(route(TARGET, &answer(RouteType::Unicast, vec![])), Err(Unreachable::NoRoute(TARGET)));
    }

    #[test]
    fn a_neighbour_that_failed_has_no_mac() {
        let mut message = NeighbourMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.ifindex = 4;
        message.attributes = vec![
            NeighbourAttribute::Destination(NeighbourAddress::Inet(GATEWAY)),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]),
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
        ];
        for (state, valid) in [
            (NeighbourState::Reachable, true),
            (NeighbourState::Stale, true),
            (NeighbourState::Failed, false),
            (NeighbourState::Incomplete, false),
        ] {
            message.header.state = state;
            let (key, entry) = neighbour(&message).unwrap();
            assert_eq!(key, (4, IpAddr::V4(GATEWAY)));
            assert_eq!(entry.mac.is_some(), valid, "{state}");
            assert!(entry.managed);
        }
        message.header.family = AddressFamily::Bridge;
        assert_eq!(neighbour(&message), None, "a bridge's forwarding entry is no neighbour");
    }

    #[test]
    fn a_link_message_of_a_bridge_port_is_no_link() {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        assert!(link(&message).is_some());
        message.header.interface_family = AddressFamily::Bridge;
        assert!(link(&message).is_none());
    }
}
