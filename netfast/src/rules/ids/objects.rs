//! What has an index: the entries of the list that [`super::Ids`] keeps.

use std::net::IpAddr;

use netfast_common::abi;
use serde::{Deserialize, Serialize};

use crate::{
    api::types::{Endpoint, ForwardMode, Transport},
    rules::diff::RuleKey,
};

/// Identifiers of a forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForwardId {
    /// Its name.
    pub name: String,
    /// Its protocol.
    pub protocol: Transport,
    /// Where it listens.
    pub listen: Endpoint,
    /// Its mode.
    pub mode: ForwardMode,
    /// Its index.
    pub index: u16,
    /// Its uid, never 0.
    pub uid: u32,
    /// Identifiers of its targets, in the order of the intent.
    pub targets: Vec<TargetId>,
}

/// Identifiers of a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetId {
    /// Its address.
    pub address: Endpoint,
    /// The source address that `nat` puts in, once there was a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// Its index.
    pub index: u16,
    /// Its uid, never 0.
    pub uid: u32,
}

/// Identifiers of a source NAT rule. Its index and uid are of the forwards' kind, its pool addresses are targets: a flow of
/// it is one like any other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnatId {
    /// Its name.
    pub name: String,
    /// Its pool: another pool makes another rule.
    pub to: Vec<IpAddr>,
    /// Its index among the forwards.
    pub index: u16,
    /// Its uid, never 0.
    pub uid: u32,
    /// Its pool addresses, in the order of the intent.
    pub targets: Vec<TargetId>,
}

/// Identifiers of an echo reflector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EchoId {
    /// Where it listens.
    pub listen: Endpoint,
    /// Its index.
    pub index: u16,
    /// Its uid, never 0.
    pub uid: u32,
}

/// Counter of a filter rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterId {
    /// What identifies the rule ([`crate::rules::diff::filter_keys`]).
    pub key: RuleKey,
    /// Index of its counter.
    pub index: u32,
}

/// What a [`Retired`] index belonged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A forward.
    Forward,
    /// A target.
    Target,
    /// An echo reflector.
    Echo,
    /// A filter rule's counter.
    Filter,
}

impl Kind {
    /// Number of indexes there are.
    pub const fn limit(self) -> u32 {
        match self {
            Self::Forward => abi::MAX_FORWARDS,
            Self::Target => abi::MAX_TARGETS,
            Self::Echo => abi::MAX_ECHOES,
            Self::Filter => abi::MAX_FILTER_NUMBERS,
        }
    }

    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Forward => "forwards",
            Self::Target => "targets",
            Self::Echo => "echo reflectors",
            Self::Filter => "filter rules",
        }
    }
}

/// An index whose object is gone, and to which something in the kernel may still refer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    /// What it was.
    pub kind: Kind,
    /// The index.
    pub index: u16,
    /// The uid; 0 for a filter counter.
    pub uid: u32,
    /// Name of the forward (also of a target's), address of the echo reflector, key of the filter rule.
    pub name: String,
    /// Uid of the forward; of a target only, else 0.
    #[serde(default)]
    pub forward_uid: u32,
    /// What a target was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<TargetId>,
}

/// A target's index, for listings: [`super::Ids::targets`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TargetRef<'a> {
    /// Name of its forward.
    pub forward: &'a str,
    /// Uid of its forward.
    pub forward_uid: u32,
    /// The target.
    pub target: &'a TargetId,
    /// False if it was removed and is only kept for its flows.
    pub live: bool,
}
