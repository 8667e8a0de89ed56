//! The kernel's neighbour table (ARP and NDP), mirrored.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::NeighbourState;

use super::host::Mac;

/// A neighbour: the interface (as routes name it) and the address.
pub type NeighbourKey = (u32, IpAddr);

/// A neighbour entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The MAC address, if the kernel would send to it.
    pub mac: Option<Mac>,
    /// State.
    pub state: NeighbourState,
    /// The kernel keeps it resolved by itself (NTF_EXT_MANAGED).
    pub managed: bool,
    /// A routing daemon has put it there (NTF_EXT_LEARNED): the flag must be kept on every change.
    pub learned: bool,
}

impl Neighbour {
    /// Whether it was put there by hand: never touched, because asking the kernel to probe it would make it dynamic.
    pub fn fixed(&self) -> bool {
        matches!(self.state, NeighbourState::Permanent | NeighbourState::Noarp)
    }

    /// Whether the kernel has not come to a result about it yet.
    pub fn looking(&self) -> bool {
        matches!(self.state, NeighbourState::Incomplete | NeighbourState::None)
    }
}

/// A MAC address on an interface was left by the last address that it had there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Interface.
    pub ifindex: u32,
    /// The MAC address before.
    pub from: Mac,
    /// The MAC address now.
    pub to: Mac,
}

/// The mirror.
#[derive(Debug, Default)]
pub struct Neighbours {
    entries: HashMap<NeighbourKey, Neighbour>,
    /// The last MAC address of each neighbour, kept while the entry exists: a move to another MAC address usually goes by
    /// way of states in which there is none.
    last_macs: HashMap<NeighbourKey, Mac>,
    at: HashMap<(u32, Mac), HashSet<IpAddr>>,
}

impl Neighbours {
    /// The entry of a neighbour.
    pub fn get(&self, key: &NeighbourKey) -> Option<&Neighbour> {
        self.entries.get(key)
    }

    /// Every neighbour.
    pub fn keys(&self) -> impl Iterator<Item = &NeighbourKey> {
        self.entries.keys()
    }

    /// Takes over a new or changed entry.
    pub fn set(&mut self, key: NeighbourKey, entry: Neighbour) -> Option<Moved> {
        self.entries.insert(key, entry);
        let mac = entry.mac?;
        let last = self.last_macs.insert(key, mac);
        self.at.entry((key.0, mac)).or_default().insert(key.1);
        let from = last.filter(|last| *last != mac)?;
        self.leave(key, from).then_some(Moved { ifindex: key.0, from, to: mac })
    }

    /// Takes an entry out.
    pub fn remove(&mut self, key: &NeighbourKey) {
        self.entries.remove(key);
        if let Some(mac) = self.last_macs.remove(key) {
            self.leave(*key, mac);
        }
    }

    /// Whether nobody is left at the address.
    fn leave(&mut self, key: NeighbourKey, mac: Mac) -> bool {
        let Some(addresses) = self.at.get_mut(&(key.0, mac)) else { return true };
        addresses.remove(&key.1);
        if addresses.is_empty() {
            self.at.remove(&(key.0, mac));
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Mac = [2, 0, 0, 0, 0, 1];
    const B: Mac = [2, 0, 0, 0, 0, 2];

    fn entry(mac: Option<Mac>) -> Neighbour {
        Neighbour { mac, state: NeighbourState::Reachable, managed: false, learned: false }
    }

    fn key(last: u8) -> NeighbourKey {
        (4, IpAddr::from([10, 0, 0, last]))
    }

    #[test]
    fn a_mac_is_left_when_the_last_address_moves() {
        let mut table = Neighbours::default();
        assert_eq!(table.set(key(1), entry(Some(A))), None);
        assert_eq!(table.set(key(2), entry(Some(A))), None);
        assert_eq!(table.set(key(1), entry(Some(B))), None, "10.0.0.2 is still there");
        assert_eq!(table.set(key(2), entry(Some(B))), Some(Moved { ifindex: 4, from: A, to: B }));
        assert_eq!(table.set(key(2), entry(Some(B))), None);
    }

    #[test]
    fn a_move_is_seen_across_an_unresolved_state() {
        let mut table = Neighbours::default();
        table.set(key(1), entry(Some(A)));
        assert_eq!(table.set(key(1), entry(None)), None);
        assert_eq!(table.set(key(1), entry(Some(B))), Some(Moved { ifindex: 4, from: A, to: B }));
    }

    #[test]
    fn a_removed_neighbour_is_forgotten() {
        let mut table = Neighbours::default();
        table.set(key(1), entry(Some(A)));
        table.remove(&key(1));
        assert!(table.entries.is_empty());
        assert_eq!(table.set(key(1), entry(Some(B))), None);
        assert!(table.at.len() == 1);
    }
}
