//! Server IDs in QUIC connection IDs.

use netfast_common::{
    abi::{QuicKey, TARGET_ENDS},
    quic,
};

use super::leaving;
use crate::{
    api::types::Rules,
    rules::{ids::Ids, images::TargetStates},
};

/// The targets that connection IDs lead to, with slots of 0. One that gets no new flows is among them, as long as its flows do
/// not end: a connection that names it is not new.
pub(super) fn ids(rules: &Rules, ids: &Ids, states: &TargetStates) -> Vec<(QuicKey, u32)> {
    let mut found = Vec::new();
    for (forward, id) in rules.forwards.iter().zip(ids.forwards()) {
        let Some(length) = forward.quic else { continue };
        for (target, target_id) in forward.targets.iter().zip(&id.targets) {
            let ends = leaving::state(forward, target, states) & TARGET_ENDS != 0;
            let words = target.id.as_ref().and_then(|server| quic::words(server.bytes()));
            if let Some(words) = words.filter(|_| !ends) {
                found.push((quic::key(id.uid, 0, length, words), u32::from(target_id.index)));
            }
        }
    }
    found
}
