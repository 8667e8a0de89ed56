//! The map of server IDs in QUIC connection IDs. It holds both slots, told apart by the key.

use std::{
    collections::HashSet,
    io,
    os::fd::{AsFd, OwnedFd},
};

use netfast_common::abi::QuicKey;

use super::sys::{self, Existing};

/// What the map holds, by slot.
#[derive(Default)]
pub(super) struct Table([HashSet<QuicKey>; 2]);

impl Table {
    /// What an earlier agent has left.
    pub(super) fn adopt(map: &OwnedFd) -> Self {
        let mut table = Self::default();
        for key in sys::keys::<QuicKey>(map.as_fd()).unwrap_or_default() {
            table.0[usize::from(key.slot & 1)].insert(key);
        }
        table
    }

    /// Makes the slot that is not live hold `wanted` and nothing else.
    pub(super) fn write(&mut self, map: &OwnedFd, slot: u32, wanted: &[(QuicKey, u32)]) -> io::Result<()> {
        let present = &mut self.0[(slot & 1) as usize];
        let in_slot = |key: &QuicKey| QuicKey { slot: (slot & 1) as u8, ..*key };
        let keys: HashSet<QuicKey> = wanted.iter().map(|(key, _)| in_slot(key)).collect();
        for key in present.difference(&keys) {
            sys::delete(map.as_fd(), key)?;
        }
        present.retain(|key| keys.contains(key));
        for (key, target) in wanted {
            let key = in_slot(key);
            sys::update(map.as_fd(), &key, target, Existing::Replace)?;
            present.insert(key);
        }
        Ok(())
    }
}
