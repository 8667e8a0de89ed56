//! Values that are written as text: ports, endpoints, protocols, lower-case words.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rules::suggest;

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

/// Text that is not what it should be; the message names what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

impl ParseError {
    /// Notes in `seen` that a key was given.
    ///
    /// # Errors
    /// It was given before: one of the two values would be lost.
    pub fn once<'a>(key: &'a str, seen: &mut Vec<&'a str>) -> Result<(), Self> {
        if seen.contains(&key) {
            return Err(Self(format!("{key} is there twice")));
        }
        seen.push(key);
        Ok(())
    }

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
