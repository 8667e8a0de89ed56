//! Interfaces and next hops.

use super::pod;

/// Element `ifindex & (IFINDEX_SLOTS - 1)` of the map `INTERFACES`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// The interface's own MAC address: only frames to it are forwarded or answered.
    pub mac: [u8; 6],
    /// Row of the interface in the counters (below [`super::MAX_INTERFACES`]).
    pub row: u16,
    /// The interface's index, to tell it from another one in the same slot; 0: empty.
    pub ifindex: u32,
    /// Unused; zero.
    pub flags: u32,
}

/// Value of the map `INTERFACE_ADDRESSES`, whose key is an interface's index: the addresses that answers come from.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// IPv4 address (mapped); all zero: none.
    pub v4: [u8; 16],
    /// IPv6 address; all zero: none.
    pub v6: [u8; 16],
}

/// A next hop: element of the map `NEXT_HOPS`. The MAC words are stored by one 64-bit store each, `longest` by one
/// 32-bit store; before a change of `ifindex` the entry is made invalid.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHop {
    /// Destination MAC address.
    pub destination: [u8; 6],
    /// VLAN identifier to send with (host order), 0: untagged.
    pub vlan: u16,
    /// Source MAC address.
    pub source: [u8; 6],
    /// MTU of the way out in bytes, without the link header; 0: not known.
    pub mtu: u16,
    /// Interface to send from (the physical one where a VLAN stands on it); key of the map `DEVICES`.
    pub ifindex: u32,
    /// The longest IP packet that may go there without being asked about, in bytes; 0: none, since the MAC address is not known or
    /// not current. See [`NextHop::opened`].
    pub longest: u32,
}

impl NextHop {
    /// The same with its MAC address known and current: the MTU bounds what may go there, or without one nothing does.
    #[inline(always)]
    #[must_use]
    pub const fn opened(self) -> Self {
        Self { longest: Self::bound(self.mtu), ..self }
    }

    /// [`NextHop::longest`] of a way that is open, by its MTU.
    #[inline(always)]
    #[must_use]
    pub const fn bound(mtu: u16) -> u32 {
        if mtu == 0 { u32::MAX } else { mtu as u32 }
    }

    /// The same with its MAC address not known or not current.
    #[inline(always)]
    #[must_use]
    pub const fn closed(self) -> Self {
        Self { longest: 0, ..self }
    }

    /// Whether its MAC address is known and current.
    #[inline(always)]
    pub const fn is_valid(&self) -> bool {
        self.longest != 0
    }
}

/// How a [`HopKey`] names its next hop.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKeyKind {
    /// By IP address: the agent resolves it and keeps it resolved.
    Address = 0,
    /// By the MAC address (first six bytes) and VLAN (next two, network order) that its packets came with.
    Mac = 1,
}

/// Key of the map `HOP_INDEX`: from what a next hop is to its index in `NEXT_HOPS`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HopKey {
    /// Interface by which it is reached, as the routing table names it (a VLAN interface keeps its own index here).
    pub ifindex: u32,
    /// [`HopKeyKind`].
    pub kind: u32,
    /// The address.
    pub address: [u8; 16],
}

/// Key of the map `VLANS`: from a tag on an interface to the kernel's VLAN interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct VlanKey {
    /// Interface below.
    pub ifindex: u32,
    /// VLAN identifier.
    pub vlan: u32,
}

/// Value of the map `VLAN_LINKS`, whose key is the index of a VLAN interface.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VlanLink {
    /// Interface below.
    pub ifindex: u32,
    /// VLAN identifier.
    pub vlan: u32,
}

pod!(Interface => 16, InterfaceAddress => 32, NextHop => 24, HopKey => 24, VlanKey => 8, VlanLink => 8);
