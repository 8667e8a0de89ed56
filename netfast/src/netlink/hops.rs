//! Next hops as others see them: the tables they stand in, and what is asked of the kernel for them.

use std::net::IpAddr;
use std::time::Duration;

use netfast_common::abi;

use super::neighbours::NeighbourKey;

/// A next hop that nobody refers to for this long is taken out of use, and is free after as long again.
pub const IDLE: Duration = Duration::from_secs(60);
/// How long [`super::Netlink::resolve_targets`] waits for a new next hop to be resolved: the kernel asks a second time
/// after one second, should the first request be lost.
pub const PATIENCE: Duration = Duration::from_millis(1200);

/// The tables of the datapath that hold next hops. The datapath implements it over the maps.
pub trait HopTable: Send + Sync {
    /// The entry at an index as it stands. Used once, to adopt entries of an agent that ran before.
    fn read(&self, _index: u16) -> Option<abi::NextHop> {
        None
    }
    /// Everything in `HOP_INDEX`. Asked for every half a minute: the program's event about a next hop that it has
    /// learned may be lost (full ring buffer), and the next hop must not stay unwatched.
    fn entries(&self) -> Vec<(abi::HopKey, u32)> {
        Vec::new()
    }
    /// Writes an entry (`NEXT_HOPS`). The keeper makes an entry invalid before it changes its interface.
    fn write(&self, index: u16, hop: &abi::NextHop);
    /// Inserts a key into `HOP_INDEX` unless it is there (BPF_NOEXIST: the program inserts, too), and returns the
    /// index that stands there afterwards.
    fn insert_key(&self, key: &abi::HopKey, index: u32) -> Result<u32, HopTableError>;
    /// Takes a key out of `HOP_INDEX`.
    fn remove_key(&self, key: &abi::HopKey);
    /// Puts an index from [`abi::FIRST_LEARNED_HOP`] on back into `HOP_FREE`.
    fn free(&self, index: u16);
}

/// A map could not be written.
#[derive(Clone, Debug, thiserror::Error)]
#[error("next-hop table: {0}")]
pub struct HopTableError(pub String);

/// What the kernel is to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The neighbour.
    pub neighbour: NeighbourKey,
    /// `true`: resolve it now and keep it resolved; `false`: no longer keep it resolved.
    pub keep: bool,
    /// The entry bears NTF_EXT_LEARNED, which has to be repeated.
    pub learned: bool,
}

/// A next hop for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopStatus {
    /// Index.
    pub index: u16,
    /// Interface, as routes name it.
    pub ifindex: u32,
    /// Address; `None` for one that is known by MAC address only.
    pub address: Option<IpAddr>,
    /// What the program reads.
    pub entry: abi::NextHop,
    /// The program reads it as valid.
    pub valid: bool,
    /// It is being given back.
    pub retiring: bool,
}
