//! Every metric, once: name, type, help and labels. The exporter, docs/metrics.md and the tests of deploy/ read this.

use std::fmt::Write as _;

use netfast_common::reason::{Reason, Verdict};

/// Type of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever grows while the agent lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Cumulative buckets, a sum and a count.
    Histogram,
}

impl Kind {
    /// As Prometheus calls it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Debug, PartialEq, Eq)]
pub struct Metric {
    /// Full name.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Names of its labels. Their values are bounded by the configuration: never a client's address, port or flow.
    pub labels: &'static [&'static str],
    /// One sentence.
    pub help: &'static str,
}

/// Declares the metrics and the list of all of them.
macro_rules! metrics {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(#[doc = $help] pub const $constant: Metric = Metric {
            name: concat!("netfast_", $name),
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+

        /// All metrics. The order is also the priority: with more series than `max_series`, the last go first.
        pub const ALL: &[&Metric] = &[$(&$constant),+];
    };
}

metrics! {
    SERIES_SUPPRESSED = Gauge "series_suppressed" []
        "Series withheld from this scrape because there are more than max_series.";
    BUILD_INFO = Gauge "build_info" ["version", "abi"]
        "Version of the agent and of the layout of its maps; always 1.";
    READY = Gauge "ready" []
        "1 if everything that was asked for is in place (what /healthz says).";
    STORE_UP = Gauge "store_up" []
        "1 if the last access to the store of the intent succeeded.";
    EVENTS_LOST_TOTAL = Counter "events_lost_total" []
        "Events of the datapath that the agent could not take in.";
    CONFIG_REVISION = Gauge "config_revision" []
        "Revision of the intent.";
    CONFIG_APPLIED_REVISION = Gauge "config_applied_revision" []
        "Revision of the intent that the datapath runs.";
    CONFIG_APPLIES_TOTAL = Counter "config_applies_total" ["result"]
        "Changes of the intent by result: applied or rejected.";
    FILTER_RULES = Gauge "filter_rules" []
        "Filter rules that are live, those without a name included.";
    CONFIG_APPLY_DURATION_SECONDS = Histogram "config_apply_duration_seconds" []
        "Time from a change's arrival to its publication.";
    FLOW_INSERT_FAILURES_TOTAL = Counter "flow_insert_failures_total" ["cause"]
        "Flows that could not be made, by cause: table_full, conflict or ports_exhausted.";
    SNAT_PORTS_EXHAUSTED_TOTAL = Counter "snat_ports_exhausted_total" []
        "Flows that could not be made because no source port towards the target, or of the pool address, was free.";
    MAP_ENTRIES = Gauge "map_entries" ["map"]
        "Entries in use of a map that can run full (a flow has two).";
    MAP_MAX_ENTRIES = Gauge "map_max_entries" ["map"]
        "Entries that fit into the map.";
    INTERFACE_INFO = Gauge "interface_info" ["interface", "driver", "mode"]
        "Driver of an interface and how netfast is attached to it: native, generic or none; always 1.";
    INTERFACE_ATTACHED = Gauge "interface_attached" ["interface"]
        "1 if netfast is attached to the interface.";
    PACKETS_TOTAL = Counter "packets_total" ["interface", "verdict"]
        "Packets that came in by the interface, by verdict.";
    BYTES_TOTAL = Counter "bytes_total" ["interface", "verdict"]
        "Bytes of those packets, without the frame check sequence.";
    DROPS_TOTAL = Counter "drops_total" ["interface", "reason"]
        "Packets dropped, by reason.";
    PUNTS_TOTAL = Counter "punts_total" ["interface", "reason"]
        "Packets handed to the kernel, by reason.";
    CACHE_MISSES_TOTAL = Counter "cache_misses_total" ["interface"]
        "Packets that the flow cache did not decide; the cache's hit rate is 1 - this / netfast_packets_total.";
    CACHE_SETS = Gauge "cache_sets" ["version"]
        "Sets of the flow cache (two lines each) in use on each CPU, fitted to the number of flows, by IP version.";
    CACHE_MAX_SETS = Gauge "cache_max_sets" ["version"]
        "Sets that the flow cache may grow to.";
    FORWARD_PACKETS_TOTAL = Counter "forward_packets_total" ["forward", "direction"]
        "Packets of a forward's flows, by direction: to_target or to_client.";
    FORWARD_BYTES_TOTAL = Counter "forward_bytes_total" ["forward", "direction"]
        "Bytes of those packets.";
    FORWARD_FLOWS_TOTAL = Counter "forward_flows_total" ["forward"]
        "Flows made for a forward.";
    FORWARD_FLOWS = Gauge "forward_flows" ["forward"]
        "Flows of a forward that exist now.";
    FORWARD_TARGETS = Gauge "forward_targets" ["forward"]
        "Targets of a forward.";
    FORWARD_TARGETS_HEALTHY = Gauge "forward_targets_healthy" ["forward"]
        "Targets of a forward that no health check has found down; those of a forward without checks all count.";
    TARGET_HEALTH_CHECKS_TOTAL = Counter "target_health_checks_total" ["forward", "result"]
        "Health checks of a forward's targets by result: healthy, failed, or undone (this host could not do it).";
    HEALTH_DELAY_SECONDS = Gauge "health_delay_seconds" []
        "How long after its time the latest health check of the last 15 to 30 seconds began.";
    HEALTH_CHECKS_UNDER_WAY = Gauge "health_checks_under_way" []
        "Health checks that have begun and not ended.";
    CLAIM_HELD = Gauge "claim_held" ["address", "interface"]
        "1 if netfast answers ARP or neighbour discovery for a claimed address on the link, 0 if it does not (yet).";
    CLAIM_CONFLICTS_TOTAL = Counter "claim_conflicts_total" ["address", "interface"]
        "How often another station was seen with a claimed address that is held; once a second is counted.";
    SNAT_PACKETS_TOTAL = Counter "snat_packets_total" ["snat", "direction"]
        "Packets of a source NAT rule's flows, by direction: outward or inward.";
    SNAT_BYTES_TOTAL = Counter "snat_bytes_total" ["snat", "direction"]
        "Bytes of those packets.";
    SNAT_FLOWS_TOTAL = Counter "snat_flows_total" ["snat"]
        "Flows made for a source NAT rule.";
    SNAT_FLOWS = Gauge "snat_flows" ["snat"]
        "Flows of a source NAT rule that exist now.";
    SNAT_PORTS_IN_USE = Gauge "snat_ports_in_use" ["snat"]
        "External ports and identifiers of a source NAT rule in use.";
    ECHO_PACKETS_TOTAL = Counter "echo_packets_total" ["echo"]
        "Packets that an echo reflector sent back.";
    TARGET_UP = Gauge "target_up" ["forward", "target"]
        "1 if a target may get new flows, 0 if health checks have found it down; only forwards with checks.";
    TARGET_HEALTH_TRANSITIONS_TOTAL = Counter "target_health_transitions_total" ["forward", "target"]
        "Changes of a target's health since the agent knows it.";
    TARGET_HEALTH_SECONDS = Gauge "target_health_seconds" ["forward", "target"]
        "How long the last health check of a target took.";
    TARGET_PACKETS_TOTAL = Counter "target_packets_total" ["forward", "target", "direction"]
        "Packets of a target's flows, by direction: to_target or to_client.";
    TARGET_FLOWS = Gauge "target_flows" ["forward", "target"]
        "Flows to a target that exist now.";
    TARGET_DRAINING = Gauge "target_draining" ["forward", "target"]
        "1 if the target drains: it keeps its flows and gets no new ones.";
    // Last: there may be as many as filter rules.
    FILTER_PACKETS_TOTAL = Counter "filter_packets_total" ["rule"]
        "Packets of a filter rule: those that it decided, counted, or dropped for being over its limit; only rules with a name.";
}

/// The text of docs/metrics.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         Generated from `netfast/src/metrics/catalog.rs`; a test keeps it so \
         (`UPDATE_DOCS=1 cargo test -p netfast metrics` writes it).\n\n\
         The agent serves `GET /metrics` (Prometheus text format) and `GET /healthz` (200, or 503 with what is not in \
         place) on `[metrics] listen`, by default `127.0.0.1:9460`. Everything is read when it is scraped, from the same \
         source as `netfast stats`.\n\n\
         * A counter never goes backwards while the agent lives; a removed object's series disappear as a whole. The \
         datapath's counters also outlive the agent.\n\
         * Labels are bounded by what is configured: never a client's address, port or flow.\n\
         * Beyond `[metrics] max_series` series are withheld, the last in this table first, and \
         `netfast_series_suppressed` says how many.\n\n\
         | metric | type | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in ALL {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            text,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        );
    }
    text.push_str("\n## Verdicts\n\n");
    let verdicts: Vec<String> = Verdict::ALL.iter().map(|verdict| format!("`{}`", verdict.label())).collect();
    let _ = writeln!(
        text,
        "Values of the label `verdict`: {}. `pass` is a packet handed to the kernel unchanged, `tx` one sent back out of \
         its interface, `redirect` one sent out of another.",
        verdicts.join(", ")
    );
    text.push_str("\n## Reasons\n\nValues of the label `reason`.\n\n| reason | meaning |\n|---|---|\n");
    for reason in Reason::ALL {
        let _ = writeln!(text, "| `{}` | {} |", reason.label(), reason.help());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_well_formed() {
        for metric in ALL {
            assert_eq!(1, ALL.iter().filter(|other| other.name == metric.name).count(), "{}", metric.name);
            assert_eq!(metric.kind == Kind::Counter, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.help.ends_with('.'), "{}", metric.name);
        }
    }

    #[test]
    fn the_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs")).unwrap();
            std::fs::write(path, markdown()).unwrap();
        }
        let present = std::fs::read_to_string(path).unwrap_or_default();
        assert!(present == markdown(), "docs/metrics.md is not what catalog.rs says: set UPDATE_DOCS=1");
    }
}
