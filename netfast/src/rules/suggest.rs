//! "Did you mean": the likeliest name that was meant.

/// The candidate most like `got`, if one is like it at all.
pub fn nearest<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .filter_map(|candidate| Some((likeness(got, candidate)?, candidate)))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// How alike two names are, 0 to 1, if they are alike at all: by common letters in about the same place
/// (Jaro-Winkler), which favours common beginnings; or by few slips, of which two letters exchanged are one.
fn likeness(got: &str, candidate: &str) -> Option<f64> {
    let similarity = strsim::jaro_winkler(got, candidate);
    let slips = strsim::osa_distance(got, candidate);
    let length = got.chars().count().max(candidate.chars().count());
    if slips * 3 <= length {
        return Some(similarity.max(1.0 - slips as f64 / length.max(1) as f64));
    }
    (similarity > 0.8).then_some(similarity)
}

/// ` (did you mean "web"?)`, or nothing.
pub fn hint<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(got, candidates).map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_pen() {
        let words = ["nat", "dnat", "web", "protocol", "listen", "10.0.0.11:8443"];
        for (got, meant) in [
            ("nta", Some("nat")),
            ("wbe", Some("web")),
            ("proto", Some("protocol")),
            ("lsiten", Some("listen")),
            ("10.0.0.11:8444", Some("10.0.0.11:8443")),
            ("quux", None),
            ("", None),
            ("x", None),
        ] {
            assert_eq!(nearest(got, words), meant, "{got}");
        }
    }
}
