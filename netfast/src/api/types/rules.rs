//! What the operator asks for: the rules and the intent.

use std::{fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;

/// The rules: the contents of `rules.toml` and the part of the intent that `apply` replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Forwards, by name unique.
    #[serde(default, rename = "forward", skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// Source NAT rules, by name unique: the one with the longest prefix decides.
    #[serde(default, rename = "snat", skip_serializing_if = "Vec::is_empty")]
    pub snats: Vec<Snat>,
    /// UDP echo reflectors, by listening address unique.
    #[serde(default, rename = "echo", skip_serializing_if = "Vec::is_empty")]
    pub echoes: Vec<Echo>,
    /// Sets of addresses that filter rules refer to, by name unique.
    #[serde(default, rename = "set", skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<AddressSet>,
    /// Filter rules in order: the first that matches decides.
    #[serde(default, rename = "filter", skip_serializing_if = "FilterRules::is_empty")]
    pub filters: FilterRules,
    /// What becomes of packets that no filter rule matches, by interface unique.
    #[serde(default, rename = "policy", skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<InterfacePolicy>,
}

/// A forward: a service whose connections go to targets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Forward {
    /// Name: 1 to 63 of `a-z A-Z 0-9 - _ .`, beginning with a letter or digit.
    pub name: String,
    /// TCP or UDP.
    pub protocol: Transport,
    /// Where it listens: `192.0.2.10:443`, `192.0.2.10:27000-27099`, `[2001:db8::1]:443`.
    pub listen: Endpoint,
    /// How packets go to the targets.
    #[serde(default)]
    pub mode: ForwardMode,
    /// What the target of a new flow depends on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub affinity: Affinity,
    /// What becomes of new flows while there is no target to send them to.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_no_target: OnNoTarget,
    /// What becomes of the flows of a target that drains.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_drain: OnDrain,
    /// What becomes of the flows of a target that is down; see [`Forward::on_down`] for the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_down: Option<OnDown>,
    /// How the targets are checked; without it all of them count as healthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
    /// Of mode `ipip`: the outer header's source addresses, a prefix out of which each flow has its own; without it, this host's
    /// address towards the target. It concerns targets of its own IP version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tunnel_source: Option<IpNet>,
    /// Bytes of the server ID in QUIC connection IDs, 1 to 15: a packet of no flow goes to the target whose ID it names
    /// (UDP only; draft-ietf-quic-load-balancers-21, in plain text).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quic: Option<u8>,
    /// The targets.
    #[serde(default, rename = "target", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// netfast answers ARP and neighbour solicitations for the address, which is not to be one of this host's.
    #[serde(default, skip_serializing_if = "is_false")]
    pub claim: bool,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Forward {
    /// A forward without targets, and all else as it is by default.
    pub const fn new(name: String, protocol: Transport, listen: Endpoint) -> Self {
        Self {
            name,
            protocol,
            listen,
            mode: ForwardMode::Nat,
            affinity: Affinity::Connection,
            on_no_target: OnNoTarget::Drop,
            on_drain: OnDrain::Keep,
            on_down: None,
            quic: None,
            health: None,
            tunnel_source: None,
            targets: Vec::new(),
            claim: false,
            comment: None,
        }
    }
}

/// A target of a forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Target {
    /// Address and port; for a forward of a range, a range of the same length (or its first port only).
    pub address: Endpoint,
    /// Share of new flows relative to the other targets', 1 to 256.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u16,
    /// It keeps the flows that it has and gets no new ones.
    #[serde(default, skip_serializing_if = "is_default")]
    pub drain: bool,
    /// Its server ID in QUIC connection IDs; only if the forward has [`Forward::quic`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<ServerId>,
}

impl Target {
    /// A target with a weight of 1.
    pub const fn new(address: Endpoint) -> Self {
        Self { address, weight: 1, drain: false, id: None }
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_one(weight: &u16) -> bool {
    *weight == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
pub(super) fn is_false(value: &bool) -> bool {
    !*value
}

/// A reflector: UDP echo (RFC 862) or STAMP (RFC 8762).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Echo {
    /// Where it listens (one port).
    pub listen: Endpoint,
    /// Sources that may use it; none of them: nobody may.
    pub allow: Vec<IpNet>,
    /// Packets a second that one source address may have reflected.
    #[serde(default = "default_rate")]
    pub rate: u32,
    /// What it answers with.
    #[serde(default, skip_serializing_if = "EchoProtocol::is_default")]
    pub protocol: EchoProtocol,
    /// See [`Forward::claim`].
    #[serde(default, skip_serializing_if = "is_false")]
    pub claim: bool,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

impl Echo {
    /// A reflector that answers RFC 862 echo at the default rate.
    pub const fn new(listen: Endpoint, allow: Vec<IpNet>) -> Self {
        Self {
            listen,
            allow,
            rate: DEFAULT_ECHO_RATE,
            protocol: EchoProtocol::Echo,
            claim: false,
            comment: None,
        }
    }
}

/// Default of [`Echo::rate`], packets a second and source.
pub const DEFAULT_ECHO_RATE: u32 = 1000;

fn default_rate() -> u32 {
    DEFAULT_ECHO_RATE
}

words! {
    /// What a reflector answers with.
    #[derive(Default)]
    EchoProtocol {
        /// The data as it came (RFC 862).
        #[default]
        Echo = "echo",
        /// Timestamps and the packet's own fields (RFC 8762, stateless, unauthenticated).
        Stamp = "stamp",
    }
}

impl EchoProtocol {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

words! {
    /// Transport protocol of a forward.
    Transport {
        /// TCP.
        Tcp = "tcp",
        /// UDP.
        Udp = "udp",
    }
}

words! {
    /// How a forward sends packets to its targets.
    #[derive(Default)]
    ForwardMode {
        /// Both addresses are rewritten; replies come back through this host whatever the target's routes say.
        #[default]
        Nat = "nat",
        /// The client's address is kept; the target routes its replies through this host.
        Dnat = "dnat",
        /// Nothing but the link header changes; the target, on the same link, owns the service's address and answers itself.
        Dsr = "dsr",
        /// The packet goes to the target inside another one; the target owns the service's address and answers itself.
        Ipip = "ipip",
    }
}

impl ForwardMode {
    /// Whether the targets answer the clients themselves.
    pub const fn is_direct(self) -> bool {
        matches!(self, Self::Dsr | Self::Ipip)
    }
}

words! {
    /// How a program is attached.
    #[derive(Default)]
    AttachMode {
        /// In the driver; an error where it cannot be.
        #[default]
        Native = "native",
        /// In the kernel's generic hook, behind the driver: slow, works everywhere.
        Generic = "generic",
        /// Native where the driver can, else generic.
        Auto = "auto",
    }
}

/// An interface that the operator wants netfast on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Name of the interface.
    pub interface: String,
    /// How.
    #[serde(default)]
    pub mode: AttachMode,
}

/// The whole intent, as stored and as `GET /v1/intent` answers it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Counts changes; each acknowledged change has its own.
    pub revision: u64,
    /// Interfaces attached by `netfast attach` (those of agent.toml are not repeated here).
    #[serde(default)]
    pub attachments: Vec<Attachment>,
    /// The rules.
    #[serde(default)]
    pub rules: Rules,
}
