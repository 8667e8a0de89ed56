//! Captures that nobody here made: the folder `NETFAST_CORPUS`, by default `../shared/data` beside the project.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use netfast::{
    api::types::{
        Echo, Endpoint, FilterAction, FilterRule, Forward, ForwardMode, PortRange, Rules, Target, Transport,
    },
    config,
};

use crate::{capture, file, report};

/// All captures of the folder; none, with a line that says so, if it is not there.
fn captures() -> Vec<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data");
    let folder = std::env::var_os("NETFAST_CORPUS").map_or_else(|| PathBuf::from(default), PathBuf::from);
    let files =
        std::fs::read_dir(folder.join("corpus")).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_capture = |path: &PathBuf| {
        path.extension().is_some_and(|kind| ["pcap", "pcapng", "cap"].iter().any(|k| kind == *k))
    };
    let mut captures: Vec<_> = files.filter(is_capture).collect();
    captures.sort();
    if captures.is_empty() {
        println!("skipped: no captures in {} (NETFAST_CORPUS)", folder.join("corpus").display());
    }
    captures
}

#[test]
fn nothing_is_violated_without_rules() {
    for capture in captures() {
        let report = report([capture.to_str().unwrap()], 0);
        assert_eq!(serde_json::json!([]), report["violations"], "{}", capture.display());
        let verdicts = report["verdicts"].as_object().unwrap().values().map(|count| count.as_u64().unwrap());
        let (frames, skipped) = (report["frames"].as_u64().unwrap(), report["skipped"].as_u64().unwrap());
        assert_eq!(frames, skipped + verdicts.sum::<u64>(), "each frame once");
    }
}

#[test]
fn nothing_is_violated_under_rules_for_all_that_is_in_it() {
    let folder = tempfile::tempdir().unwrap();
    for capture in captures() {
        let rules = config::rules::render(&rules(&std::fs::read(&capture).unwrap()));
        let rules = file(&folder, "rules.toml", rules.as_bytes());
        let report = report([capture.to_str().unwrap(), "--rules", &rules], 0);
        assert_eq!(serde_json::json!([]), report["violations"], "{}", capture.display());
        for reason in ["forwarded", "echoed", "filter_drop", "tcp_no_flow"] {
            assert!(report["reasons"][reason].as_u64() > Some(10), "{reason}: {}", report["reasons"]);
        }
    }
}

/// Rules that concern as many packets of a capture as can be: each service in it is forwarded, in one mode or the other,
/// or reflected; some sources are filtered.
fn rules(bytes: &[u8]) -> Rules {
    let mut services: BTreeMap<(bool, SocketAddr), (u64, IpAddr)> = BTreeMap::new();
    for frame in capture::read(bytes).unwrap().frames {
        let Ok(packet) = SlicedPacket::from_ethernet(&frame.data) else { continue };
        let (source, destination): (IpAddr, IpAddr) = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            Some(NetSlice::Ipv6(ip)) => {
                (ip.header().source_addr().into(), ip.header().destination_addr().into())
            }
            _ => continue,
        };
        let (udp, port) = match &packet.transport {
            Some(TransportSlice::Udp(udp)) => (true, udp.destination_port()),
            Some(TransportSlice::Tcp(tcp)) => (false, tcp.destination_port()),
            _ => continue,
        };
        services.entry((udp, SocketAddr::new(destination, port))).or_insert((0, source)).0 += 1;
    }
    let mut rules = Rules::default();
    for (index, ((udp, service), (_, source))) in services.into_iter().enumerate() {
        let before = rules.clone();
        let ports = PortRange::one(service.port());
        let listen = Endpoint { address: service.ip(), ports };
        let transport = if udp { Transport::Udp } else { Transport::Tcp };
        let v4 = service.is_ipv4();
        let everyone = if v4 { "0.0.0.0/1" } else { "2000::/3" };
        if udp && index % 3 == 0 {
            let rate = 1_000_000;
            rules.echoes.push(Echo { rate, ..Echo::new(listen, vec![everyone.parse().unwrap()]) });
        } else {
            let number = index + 1;
            let target = if v4 {
                format!("10.99.{}.{}:8080", number / 200, number % 200 + 1)
            } else {
                format!("[2001:db8:99::{number:x}]:8080")
            };
            rules.forwards.push(Forward {
                mode: if index % 2 == 0 { ForwardMode::Nat } else { ForwardMode::Dnat },
                targets: vec![Target::new(target.parse().unwrap())],
                ..Forward::new(format!("f{number}"), transport, listen)
            });
        }
        if index % 16 == 15 && rules.filters.len() < 100 {
            let length = if v4 { 32 } else { 128 };
            let src = Some(format!("{source}/{length}").parse().unwrap());
            rules
                .filters
                .push(FilterRule { action: FilterAction::Drop, src, ..FilterRule::default() }.into());
        }
        // What cannot be listened on (groups, loopback) or reflected is left out.
        if config::rules::parse("rules.toml", &config::rules::render(&rules)).is_err() {
            rules = before;
        }
    }
    rules
}
