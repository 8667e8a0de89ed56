//! "Did you mean": the likeliest name that was meant.

/// The candidate most like `got`, if one is like it at all.
pub fn nearest<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(got, candidate), candidate))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// ` (did you mean "web"?)`, or nothing.
pub fn hint<'a>(got: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(got, candidates).map(|name| format!(" (did you mean {name:?}?)")).unwrap_or_default()
}
