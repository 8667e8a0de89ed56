//! What a field of a filter rule may hold: one value or a list, and the values themselves.

use std::{fmt, marker::PhantomData, net::IpAddr, str::FromStr};

use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, IntoDeserializer, SeqAccess, Visitor, value},
};

use super::{ParseError, PortRange};

/// One value, or a list of values of which any may match: `"tcp"`, `["tcp", "udp"]`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Many<T> {
    /// One value.
    One(T),
    /// None, or two and more.
    Several(Box<[T]>),
}

impl<T> Many<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Several(values) => values,
        }
    }

    /// The values, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        match self {
            Self::One(value) => std::slice::from_mut(value),
            Self::Several(values) => values,
        }
    }

    /// The values.
    pub fn iter(&self) -> std::slice::Iter<'_, T> {
        self.as_slice().iter()
    }
}

impl<T> From<T> for Many<T> {
    fn from(value: T) -> Self {
        Self::One(value)
    }
}

impl<T> FromIterator<T> for Many<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut values: Vec<T> = values.into_iter().collect();
        match values.pop() {
            Some(only) if values.is_empty() => Self::One(only),
            Some(last) => {
                values.push(last);
                Self::Several(values.into_boxed_slice())
            }
            None => Self::Several(Box::default()),
        }
    }
}

/// Separated by commas, as the command line takes them.
impl<T: fmt::Display> fmt::Display for Many<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, value) in self.iter().enumerate() {
            write!(f, "{}{value}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl<T: FromStr<Err = ParseError>> FromStr for Many<T> {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        text.split(',').map(str::parse).collect::<Result<_, _>>()
    }
}

impl<T: Serialize> Serialize for Many<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(value) => value.serialize(s),
            Self::Several(values) => values.serialize(s),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Many<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = Many<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Many<T>, E> {
                T::deserialize(number.into_deserializer()).map(Many::One)
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Many<T>, E> {
                T::deserialize(number.into_deserializer()).map(Many::One)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Many<T>, E> {
                T::deserialize(value::StrDeserializer::<E>::new(text)).map(Many::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Many<T>, A::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(values.into_iter().collect())
            }
        }
        d.deserialize_any(Either(PhantomData))
    }
}

/// Addresses of a filter rule: a prefix, an address, or `@` and the name of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Addresses {
    /// A prefix; an address is the longest one.
    Net(IpNet),
    /// All addresses of a set.
    Set(String),
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Net(net) => write!(f, "{net}"),
            Self::Set(name) => write!(f, "@{name}"),
        }
    }
}

impl FromStr for Addresses {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        match text.strip_prefix('@') {
            Some(name) => Ok(Self::Set(name.to_owned())),
            None => prefix(text).map(Self::Net),
        }
    }
}

impl From<IpNet> for Addresses {
    fn from(net: IpNet) -> Self {
        Self::Net(net)
    }
}

text_serde!(Addresses);

/// A prefix, or an address that stands for itself alone.
///
/// # Errors
/// Shows how one looks.
pub fn prefix(text: &str) -> Result<IpNet, ParseError> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        ParseError(format!("{text:?} is not a prefix; examples: 198.51.100.0/24, 2001:db8::/32, 192.0.2.1"))
    })
}

/// Ports that a filter rule matches: a port or a range, 0 to 65535.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ports(pub PortRange);

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Ports {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        // Nobody listens on port 0, and packets that say it do exist.
        let low = match text.split_once('-') {
            Some((low, _)) => low,
            None => text,
        };
        if low != "0" {
            return text.parse().map(Self);
        }
        match text.strip_prefix("0-") {
            None => Ok(Self(PortRange { low: 0, high: 0 })),
            Some("0") => Ok(Self(PortRange { low: 0, high: 0 })),
            Some(high) => Ok(Self(PortRange { low: 0, high: high.parse::<PortRange>()?.high })),
        }
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(s)
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Port;

        impl Visitor<'_> for Port {
            type Value = Ports;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port such as 443 or a range such as \"27000-27099\"")
            }

            fn visit_i64<E: de::Error>(self, port: i64) -> Result<Ports, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_u64<E: de::Error>(self, port: u64) -> Result<Ports, E> {
                self.visit_str(&port.to_string())
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Ports, E> {
                text.parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Port)
    }
}
