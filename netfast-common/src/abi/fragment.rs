//! Fragments that follow the first fragment of their datagram.

use super::pod;

/// Seconds for which later fragments follow a first one. RFC 791 gives a datagram 15 s to be put together, RFC 8200 4.5 60 s;
/// Linux gives both 30 s.
pub const FRAGMENT_SECONDS: u32 = 30;

/// A fragmented datagram: key of the map `FRAGMENTS` (RFC 791 3.2, RFC 8200 4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey {
    /// Source address, as received.
    pub source: [u8; 16],
    /// Destination address, as received.
    pub destination: [u8; 16],
    /// Identification, bytes as on the wire read as a native number; IPv4 has 16 bits of it.
    pub identification: u32,
    /// IP protocol number (of IPv6: as the Fragment header has it).
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Where the later fragments of a datagram go.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentFlow {
    /// Source address that they leave with.
    pub source: [u8; 16],
    /// Destination address that they leave with.
    pub destination: [u8; 16],
    /// Jiffies (low 32 bits) of the first fragment.
    pub made: u32,
    /// Generation that the first fragment was decided under.
    pub generation: u32,
    /// Index of the target.
    pub target: u16,
    /// Index of the next hop.
    pub next_hop: u16,
    /// 0: original direction, 1: reply direction, [`FRAGMENT_DIRECT`].
    pub direction: u32,
    /// Of [`FRAGMENT_DIRECT`]: the flow's hash, from which the outer header is made.
    pub hash: u32,
    /// Zero.
    pub pad: u32,
}

/// [`FragmentFlow::direction`]: by `netfast_direct` to a target of mode `dsr` or `ipip`; the addresses stay as they are.
pub const FRAGMENT_DIRECT: u32 = 2;

pod!(FragmentKey => 40, FragmentFlow => 56);
