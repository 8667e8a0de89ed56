//! Server IDs in QUIC connection IDs.

use super::pod;

/// Key of the map `QUIC_IDS`; its value is the index of a target.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuicKey {
    /// The server ID: its bytes in network order, from the highest one on, zeros after it.
    pub id: [u64; 2],
    /// [`super::Forward::uid`].
    pub forward_uid: u32,
    /// Slot of the double-buffered maps that it belongs to.
    pub slot: u8,
    /// Bytes of the server ID, 1 to 15.
    pub length: u8,
    /// Zero.
    pub pad: [u8; 2],
}

pod!(QuicKey => 24);
