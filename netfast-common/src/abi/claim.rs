//! Claimed addresses: those that netfast answers ARP and neighbour discovery for, in the kernel's place.

use super::pod;

/// Key of the map `CLAIMS`: an address on a link.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClaimKey {
    /// The address.
    pub address: [u8; 16],
    /// Interface that the program is attached to.
    pub ifindex: u32,
    /// VLAN identifier of the link on it, 0: untagged.
    pub vlan: u32,
}

/// Value of the map `CLAIMS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// [`CLAIM_PROBING`] or [`CLAIM_HELD`]. Written by the agent.
    pub state: u32,
    /// Jiffies (low 32 bits) of the last [`super::EventKind::ClaimSeen`] about it. Written by the program.
    pub told: u32,
}

/// [`Claim::state`]: the agent asks whether another station has the address; the program tells what it sees and answers nobody.
pub const CLAIM_PROBING: u32 = 1;
/// [`Claim::state`]: the program answers for the address.
pub const CLAIM_HELD: u32 = 2;

/// Value in the map `LOCALS` of an address of the host's own.
pub const LOCAL_OWN: u32 = 1;
/// Value in the map `LOCALS` of an address that netfast has claimed: what it does not serve there has nobody else to go to.
pub const LOCAL_CLAIMED: u32 = 2;

pod!(ClaimKey => 24, Claim => 8);
