//! Views of the flow tables.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::*;

/// Fill of the flow tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSummary {
    /// Confirmed flows.
    pub confirmed: u64,
    /// Flows that were seen one way only or whose handshake is not done.
    pub half_open: u64,
    /// Confirmed flows that fit.
    pub confirmed_max: u64,
    /// Half-open flows that fit.
    pub half_open_max: u64,
    /// Generation of the rule set that was live when the flows were counted.
    #[serde(default)]
    pub generation: u32,
}

/// A flow, as `GET /v1/flows` answers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// Client's address and port.
    pub client: String,
    /// Service's address and port.
    pub service: String,
    /// Source address and port towards the target (`nat`), else the client's.
    pub source: String,
    /// Target's address and port.
    pub target: String,
    /// Name of the forward; empty if it is gone.
    pub forward: String,
    /// State: `opening`, `established`, `closing`, `reset`, `one-way`, `two-way`.
    pub state: String,
    /// Seconds since creation.
    pub age_seconds: u64,
    /// Seconds since the last packet that reached the table (lags by up to a cached line's lifetime).
    pub idle_seconds: u64,
    /// Seconds until it ends if nothing comes.
    pub expires_seconds: u64,
}

/// Filter of `GET /v1/flows` (query string) and `DELETE /v1/flows`; all given fields must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Protocol.
    pub protocol: Option<Transport>,
    /// Client's address.
    pub client: Option<IpAddr>,
    /// Client's port.
    pub client_port: Option<u16>,
    /// Service's address.
    pub service: Option<IpAddr>,
    /// Service's port.
    pub service_port: Option<u16>,
    /// Target's address.
    pub target: Option<IpAddr>,
    /// Name of the forward.
    pub forward: Option<String>,
    /// State.
    pub state: Option<String>,
    /// At most so many (default: all).
    pub limit: Option<usize>,
}

/// Answer of `GET /v1/flows`; of `GET /v1/flows/count` and `DELETE /v1/flows` without the list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowList {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Flows that matched (all of them, also beyond `limit`); with `DELETE`: flows ended.
    pub count: u64,
    /// The flows.
    #[serde(default)]
    pub flows: Vec<FlowRecord>,
}
