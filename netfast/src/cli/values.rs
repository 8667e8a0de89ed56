//! Values on the command line that are more than one word of the API's types.

use std::{net::IpAddr, str::FromStr, time::Duration};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use ipnet::IpNet;

use crate::api::types::{Endpoint, ParseError, Target};

/// A parser of one of a few words, which help and completion then show.
pub fn word<T>(words: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: FromStr<Err = ParseError> + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(words).try_map(|word| word.parse())
}

/// Longest [`interval`]: a leap year. Whoever means for ever leaves the limit out; and what is far beyond cannot be added to a time.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// A target: `10.0.0.11:8443` or `10.0.0.12:8443,weight=2`.
///
/// # Errors
/// Says which part is wrong.
pub fn target(text: &str) -> Result<Target, ParseError> {
    let mut parts = text.split(',');
    let mut target = Target::new(parts.next().unwrap_or_default().parse()?);
    let mut seen = Vec::new();
    for part in parts {
        if let Some((key, _)) = part.split_once('=') {
            ParseError::once(key, &mut seen)?;
        }
        match part.split_once('=') {
            Some(("weight", number)) => target.weight = weight(number)?,
            Some(("id", id)) => target.id = Some(id.parse()?),
            Some((key, _)) => return Err(ParseError::word(key, &["weight", "id"])),
            None => return Err(ParseError(format!("{part:?} is not KEY=VALUE, such as weight=2"))),
        }
    }
    Ok(target)
}

/// A weight, 1 to 256.
///
/// # Errors
/// Names the range.
pub fn weight(text: &str) -> Result<u16, ParseError> {
    match text.parse() {
        Ok(weight @ 1..=256) => Ok(weight),
        _ => Err(ParseError(format!("weight {text:?} is not a number from 1 to 256"))),
    }
}

/// A prefix, or an address that stands for itself alone.
///
/// # Errors
/// Shows how one looks.
pub fn prefix(text: &str) -> Result<IpNet, ParseError> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        ParseError(format!("{text:?} is not a prefix; examples: 198.51.100.0/24, 2001:db8::/32, 192.0.2.1"))
    })
}

/// A prefix as [`prefix`] reads it: a single address without its length.
pub fn show_prefix(prefix: IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() {
        prefix.addr().to_string()
    } else {
        prefix.to_string()
    }
}

/// A span of time: `1s`, `500ms`, `2m`; a number alone is in seconds. Never 0, and never longer than [`LONGEST`].
///
/// # Errors
/// Shows how one looks, or says how long one may be.
pub fn interval(text: &str) -> Result<Duration, ParseError> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => Some(0.001),
        "" | "s" => Some(1.0),
        "m" => Some(60.0),
        "h" => Some(3600.0),
        _ => None,
    };
    let seconds = number.parse::<f64>().ok().zip(factor).map(|(number, factor)| number * factor);
    let wrong = || ParseError(format!("{text:?} is not a time; examples: 1s, 500ms, 2m"));
    match seconds.ok_or_else(wrong)? {
        seconds if seconds > LONGEST.as_secs_f64() => {
            Err(ParseError(format!("{text:?} is longer than a year (8784h)")))
        }
        seconds => Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|interval| *interval >= Duration::from_millis(1))
            .ok_or_else(wrong),
    }
}

/// An address, or an address and a port, to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The address.
    pub address: IpAddr,
    /// The port, if one was given.
    pub port: Option<u16>,
}

impl FromStr for Peer {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Self { address, port: None });
        }
        match text.parse::<Endpoint>() {
            Ok(Endpoint { address, ports }) if ports.low == ports.high => {
                Ok(Self { address, port: Some(ports.low) })
            }
            _ => Err(ParseError(format!(
                "{text:?} is neither an address nor ADDRESS:PORT; examples: 192.0.2.1, 192.0.2.1:443, [2001:db8::1]:443"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_have_weights() {
        assert_eq!(
            target("10.0.0.12:8443,weight=2").map(|t| (t.address.to_string(), t.weight)).ok(),
            Some(("10.0.0.12:8443".to_owned(), 2))
        );
        let error = |text| target(text).map_err(|error| error.0).unwrap_err();
        assert!(error("10.0.0.12:8443,wieght=2").contains("did you mean \"weight\""));
        assert!(error("10.0.0.12:8443,weight=0").contains("1 to 256"));
        assert!(error("10.0.0.12").contains("ADDRESS:PORT"));
        assert!(error("10.0.0.12:8443,weight=2,weight=3").contains("weight is there twice"));
    }

    #[test]
    fn intervals_and_prefixes_and_peers_parse() {
        assert_eq!(interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(interval("2"), Ok(Duration::from_secs(2)));
        assert_eq!(interval("1.5m"), Ok(Duration::from_secs(90)));
        assert!(interval("8784h").is_ok());
        for bad in ["0s", "", "s", "1w", "-1s", "1e99s", "8785h", "9999999999999999999"] {
            assert!(interval(bad).is_err(), "{bad}");
        }
        assert_eq!(prefix("192.0.2.1").map(|p| p.to_string()), Ok("192.0.2.1/32".to_owned()));
        assert_eq!("[2001:db8::1]:443".parse::<Peer>().map(|p| p.port), Ok(Some(443)));
        assert_eq!("2001:db8::1".parse::<Peer>().map(|p| p.port), Ok(None));
        assert!("192.0.2.1:1-2".parse::<Peer>().is_err());
    }
}
