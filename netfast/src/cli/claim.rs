//! Claimed addresses, in words.

use std::net::IpAddr;

use crate::api::types::Stats;

/// Where the claim of an address stands, link by link.
pub fn text(address: IpAddr, stats: &Stats) -> String {
    let rows = stats.claims.iter().filter(|row| row.address == address);
    let words: Vec<String> = rows
        .map(|row| match &row.station {
            Some(station) => format!("{} on {} (also seen at {station})", row.state, row.interface),
            None => format!("{} on {}", row.state, row.interface),
        })
        .collect();
    if words.is_empty() { "none: see `netfast status`".to_owned() } else { words.join(", ") }
}
