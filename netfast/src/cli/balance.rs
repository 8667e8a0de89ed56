//! Arguments of a forward that say how it chooses among its targets.

use super::values::word;
use crate::api::types::{Affinity, Forward, OnDown, OnDrain, OnNoTarget};

#[derive(Clone, Copy, Debug, clap::Args)]
pub struct BalanceArguments {
    /// What the target of a new flow depends on: its addresses and ports, or the client's address alone
    #[arg(long, default_value = "connection", value_parser = word::<Affinity>(Affinity::WORDS))]
    affinity: Affinity,
    /// What becomes of new flows while there is no target: dropped, or answered by TCP reset or ICMP port unreachable
    #[arg(long, value_name = "ACTION", default_value = "drop", value_parser = word::<OnNoTarget>(OnNoTarget::WORDS))]
    on_no_target: OnNoTarget,
    /// What becomes of the flows of a target that drains: they stay, or (UDP only) move to another target at once
    #[arg(long, value_name = "ACTION", default_value = "keep", value_parser = word::<OnDrain>(OnDrain::WORDS))]
    on_drain: OnDrain,
    /// What becomes of the flows of a target that is down: they stay, or end (TCP by a reset, UDP by going to another
    /// target) [default: keep for TCP, end for UDP]
    #[arg(long, value_name = "ACTION", value_parser = word::<OnDown>(OnDown::WORDS))]
    on_down: Option<OnDown>,
    /// UDP: bytes of the server ID in QUIC connection IDs (1 to 15); packets of clients that have changed their address or
    /// port go to the target whose id=HEX they name
    #[arg(long, value_name = "BYTES")]
    quic: Option<u8>,
}

impl BalanceArguments {
    /// Puts them into a forward.
    pub fn apply(self, forward: Forward) -> Forward {
        let Self { affinity, on_no_target, on_drain, on_down, quic } = self;
        Forward { affinity, on_no_target, on_drain, on_down, quic, ..forward }
    }
}

/// What a forward says of these that is not so by itself, as on the command line.
pub fn options(forward: &Forward) -> Option<String> {
    let mut options = Vec::new();
    if forward.affinity != Affinity::default() {
        options.push(format!("affinity {}", forward.affinity));
    }
    if forward.on_no_target != OnNoTarget::default() {
        options.push(format!("on-no-target {}", forward.on_no_target));
    }
    if forward.on_drain != OnDrain::default() {
        options.push(format!("on-drain {}", forward.on_drain));
    }
    options.extend(forward.on_down.map(|on_down| format!("on-down {on_down}")));
    options.extend(forward.quic.map(|bytes| format!("quic {bytes}")));
    (!options.is_empty()).then(|| options.join(", "))
}
