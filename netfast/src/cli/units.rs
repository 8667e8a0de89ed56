//! Numbers and times for a person. JSON and `-o wide` have them exact.

/// A number in at most four characters and a unit: `999`, `1.2k`, `34M`.
pub fn count(number: u64) -> String {
    scaled(number as f64, "", &["k", "M", "G", "T", "P", "E"])
}

/// Bytes: `999 B`, `1.2 kB`, `3.4 MB`.
pub fn bytes(number: u64) -> String {
    scaled(number as f64, " B", &[" kB", " MB", " GB", " TB", " PB", " EB"])
}

/// Bits a second: `0 b/s`, `9.4 Gb/s`.
pub fn bit_rate(bits: f64) -> String {
    scaled(bits, " b/s", &[" kb/s", " Mb/s", " Gb/s", " Tb/s", " Pb/s", " Eb/s"])
}

/// Something a second: `0`, `12`, `1.2k`.
pub fn rate(number: f64) -> String {
    scaled(number, "", &["k", "M", "G", "T", "P", "E"])
}

fn scaled(mut number: f64, plain: &str, units: &[&str]) -> String {
    if number < 999.5 {
        return format!("{number:.0}{plain}");
    }
    let mut unit = plain;
    for next in units {
        if number < 999.5 {
            break;
        }
        number /= 1000.0;
        unit = next;
    }
    // 9.95 and above would be shown as 10.0.
    if number < 9.95 { format!("{number:.1}{unit}") } else { format!("{number:.0}{unit}") }
}

/// Seconds as their two largest units: `45s`, `3m 5s`, `2h 10m`, `3d 4h`.
pub fn seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A part of a whole in percent.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0%".to_owned();
    }
    let percent = part as f64 * 100.0 / whole as f64;
    if percent == 0.0 || percent >= 9.95 {
        format!("{percent:.0}%")
    } else if percent < 0.1 {
        "<0.1%".to_owned()
    } else {
        format!("{percent:.1}%")
    }
}

/// `1 flow`, `2 flows`.
pub fn plural(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let shown: Vec<_> =
            [0, 7, 999, 1000, 1249, 9_949, 9_950, 999_499, 999_500, 34_000_000, u64::MAX].map(count).into();
        assert_eq!(shown, ["0", "7", "999", "1.0k", "1.2k", "9.9k", "10k", "999k", "1.0M", "34M", "18E"]);
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(3_400_000), "3.4 MB");
        assert_eq!(bit_rate(9_412_000_000.0), "9.4 Gb/s");
        assert_eq!(rate(12.4), "12");
    }

    #[test]
    fn times_have_two_units() {
        assert_eq!(
            [0, 59, 60, 185, 7_800, 273_600].map(seconds),
            ["0s", "59s", "1m 0s", "3m 5s", "2h 10m", "3d 4h"]
        );
    }

    #[test]
    fn parts_are_in_percent() {
        assert_eq!(percent(0, 100), "0%");
        assert_eq!(percent(1, 262_144), "<0.1%");
        assert_eq!(percent(5, 100), "5.0%");
        assert_eq!(percent(1, 1), "100%");
        assert_eq!(percent(0, 0), "0%");
    }
}
