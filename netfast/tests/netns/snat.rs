//! Source NAT: two LANs behind the host, the outside before it.

use anyhow::{Context as _, Result, ensure};

use crate::{
    peers::{self, need},
    support::{
        PATIENCE,
        netns::{Namespace, wait_for},
    },
    world::{CLIENT, CLIENT6, SERVICE, SERVICE6, TARGETS, World},
};

/// A world whose targets are inside hosts, and whose client is a server outside, with a rule for them.
fn start(tag: &str, more: &str) -> Result<World> {
    let world = World::new(tag)?;
    world.netfast(&format!(
        "snat add lan --from 10.0.0.0/16,2001:db8:1::/64,2001:db8:2::/64 --to {SERVICE},{SERVICE6} --out wan0 {more}"
    ))?;
    Ok(world)
}

fn curl(from: &Namespace, url: &str) -> Result<String> {
    from.run(&["curl", "--silent", "--show-error", "--fail", "--globoff", "--max-time", "10", url])
}

/// Whom the server has seen: its second word.
fn seen(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default().trim_start_matches("::ffff:")
}

#[test]
fn inside_hosts_reach_the_outside_by_the_external_address() -> Result<()> {
    need!("nginx", "curl", "ping");
    let mut world = start("snat", "")?;
    world.servers.push(peers::nginx(&world.client, world.bed.dir(), "outside")?);
    for inside in &world.targets {
        for (url, own) in
            [(format!("http://{CLIENT}:8080/"), SERVICE), (format!("http://[{CLIENT6}]:8080/"), SERVICE6)]
        {
            for _ in 0..3 {
                let answer = curl(inside, &url)?;
                assert_eq!(own, seen(&answer), "{answer}");
            }
        }
        for server in [CLIENT, CLIENT6] {
            inside.run(&["ping", "-c", "3", "-i", "0.2", "-W", "5", server])?;
        }
    }
    let stats = world.agent.stats()?;
    let [lan] = &stats.snats[..] else { anyhow::bail!("{:?}", stats.snats) };
    // Two hosts; three connections and a ping for each version.
    assert_eq!(2 * 2 * 4, lan.flows_total, "{lan:?}");
    assert!(lan.outward.packets > 50 && lan.inward.packets > 50, "{lan:?}");
    let flows = world.flows("")?;
    assert!(flows.iter().all(|flow| flow.forward == "lan"), "{flows:?}");
    assert!(flows.iter().any(|flow| flow.source.starts_with(&format!("{SERVICE}:"))), "{flows:?}");
    wait_for("the ports in the metrics", PATIENCE, || {
        Ok((world.metric("netfast_snat_ports_in_use{snat=\"lan\"}")? >= 16.0).then_some(()))
    })?;
    let page = world.netfast("snat show lan")?;
    ensure!(page.contains("in use") && page.contains("dependent"), "{page}");
    // The rule ends its flows, and then what comes from inside leaves as it is.
    world.netfast("snat delete lan")?;
    let answer = curl(&world.targets[0], &format!("http://{CLIENT}:8080/"))?;
    assert_eq!(TARGETS[0], seen(&answer), "{answer}");
    world.sound().context("at the end")
}

/// What two STUN clients (RFC 5780, RFC 3489) of an inside host say of the NAT before them.
fn discovered(inside: &Namespace) -> Result<(String, String)> {
    let coturn = inside.run(&["turnutils_natdiscovery", "-m", "-f", CLIENT])?;
    // Its status is the kind of NAT.
    let stun = inside.run(&["sh", "-c", &format!("stun {CLIENT} || true")])?;
    Ok((coturn, stun))
}

/// RFC 4787 REQ-1, REQ-8 and REQ-9, and as a control the kernel's NAT, which is endpoint-independent as long as it keeps
/// ports and is not where it draws them.
#[test]
fn stun_clients_find_endpoint_independent_mapping() -> Result<()> {
    const INDEPENDENT: (&str, &str) = ("NAT with Endpoint Independent Mapping!", "Independent Mapping");
    const DEPENDENT: (&str, &str) = ("NAT with Address and Port Dependent Mapping!", "Dependent Mapping");
    let is = |(coturn, stun): &(String, String), kind: (&str, &str)| {
        let primary = format!("Primary: {}", kind.1);
        ensure!(coturn.contains(kind.0) && stun.contains(&primary), "no {kind:?} in\n{coturn}\n{stun}");
        Ok(())
    };
    need!("turnserver", "turnutils_natdiscovery", "stun", "nft", "ping");
    let mut world = start("stun", "")?;
    let second = "198.51.100.3";
    world.client.address("eth0", &format!("{second}/24"))?;
    world.servers.push(peers::stun_server(&world.client, world.bed.dir(), [CLIENT, second])?);
    let inside = &world.targets[0];
    // The first packet waits for neighbours, and one of the clients does not ask twice.
    wait_for("the way out", PATIENCE, || {
        Ok(inside.run(&["ping", "-c", "1", "-W", "1", CLIENT]).ok().map(drop))
    })?;

    let found = discovered(inside)?;
    is(&found, INDEPENDENT).context("netfast")?;
    let (coturn, stun) = &found;
    ensure!(coturn.contains(&format!("UDP reflexive addr: {SERVICE}:")), "{coturn}");
    ensure!(coturn.contains("NAT with Address and Port Dependent Filtering!"), "{coturn}");
    ensure!(stun.contains("Port Dependent Filter") && stun.contains("will hairpin"), "{stun}");
    world.netfast("snat delete lan")?;
    world.netfast(&format!(
        "snat add open --from 10.0.0.0/16 --to {SERVICE} --out wan0 --filtering endpoint-independent"
    ))?;
    let found = discovered(inside)?;
    is(&found, INDEPENDENT).context("netfast, filtering endpoint-independent")?;
    ensure!(found.0.contains("NAT with Endpoint Independent Filtering!"), "{}", found.0);
    world.netfast("snat delete open")?;

    for (rule, kind) in [("masquerade", INDEPENDENT), ("masquerade fully-random", DEPENDENT)] {
        let table = format!(
            "add table ip nat; add chain ip nat out {{ type nat hook postrouting priority srcnat; }}; \
             add rule ip nat out oifname wan0 {rule}"
        );
        world.host.run(&["nft", &table])?;
        is(&discovered(inside)?, kind).context(rule)?;
        world.host.run(&["nft", "delete", "table", "ip", "nat"])?;
    }
    world.sound()
}
