//! Durations as people write them: `300s`, `5m`, `2h4m`.

use std::{fmt, time::Duration};

use serde::Deserializer;

const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// Parses a duration in whole seconds.
pub fn parse(text: &str) -> Result<Duration, String> {
    let bad = || format!("{text:?} is not a duration; examples: 300s, 5m, 2h4m");
    let mut rest = text;
    let mut seconds: u64 = 0;
    let mut units = UNITS.iter();
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        // Each unit at most once, larger ones first: "4m2h" is more likely a slip than a duration.
        let (unit, factor) = units.find(|(unit, _)| rest.starts_with(unit)).ok_or_else(bad)?;
        rest = &rest[unit.len()..];
        seconds = number.checked_mul(*factor).and_then(|part| seconds.checked_add(part)).ok_or_else(bad)?;
    }
    Ok(Duration::from_secs(seconds))
}

/// Writes a duration in the form that [`parse`] reads.
pub fn format(duration: Duration) -> String {
    let mut seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, factor) in UNITS {
        if seconds >= factor {
            text.push_str(&format!("{}{unit}", seconds / factor));
            seconds %= factor;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// For serde's `deserialize_with`.
pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
    struct Visitor;

    impl serde::de::Visitor<'_> for Visitor {
        type Value = Duration;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a duration such as \"300s\" or \"2h4m\"")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Duration, E> {
            parse(text).map_err(E::custom)
        }
    }
    d.deserialize_str(Visitor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn as_people_write_them() {
        for (text, seconds) in
            [("300s", 300), ("5m", 300), ("2h4m", 7_440), ("1d", 86_400), ("1h0m1s", 3_601)]
        {
            assert_eq!(parse(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "5",
            "m",
            "4m2h",
            "5m5m",
            "-1s",
            "1.5h",
            "5 m",
            "99999999999999999999s",
            "999999999999999999d",
        ] {
            assert!(parse(text).is_err(), "{text:?} is no duration");
        }
    }

    proptest! {
        #[test]
        fn round_trip(seconds in 0..u64::MAX) {
            let duration = Duration::from_secs(seconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }
    }
}
