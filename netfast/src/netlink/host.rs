//! What is known of the host's links, and what follows from it: how a frame leaves by an interface, and the contents
//! of the maps `VLANS` and `VLAN_LINKS`.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use netfast_common::{abi, addr};

/// A MAC address.
pub type Mac = [u8; 6];

/// A VLAN interface's place on the interface below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanOf {
    /// Interface below.
    pub parent: u32,
    /// VLAN identifier.
    pub id: u16,
    /// Tagged by 802.1Q (0x8100); otherwise 802.1ad.
    pub dot1q: bool,
}

/// A link, as the kernel describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// What the kernel calls its kind (`veth`, `vlan`, ...); empty for hardware.
    pub kind: String,
    /// MAC address; `None` for what has none.
    pub mac: Option<Mac>,
    /// MTU in bytes, without the link header.
    pub mtu: u32,
    /// The administrator has set it up.
    pub up: bool,
    /// It has carrier.
    pub carrier: bool,
    /// Ethernet framing.
    pub ethernet: bool,
    /// Loopback.
    pub loopback: bool,
    /// The interface below, for a VLAN interface.
    pub vlan: Option<VlanOf>,
    /// Bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// Identifiers of attached XDP programs.
    pub xdp: Vec<u32>,
}

impl Link {
    /// Whether frames can leave by it.
    pub fn usable(&self) -> bool {
        self.up && self.carrier
    }

    /// Whether packets take the same way as by another state of the link: a new name or an attached program changes
    /// nothing for them.
    pub fn leads_like(&self, other: &Link) -> bool {
        let alike = Link { xdp: other.xdp.clone(), name: other.name.clone(), ..self.clone() };
        alike == *other
    }
}

/// How frames leave that the routing table sends to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// Interface to send from: the physical one.
    pub ifindex: u32,
    /// VLAN identifier to send with; 0: untagged.
    pub vlan: u16,
    /// Source MAC address.
    pub source: Mac,
    /// MTU in bytes, without the link header.
    pub mtu: u32,
    /// Every link involved is up and has carrier.
    pub usable: bool,
}

/// Why frames cannot be sent to an interface by the program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// No such link (any more).
    #[error("the interface with index {0} does not exist")]
    NoLink(u32),
    /// Tunnels and the like.
    #[error(
        "interface {0} is not an Ethernet interface; route the target over an Ethernet or VLAN interface"
    )]
    NotEthernet(String),
    /// A VLAN on a VLAN.
    #[error("interface {0} is a VLAN on a VLAN, which is not supported; use one 802.1Q tag")]
    StackedVlan(String),
    /// 802.1ad.
    #[error("interface {0} uses 802.1ad tags, which are not supported for forwarding; use 802.1Q")]
    ServiceTag(String),
}

/// Address of an interface of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostAddress {
    /// Interface.
    pub ifindex: u32,
    /// Address.
    pub address: IpAddr,
    /// Prefix length.
    pub length: u8,
}

/// The host's links and addresses at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// Links by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses.
    pub addresses: std::collections::BTreeSet<HostAddress>,
}

impl HostState {
    /// The link of a name.
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// The link of a name, by index.
    pub fn ifindex(&self, name: &str) -> Option<u32> {
        self.by_name(name).map(|link| link.index)
    }

    /// Name of an interface, or its number where it is not known.
    pub fn name(&self, ifindex: u32) -> String {
        self.links.get(&ifindex).map_or_else(|| format!("#{ifindex}"), |link| link.name.clone())
    }

    /// Whether an address is one of the host's own.
    pub fn owns(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|own| own.address == address)
    }

    /// How frames leave by the interface that a route names.
    pub fn egress(&self, ifindex: u32) -> Result<Egress, EgressError> {
        let link = self.links.get(&ifindex).ok_or(EgressError::NoLink(ifindex))?;
        if !link.ethernet || link.loopback {
            return Err(EgressError::NotEthernet(link.name.clone()));
        }
        let Some(vlan) = link.vlan else {
            let source = link.mac.ok_or_else(|| EgressError::NotEthernet(link.name.clone()))?;
            return Ok(Egress { ifindex, vlan: 0, source, mtu: link.mtu, usable: link.usable() });
        };
        let parent = self.links.get(&vlan.parent).ok_or(EgressError::NoLink(vlan.parent))?;
        if parent.vlan.is_some() {
            return Err(EgressError::StackedVlan(link.name.clone()));
        }
        if !vlan.dot1q {
            return Err(EgressError::ServiceTag(link.name.clone()));
        }
        let source = parent.mac.ok_or_else(|| EgressError::NotEthernet(parent.name.clone()))?;
        Ok(Egress {
            ifindex: vlan.parent,
            vlan: vlan.id,
            source,
            mtu: link.mtu.min(parent.mtu),
            usable: link.usable() && parent.usable(),
        })
    }

    /// Contents of the map `INTERFACE_ADDRESSES`: the addresses that answers come from, by interface. An address of a
    /// network comes before one that stands alone (a service's), one that is known everywhere before a link-local one.
    pub fn answer_addresses(&self) -> Vec<(u32, abi::InterfaceAddress)> {
        let mut best: BTreeMap<(u32, bool), (bool, bool, IpAddr)> = BTreeMap::new();
        for own in &self.addresses {
            let (alone, local) = match own.address {
                IpAddr::V4(v4) if v4.is_loopback() => continue,
                IpAddr::V4(v4) => (own.length == 32, v4.is_link_local()),
                IpAddr::V6(v6) if v6.is_loopback() => continue,
                IpAddr::V6(v6) => (own.length == 128, v6.is_unicast_link_local()),
            };
            let found = (local, alone, own.address);
            let entry = best.entry((own.ifindex, own.address.is_ipv6())).or_insert(found);
            *entry = found.min(*entry);
        }
        let mut all: BTreeMap<u32, abi::InterfaceAddress> = BTreeMap::new();
        for ((ifindex, v6), (.., address)) in best {
            let entry = all.entry(ifindex).or_default();
            *(if v6 { &mut entry.v6 } else { &mut entry.v4 }) = addr::from_ip(address);
        }
        all.into_iter().collect()
    }

    /// The interface by which packets with a tag on an interface come in for the kernel: the VLAN interface, or the
    /// interface itself for VLAN 0.
    pub fn tagged(&self, ifindex: u32, vlan: u16) -> Option<u32> {
        if vlan == 0 {
            return self.links.contains_key(&ifindex).then_some(ifindex);
        }
        self.vlan_links()
            .find(|(_, link)| link.ifindex == ifindex && link.vlan == u32::from(vlan))
            .map(|(i, _)| i)
    }

    /// Contents of the map `VLANS`: from a tag on an interface to the VLAN interface.
    pub fn vlans(&self) -> HashMap<abi::VlanKey, u32> {
        self.vlan_links()
            .map(|(ifindex, link)| (abi::VlanKey { ifindex: link.ifindex, vlan: link.vlan }, ifindex))
            .collect()
    }

    /// Contents of the map `VLAN_LINKS`: from a VLAN interface to the one below. VLANs on VLANs and 802.1ad ones are
    /// left out: nothing is forwarded by them.
    pub fn vlan_links(&self) -> impl Iterator<Item = (u32, abi::VlanLink)> {
        self.links.values().filter_map(|link| {
            let vlan = link.vlan.filter(|vlan| vlan.dot1q)?;
            let stacked = self.links.get(&vlan.parent).is_none_or(|parent| parent.vlan.is_some());
            (!stacked)
                .then_some((link.index, abi::VlanLink { ifindex: vlan.parent, vlan: u32::from(vlan.id) }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, index as u8]),
            mtu: 1500,
            up: true,
            carrier: true,
            ethernet: true,
            ..Link::default()
        }
    }

    fn vlan(index: u32, name: &str, parent: u32, id: u16, dot1q: bool) -> Link {
        Link { vlan: Some(VlanOf { parent, id, dot1q }), mtu: 1400, kind: "vlan".into(), ..link(index, name) }
    }

    fn host() -> HostState {
        let lo = Link { ethernet: false, loopback: true, ..link(1, "lo") };
        let tunnel = Link { ethernet: false, mac: None, ..link(9, "wg0") };
        let links = [
            lo,
            link(2, "eth0"),
            vlan(3, "eth0.7", 2, 7, true),
            vlan(4, "eth0.7.8", 3, 8, true),
            vlan(5, "eth0.9", 2, 9, false),
            tunnel,
        ];
        HostState { links: links.into_iter().map(|l| (l.index, l)).collect(), ..HostState::default() }
    }

    #[test]
    fn a_plain_interface_leads_to_itself() {
        let egress = host().egress(2).unwrap();
        assert_eq!(
            egress,
            Egress { ifindex: 2, vlan: 0, source: [2, 0, 0, 0, 0, 2], mtu: 1500, usable: true }
        );
    }

    #[test]
    fn a_vlan_interface_leads_to_the_one_below() {
        let egress = host().egress(3).unwrap();
        assert_eq!(
            egress,
            Egress { ifindex: 2, vlan: 7, source: [2, 0, 0, 0, 0, 2], mtu: 1400, usable: true }
        );
        let mut down = host();
        down.links.get_mut(&2).unwrap().carrier = false;
        assert!(!down.egress(3).unwrap().usable, "no carrier below");
    }

    #[test]
    fn what_cannot_be_sent_to_says_why() {
        let host = host();
        assert_eq!(host.egress(4), Err(EgressError::StackedVlan("eth0.7.8".into())));
        assert_eq!(host.egress(5), Err(EgressError::ServiceTag("eth0.9".into())));
        assert_eq!(host.egress(9), Err(EgressError::NotEthernet("wg0".into())));
        assert_eq!(host.egress(1), Err(EgressError::NotEthernet("lo".into())));
        assert_eq!(host.egress(77), Err(EgressError::NoLink(77)));
    }

    #[test]
    fn a_name_or_a_program_changes_no_way() {
        let old = link(2, "eth0");
        assert!(old.leads_like(&Link { name: "wan".into(), xdp: vec![7], ..old.clone() }));
        assert!(!old.leads_like(&Link { carrier: false, ..old.clone() }));
        assert!(!old.leads_like(&Link { mtu: 9000, ..old.clone() }));
    }

    #[test]
    fn maps_of_vlans_hold_single_802_1q_tags_only() {
        let host = host();
        let links: Vec<_> = host.vlan_links().collect();
        assert_eq!(links, [(3, abi::VlanLink { ifindex: 2, vlan: 7 })]);
        assert_eq!(host.vlans(), HashMap::from([(abi::VlanKey { ifindex: 2, vlan: 7 }, 3)]));
        assert_eq!(host.tagged(2, 7), Some(3));
        assert_eq!(host.tagged(2, 0), Some(2));
        assert_eq!(host.tagged(2, 8), None);
    }

    #[test]
    fn an_answer_comes_from_an_address_of_the_network() {
        let own = |ifindex, address: &str, length| HostAddress {
            ifindex,
            address: address.parse().unwrap(),
            length,
        };
        let addresses = [
            own(1, "127.0.0.1", 8),
            own(2, "192.0.2.10", 32),
            own(2, "198.51.100.1", 24),
            own(2, "2001:db8::10", 128),
            own(2, "2001:db8:ff::1", 64),
            own(2, "fe80::1", 64),
            own(3, "fe80::2", 64),
        ];
        let host = HostState { addresses: addresses.into_iter().collect(), ..host() };
        let of = |address: &str| addr::from_ip(address.parse().unwrap());
        let expected = vec![
            (2, abi::InterfaceAddress { v4: of("198.51.100.1"), v6: of("2001:db8:ff::1") }),
            (3, abi::InterfaceAddress { v4: [0; 16], v6: of("fe80::2") }),
        ];
        assert_eq!(expected, host.answer_addresses());
    }
}
