//! `[timeouts]`: idle times of flows.

use std::time::Duration;

use serde::Deserialize;

use crate::config::duration;

/// `[timeouts]`: idle times after which a flow ends, as `300s`, `5m`, `2h4m`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// UDP with packets both ways (RFC 4787 REQ-5: 5 min).
    #[serde(deserialize_with = "duration::deserialize")]
    pub udp: Duration,
    /// UDP with packets one way only (RFC 4787 REQ-5: no less than 2 min).
    #[serde(deserialize_with = "duration::deserialize")]
    pub udp_one_way: Duration,
    /// ICMP query of source NAT (RFC 5508 REQ-1: at least 60 s).
    #[serde(deserialize_with = "duration::deserialize")]
    pub icmp: Duration,
    /// TCP handshake (RFC 5382 REQ-5: 4 min).
    #[serde(deserialize_with = "duration::deserialize")]
    pub tcp_opening: Duration,
    /// Established TCP (RFC 5382 REQ-5: 2 h 4 min).
    #[serde(deserialize_with = "duration::deserialize")]
    pub tcp_established: Duration,
    /// TCP after a FIN of one side (RFC 6146 3.5.2.2: as established).
    #[serde(deserialize_with = "duration::deserialize")]
    pub tcp_half_closed: Duration,
    /// TCP after a FIN of both (RFC 5382 REQ-5: 4 min).
    #[serde(deserialize_with = "duration::deserialize")]
    pub tcp_closing: Duration,
    /// TCP after a RST (RFC 7857 2.2: 4 min).
    #[serde(deserialize_with = "duration::deserialize")]
    pub tcp_reset: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            udp: seconds(300),
            udp_one_way: seconds(120),
            icmp: seconds(60),
            tcp_opening: seconds(240),
            tcp_established: seconds(7_440),
            tcp_half_closed: seconds(7_440),
            tcp_closing: seconds(240),
            tcp_reset: seconds(240),
        }
    }
}

/// Longest idle time: the program counts jiffies in 32 bits, and at 1000 Hz these turn over after 49 days.
const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 86_400);
/// Shortest idle time of a confirmed flow: cached lines live a quarter of it, and their age is counted in seconds.
const MIN_TIMEOUT: Duration = Duration::from_secs(8);

impl Timeouts {
    pub(super) fn problems(&self, mut add: impl FnMut(&'static str, String)) {
        let second = Duration::from_secs(1);
        for (key, time, least) in [
            ("udp", self.udp, MIN_TIMEOUT),
            ("udp_one_way", self.udp_one_way, second),
            ("tcp_opening", self.tcp_opening, MIN_TIMEOUT),
            ("icmp", self.icmp, MIN_TIMEOUT),
            ("tcp_established", self.tcp_established, MIN_TIMEOUT),
            ("tcp_half_closed", self.tcp_half_closed, MIN_TIMEOUT),
            ("tcp_closing", self.tcp_closing, MIN_TIMEOUT),
            ("tcp_reset", self.tcp_reset, MIN_TIMEOUT),
        ] {
            if time < least || time > MAX_TIMEOUT {
                let (time, least, most) =
                    (duration::format(time), duration::format(least), duration::format(MAX_TIMEOUT));
                add(key, format!("{key} = {time:?} is not in {least} to {most}"));
            }
        }
    }

    /// What works, but is shorter than the RFCs ask for: a sentence for each key.
    pub(super) fn advice(&self) -> Vec<String> {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        [
            ("udp", self.udp, minutes(2), "RFC 4787 REQ-5"),
            ("udp_one_way", self.udp_one_way, minutes(2), "RFC 4787 REQ-5"),
            ("tcp_opening", self.tcp_opening, minutes(4), "RFC 5382 REQ-5"),
            ("tcp_established", self.tcp_established, minutes(124), "RFC 5382 REQ-5"),
            ("tcp_half_closed", self.tcp_half_closed, minutes(4), "RFC 5382 REQ-5"),
            ("tcp_closing", self.tcp_closing, minutes(4), "RFC 5382 REQ-5"),
            ("tcp_reset", self.tcp_reset, minutes(4), "RFC 7857 2.2"),
        ]
        .into_iter()
        .filter(|(_, time, least, _)| time < least)
        .map(|(key, time, least, rfc)| {
            let (time, least) = (duration::format(time), duration::format(least));
            format!("[timeouts] {key} = {time:?} is less than the {least} of {rfc}: flows that are in use may be cut")
        })
        .collect()
    }
}
