//! Health checks of a forward's targets: what `[forward.health]` and `--health` hold.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::*;

/// How the targets of a forward are checked. Keys that a kind of check has no use for are refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// What is asked.
    #[serde(rename = "type")]
    pub kind: HealthKind,
    /// Port that is asked; default: the target's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// `http`, `https`: what is requested; default: `/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `http`, `https`: the header `Host`; default: the target's address and port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// `https`: the server name that the handshake asks for (RFC 6066 3); default: `host`, if that is a name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// `https`: the certificate must be valid for the server name, by the authorities that this host trusts.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub verify: bool,
    /// `http`, `https`: status codes of a healthy target; default: 200 to 399.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Many<StatusRange>>,
    /// `http`, `https`: text that stands in the first 64 KiB of the answer's body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// `dns`: the name that is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `dns`: type of the record that is asked for.
    #[serde(default, skip_serializing_if = "is_default")]
    pub record: RecordType,
    /// `dns`: answer of a healthy target.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rcode: Rcode,
    /// Time from one check of a target to the next.
    #[serde(default = "interval", skip_serializing_if = "is_interval")]
    pub interval: Span,
    /// Per cent of the interval by which a check may be earlier or later.
    #[serde(default = "jitter", skip_serializing_if = "is_jitter")]
    pub jitter: u8,
    /// Longest time that a check may take; default: 2 s, or the interval if that is shorter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Span>,
    /// Successes in a row that bring a target back.
    #[serde(default = "rise", skip_serializing_if = "is_rise")]
    pub rise: u16,
    /// Failures in a row that take a target out.
    #[serde(default = "fall", skip_serializing_if = "is_fall")]
    pub fall: u16,
}

/// Default of [`Health::interval`].
pub const DEFAULT_INTERVAL: Span = Span::from_millis(5_000);
/// Default of [`Health::timeout`], where the interval is no shorter.
pub const DEFAULT_TIMEOUT: Span = Span::from_millis(2_000);
/// Default of [`Health::jitter`], per cent.
pub const DEFAULT_JITTER: u8 = 10;
/// Default of [`Health::rise`].
pub const DEFAULT_RISE: u16 = 2;
/// Default of [`Health::fall`].
pub const DEFAULT_FALL: u16 = 3;

macro_rules! defaults {
    ($($value:ident $is:ident: $type:ty = $constant:expr;)+) => {
        $(
            const fn $value() -> $type {
                $constant
            }

            fn $is(value: &$type) -> bool {
                *value == $constant
            }
        )+
    };
}

defaults! {
    interval is_interval: Span = DEFAULT_INTERVAL;
    jitter is_jitter: u8 = DEFAULT_JITTER;
    rise is_rise: u16 = DEFAULT_RISE;
    fall is_fall: u16 = DEFAULT_FALL;
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Health {
    /// A check of that kind, and all else as it is by default.
    pub const fn new(kind: HealthKind) -> Self {
        Self {
            kind,
            port: None,
            path: None,
            host: None,
            sni: None,
            verify: false,
            status: None,
            body: None,
            name: None,
            record: RecordType::A,
            rcode: Rcode::NoError,
            interval: DEFAULT_INTERVAL,
            jitter: DEFAULT_JITTER,
            timeout: None,
            rise: DEFAULT_RISE,
            fall: DEFAULT_FALL,
        }
    }

    /// Longest time that a check may take.
    pub fn timeout(&self) -> Duration {
        self.timeout.unwrap_or_else(|| self.default_timeout()).duration()
    }

    /// What [`Self::timeout`] is if it is not given.
    pub fn default_timeout(&self) -> Span {
        DEFAULT_TIMEOUT.min(self.interval)
    }
}

words! {
    /// What a health check asks of a target.
    HealthKind {
        /// That it accepts a TCP connection.
        Tcp = "tcp",
        /// That it answers an HTTP request.
        Http = "http",
        /// That it answers an HTTP request by TLS.
        Https = "https",
        /// That it answers a DNS query.
        Dns = "dns",
        /// That it answers an ICMP echo request.
        Icmp = "icmp",
    }
}

words! {
    /// Type of a DNS record (RFC 1035 3.2.2).
    #[derive(Default)]
    RecordType {
        /// IPv4 address.
        #[default]
        A = "a",
        /// IPv6 address.
        Aaaa = "aaaa",
        /// Mail exchange.
        Mx = "mx",
        /// Name server.
        Ns = "ns",
        /// Start of authority.
        Soa = "soa",
        /// Service (RFC 2782).
        Srv = "srv",
        /// Text.
        Txt = "txt",
    }
}

words! {
    /// What a DNS server answered (RFC 1035 4.1.1).
    #[derive(Default)]
    Rcode {
        /// No error; and with it at least one record.
        #[default]
        NoError = "noerror",
        /// There is no such name.
        NxDomain = "nxdomain",
        /// The server does not answer this asker.
        Refused = "refused",
        /// The server could not find out.
        ServFail = "servfail",
    }
}

/// A span of time in milliseconds: `500ms`, `5s`, `2m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span(u32);

impl Span {
    const UNITS: [(&'static str, u32); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

    /// So many milliseconds.
    pub const fn from_millis(millis: u32) -> Self {
        Self(millis)
    }

    /// The time.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.0 as u64)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fits = |(_, factor): &&(&str, u32)| self.0 != 0 && self.0.is_multiple_of(*factor);
        let (unit, factor) = Self::UNITS.iter().rev().find(fits).unwrap_or(&Self::UNITS[0]);
        f.pad(&format!("{}{unit}", self.0 / factor))
    }
}

impl FromStr for Span {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        Self::UNITS
            .iter()
            .find(|(name, _)| *name == unit)
            .and_then(|(_, factor)| number.parse::<u32>().ok()?.checked_mul(*factor))
            .map(Self)
            .ok_or_else(|| ParseError(format!("{text:?} is not a span of time; examples: 500ms, 5s, 2m")))
    }
}

text_serde!(Span);

/// A status code of HTTP or a range of them, both ends included: `200`, `200-299`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StatusRange {
    /// First code.
    pub low: u16,
    /// Last code.
    pub high: u16,
}

impl StatusRange {
    /// The codes that are taken for healthy by default.
    pub const DEFAULT: Self = Self { low: 200, high: 399 };

    /// Whether a code is in it.
    pub const fn contains(self, code: u16) -> bool {
        self.low <= code && code <= self.high
    }
}

impl fmt::Display for StatusRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.low == self.high {
            write!(f, "{}", self.low)
        } else {
            write!(f, "{}-{}", self.low, self.high)
        }
    }
}

impl FromStr for StatusRange {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (low.parse(), high.parse()) {
            (Ok(low), Ok(high)) if 100 <= low && low <= high && high <= 599 => Ok(Self { low, high }),
            _ => Err(ParseError(format!(
                "{text:?} is not a status code of 100 to 599, or a range; examples: 200, 200-299"
            ))),
        }
    }
}

impl Serialize for StatusRange {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if self.low == self.high { s.serialize_u16(self.low) } else { s.collect_str(self) }
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl serde::de::Visitor<'_> for Visitor {
            type Value = StatusRange;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status code such as 200 or a range such as \"200-299\"")
            }

            fn visit_i64<E: serde::de::Error>(self, code: i64) -> Result<StatusRange, E> {
                self.visit_str(&code.to_string())
            }

            fn visit_u64<E: serde::de::Error>(self, code: u64) -> Result<StatusRange, E> {
                self.visit_str(&code.to_string())
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<StatusRange, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// As the command line has it: `tcp`, `http:/ready,interval=2s,status=200-299+404`, `dns:example.com,record=aaaa`.
impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.as_str())?;
        if let Some(what) = self.path.as_ref().or(self.name.as_ref()) {
            write!(f, ":{}", escape(what))?;
        }
        let mut key = |key: &str, value: Option<String>| match value {
            Some(value) => write!(f, ",{key}={}", escape(&value)),
            None => Ok(()),
        };
        key("port", self.port.map(|port| port.to_string()))?;
        key("host", self.host.clone())?;
        key("sni", self.sni.clone())?;
        key("verify", self.verify.then(|| "true".to_owned()))?;
        let codes =
            |list: &Many<StatusRange>| list.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        key("status", self.status.as_ref().map(codes))?;
        key("body", self.body.clone())?;
        key("record", (!is_default(&self.record)).then(|| self.record.to_string()))?;
        key("rcode", (!is_default(&self.rcode)).then(|| self.rcode.to_string()))?;
        key("interval", (!is_interval(&self.interval)).then(|| self.interval.to_string()))?;
        key("jitter", (!is_jitter(&self.jitter)).then(|| self.jitter.to_string()))?;
        key("timeout", self.timeout.map(|timeout| timeout.to_string()))?;
        key("rise", (!is_rise(&self.rise)).then(|| self.rise.to_string()))?;
        key("fall", (!is_fall(&self.fall)).then(|| self.fall.to_string()))
    }
}

/// A comma in a value follows a backslash.
fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,")
}

/// The parts between commas.
fn split(text: &str) -> Vec<String> {
    let (mut parts, mut part, mut escaped) = (Vec::new(), String::new(), false);
    for character in text.chars() {
        match character {
            '\\' if !escaped => escaped = true,
            ',' if !escaped => parts.push(std::mem::take(&mut part)),
            _ => {
                part.push(character);
                escaped = false;
            }
        }
    }
    parts.push(part);
    parts
}

/// Keys that [`Health`] has on the command line.
const KEYS: [&str; 16] = [
    "port", "path", "host", "sni", "verify", "status", "body", "name", "record", "rcode", "interval",
    "jitter", "timeout", "rise", "fall", "type",
];

impl FromStr for Health {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parts = split(text);
        let (first, keys) = parts.split_first().map_or(("", &[][..]), |(first, keys)| (first.as_str(), keys));
        let (kind, what) = match first.split_once(':') {
            Some((kind, what)) => (kind.parse()?, Some(what.to_owned())),
            None => (first.parse()?, None),
        };
        let (mut health, mut seen) = (Self::new(kind), Vec::new());
        match (kind, what) {
            (_, None) => {}
            (HealthKind::Http | HealthKind::Https, path) => (health.path, seen) = (path, vec!["path"]),
            (HealthKind::Dns, name) => (health.name, seen) = (name, vec!["name"]),
            (HealthKind::Tcp | HealthKind::Icmp, Some(what)) => {
                return Err(ParseError(format!(
                    "a {kind} check has nothing behind the colon, and {what:?} is there; a port is port={what}"
                )));
            }
        }
        for part in keys {
            let Some((key, value)) = part.split_once('=') else {
                return Err(ParseError(format!("{part:?} is not KEY=VALUE, such as interval=2s")));
            };
            ParseError::once(key, &mut seen)?;
            health.set(key, value).map_err(|error| match KEYS.contains(&key) {
                true => ParseError(format!("{key}: {error}")),
                false => error,
            })?;
        }
        Ok(health)
    }
}

impl Health {
    fn set(&mut self, key: &str, value: &str) -> Result<(), ParseError> {
        fn number<T: FromStr>(value: &str) -> Result<T, ParseError> {
            value.parse().map_err(|_| ParseError(format!("{value:?} is not a number that fits here")))
        }
        let text = || Some(value.to_owned());
        match key {
            "port" => self.port = Some(number(value)?),
            "path" => self.path = text(),
            "host" => self.host = text(),
            "sni" => self.sni = text(),
            "verify" => {
                self.verify = value
                    .parse()
                    .map_err(|_| ParseError(format!("{value:?} is neither \"true\" nor \"false\"")))?;
            }
            "status" => {
                self.status = Some(value.split('+').map(str::parse).collect::<Result<_, _>>()?);
            }
            "body" => self.body = text(),
            "name" => self.name = text(),
            "record" => self.record = value.parse()?,
            "rcode" => self.rcode = value.parse()?,
            "interval" => self.interval = value.parse()?,
            "jitter" => self.jitter = number(value.strip_suffix('%').unwrap_or(value))?,
            "timeout" => self.timeout = Some(value.parse()?),
            "rise" => self.rise = number(value)?,
            "fall" => self.fall = number(value)?,
            _ => return Err(ParseError::word(key, &KEYS[..KEYS.len() - 1])),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
