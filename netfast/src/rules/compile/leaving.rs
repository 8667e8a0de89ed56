//! Targets that get no new flows, and what becomes of those that they have.

use netfast_common::abi::{TARGET_ENDS, TARGET_LEAVES};

use crate::{
    api::types::{Forward, OnDown, OnDrain, Target, Transport},
    rules::{
        diff,
        ids::{Ids, TargetRef},
        images::{HostView, Leaving, TargetStates},
    },
};

/// [`netfast_common::abi::Target::state`] of a target of the rules; 0: it gets new flows.
pub fn state(forward: &Forward, target: &Target, states: &TargetStates) -> u8 {
    let down = states.is_down(forward, &target.address);
    let ends = (down && forward.on_down() == OnDown::End)
        || (target.drain && forward.on_drain == OnDrain::Move && forward.protocol == Transport::Udp);
    match (down || target.drain, ends) {
        (false, _) => 0,
        (true, false) => TARGET_LEAVES,
        (true, true) => TARGET_LEAVES | TARGET_ENDS,
    }
}

/// Targets that were removed. Their flows go on at first; the flows of a forward that is gone end, and need no way.
pub fn images(ids: &Ids, host: &dyn HostView) -> Vec<Leaving> {
    let image = |TargetRef { forward, forward_uid, target, .. }: TargetRef<'_>| Leaving {
        index: target.index,
        uid: target.uid,
        next_hop: host.route(target.address.address).map_or(0, |route| route.next_hop),
        state: TARGET_LEAVES,
        removed: (!ids.has_target(forward_uid, &target.address))
            .then(|| diff::target_name(forward, &target.address)),
    };
    ids.leaving().map(image).collect()
}
