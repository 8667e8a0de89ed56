//! Claimed addresses, as statistics tell them.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;

words! {
    /// Where a claim stands.
    ClaimState {
        /// The link is down, or netfast is not attached there at present.
        Down = "down",
        /// netfast asks whether another station has the address, and answers nobody meanwhile.
        Probing = "probing",
        /// netfast answers for the address.
        Held = "held",
        /// Another station has the address; netfast asks again from time to time.
        Taken = "taken",
    }
}

/// A row of [`Stats::claims`]: a claimed address on a link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimStatus {
    /// The address.
    pub address: IpAddr,
    /// Name of the interface whose network holds it.
    pub interface: String,
    /// Where it stands.
    pub state: ClaimState,
    /// MAC address of the other station that was seen with it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub station: Option<String>,
    /// How often another station was seen with it while it was held, since the agent started (once a second is counted).
    pub conflicts: u64,
}
