//! Filter rules.

use std::{fmt, str::FromStr};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;

/// A filter rule. What is not given matches anything; of a list, any element may match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterRule {
    /// What happens to a packet that matches.
    pub action: FilterAction,
    /// How a `reject` answers; without it TCP is reset and the rest told that the port is unreachable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub with: Option<RejectWith>,
    /// What a `limit` lets through: `1000/s` packets or `10mbit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// What may come at once: packets, for a rate in bits bytes. Without it one second's worth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
    /// Whether a `limit` is one for the whole rule or one for each source address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<LimitPer>,
    /// Name, unique among the filter rules; only named rules have a metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Source prefixes or sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<Many<Addresses>>,
    /// Destination prefixes or sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<Many<Addresses>>,
    /// IP protocols: `tcp`, `udp`, `icmp`, `icmpv6` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proto: Option<Many<Protocol>>,
    /// Source ports or ranges (TCP and UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<Many<Ports>>,
    /// Destination ports or ranges (TCP and UDP).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<Many<Ports>>,
    /// TCP flags and which of them count: `syn/syn,ack,fin,rst`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<TcpFlags>,
    /// ICMP types, with or without a code: `echo-request`, `3/4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Many<IcmpKind>>,
    /// Interface that the packet came in by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// VLAN of the innermost tag, 1 to 4094; 0: untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// IP version, 4 or 6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u8>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// A named set of addresses, which filter rules refer to as `@name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AddressSet {
    /// Name, unique among the sets.
    pub name: String,
    /// Prefixes and addresses; of both IP versions, if so wished.
    #[serde(with = "prefixes")]
    pub addresses: Vec<IpNet>,
    /// Free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// What becomes of packets on an interface that no filter rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InterfacePolicy {
    /// The interface.
    pub interface: String,
    /// What becomes of them; without a policy they go on.
    pub filter: FilterDefault,
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
        /// The packet is dropped, and its sender told.
        Reject = "reject",
        /// The packet is dropped if it is over the rate; else the next rules decide.
        Limit = "limit",
        /// The packet is counted; the next rules decide.
        Count = "count",
    }
}

impl FilterAction {
    /// Whether the next rules are asked, too.
    pub const fn goes_on(self) -> bool {
        matches!(self, Self::Count | Self::Limit)
    }
}

words! {
    /// How a `reject` answers.
    RejectWith {
        /// TCP RST.
        TcpReset = "tcp-reset",
        /// ICMP port unreachable.
        PortUnreachable = "port-unreachable",
        /// ICMP administratively prohibited.
        AdminProhibited = "admin-prohibited",
    }
}

words! {
    /// What a limit is kept for.
    #[derive(Default)]
    LimitPer {
        /// All packets that the rule matches.
        #[default]
        Rule = "rule",
        /// Each source address.
        Source = "source",
    }
}

words! {
    /// What becomes of packets that no filter rule matches.
    FilterDefault {
        /// They go on.
        Allow = "allow",
        /// They are dropped.
        Drop = "drop",
    }
}

words! {
    /// A format of rules files.
    RulesFormat {
        /// rules.toml.
        Toml = "toml",
        /// A JSON object a line, as `netfast filter list -o jsonl` writes them.
        Jsonl = "jsonl",
        /// A subset of what `nft list ruleset` writes.
        Nft = "nft",
        /// A subset of what `iptables-save` writes.
        Iptables = "iptables",
        /// A subset of what `ip6tables-save` writes.
        Ip6tables = "ip6tables",
        /// What ClassBench's generator of rule sets writes.
        Classbench = "classbench",
    }
}

/// A rate: packets or bits a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rate {
    /// Packets a second.
    Packets(u64),
    /// Bits a second, of whole frames.
    Bits(u64),
}

/// Units of bits, from large to small.
const BIT_UNITS: [(&str, u64); 4] =
    [("gbit", 1_000_000_000), ("mbit", 1_000_000), ("kbit", 1000), ("bit", 1)];

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Packets(packets) => write!(f, "{packets}/s"),
            Self::Bits(bits) => {
                let fits = BIT_UNITS.iter().find(|(_, unit)| bits.is_multiple_of(*unit));
                let (name, unit) = fits.unwrap_or(&BIT_UNITS[3]);
                write!(f, "{}{name}", bits / unit)
            }
        }
    }
}

impl FromStr for Rate {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = || {
            ParseError(format!(
                "{text:?} is not a rate; examples: 1000/s (packets), 64kbit, 10mbit, 1gbit (bits a second)"
            ))
        };
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let number: u64 = number.parse().map_err(|_| bad())?;
        if matches!(unit, "/s" | "/second") {
            return Ok(Self::Packets(number));
        }
        let unit = unit.strip_suffix("/s").unwrap_or(unit);
        let (_, factor) = BIT_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(bad)?;
        number.checked_mul(*factor).map(Self::Bits).ok_or_else(bad)
    }
}

text_serde!(Rate);

/// TCP flags: those of `mask` must be exactly those of `value`. `syn/syn,ack` is SYN without ACK; `syn` alone is `syn/syn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TcpFlags {
    /// Flags that are set, bits as on the wire (RFC 9293 3.1).
    pub value: u8,
    /// Flags that count.
    pub mask: u8,
}

/// Names of the flags, from bit 0 on.
const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];

impl TcpFlags {
    /// The flags that a list such as `syn,ack` names; `none` and `all` are such lists, too.
    ///
    /// # Errors
    /// Names the word that is none.
    pub fn bits(text: &str) -> Result<u8, ParseError> {
        match text {
            "none" | "" => Ok(0),
            "all" => Ok(0xff),
            _ => text.split(',').try_fold(0, |bits, word| {
                let bit = FLAGS.iter().position(|name| *name == word);
                bit.map(|bit| bits | 1 << bit).ok_or_else(|| ParseError::word(word, &FLAGS))
            }),
        }
    }

    fn show(bits: u8) -> String {
        match bits {
            0 => "none".to_owned(),
            0xff => "all".to_owned(),
            _ => {
                let set = (0..8).filter(|bit| bits & (1 << bit) != 0).map(|bit| FLAGS[bit]);
                set.collect::<Vec<_>>().join(",")
            }
        }
    }
}

impl fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.value == self.mask {
            return f.write_str(&Self::show(self.value));
        }
        write!(f, "{}/{}", Self::show(self.value), Self::show(self.mask))
    }
}

impl FromStr for TcpFlags {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (value, mask) = text.split_once('/').unwrap_or((text, text));
        let flags = Self { value: Self::bits(value)?, mask: Self::bits(mask)? };
        if flags.value & !flags.mask != 0 {
            return Err(ParseError(format!(
                "{text:?} asks for flags that do not count: name every flag before the / after it, too"
            )));
        }
        if flags.mask == 0 {
            return Err(ParseError(format!("{text:?} matches any flags: leave it out, or write none/all")));
        }
        Ok(flags)
    }
}

text_serde!(TcpFlags);

/// An ICMP type by name or number, and a code if it matters: `echo-request`, `3`, `3/4`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IcmpKind {
    kind: Kind,
    /// Code; `None`: any.
    pub code: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Number(u8),
    Name(&'static str),
}

/// Names of ICMP types with their numbers in ICMP (RFC 792) and ICMPv6 (RFC 4443, RFC 4861, RFC 2710, RFC 3810).
const ICMP_TYPES: [(&str, Option<u8>, Option<u8>); 15] = [
    ("echo-request", Some(8), Some(128)),
    ("echo-reply", Some(0), Some(129)),
    ("destination-unreachable", Some(3), Some(1)),
    ("packet-too-big", None, Some(2)),
    ("time-exceeded", Some(11), Some(3)),
    ("parameter-problem", Some(12), Some(4)),
    ("redirect", Some(5), Some(137)),
    ("router-solicitation", Some(10), Some(133)),
    ("router-advertisement", Some(9), Some(134)),
    ("neighbour-solicitation", None, Some(135)),
    ("neighbour-advertisement", None, Some(136)),
    ("timestamp-request", Some(13), None),
    ("timestamp-reply", Some(14), None),
    ("mld-query", None, Some(130)),
    ("mld2-report", None, Some(143)),
];

impl IcmpKind {
    /// A type by its number.
    pub const fn number(kind: u8, code: Option<u8>) -> Self {
        Self { kind: Kind::Number(kind), code }
    }

    /// Its number in ICMPv6 (`v6`) or ICMP; `None` if that has no such type.
    pub fn type_in(self, v6: bool) -> Option<u8> {
        match self.kind {
            Kind::Number(number) => Some(number),
            Kind::Name(name) => {
                let found = ICMP_TYPES.iter().find(|(known, ..)| *known == name)?;
                if v6 { found.2 } else { found.1 }
            }
        }
    }
}

impl fmt::Display for IcmpKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Number(number) => write!(f, "{number}")?,
            Kind::Name(name) => f.write_str(name)?,
        }
        self.code.map_or(Ok(()), |code| write!(f, "/{code}"))
    }
}

impl FromStr for IcmpKind {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (kind, code) = match text.split_once('/') {
            Some((kind, code)) => (kind, Some(code)),
            None => (text, None),
        };
        let code = code
            .map(|code| code.parse::<u8>())
            .transpose()
            .map_err(|_| ParseError(format!("{text:?} has no ICMP code after the /; use 0 to 255")))?;
        if let Ok(number) = kind.parse::<u8>() {
            return Ok(Self { kind: Kind::Number(number), code });
        }
        let kind = if kind == "neighbor-solicitation" { "neighbour-solicitation" } else { kind };
        let kind = if kind == "neighbor-advertisement" { "neighbour-advertisement" } else { kind };
        match ICMP_TYPES.iter().find(|(name, ..)| *name == kind) {
            Some((name, ..)) => Ok(Self { kind: Kind::Name(name), code }),
            None => {
                let names: Vec<&str> = ICMP_TYPES.iter().map(|(name, ..)| *name).collect();
                let ParseError(message) = ParseError::word(kind, &names);
                Err(ParseError(format!("{message}; or a number from 0 to 255")))
            }
        }
    }
}

/// Numbers may also stand bare, as ports do.
impl Serialize for IcmpKind {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IcmpKind {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = IcmpKind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an ICMP type such as \"echo-request\", 3 or \"3/4\"")
            }

            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<IcmpKind, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<IcmpKind, E> {
                self.visit_str(&number.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<IcmpKind, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// Prefixes, of which single addresses may be written without a length.
mod prefixes {
    use super::*;

    pub(super) fn serialize<S: Serializer>(nets: &[IpNet], s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(nets)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<IpNet>, D::Error> {
        #[derive(Deserialize)]
        struct Item(#[serde(deserialize_with = "one")] IpNet);

        fn one<'de, D: Deserializer<'de>>(d: D) -> Result<IpNet, D::Error> {
            prefix(&String::deserialize(d)?).map_err(serde::de::Error::custom)
        }
        Ok(Vec::<Item>::deserialize(d)?.into_iter().map(|Item(net)| net).collect())
    }
}

#[cfg(test)]
mod tests;
