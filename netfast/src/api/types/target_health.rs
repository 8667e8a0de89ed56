//! What health checks found out about targets.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;

words! {
    /// What is known of a target's health.
    #[derive(Default)]
    TargetState {
        /// Its forward has checks, and none of them has ended yet; it counts as healthy.
        #[default]
        Unknown = "unknown",
        /// It is healthy.
        Up = "up",
        /// It is not, and gets no new flows.
        Down = "down",
        /// It goes up and down, and is held down for a while whatever its checks say.
        Flapping = "flapping",
    }
}

impl TargetState {
    /// Whether a target in this state may get new flows.
    pub const fn is_healthy(self) -> bool {
        matches!(self, Self::Unknown | Self::Up)
    }
}

/// Health of a target.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetHealth {
    /// State.
    pub state: TargetState,
    /// Since when, in seconds since 1970.
    pub since: u64,
    /// Why the last check that failed since the target came up did so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// How long the last check took, in microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check_microseconds: Option<u64>,
    /// Changes of the state since the agent knows the target.
    #[serde(default)]
    pub transitions: u64,
}

/// Counters of the checks of one forward's targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckCounts {
    /// Checks that found a target healthy.
    pub healthy: u64,
    /// Checks that did not.
    pub failed: u64,
    /// Checks that this host could not do; they say nothing about the target.
    pub undone: u64,
}

/// How the health checks get on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthSummary {
    /// Targets that are checked.
    pub targets: u64,
    /// Of these, the ones that are down.
    pub down: u64,
    /// Checks under way.
    pub under_way: u64,
    /// The latest start of a check in the last 15 to 30 seconds, in milliseconds after its time.
    pub delay_milliseconds: u64,
}
