//! Forwarding TCP: nginx and curl.

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::{Result, ensure};

use crate::{
    peers::{self, need},
    support::{PATIENCE, netns::wait_for},
    world::{CLIENT, CLIENT6, CONFIG, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// How often each target answered; the answers are `target clientaddress port`.
fn by_target(answers: &[String]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for answer in answers {
        *counts.entry(answer.split(' ').next().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn seen(answer: &str) -> String {
    answer.split(' ').nth(1).unwrap_or_default().trim_start_matches("::ffff:").to_owned()
}

#[test]
fn both_targets_answer_and_see_the_host() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("web")?.web()?;
    let [a, b] = TARGETS;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {a}:8080 --to {b}:8080"))?;
    let [a, b] = TARGETS6;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{a}]:8080 --to [{b}]:8080"))?;
    for (url, hosts) in [
        (format!("http://{SERVICE}/"), ["10.0.1.1", "10.0.2.1"]),
        (format!("http://[{SERVICE6}]/"), ["2001:db8:1::1", "2001:db8:2::1"]),
    ] {
        let answers = world.requests(60, &url)?;
        let counts = by_target(&answers);
        assert_eq!(vec!["target1", "target2"], counts.keys().copied().collect::<Vec<_>>());
        assert!(counts.values().all(|count| *count >= 10), "{counts:?} of 60");
        for answer in &answers {
            assert!(hosts.contains(&seen(answer).as_str()), "{answer}");
        }
    }
    let stats = world.agent.stats()?;
    for forward in &stats.forwards {
        assert_eq!(60, forward.flows_total, "{forward:?}");
        // Handshake, request, answer, end: at least so many each way.
        assert!(forward.to_target.packets >= 60 * 4 && forward.to_client.packets >= 60 * 3, "{forward:?}");
    }
    for target in &stats.targets {
        assert!(target.to_target.packets > 0 && target.to_client.packets > 0, "{target:?}");
    }
    assert_eq!(60.0, world.metric("netfast_forward_flows_total{forward=\"web6\"}")?);
    world.sound()
}

#[test]
fn bulk_transfers_arrive_whole() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("bulk")?.web()?;
    let hash = world.bulk()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{}]:8080", TARGETS6[1]))?;
    for (service, target) in [(SERVICE.to_owned(), "target1"), (format!("[{SERVICE6}]"), "target2")] {
        let down = world.bed.dir().join("down");
        let line = format!("curl -sSf -g --max-time 60 -o {} http://{service}/bulk", down.display());
        world.client.run(&line.split(' ').collect::<Vec<_>>())?;
        assert_eq!(hash, peers::hash(&down)?, "downloaded by {service}");
        let up = world.bulk_file();
        let line = format!("curl -sSf -g --max-time 60 -T {} http://{service}/put/up", up.display());
        world.client.run(&line.split(' ').collect::<Vec<_>>())?;
        assert_eq!(hash, peers::hash(&world.bed.dir().join(target).join("put/up"))?, "uploaded by {service}");
        std::fs::remove_file(world.bed.dir().join(target).join("put/up"))?;
    }
    world.sound()
}

#[test]
fn source_ports_of_closed_connections_serve_others() -> Result<()> {
    need!("nginx", "curl");
    // Cached lines act for half of 8 s; a closed connection keeps its port for 4 min where others are free.
    let config = format!("{CONFIG}[nat]\nports = \"20000-20031\"\n[timeouts]\ntcp_reset = \"8s\"\n");
    let world = World::configured("reuse", &config)?.web()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    for _ in 0..3 {
        world.requests(32, &format!("http://{SERVICE}/"))?;
        assert_eq!(0, world.reason("ports_exhausted")?);
        thread::sleep(Duration::from_secs(5));
    }
    assert!(world.flows("")?.len() <= 32);
    assert_eq!(96, world.agent.stats()?.forwards[0].flows_total);
    world.sound()
}

#[test]
fn closed_connections_leave_a_table_that_fills_up() -> Result<()> {
    need!("nginx", "curl");
    let config = format!("{CONFIG}[timeouts]\ntcp_reset = \"8s\"\n").replace("flows = 65536", "flows = 1024");
    let world = World::configured("fills", &config)?.web()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    let present = || -> Result<usize> { Ok(world.flows("")?.len()) };
    let url = format!("http://{SERVICE}/");
    // Few stay for their 4 min: longer than it takes for lines to end, and a sweep or two.
    world.requests(100, &url)?;
    thread::sleep(Duration::from_secs(12));
    assert_eq!(100, present()?);
    // Many make room for each other: in all more than the table holds, and never that many at once.
    for _ in 0..2 {
        world.requests(500, &url)?;
        wait_for("a sweep that makes room", PATIENCE, || Ok((present()? <= 512).then_some(())))?;
    }
    assert_eq!(0, world.reason("flow_table_full")?);
    world.sound()
}

#[test]
fn dnat_keeps_the_clients_address() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("dnat")?.web()?;
    let [a, b] = TARGETS;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {a}:8080 --to {b}:8080 --mode dnat"))?;
    let [a, b] = TARGETS6;
    world.netfast(&format!(
        "forward add web6 tcp [{SERVICE6}]:80 --to [{a}]:8080 --to [{b}]:8080 --mode dnat"
    ))?;
    for (url, client) in [(format!("http://{SERVICE}/"), CLIENT), (format!("http://[{SERVICE6}]/"), CLIENT6)]
    {
        let answers = world.requests(30, &url)?;
        assert_eq!(2, by_target(&answers).len(), "{answers:?}");
        for answer in &answers {
            assert_eq!(client, seen(answer), "{answer}");
        }
    }
    world.sound()
}

#[test]
fn a_port_range_goes_to_the_ports_of_the_targets_range() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("range")?.web()?;
    let (first, count) = peers::RANGE;
    let last = first + count - 1;
    for (name, service, target) in [
        ("range", SERVICE.to_owned(), TARGETS[0].to_owned()),
        ("range6", format!("[{SERVICE6}]"), format!("[{}]", TARGETS6[0])),
    ] {
        world.netfast(&format!(
            "forward add {name} tcp {service}:7000-{} --to {target}:{first}-{last}",
            7000 + count - 1
        ))?;
        for offset in 0..count {
            let answer = world.curl(&format!("http://{service}:{}/", 7000 + offset))?;
            let port = answer.trim().split(' ').nth(2).map(str::to_owned);
            assert_eq!(Some((first + offset).to_string()), port, "{answer}");
        }
        // Beside the range there is nothing.
        let beside = world.curl(&format!("http://{service}:{}/", 7000 + count));
        ensure!(beside.is_err(), "{beside:?}");
    }
    world.sound()
}
