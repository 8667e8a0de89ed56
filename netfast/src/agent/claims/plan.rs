//! Which addresses are claimed on which links.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use netfast_common::{abi::ClaimKey, addr};

use crate::{
    api::types::Rules,
    netlink::{HostAddress, HostState, Mac},
};

/// An address on a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) struct Place {
    /// The address.
    pub(super) address: IpAddr,
    /// Interface that its network is on, which may be a VLAN interface.
    pub(super) l3: u32,
    /// Name of that interface.
    pub(super) interface: String,
    /// MAC address of the interface that netfast is attached to.
    pub(super) mac: Mac,
    /// Frames can be sent.
    pub(super) usable: bool,
}

impl Place {
    /// The address.
    pub(in crate::agent) const fn address(&self) -> IpAddr {
        self.address
    }
}

/// Places by their keys.
pub(in crate::agent) type Places = BTreeMap<ClaimKey, Place>;

/// Addresses that rules claim.
pub(in crate::agent) fn addresses(rules: &Rules) -> BTreeSet<IpAddr> {
    let forwards =
        rules.forwards.iter().filter(|forward| forward.claim).map(|forward| forward.listen.address);
    let echoes = rules.echoes.iter().filter(|echo| echo.claim).map(|echo| echo.listen.address);
    let pools = rules.snats.iter().filter(|snat| snat.claim).flat_map(|snat| snat.to.iter().copied());
    forwards.chain(echoes).chain(pools).collect()
}

/// Where `addresses` are to be claimed: on the links that netfast is attached to (`attached`) and whose networks hold them. The
/// second value tells what is not claimed, a sentence each.
pub(in crate::agent) fn plan(
    addresses: &BTreeSet<IpAddr>,
    host: &HostState,
    attached: &[u32],
) -> (Places, Vec<String>) {
    let (mut places, mut notes) = (Places::new(), Vec::new());
    for &address in addresses {
        if let Some(own) = host.addresses.iter().find(|own| own.address == address) {
            notes.push(format!(
                "claim of {address}: it is an address of {}, so that the kernel answers for it; nothing is claimed",
                host.name(own.ifindex)
            ));
            continue;
        }
        let mut found = false;
        for own in host.addresses.iter().filter(|own| holds(own, address)) {
            let Ok(egress) = host.egress(own.ifindex) else { continue };
            found = true;
            let interface = host.name(own.ifindex);
            if !attached.contains(&egress.ifindex) {
                notes.push(format!(
                    "claim of {address}: netfast is not attached to {}, where its network is; `netfast attach {0}` \
                     makes it answer there",
                    host.name(egress.ifindex)
                ));
                continue;
            }
            let key = ClaimKey {
                address: addr::from_ip(address),
                ifindex: egress.ifindex,
                vlan: u32::from(egress.vlan),
            };
            let (mac, usable) = (egress.source, egress.usable);
            places.insert(key, Place { address, l3: own.ifindex, interface, mac, usable });
        }
        if !found {
            notes.push(format!(
                "claim of {address}: no interface has a network that holds it, so that nobody asks for it by {}: it has to \
                 be routed to this host",
                if address.is_ipv4() { "ARP" } else { "neighbour discovery" }
            ));
        }
    }
    notes.dedup();
    (places, notes)
}

/// Whether an address can be a station's in the network that one of the host's own addresses is in.
fn holds(own: &HostAddress, address: IpAddr) -> bool {
    let Ok(net) = IpNet::new(own.address, own.length) else { return false };
    if !net.contains(&address) || own.address.is_loopback() {
        return false;
    }
    // Networks of one or two addresses have no broadcast address (RFC 3021).
    match net {
        IpNet::V4(v4) if v4.prefix_len() < 31 => {
            IpAddr::V4(v4.network()) != address && IpAddr::V4(v4.broadcast()) != address
        }
        IpNet::V6(v6) if v6.prefix_len() < 127 => IpAddr::V6(v6.network()) != address,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{Link, VlanOf};

    fn host() -> HostState {
        let link = |index: u32, name: &str| Link {
            index,
            name: name.to_owned(),
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            up: true,
            carrier: true,
            ethernet: true,
            ..Link::default()
        };
        let vlan = Link { vlan: Some(VlanOf { parent: 2, id: 7, dot1q: true }), ..link(3, "eth0.7") };
        let own = |ifindex, address: &str, length| HostAddress {
            ifindex,
            address: address.parse().unwrap(),
            length,
        };
        HostState {
            links: [link(2, "eth0"), vlan, link(4, "eth1")].map(|link| (link.index, link)).into(),
            addresses: [
                own(2, "192.0.2.1", 24),
                own(2, "2001:db8::1", 64),
                own(2, "198.51.100.9", 32),
                own(3, "10.7.0.1", 24),
                own(4, "10.8.0.1", 24),
            ]
            .into(),
        }
    }

    fn planned(address: &str) -> (Vec<(u32, u32, String)>, Vec<String>) {
        let (places, notes) = plan(&[address.parse().unwrap()].into(), &host(), &[2]);
        let places = places.into_iter();
        (places.map(|(key, place)| (key.ifindex, key.vlan, place.interface)).collect(), notes)
    }

    #[test]
    fn an_address_is_claimed_where_its_network_is() {
        assert_eq!((vec![(2, 0, "eth0".to_owned())], vec![]), planned("192.0.2.50"));
        assert_eq!((vec![(2, 0, "eth0".to_owned())], vec![]), planned("2001:db8::50"));
        assert_eq!((vec![(2, 7, "eth0.7".to_owned())], vec![]), planned("10.7.0.50"));
    }

    #[test]
    fn what_is_not_claimed_is_told() {
        let note = |address: &str| {
            let (places, notes) = planned(address);
            assert_eq!((0, 1), (places.len(), notes.len()), "{address}: {notes:?}");
            notes[0].clone()
        };
        assert!(note("192.0.2.1").contains("address of eth0"));
        assert!(note("10.8.0.50").contains("`netfast attach eth1`"));
        for routed in ["203.0.113.1", "198.51.100.10", "192.0.2.255", "192.0.2.0", "2001:db8:1::1"] {
            assert!(note(routed).contains("routed to this host"), "{routed}");
        }
    }
}
