//! The tables that the netlink side keeps current: next hops and VLANs.

use std::{mem::offset_of, os::fd::AsFd};

use netfast_common::{
    abi::{self, HopKey, InterfaceAddress, NextHop, VlanKey, VlanLink},
    addr,
};

use super::{Datapath, DatapathError, attach, sys};
use crate::netlink::{HopTable, HopTableError};

impl Datapath {
    /// Puts all indexes for learned next hops into the queue. Once, when the queue is made.
    pub(super) fn fill_free_hops(&self) {
        for index in abi::FIRST_LEARNED_HOP..abi::MAX_NEXT_HOPS {
            if let Err(error) = sys::push(self.maps.hop_free.as_fd(), &index) {
                tracing::error!(%error, "the queue of free next hops cannot be filled");
                return;
            }
        }
    }

    /// Every key of `HOP_INDEX` with its index: the next hops that an earlier agent and the program left.
    pub fn hop_entries(&self) -> Vec<(HopKey, u32)> {
        let map = self.maps.hop_index.as_fd();
        let keys: Vec<HopKey> = sys::keys(map).unwrap_or_default();
        keys.into_iter().filter_map(|key| Some((key, sys::lookup(map, &key).ok()??))).collect()
    }

    /// The next hop at an index.
    pub fn hop(&self, index: u16) -> Option<NextHop> {
        self.maps.next_hops.get(u32::from(index))
    }

    /// Next hops that elements of `TARGETS` in use refer to, and whether each is valid: `(target, next hop, valid)`.
    pub fn target_hops(&self, targets: impl Iterator<Item = u16>) -> Vec<(u16, u16, bool)> {
        targets
            .filter_map(|index| {
                let next_hop =
                    self.maps.targets.get(u32::from(index)).filter(|target| target.in_use == 1)?.next_hop;
                let valid = self.hop(next_hop).is_some_and(|hop| hop.is_valid());
                Some((index, next_hop, valid))
            })
            .collect()
    }

    /// Clears the element of a target that nothing refers to any more.
    pub fn clear_target(&self, index: u16) {
        self.maps.targets.set(u32::from(index), abi::Target::default());
        self.counters.clear_target(index);
    }

    /// Makes the VLAN tables what is given: those of the host's VLAN interfaces.
    ///
    /// # Errors
    ///
    /// If a table cannot be written.
    pub fn set_vlans(&self, links: &[(u32, VlanLink)]) -> Result<(), DatapathError> {
        let failed = |error| DatapathError::Kernel { call: "update of the VLAN tables", error };
        let wanted: Vec<(VlanKey, u32)> = links
            .iter()
            .map(|(ifindex, link)| (VlanKey { ifindex: link.ifindex, vlan: link.vlan }, *ifindex))
            .collect();
        replace(self.maps.vlan_links.as_fd(), links).map_err(failed)?;
        replace(self.maps.vlans.as_fd(), &wanted).map_err(failed)
    }

    /// Makes the table of the host's own addresses what is given.
    ///
    /// # Errors
    ///
    /// If the table cannot be written.
    pub fn set_locals(&self, addresses: &[std::net::IpAddr]) -> Result<(), DatapathError> {
        self.set_addresses(addresses, &[])
    }

    /// Makes the table of addresses what is given: the host's own, and those that netfast has claimed.
    ///
    /// # Errors
    ///
    /// If the table cannot be written.
    pub fn set_addresses(
        &self,
        own: &[std::net::IpAddr],
        claimed: &[std::net::IpAddr],
    ) -> Result<(), DatapathError> {
        let own = own.iter().map(|address| (addr::from_ip(*address), abi::LOCAL_OWN));
        let claimed = claimed.iter().map(|address| (addr::from_ip(*address), abi::LOCAL_CLAIMED));
        let wanted: Vec<([u8; 16], u32)> = own.chain(claimed).collect();
        replace(self.maps.locals.as_fd(), &wanted)
            .map_err(|error| DatapathError::Kernel { call: "update of LOCALS", error })
    }

    /// Makes the table of the addresses that answers come from, by interface, what is given.
    ///
    /// # Errors
    ///
    /// If the table cannot be written.
    pub fn set_answer_addresses(&self, wanted: &[(u32, InterfaceAddress)]) -> Result<(), DatapathError> {
        replace(self.maps.interface_addresses.as_fd(), wanted)
            .map_err(|error| DatapathError::Kernel { call: "update of INTERFACE_ADDRESSES", error })
    }

    /// Follows a change of an attached interface's MAC address.
    pub fn set_interface_mac(&self, ifindex: u32, mac: [u8; 6]) {
        attach::set_mac(self, ifindex, mac);
    }

    /// Rows of the interface counters by interface index.
    pub fn interface_rows(&self) -> Vec<(u32, u16)> {
        attach::rows(self)
    }
}

/// Makes a small hash map what is given, entry by entry: those that stay are never missing.
pub(super) fn replace<K, V>(map: std::os::fd::BorrowedFd<'_>, wanted: &[(K, V)]) -> std::io::Result<()>
where
    K: aya::Pod + Default + PartialEq,
    V: aya::Pod + Default + PartialEq,
{
    for (key, value) in wanted {
        if sys::lookup::<K, V>(map, key)?.as_ref() != Some(value) {
            sys::update(map, key, value, sys::Existing::Replace)?;
        }
    }
    for key in sys::keys::<K>(map)? {
        if wanted.iter().all(|(other, _)| *other != key) {
            sys::delete(map, &key)?;
        }
    }
    Ok(())
}

impl HopTable for Datapath {
    fn read(&self, index: u16) -> Option<NextHop> {
        self.hop(index)
    }

    fn entries(&self) -> Vec<(HopKey, u32)> {
        self.hop_entries()
    }

    /// Writes a next hop so that the program never sees a valid one that is half of two: what changes interface is
    /// made invalid first; a MAC address goes in by one 64-bit store with its neighbour field.
    fn write(&self, index: u16, hop: &NextHop) {
        let (table, index) = (&self.maps.next_hops, u32::from(index));
        let Some(present) = table.get(index) else { return };
        let hop = if hop.is_valid() { hop.opened() } else { *hop };
        if present == hop {
            return;
        }
        let longest = offset_of!(NextHop, longest);
        if present.ifindex != hop.ifindex || !hop.is_valid() {
            table.store32(index, longest, 0);
        }
        const {
            assert!(offset_of!(NextHop, vlan) == offset_of!(NextHop, destination) + 6, "one word");
            assert!(offset_of!(NextHop, mtu) == offset_of!(NextHop, source) + 6, "one word");
        }
        let word = |mac: [u8; 6], half: u16| {
            let [a, b, c, d, e, f] = mac;
            let [g, h] = half.to_ne_bytes();
            u64::from_ne_bytes([a, b, c, d, e, f, g, h])
        };
        table.store64(index, offset_of!(NextHop, destination), word(hop.destination, hop.vlan));
        table.store64(index, offset_of!(NextHop, source), word(hop.source, hop.mtu));
        table.store32(index, offset_of!(NextHop, ifindex), hop.ifindex);
        table.store32(index, longest, hop.longest);
    }

    fn insert_key(&self, key: &HopKey, index: u32) -> Result<u32, HopTableError> {
        let map = self.maps.hop_index.as_fd();
        let failed = |error: std::io::Error| HopTableError(error.to_string());
        loop {
            match sys::update(map, key, &index, sys::Existing::Keep) {
                Ok(()) => return Ok(index),
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {
                    // Gone again in between: once more.
                    if let Some(standing) = sys::lookup(map, key).map_err(failed)? {
                        return Ok(standing);
                    }
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }

    fn remove_key(&self, key: &HopKey) {
        if let Err(error) = sys::delete(self.maps.hop_index.as_fd(), key) {
            tracing::warn!(%error, "a next hop's key cannot be removed");
        }
    }

    fn free(&self, index: u16) {
        if let Err(error) = sys::push(self.maps.hop_free.as_fd(), &u32::from(index)) {
            tracing::warn!(%error, index, "a free next hop cannot be given back");
        }
    }
}
