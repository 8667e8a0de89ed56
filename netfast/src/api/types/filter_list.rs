//! Filter rules as they are listed: with positions, counters, and what hides them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::*;
use crate::rules::analysis::Hiding;

/// Query of `GET /v1/filters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterQuery {
    /// Position of the first rule that is wanted (1 is first).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<usize>,
    /// So many rules at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
    /// The rule of this name or position alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// Only rules that no packet has met since they exist.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unused: bool,
    /// Only rules that can never decide, with what hides them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub analysis: bool,
}

/// Answer of `GET /v1/filters`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterList {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Revision that the rules are of.
    pub revision: u64,
    /// Number of all rules.
    pub total: usize,
    /// The rules that were asked for, in order.
    pub filters: Vec<FilterRow>,
    /// The policies of interfaces, with what they have decided.
    #[serde(default)]
    pub policies: Vec<PolicyRow>,
    /// Names of the sets of addresses, with their sizes.
    #[serde(default)]
    pub sets: Vec<SetRow>,
}

/// A rule of a [`FilterList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterRow {
    /// Position (1 is first).
    pub position: usize,
    /// The rule.
    #[serde(flatten)]
    pub rule: Arc<FilterRule>,
    /// What it has met.
    #[serde(flatten)]
    pub count: Count,
    /// Why it can never decide; only of an analysis.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hidden: Option<HiddenBy>,
}

/// Why a rule can never decide.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HiddenBy {
    /// How it is hidden.
    pub kind: Hiding,
    /// Positions of the rules that hide it (1 is first); of many the first few.
    pub by: Vec<usize>,
    /// The same as a sentence.
    pub text: String,
}

/// A policy of a [`FilterList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRow {
    /// The policy.
    #[serde(flatten)]
    pub policy: InterfacePolicy,
    /// What it has decided.
    #[serde(flatten)]
    pub count: Count,
}

/// A set of a [`FilterList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRow {
    /// Its name.
    pub name: String,
    /// Number of its prefixes.
    pub addresses: usize,
}
