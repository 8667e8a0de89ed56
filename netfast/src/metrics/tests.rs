use std::{
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{body::Body, http::Request};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::api::types::{
    AttachMode, CacheMisses, CacheSets, CacheSummary, CheckCounts, ClaimState, ClaimStatus, Count,
    ForwardCount, InterfaceCount, InterfaceStatus, MapFill, NamedCount, SCHEMA_VERSION, SnatCount,
    TargetCount, TargetHealth, TargetState,
};

struct Fake {
    stats: Mutex<Stats>,
    status: Mutex<Status>,
    recorder: Recorder,
}

impl StatsSource for Fake {
    fn stats(&self) -> Stats {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}

fn count(packets: u64) -> Count {
    Count { packets, bytes: packets * 100 }
}

fn row(interface: &str, verdict: &str, reason: &str, packets: u64) -> InterfaceCount {
    InterfaceCount {
        interface: interface.into(),
        verdict: verdict.into(),
        reason: reason.into(),
        count: count(packets),
    }
}

fn forward(name: &str, packets: u64) -> ForwardCount {
    let flows = 2;
    ForwardCount {
        forward: name.into(),
        to_target: count(packets),
        to_client: count(packets + 1),
        flows,
        flows_total: 9,
        targets: 3,
        healthy: 2,
        entries: 251,
        checks: CheckCounts { healthy: 70, failed: 4, undone: 1 },
    }
}

fn fake() -> Fake {
    let interface = InterfaceStatus {
        name: "wan0".into(),
        ifindex: 7,
        driver: "veth".into(),
        mode: AttachMode::Auto,
        attached: Some(AttachMode::Native),
        up: true,
        mtu: 1500,
        problem: None,
    };
    let target = TargetCount {
        forward: "web".into(),
        target: "10.0.0.11:80".into(),
        to_target: count(5),
        to_client: count(6),
        flows: 2,
        open: 1,
        health: Some(TargetHealth {
            state: TargetState::Down,
            check_microseconds: Some(1500),
            transitions: 3,
            ..TargetHealth::default()
        }),
        ..TargetCount::default()
    };
    Fake {
        stats: Mutex::new(Stats {
            schema_version: SCHEMA_VERSION,
            interfaces: vec![
                row("wan0", "pass", "not_ip", 3),
                row("wan0", "drop", "filter_drop", 4),
                row("wan0", "drop", "flow_table_full", 5),
                row("wan0", "drop", "ports_exhausted", 6),
                row("lan0", "drop", "flow_table_full", 7),
                row("wan0", "tx", "echoed", 8),
            ],
            forwards: vec![forward("web", 5)],
            targets: vec![target],
            snats: vec![SnatCount {
                snat: "lan".into(),
                outward: count(3),
                inward: count(4),
                flows: 5,
                flows_total: 7,
                ports: 6,
            }],
            claims: vec![ClaimStatus {
                address: "192.0.2.50".parse().unwrap(),
                interface: "wan0".into(),
                state: ClaimState::Held,
                station: None,
                conflicts: 2,
            }],
            echoes: vec![NamedCount { name: "192.0.2.10:7".into(), count: count(8) }],
            filters: vec![
                NamedCount { name: "scanner".into(), count: count(4) },
                NamedCount { name: "2".into(), count: count(1) },
            ],
            cache: CacheSummary {
                misses: vec![CacheMisses { interface: "wan0".into(), packets: 9 }],
                ipv4: CacheSets { sets: 256, max_sets: 16_384 },
                ipv6: CacheSets { sets: 512, max_sets: 4096 },
            },
            maps: vec![MapFill { map: "FLOWS".into(), entries: 4, max_entries: 1024 }],
            ..Stats::default()
        }),
        status: Mutex::new(Status {
            schema_version: SCHEMA_VERSION,
            version: "1.2.3".into(),
            pid: 1,
            uptime_seconds: 1,
            abi_version: 1,
            revision: 12,
            applied_revision: 11,
            generation: 3,
            ready: true,
            problems: Vec::new(),
            interfaces: vec![interface],
            forwards: 1,
            targets: 1,
            snats: 0,
            echoes: 1,
            filters: 2,
            flows: 2,
            flows_max: 512,
        }),
        recorder: Recorder::default(),
    }
}

fn exporter(fake: Fake, max_series: usize) -> (Arc<Fake>, Exporter) {
    let fake = Arc::new(fake);
    (Arc::clone(&fake), Exporter::new(fake, max_series).unwrap())
}

/// The series of a scrape, without comments.
fn series(text: &str) -> Vec<&str> {
    text.lines().filter(|line| !line.starts_with('#')).collect()
}

#[track_caller]
fn assert_has(text: &str, line: &str) {
    assert!(text.lines().any(|got| got == line), "no {line:?} in:\n{text}");
}

#[test]
fn every_number_arrives_under_its_name() {
    let (fake, exporter) = exporter(fake(), DEFAULT_MAX_SERIES);
    fake.recorder.applied(Duration::from_millis(4));
    fake.recorder.applied(Duration::from_secs(60));
    fake.recorder.rejected();
    fake.stats.lock().unwrap().events_lost = 2;
    fake.recorder.store_up(false);
    let text = exporter.text().unwrap();
    for line in [
        r#"netfast_build_info{version="1.2.3",abi="1"} 1"#,
        "netfast_ready 1",
        "netfast_store_up 0",
        "netfast_events_lost_total 2",
        r#"netfast_cache_misses_total{interface="wan0"} 9"#,
        r#"netfast_cache_sets{version="4"} 256"#,
        r#"netfast_cache_max_sets{version="6"} 4096"#,
        "netfast_series_suppressed 0",
        "netfast_config_revision 12",
        "netfast_config_applied_revision 11",
        r#"netfast_config_applies_total{result="applied"} 2"#,
        r#"netfast_config_applies_total{result="rejected"} 1"#,
        r#"netfast_config_apply_duration_seconds_bucket{le="0.0025"} 0"#,
        r#"netfast_config_apply_duration_seconds_bucket{le="0.005"} 1"#,
        r#"netfast_config_apply_duration_seconds_bucket{le="5"} 1"#,
        r#"netfast_config_apply_duration_seconds_bucket{le="+Inf"} 2"#,
        "netfast_config_apply_duration_seconds_count 2",
        r#"netfast_interface_info{interface="wan0",driver="veth",mode="native"} 1"#,
        r#"netfast_interface_attached{interface="wan0"} 1"#,
        r#"netfast_packets_total{interface="wan0",verdict="drop"} 15"#,
        r#"netfast_packets_total{interface="wan0",verdict="tx"} 8"#,
        r#"netfast_bytes_total{interface="wan0",verdict="drop"} 1500"#,
        r#"netfast_drops_total{interface="wan0",reason="filter_drop"} 4"#,
        r#"netfast_punts_total{interface="wan0",reason="not_ip"} 3"#,
        r#"netfast_flow_insert_failures_total{cause="table_full"} 12"#,
        r#"netfast_flow_insert_failures_total{cause="conflict"} 0"#,
        r#"netfast_flow_insert_failures_total{cause="ports_exhausted"} 6"#,
        "netfast_snat_ports_exhausted_total 6",
        r#"netfast_forward_packets_total{forward="web",direction="to_target"} 5"#,
        r#"netfast_forward_bytes_total{forward="web",direction="to_client"} 600"#,
        r#"netfast_forward_flows_total{forward="web"} 9"#,
        r#"netfast_forward_flows{forward="web"} 2"#,
        r#"netfast_target_packets_total{forward="web",target="10.0.0.11:80",direction="to_client"} 6"#,
        r#"netfast_target_flows{forward="web",target="10.0.0.11:80"} 2"#,
        r#"netfast_snat_packets_total{snat="lan",direction="outward"} 3"#,
        r#"netfast_snat_bytes_total{snat="lan",direction="inward"} 400"#,
        r#"netfast_snat_flows_total{snat="lan"} 7"#,
        r#"netfast_snat_flows{snat="lan"} 5"#,
        r#"netfast_snat_ports_in_use{snat="lan"} 6"#,
        r#"netfast_claim_held{address="192.0.2.50",interface="wan0"} 1"#,
        r#"netfast_claim_conflicts_total{address="192.0.2.50",interface="wan0"} 2"#,
        r#"netfast_echo_packets_total{echo="192.0.2.10:7"} 8"#,
        r#"netfast_filter_packets_total{rule="scanner"} 4"#,
        "netfast_filter_rules 2",
        r#"netfast_map_entries{map="FLOWS"} 4"#,
        r#"netfast_map_max_entries{map="FLOWS"} 1024"#,
    ] {
        assert_has(&text, line);
    }
    assert!(!text.contains(r#"rule="2""#), "a rule without a name has no series");
    for metric in catalog::ALL {
        assert!(
            text.contains(&format!("# TYPE {} {}\n", metric.name, metric.kind.as_str())),
            "{}",
            metric.name
        );
    }
}

#[test]
fn a_removed_interface_takes_nothing_from_a_sum() {
    let (fake, exporter) = exporter(fake(), DEFAULT_MAX_SERIES);
    let full = |packets| {
        assert_has(
            &exporter.text().unwrap(),
            &format!(r#"netfast_flow_insert_failures_total{{cause="table_full"}} {packets}"#),
        );
    };
    let set = |rows: Vec<InterfaceCount>| fake.stats.lock().unwrap().interfaces = rows;
    full(12);
    set(vec![row("wan0", "drop", "flow_table_full", 5)]);
    full(12);
    assert!(!exporter.text().unwrap().contains("lan0"), "the interface's own series are gone");
    set(vec![row("wan0", "drop", "flow_table_full", 6), row("lan0", "drop", "flow_table_full", 1)]);
    full(14);
}

#[test]
fn the_cap_withholds_the_same_series_each_time_and_says_how_many() {
    let (fake, exporter) = exporter(fake(), 100);
    fake.stats.lock().unwrap().forwards = (0..50).map(|n| forward(&format!("f{n:02}"), n)).collect();
    let first = exporter.text().unwrap();
    assert_eq!(100, series(&first).len());
    let whole = Exporter::new(Arc::clone(&fake) as Arc<dyn StatsSource>, usize::MAX).unwrap().text().unwrap();
    assert_has(&first, &format!("netfast_series_suppressed {}", series(&whole).len() - 100));
    assert_has(&first, r#"netfast_forward_packets_total{forward="f00",direction="to_client"} 1"#);
    assert!(!first.contains("netfast_target_packets_total"), "targets go first");

    fake.stats.lock().unwrap().forwards.reverse();
    assert_eq!(first, exporter.text().unwrap());
}

#[test]
fn ten_thousand_series_are_quick() {
    let (fake, exporter) = exporter(fake(), 20_000);
    fake.stats.lock().unwrap().forwards = (0..1666).map(|n| forward(&format!("forward-{n:04}"), n)).collect();
    let start = Instant::now();
    let text = exporter.text().unwrap();
    let took = start.elapsed();
    assert!(series(&text).len() >= 10_000);
    // A tenth of this in a release build; the bound is for a debug build on a busy machine.
    assert!(took < Duration::from_secs(2), "{took:?}");
    println!("{} series in {took:?}", series(&text).len());
}

#[tokio::test]
async fn the_routes_answer() {
    let (fake, exporter) = exporter(fake(), DEFAULT_MAX_SERIES);
    let router = exporter.router();
    let get = |path: &'static str| {
        let router = router.clone();
        async move {
            let request = Request::get(path).body(Body::empty()).unwrap();
            let (parts, body) = router.oneshot(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            (parts, String::from_utf8(body.to_vec()).unwrap())
        }
    };
    let (parts, text) = get("/metrics").await;
    assert_eq!(StatusCode::OK, parts.status);
    assert_eq!(TEXT_FORMAT, parts.headers[header::CONTENT_TYPE]);
    assert!(text.contains("netfast_build_info"));

    let (parts, _) = get("/healthz").await;
    assert_eq!(StatusCode::OK, parts.status);
    {
        let mut status = fake.status.lock().unwrap();
        status.ready = false;
        status.problems = vec!["wan0: not attached".into(), "web: no route to 10.0.0.11".into()];
    }
    let (parts, text) = get("/healthz").await;
    assert_eq!(StatusCode::SERVICE_UNAVAILABLE, parts.status);
    assert_eq!("wan0: not attached\nweb: no route to 10.0.0.11\n", text);
    let (parts, _) = get("/nothing").await;
    assert_eq!(StatusCode::NOT_FOUND, parts.status);
}

#[test]
fn promtool_has_nothing_to_say() {
    let (_, exporter) = exporter(fake(), DEFAULT_MAX_SERIES);
    let child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            assert!(
                std::env::var_os("NETFAST_REQUIRE_PEERS").is_none_or(|value| value != "1"),
                "promtool is needed (Debian's package prometheus): {error}"
            );
            println!("skipped: no promtool (Debian's package prometheus): {error}");
            return;
        }
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), exporter.text().unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim().is_empty(), "{said}");
}
