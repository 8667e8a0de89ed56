//! `bench control`: what the agent's process takes.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{TIMES, milliseconds};
use crate::live::agent::Agent;

/// A scrape of /metrics: the answer with its head.
pub fn scrape_text(agent: &Agent) -> Result<String> {
    agent.namespace().enter(|| {
        let mut stream = TcpStream::connect("127.0.0.1:9460")?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        ensure!(text.starts_with("HTTP/1.1 200"), "/metrics: {}", text.lines().next().unwrap_or_default());
        Ok(text)
    })?
}

/// Scrapes of /metrics.
pub fn scrape(agent: &Agent, name: &str, flows: u64) -> Result<Value> {
    let mut times = Vec::new();
    let mut text = String::new();
    for _ in 0..TIMES {
        let began = Instant::now();
        text = scrape_text(agent)?;
        times.push(began.elapsed().as_secs_f64());
    }
    let series = text.lines().filter(|line| line.starts_with("netfast_")).count();
    Ok(json!({
        "name": name, "flows": flows, "series": series, "bytes": text.len(), "milliseconds": milliseconds(times),
    }))
}

/// After so long the agent has given back what it took for a moment.
const REST: Duration = Duration::from_secs(8);

/// What the agent holds in memory, without the maps that it has mapped: right after what was done before, and when it rests.
pub fn memory(agent: &Agent, name: &str, flows: u64) -> Result<Value> {
    let [_, _, busy] = resident(agent)?;
    agent.wait_rest()?;
    std::thread::sleep(REST);
    let [all, maps, rest] = resident(agent)?;
    Ok(json!({
        "name": name, "flows": flows, "rss_mib": all, "maps_mib": maps, "over_maps_mib": rest, "busy_over_maps_mib": busy,
    }))
}

/// Resident memory in MiB: all, of maps, the rest.
fn resident(agent: &Agent) -> Result<[f64; 3]> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps", agent.pid()))?;
    let (mut all, mut maps, mut of_map) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") => {
                let kib: u64 = words.next().context("no size")?.parse()?;
                all += kib;
                maps += if of_map { kib } else { 0 };
            }
            // The head of a mapping: its addresses, and at the end what it is of.
            Some(first) if first.contains('-') && !first.ends_with(':') => of_map = line.contains("bpf-map"),
            _ => {}
        }
    }
    let mib = |kib: u64| (kib as f64 / 102.4).round() / 10.0;
    Ok([all, maps, all - maps].map(mib))
}

/// The agent's CPU time while nothing happens for a while but that flows age.
pub fn ageing(agent: &Agent, flows: u64, idle: Duration) -> Result<Value> {
    let (began, before) = (Instant::now(), agent.cpu_time()?);
    std::thread::sleep(idle);
    // Linux tells user space in hundredths of a second.
    let busy = (agent.cpu_time()? - before) as f64 / 100.0;
    let share = busy / began.elapsed().as_secs_f64();
    Ok(json!({ "name": "control/ageing", "flows": flows, "share_of_a_core": (share * 1e4).round() / 1e4 }))
}
