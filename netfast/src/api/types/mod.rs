//! What the operator asks for (the intent), and what the agent answers. One set of types for the API, the CLI's JSON
//! and `rules.toml`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

#[macro_use]
mod text;
mod balance;
mod change;
mod claims;
mod filter;
mod filter_list;
mod filter_rules;
mod flows;
mod health;
mod lists;
mod rules;
mod snat;
mod status;
mod target_health;

pub use balance::*;
pub use change::*;
pub use claims::*;
pub use filter::*;
pub use filter_list::*;
pub use filter_rules::*;
pub use flows::*;
pub use health::*;
pub use lists::*;
pub use rules::*;
pub use snat::*;
pub use status::*;
pub use target_health::*;
pub use text::*;

/// Version of the JSON forms here; every answer carries it as `schema_version`.
pub const SCHEMA_VERSION: u32 = 1;

/// Answer of `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionReply {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the agent.
    pub version: String,
    /// ABI version of program and maps.
    pub abi_version: u32,
}

/// Body of `POST /v1/stop`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// Also detach from every interface and remove programs and maps: all flows end.
    #[serde(default)]
    pub detach: bool,
}

/// Answer of `POST /v1/stop`; the agent sends it before it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopReply {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Process id of the agent that ends.
    pub pid: u32,
    /// Whether it detaches: because it was asked to, or was started with `--detach`.
    pub detach: bool,
}

words! {
    /// Kind of an error; decides the HTTP status and the CLI's exit code.
    ErrorCode {
        /// The request does not make sense (exit 2).
        Usage = "usage",
        /// The change is refused: it contradicts itself, does not fit, or cannot work (exit 3).
        Rejected = "rejected",
        /// What is named does not exist (exit 4).
        NotFound = "not_found",
        /// It exists already, or the revision is another one (exit 5).
        Conflict = "conflict",
        /// The agent or its store cannot be reached (exit 6).
        Unavailable = "unavailable",
        /// Not allowed (exit 7).
        Permission = "permission",
        /// A fault inside the agent (exit 6).
        Internal = "internal",
    }
}

/// Body of every answer that is not 2xx: `{"error": {...}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The error.
    pub error: ErrorBody,
}

/// An error, for a program and for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorBody {
    /// Kind.
    pub code: ErrorCode,
    /// What is wrong and what to do, in a sentence.
    pub message: String,
    /// The field or flag that is wrong (`forward.web.target[1].weight`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}
