//! Server IDs in QUIC connection IDs.

use std::collections::HashSet;

use netfast_common::quic::MAX_SERVER_ID;

use super::{Check, Place};
use crate::api::types::{Forward, Transport};

impl Check {
    pub(super) fn quic(&mut self, at: usize, forward: &Forward) {
        if let Some(length) = forward.quic {
            if forward.protocol != Transport::Udp {
                self.add(
                    Place::Forward(at),
                    "quic",
                    "QUIC is carried by UDP: take quic out, or use protocol udp",
                );
            }
            if !(1..=MAX_SERVER_ID).contains(&length) {
                let message =
                    format!("quic = {length} is not in 1 to {MAX_SERVER_ID}: the bytes of a server ID");
                self.add(Place::Forward(at), "quic", message);
            }
        }
        let mut seen = HashSet::new();
        for (number, target) in forward.targets.iter().enumerate() {
            let Some(id) = &target.id else { continue };
            let message = match forward.quic {
                None => format!("id = \"{id}\" is for QUIC: say quic = {} at the forward", id.bytes().len()),
                Some(length) if usize::from(length) != id.bytes().len() => {
                    format!(
                        "id = \"{id}\" has {} bytes, and the forward says quic = {length}",
                        id.bytes().len()
                    )
                }
                Some(_) if !seen.insert(id) => {
                    format!("id = \"{id}\" is another target's of this forward already")
                }
                Some(_) => continue,
            };
            self.add(Place::Target(at, number), "id", message);
        }
    }
}
