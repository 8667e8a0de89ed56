//! What the operator asks for (the intent), and what the agent answers. One set of types for the API, the CLI's JSON
//! and `rules.toml`.

use std::{fmt, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rules::suggest;

/// Version of the JSON forms here; every answer carries it as `schema_version`.
pub const SCHEMA_VERSION: u32 = 1;

/// The rules: the contents of `rules.toml` and the part of the intent that `apply` replaces.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Forwards, by name unique.
    #[serde(default, rename = "forward", skip_serializing_if = "Vec::is_empty")]
    pub forwards: Vec<Forward>,
    /// UDP echo reflectors, by listening address unique.
    #[serde(default, rename = "echo", skip_serializing_if = "Vec::is_empty")]
    pub echoes: Vec<Echo>,
    /// Filter rules in order: the first that matches decides.
    #[serde(default, rename = "filter", skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterRule>,
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
    /// The targets.
    #[serde(default, rename = "target", skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<Target>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
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
}

fn one() -> u16 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
fn is_one(weight: &u16) -> bool {
    *weight == 1
}

/// A UDP echo reflector (RFC 862).
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
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Default of [`Echo::rate`], packets a second and source.
pub const DEFAULT_ECHO_RATE: u32 = 1000;

fn default_rate() -> u32 {
    DEFAULT_ECHO_RATE
}

/// A filter rule. What is not given matches anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// What happens to a packet that matches.
    pub action: FilterAction,
    /// Name, unique among the filter rules; only named rules have a metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Source prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpNet>,
    /// Destination prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpNet>,
    /// IP protocol: `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proto: Option<Protocol>,
    /// Source port or range (TCP and UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<PortRange>,
    /// Destination port or range (TCP and UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<PortRange>,
    /// Interface that the packet came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// IP version, 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u8>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Declares an enum of lower-case words with `Display`, `FromStr` and serde.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vmeta])* $variant),+ }

        impl $name {
            /// Every word of it.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// Its word.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = ParseError;

            fn from_str(s: &str) -> Result<Self, ParseError> {
                match s {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(ParseError::word(s, Self::WORDS)),
                }
            }
        }

        text_serde!($name);
    };
}

/// Serde by way of `Display` and `FromStr`.
macro_rules! text_serde {
    ($name:ty) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
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
    }
}

words! {
    /// What a filter rule does.
    #[derive(Default)]
    FilterAction {
        /// The packet goes on.
        Allow = "allow",
        /// The packet is dropped.
        #[default]
        Drop = "drop",
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

/// Text that is not what it should be; the message names what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

impl ParseError {
    /// An unknown word, with the likeliest one meant.
    pub fn word(got: &str, words: &[&str]) -> Self {
        match suggest::nearest(got, words.iter().copied()) {
            Some(word) => Self(format!("unknown word {got:?} (did you mean {word:?}?)")),
            None => Self(format!("unknown word {got:?}, expected one of: {}", words.join(", "))),
        }
    }
}

/// A port or a range of ports, both ends included: `443`, `27000-27099`. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortRange {
    /// First port.
    pub low: u16,
    /// Last port.
    pub high: u16,
}

impl PortRange {
    /// One port.
    pub const fn one(port: u16) -> Self {
        Self { low: port, high: port }
    }

    /// Number of ports.
    pub const fn count(self) -> u32 {
        self.high as u32 - self.low as u32 + 1
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

impl FromStr for PortRange {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let port = |t: &str| match t.parse::<u16>() {
            Ok(0) => Err(ParseError("port 0 is not a port; use 1 to 65535".to_owned())),
            Ok(port) => Ok(port),
            Err(_) => {
                Err(ParseError(format!("{t:?} is not a port; use 1 to 65535 or a range such as 27000-27099")))
            }
        };
        let (low, high) = match s.split_once('-') {
            Some((low, high)) => (port(low)?, port(high)?),
            None => (port(s)?, port(s)?),
        };
        if low > high {
            return Err(ParseError(format!("port range {s} ends before it begins")));
        }
        Ok(Self { low, high })
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.low == self.high { s.serialize_u16(self.low) } else { s.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = PortRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as 443 or a range such as \"27000-27099\"")
            }

            fn visit_i64<E: serde::de::Error>(self, port: i64) -> Result<PortRange, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_u64<E: serde::de::Error>(self, port: u64) -> Result<PortRange, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<PortRange, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// An address with a port or a range of ports: `192.0.2.10:443`, `[2001:db8::1]:27000-27099`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint {
    /// The address.
    pub address: IpAddr,
    /// The port or ports.
    pub ports: PortRange,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            IpAddr::V4(v4) => write!(f, "{v4}:{}", self.ports),
            IpAddr::V6(v6) => write!(f, "[{v6}]:{}", self.ports),
        }
    }
}

impl FromStr for Endpoint {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        let bad = |why: &str| {
            ParseError(format!(
                "{s:?} is not ADDRESS:PORT ({why}); examples: 192.0.2.10:443, [2001:db8::1]:443"
            ))
        };
        let (address, ports) = s.rsplit_once(':').ok_or_else(|| bad("no port"))?;
        let address = match address.strip_prefix('[') {
            Some(rest) => rest.strip_suffix(']').ok_or_else(|| bad("no closing bracket"))?,
            None if address.contains(':') => return Err(bad("an IPv6 address stands in brackets")),
            None => address,
        };
        let address = address.parse().map_err(|_| bad("the address is not one"))?;
        Ok(Self { address, ports: ports.parse()? })
    }
}

text_serde!(Endpoint);

/// An IP protocol: `tcp`, `udp`, `icmp`, `icmpv6` or a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    const NAMES: [(&'static str, u8); 4] = [("tcp", 6), ("udp", 17), ("icmp", 1), ("icmpv6", 58)];

    /// Whether packets of it have ports.
    pub const fn has_ports(self) -> bool {
        matches!(self.0, 6 | 17)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.pad(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Protocol {
    type Err = ParseError;

    fn from_str(s: &str) -> Result<Self, ParseError> {
        match Self::NAMES.iter().find(|(name, _)| *name == s) {
            Some((_, number)) => Ok(Self(*number)),
            None => s.parse().map(Self).map_err(|_| ParseError::word(s, &["tcp", "udp", "icmp", "icmpv6"])),
        }
    }
}

text_serde!(Protocol);

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
    /// Creates or replaces the target of that address (its weight).
    TargetSet {
        /// Name of the forward.
        forward: String,
        /// The target.
        target: Target,
    },
    /// Removes a target; its flows go on until they end, new ones go elsewhere.
    TargetDelete {
        /// Name of the forward.
        forward: String,
        /// The target's address.
        address: Endpoint,
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
    /// Puts these filter rules in the place of all present ones.
    FilterReplace {
        /// The rules.
        rules: Vec<FilterRule>,
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
    /// `forward`, `target`, `echo`, `filter`, `interface`.
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

/// Answer of `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Version of the agent.
    pub version: String,
    /// Process id of the agent.
    pub pid: u32,
    /// Seconds since the agent started.
    pub uptime_seconds: u64,
    /// ABI version of program and maps.
    pub abi_version: u32,
    /// Revision of the intent.
    pub revision: u64,
    /// Revision that the datapath runs.
    pub applied_revision: u64,
    /// Generation of the rule set in the datapath.
    pub generation: u32,
    /// True if everything that was asked for is in place.
    pub ready: bool,
    /// What is not in place, a line each.
    pub problems: Vec<String>,
    /// Interfaces.
    pub interfaces: Vec<InterfaceStatus>,
    /// Numbers of rules.
    pub forwards: usize,
    /// See `forwards`.
    pub targets: usize,
    /// See `forwards`.
    pub echoes: usize,
    /// See `forwards`.
    pub filters: usize,
    /// Flows in the table.
    pub flows: u64,
    /// Flows that fit.
    pub flows_max: u64,
}

/// State of an attached interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// Name at present.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// Driver, as ethtool tells it.
    pub driver: String,
    /// Mode asked for.
    pub mode: AttachMode,
    /// `native` or `generic`, if attached.
    pub attached: Option<AttachMode>,
    /// Carrier is there.
    pub up: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Why it is not attached.
    pub problem: Option<String>,
}

/// Packets and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Answer of `GET /v1/stats`: the one source of statistics for the CLI and the exporter.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Per interface, verdict and reason; rows without packets are left out.
    pub interfaces: Vec<InterfaceCount>,
    /// Per forward.
    pub forwards: Vec<ForwardCount>,
    /// Per target.
    pub targets: Vec<TargetCount>,
    /// Per echo reflector.
    pub echoes: Vec<NamedCount>,
    /// Per filter rule, in order.
    pub filters: Vec<NamedCount>,
    /// Flow tables.
    pub flows: FlowSummary,
    /// Fill of the maps that can run full.
    #[serde(default)]
    pub maps: Vec<MapFill>,
    /// Events of the datapath that the agent could not take in, since it started.
    #[serde(default)]
    pub events_lost: u64,
}

/// Fill of a map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapFill {
    /// Name of the map.
    pub map: String,
    /// Entries in use (a flow has two).
    pub entries: u64,
    /// Entries that fit.
    pub max_entries: u64,
}

/// A row of [`Stats::interfaces`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceCount {
    /// Name of the interface.
    pub interface: String,
    /// Label of the verdict.
    pub verdict: String,
    /// Label of the reason.
    pub reason: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

/// A row of [`Stats::forwards`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardCount {
    /// Name of the forward.
    pub forward: String,
    /// Client to target.
    pub to_target: Count,
    /// Target to client.
    pub to_client: Count,
    /// Flows that exist now.
    pub flows: u64,
    /// Flows made since the forward exists.
    pub flows_total: u64,
}

/// A row of [`Stats::targets`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TargetCount {
    /// Name of the forward.
    pub forward: String,
    /// Address of the target.
    pub target: String,
    /// Client to target.
    pub to_target: Count,
    /// Target to client.
    pub to_client: Count,
    /// Flows that exist now.
    pub flows: u64,
}

/// A counter with a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedCount {
    /// Listening address of an echo reflector; name or position of a filter rule.
    pub name: String,
    /// How much.
    #[serde(flatten)]
    pub count: Count,
}

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
