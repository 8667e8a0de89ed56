//! From statistics to metric families.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use netfast_common::reason::{Reason, Verdict};
use prometheus::{
    core::{Collector, Desc},
    proto,
};

use super::{
    StatsSource,
    catalog::{self, Kind, Metric},
    recorder::{self, Durations},
};
use crate::api::types::{CheckCounts, ClaimState, Count, Stats, Status};

/// The collector that reads everything at scrape time.
pub(super) struct Agent {
    source: Arc<dyn StatsSource>,
    max_series: usize,
    descriptions: Vec<Desc>,
    sums: Mutex<Sums>,
}

impl Agent {
    pub(super) fn new(source: Arc<dyn StatsSource>, max_series: usize) -> Result<Self, prometheus::Error> {
        let describe = |metric: &&Metric| {
            let labels = metric.labels.iter().map(|label| (*label).to_owned()).collect();
            Desc::new(metric.name.to_owned(), metric.help.to_owned(), labels, Default::default())
        };
        let descriptions = catalog::ALL.iter().map(describe).collect::<Result<_, _>>()?;
        Ok(Self { source, max_series, descriptions, sums: Mutex::default() })
    }
}

impl Collector for Agent {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let (stats, status, recorder) = (self.source.stats(), self.source.status(), self.source.recorder());
        let mut scrape = Scrape::default();
        process(&mut scrape, &status, recorder);
        interfaces(&mut scrape, &stats, &status);
        services(&mut scrape, &stats);
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        for (cause, count) in sums.update(&stats) {
            scrape.add(&catalog::FLOW_INSERT_FAILURES_TOTAL, &[cause], count);
            if cause == PORTS_EXHAUSTED {
                scrape.add(&catalog::SNAT_PORTS_EXHAUSTED_TOTAL, &[], count);
            }
        }
        drop(sums);
        scrape.families(self.max_series, &recorder.durations())
    }
}

/// Rows of a metric: label values to value. Sorted, so that the cap always withholds the same ones.
type Rows = BTreeMap<Vec<String>, f64>;

#[derive(Default)]
struct Scrape {
    rows: BTreeMap<&'static str, Rows>,
}

impl Scrape {
    fn add(&mut self, metric: &'static Metric, labels: &[&str], value: u64) {
        self.add_exact(metric, labels, value as f64);
    }

    fn add_exact(&mut self, metric: &'static Metric, labels: &[&str], value: f64) {
        debug_assert_eq!(metric.labels.len(), labels.len(), "{}", metric.name);
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        *self.rows.entry(metric.name).or_default().entry(labels).or_default() += value;
    }

    /// The families in the order of the catalog until `max_series` is reached.
    fn families(mut self, max_series: usize, durations: &Durations) -> Vec<proto::MetricFamily> {
        let (mut left, mut suppressed) = (max_series.saturating_sub(1), 0);
        let mut families = Vec::with_capacity(catalog::ALL.len());
        for metric in catalog::ALL {
            let mut samples = Vec::new();
            if metric.kind == Kind::Histogram {
                // Buckets, the one without bound, sum, count.
                let series = recorder::BOUNDS.len() + 3;
                if series <= left {
                    left -= series;
                    samples.push(histogram(durations));
                } else {
                    suppressed += series;
                }
            }
            let rows = self.rows.remove(metric.name).unwrap_or_default();
            let shown = rows.len().min(left);
            left -= shown;
            suppressed += rows.len() - shown;
            samples.extend(rows.into_iter().take(shown).map(|(labels, value)| sample(metric, labels, value)));
            if !samples.is_empty() {
                families.push(family(metric, samples));
            }
        }
        let count = sample(&catalog::SERIES_SUPPRESSED, Vec::new(), suppressed as f64);
        families.push(family(&catalog::SERIES_SUPPRESSED, vec![count]));
        families
    }
}

fn process(scrape: &mut Scrape, status: &Status, recorder: &recorder::Recorder) {
    let abi = status.abi_version.to_string();
    scrape.add(&catalog::BUILD_INFO, &[&status.version, &abi], 1);
    scrape.add(&catalog::READY, &[], u64::from(status.ready));
    scrape.add(&catalog::STORE_UP, &[], u64::from(recorder.is_store_up()));
    scrape.add(&catalog::CONFIG_REVISION, &[], status.revision);
    scrape.add(&catalog::CONFIG_APPLIED_REVISION, &[], status.applied_revision);
    scrape.add(&catalog::FILTER_RULES, &[], status.filters as u64);
    for (result, count) in recorder.applies() {
        scrape.add(&catalog::CONFIG_APPLIES_TOTAL, &[result], count);
    }
}

fn interfaces(scrape: &mut Scrape, stats: &Stats, status: &Status) {
    for interface in &status.interfaces {
        let mode = interface.attached.map_or("none", |mode| mode.as_str());
        scrape.add(&catalog::INTERFACE_INFO, &[&interface.name, &interface.driver, mode], 1);
        scrape.add(&catalog::INTERFACE_ATTACHED, &[&interface.name], u64::from(interface.attached.is_some()));
    }
    for row in &stats.interfaces {
        scrape.add(&catalog::PACKETS_TOTAL, &[&row.interface, &row.verdict], row.count.packets);
        scrape.add(&catalog::BYTES_TOTAL, &[&row.interface, &row.verdict], row.count.bytes);
        let by_reason = if row.verdict == Verdict::Drop.label() {
            &catalog::DROPS_TOTAL
        } else if row.verdict == Verdict::Pass.label() {
            &catalog::PUNTS_TOTAL
        } else {
            continue;
        };
        scrape.add(by_reason, &[&row.interface, &row.reason], row.count.packets);
    }
    for row in &stats.cache.misses {
        scrape.add(&catalog::CACHE_MISSES_TOTAL, &[&row.interface], row.packets);
    }
    for (version, part) in [("4", stats.cache.ipv4), ("6", stats.cache.ipv6)] {
        scrape.add(&catalog::CACHE_SETS, &[version], u64::from(part.sets));
        scrape.add(&catalog::CACHE_MAX_SETS, &[version], u64::from(part.max_sets));
    }
    scrape.add(&catalog::EVENTS_LOST_TOTAL, &[], stats.events_lost);
    scrape.add_exact(&catalog::HEALTH_DELAY_SECONDS, &[], stats.health.delay_milliseconds as f64 / 1e3);
    scrape.add(&catalog::HEALTH_CHECKS_UNDER_WAY, &[], stats.health.under_way);
    for map in &stats.maps {
        scrape.add(&catalog::MAP_ENTRIES, &[&map.map], map.entries);
        scrape.add(&catalog::MAP_MAX_ENTRIES, &[&map.map], map.max_entries);
    }
}

fn services(scrape: &mut Scrape, stats: &Stats) {
    const TO_TARGET: &str = "to_target";
    const TO_CLIENT: &str = "to_client";
    for row in &stats.forwards {
        for (direction, Count { packets, bytes }) in [(TO_TARGET, row.to_target), (TO_CLIENT, row.to_client)]
        {
            scrape.add(&catalog::FORWARD_PACKETS_TOTAL, &[&row.forward, direction], packets);
            scrape.add(&catalog::FORWARD_BYTES_TOTAL, &[&row.forward, direction], bytes);
        }
        scrape.add(&catalog::FORWARD_FLOWS_TOTAL, &[&row.forward], row.flows_total);
        scrape.add(&catalog::FORWARD_FLOWS, &[&row.forward], row.flows);
        scrape.add(&catalog::FORWARD_TARGETS, &[&row.forward], row.targets);
        scrape.add(&catalog::FORWARD_TARGETS_HEALTHY, &[&row.forward], row.healthy);
        let checks = &row.checks;
        if *checks != CheckCounts::default() {
            for (result, count) in
                [("healthy", checks.healthy), ("failed", checks.failed), ("undone", checks.undone)]
            {
                scrape.add(&catalog::TARGET_HEALTH_CHECKS_TOTAL, &[&row.forward, result], count);
            }
        }
    }
    for row in &stats.targets {
        for (direction, count) in [(TO_TARGET, row.to_target), (TO_CLIENT, row.to_client)] {
            scrape.add(
                &catalog::TARGET_PACKETS_TOTAL,
                &[&row.forward, &row.target, direction],
                count.packets,
            );
        }
        scrape.add(&catalog::TARGET_FLOWS, &[&row.forward, &row.target], row.flows);
        let draining = u64::from(row.draining);
        scrape.add(&catalog::TARGET_DRAINING, &[&row.forward, &row.target], draining);
        if let Some(health) = &row.health {
            let labels = [row.forward.as_str(), &row.target];
            scrape.add(&catalog::TARGET_UP, &labels, u64::from(health.state.is_healthy()));
            scrape.add(&catalog::TARGET_HEALTH_TRANSITIONS_TOTAL, &labels, health.transitions);
            if let Some(took) = health.check_microseconds {
                scrape.add_exact(&catalog::TARGET_HEALTH_SECONDS, &labels, took as f64 / 1e6);
            }
        }
    }
    for row in &stats.snats {
        for (direction, Count { packets, bytes }) in [("outward", row.outward), ("inward", row.inward)] {
            scrape.add(&catalog::SNAT_PACKETS_TOTAL, &[&row.snat, direction], packets);
            scrape.add(&catalog::SNAT_BYTES_TOTAL, &[&row.snat, direction], bytes);
        }
        scrape.add(&catalog::SNAT_FLOWS_TOTAL, &[&row.snat], row.flows_total);
        scrape.add(&catalog::SNAT_FLOWS, &[&row.snat], row.flows);
        scrape.add(&catalog::SNAT_PORTS_IN_USE, &[&row.snat], row.ports);
    }
    for row in &stats.claims {
        let address = row.address.to_string();
        let labels = [address.as_str(), &row.interface];
        scrape.add(&catalog::CLAIM_HELD, &labels, u64::from(row.state == ClaimState::Held));
        scrape.add(&catalog::CLAIM_CONFLICTS_TOTAL, &labels, row.conflicts);
    }
    for row in &stats.echoes {
        scrape.add(&catalog::ECHO_PACKETS_TOTAL, &[&row.name], row.count.packets);
    }
    for row in &stats.filters {
        // A rule without a name goes by its position, which another rule may have tomorrow.
        if !row.name.bytes().all(|byte| byte.is_ascii_digit()) {
            scrape.add(&catalog::FILTER_PACKETS_TOTAL, &[&row.name], row.count.packets);
        }
    }
}

const PORTS_EXHAUSTED: &str = "ports_exhausted";

/// Reasons that mean that a flow could not be made.
const CAUSES: [(Reason, &str); 3] = [
    (Reason::FlowTableFull, "table_full"),
    (Reason::FlowConflict, "conflict"),
    (Reason::PortsExhausted, PORTS_EXHAUSTED),
];

/// Sums over interfaces which do not go backwards when an interface goes away.
#[derive(Default)]
struct Sums {
    /// What was last seen of a cause at an interface.
    seen: BTreeMap<(&'static str, String), u64>,
    /// What went away with its interface, by cause.
    gone: BTreeMap<&'static str, u64>,
}

impl Sums {
    fn update(&mut self, stats: &Stats) -> [(&'static str, u64); CAUSES.len()] {
        let mut present = BTreeMap::new();
        for row in &stats.interfaces {
            if let Some((_, cause)) = CAUSES.iter().find(|(reason, _)| reason.label() == row.reason) {
                *present.entry((*cause, row.interface.clone())).or_default() += row.count.packets;
            }
        }
        for (key, before) in &self.seen {
            let now: u64 = present.get(key).copied().unwrap_or_default();
            if now < *before {
                *self.gone.entry(key.0).or_default() += before;
            }
        }
        self.seen = present;
        CAUSES.map(|(_, cause)| {
            let present: u64 =
                self.seen.iter().filter(|((seen, _), _)| *seen == cause).map(|(_, count)| count).sum();
            (cause, present + self.gone.get(cause).copied().unwrap_or_default())
        })
    }
}

fn family(metric: &Metric, samples: Vec<proto::Metric>) -> proto::MetricFamily {
    let mut family = proto::MetricFamily::default();
    family.set_name(metric.name.to_owned());
    family.set_help(metric.help.to_owned());
    family.set_field_type(match metric.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram => proto::MetricType::HISTOGRAM,
    });
    family.set_metric(samples);
    family
}

fn sample(metric: &Metric, labels: Vec<String>, value: f64) -> proto::Metric {
    let pair = |(name, value): (&&str, String)| {
        let mut pair = proto::LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value(value);
        pair
    };
    let mut sample = proto::Metric::from_label(metric.labels.iter().zip(labels).map(pair).collect());
    if metric.kind == Kind::Counter {
        let mut counter = proto::Counter::default();
        counter.set_value(value);
        sample.set_counter(counter);
    } else {
        let mut gauge = proto::Gauge::default();
        gauge.set_value(value);
        sample.set_gauge(gauge);
    }
    sample
}

fn histogram(durations: &Durations) -> proto::Metric {
    let mut cumulative = 0;
    let buckets = recorder::BOUNDS.iter().zip(durations.counts).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*bound);
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = proto::Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(durations.count);
    histogram.set_sample_sum(durations.sum);
    let mut sample = proto::Metric::default();
    sample.set_histogram(histogram);
    sample
}
