//! Changes of the intent.

use serde::{Deserialize, Serialize};

use super::*;

/// One step of a change. `POST /v1/change` takes a list of them: all are done, in order, or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Operation {
    /// A new forward; `if_not_exists`: an existing one of the same name is left as it is.
    ForwardAdd {
        /// The forward.
        forward: Forward,
        /// See the operation.
        #[serde(default)]
        if_not_exists: bool,
    },
    /// Creates or replaces the forward of that name.
    ForwardSet {
        /// The forward.
        forward: Forward,
    },
    /// Removes a forward; its flows end.
    ForwardDelete {
        /// Name of the forward.
        name: String,
    },
    /// A new target of a forward.
    TargetAdd {
        /// Name of the forward.
        forward: String,
        /// The target.
        target: Target,
    },
    /// Creates or replaces the target of that address (its weight). Whether it drains stays as it is.
    TargetSet {
        /// Name of the forward.
        forward: String,
        /// The target.
        target: Target,
    },
    /// Makes a target drain: it keeps the flows that it has and gets no new ones. Or takes that back.
    TargetDrain {
        /// Name of the forward.
        forward: String,
        /// The target's address.
        address: Endpoint,
        /// False: it gets new flows again.
        drain: bool,
    },
    /// Removes a target; new flows go elsewhere, its own go on for the time that agent.toml grants them.
    TargetDelete {
        /// Name of the forward.
        forward: String,
        /// The target's address.
        address: Endpoint,
    },
    /// A new source NAT rule.
    SnatAdd {
        /// The rule.
        snat: Snat,
        /// An existing one of the same name is left as it is.
        #[serde(default)]
        if_not_exists: bool,
    },
    /// Removes a source NAT rule; its flows end.
    SnatDelete {
        /// Name of the rule.
        name: String,
    },
    /// A new echo reflector.
    EchoAdd {
        /// The reflector.
        echo: Echo,
        /// An existing one at the same address is left as it is.
        #[serde(default)]
        if_not_exists: bool,
    },
    /// Removes an echo reflector.
    EchoDelete {
        /// Where it listens.
        listen: Endpoint,
    },
    /// A new filter rule, at the end or so that it stands at `position` (1 is first).
    FilterAdd {
        /// The rule.
        rule: FilterRule,
        /// See the operation.
        #[serde(default)]
        position: Option<usize>,
    },
    /// Moves a filter rule.
    FilterMove {
        /// Its name or position.
        rule: String,
        /// Its new position (1 is first).
        position: usize,
    },
    /// Removes a filter rule.
    FilterDelete {
        /// Its name or position.
        rule: String,
    },
    /// Removes all filter rules.
    FilterFlush,
    /// Puts these filter rules in the place of all present ones, or behind them.
    FilterReplace {
        /// The rules.
        rules: FilterRules,
        /// Sets that they refer to: created or replaced by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        sets: Vec<AddressSet>,
        /// Policies of interfaces: created or replaced.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        policies: Vec<InterfacePolicy>,
        /// The present rules stay, and stand before the new ones.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        append: bool,
    },
    /// Creates or replaces a set of addresses.
    SetPut {
        /// The set.
        set: AddressSet,
    },
    /// Removes a set of addresses that no rule refers to.
    SetDelete {
        /// Its name.
        name: String,
    },
    /// Says what becomes of packets on an interface that no filter rule matches.
    FilterPolicy {
        /// Interface and policy.
        policy: InterfacePolicy,
    },
    /// Creates or replaces everything in `rules`; what is not in it is deleted only with `prune`. Filter rules are one
    /// ordered list: if `rules` has any (or with `prune`) they replace the present list.
    Apply {
        /// The rules.
        rules: Rules,
        /// See the operation.
        #[serde(default)]
        prune: bool,
    },
    /// Attaches to an interface.
    Attach {
        /// Interface and mode.
        attachment: Attachment,
    },
    /// Detaches from an interface.
    Detach {
        /// Name of the interface.
        interface: String,
    },
}

/// Body of `POST /v1/change`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    /// What to do.
    pub operations: Vec<Operation>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Refuse (conflict) unless the present revision is this one.
    #[serde(default)]
    pub if_revision: Option<u64>,
}

words! {
    /// What happened to an object.
    ChangeAction {
        /// It is new.
        Created = "created",
        /// It was replaced by a different one.
        Changed = "changed",
        /// It is gone.
        Deleted = "deleted",
        /// It was already so.
        Unchanged = "unchanged",
    }
}

/// What a change did to one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectChange {
    /// `forward`, `target`, `snat`, `echo`, `set`, `filter`, `policy`, `interface`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What happened.
    pub action: ChangeAction,
}

/// Answer of `POST /v1/change`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeReply {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Revision now live (with `dry_run`: the present one).
    pub revision: u64,
    /// True if nothing was done because `dry_run` was asked for.
    pub dry_run: bool,
    /// What happened, object by object.
    pub changes: Vec<ObjectChange>,
    /// What the operator should know all the same (a port that a local process listens on, a target without route).
    #[serde(default)]
    pub warnings: Vec<String>,
}
