//! Source NAT: the rules' images and the table of mappings.

use super::pod;

/// Pool addresses of one IP version that a rule may have.
pub const SNAT_POOL: usize = 16;

/// [`super::Forward::filtering`]: only peers that the inside endpoint has sent to may send to it (RFC 4787 5).
pub const SNAT_DEPENDENT: u8 = 0;
/// [`super::Forward::filtering`]: anybody may send to a mapping's external address and port.
pub const SNAT_INDEPENDENT: u8 = 1;

/// An inside prefix of a source NAT rule: element `slot * MAX_SNAT + position` of the map `SNAT`. The first that
/// matches decides. A rule has one for each of its prefixes.
///
/// A field matches if `(packet ^ field) & mask == 0`.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnatRule {
    /// First address of the inside prefix.
    pub prefix: [u8; 16],
    /// Its mask, in the 128-bit form (an IPv4 /24 has 120 ones).
    pub mask: [u8; 16],
    /// Interface that the packet came in by, as the routing table names it.
    pub in_ifindex: u32,
    /// All ones, or 0 for any interface.
    pub in_mask: u32,
    /// Interface that the packet goes out by, as the routing table names it.
    pub out_ifindex: u32,
    /// All ones, or 0 for any interface.
    pub out_mask: u32,
    /// [`super::Forward::uid`] of the rule.
    pub uid: u32,
    /// Mappings that one inside address may have at once.
    pub per_source: u32,
    /// External ports (and identifiers of ICMP queries), host order, both ends included; both 0: those of
    /// [`super::Config::nat_port_low`].
    pub ports: [u16; 2],
    /// Index of the rule in `FORWARDS`.
    pub forward: u16,
    /// Number of pool addresses, 1 to [`SNAT_POOL`].
    pub pool: u16,
    /// Indexes in `TARGETS` of the pool addresses.
    pub targets: [u16; SNAT_POOL],
    /// IP version of the prefix, 4 or 6.
    pub version: u8,
    /// Zero.
    pub pad: [u8; 7],
}

/// [`SnatKey::side`]: the key is an inside endpoint.
pub const INSIDE: u8 = 0;
/// [`SnatKey::side`]: the key is an external endpoint.
pub const OUTSIDE: u8 = 1;

/// Key of the map `SNAT_MAPPINGS`: one end of a mapping. Each mapping has two entries, one per end.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SnatKey {
    /// Address.
    pub address: [u8; 16],
    /// Port, or identifier of ICMP queries, as on the wire.
    pub port: [u8; 2],
    /// IP protocol number: 1, 6, 17 or 58.
    pub protocol: u8,
    /// [`INSIDE`] or [`OUTSIDE`].
    pub side: u8,
    /// Zero.
    pub pad: [u8; 4],
}

/// Value of the map `SNAT_MAPPINGS`. The entry of the external end is the authority: that it is there is what keeps the
/// external port from being given to another endpoint. The inside end's entry only leads to it.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnatMapping {
    /// Address of the other end.
    pub peer: [u8; 16],
    /// Port of the other end, as on the wire.
    pub peer_port: [u8; 2],
    /// Index in `TARGETS` of the pool address.
    pub target: u16,
    /// [`super::Forward::uid`] of the rule that made it.
    pub uid: u32,
    /// Jiffies (low 32 bits) at which the mapping is dead if nothing comes. External end only.
    pub expires: u32,
    /// The one flow that keeps the mapping for longer than a handshake may take, by a hash of its peer; 0: none,
    /// 1: several do. External end only.
    pub holder: u32,
    /// Jiffies (low 32 bits) at creation.
    pub created: u32,
    /// Index of the rule in `FORWARDS`.
    pub forward: u16,
    /// Zero.
    pub pad: u16,
}

pod!(SnatRule => 104, SnatKey => 24, SnatMapping => 40);
