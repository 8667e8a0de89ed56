//! ICMP errors on a real path: senders learn the path MTU through netfast, traceroute shows it.

use anyhow::{Context as _, Result, ensure};

use crate::{
    peers::{self, need},
    support::netns::{Namespace, Process},
    world::{SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// The server behind a router.
const BEHIND: &str = "10.9.0.2";
const BEHIND6: &str = "2001:db8:9::2";
/// MTU of the narrow link.
const NARROW: &str = "1300";

/// Makes the first target a router with a narrow link to a server of its own, which runs nginx.
fn behind_a_router(world: &World) -> Result<(Namespace, Process)> {
    let server = world.bed.namespace("server")?;
    let router = &world.targets[0];
    router.forwarding()?;
    world.bed.veth((router, "eth1"), (&server, "eth0"))?;
    router.address("eth1", "10.9.0.1/24")?;
    router.address("eth1", "2001:db8:9::1/64")?;
    server.address("eth0", &format!("{BEHIND}/24"))?;
    server.address("eth0", &format!("{BEHIND6}/64"))?;
    server.route("default via 10.9.0.1")?;
    server.route("default via 2001:db8:9::1")?;
    // The server does not know, so that its TCP does not tell the client.
    router.ip(&["link", "set", "dev", "eth1", "mtu", NARROW])?;
    world.host.route(&format!("10.9.0.0/24 via {}", TARGETS[0]))?;
    world.host.route(&format!("2001:db8:9::/64 via {}", TARGETS6[0]))?;
    let nginx = peers::nginx(&server, world.bed.dir(), "target1")?;
    Ok((server, nginx))
}

/// Uploads a file by TCP to the service, and checks that it arrives whole and that the client has learned `mtu` from netfast.
fn upload(world: &World, mtu: &str) -> Result<()> {
    let hash = world.bulk()?;
    for (service, bare) in [(SERVICE.to_owned(), SERVICE), (format!("[{SERVICE6}]"), SERVICE6)] {
        let up = world.bulk_file();
        let line = format!("curl -sSf -g --max-time 120 -T {} http://{service}/put/up", up.display());
        world.client.run(&line.split(' ').collect::<Vec<_>>())?;
        let put = world.bed.dir().join("target1/put/up");
        assert_eq!(hash, peers::hash(&put)?, "{service}");
        std::fs::remove_file(put)?;
        let route = world.client.ip(&["route", "get", bare])?;
        ensure!(route.contains(&format!("mtu {mtu}")), "the client has not learned the MTU: {route}");
    }
    Ok(())
}

#[test]
fn a_sender_learns_the_mtu_of_a_router_behind_netfast() -> Result<()> {
    need!("nginx", "curl");
    for mode in ["nat", "dnat"] {
        let world = World::new(&format!("pmtu{mode}"))?;
        let _server = behind_a_router(&world)?;
        world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {BEHIND}:8080 --mode {mode}"))?;
        world
            .netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{BEHIND6}]:8080 --mode {mode}"))?;
        upload(&world, NARROW)?;
        ensure!(world.reason("icmp_error")? >= 2, "the router's errors went through netfast");
        ensure!(world.reason("mtu_exceeded")? == 0, "netfast's own way is wide enough");
        world.sound()?;
    }
    Ok(())
}

#[test]
fn a_sender_learns_the_mtu_of_netfast_s_way_out() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("pmtuown")?.web()?;
    world.host.ip(&["link", "set", "dev", "lan1", "mtu", NARROW])?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{}]:8080", TARGETS6[0]))?;
    upload(&world, NARROW)?;
    ensure!(world.reason("mtu_exceeded")? >= 2, "netfast itself has answered");
    world.sound()
}

/// The addresses of the hops in order, as traceroute prints them.
fn hops(world: &World, arguments: &str, destination: &str) -> Result<Vec<String>> {
    let line = format!("traceroute -n -q 1 -w 3 -m 6 {arguments} {destination}");
    let text = world.client.run(&line.split(' ').collect::<Vec<_>>())?;
    let hops = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned);
    let hops: Vec<_> = hops.collect();
    ensure!(!hops.is_empty(), "no hops in {text}");
    Ok(hops)
}

#[test]
fn traceroute_shows_netfast_and_what_is_behind_it() -> Result<()> {
    need!("nginx", "traceroute");
    let world = World::new("trace")?;
    let (server, _nginx) = behind_a_router(&world)?;
    let _echo = crate::support::udp_echo(&server, "::", 5353)?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {BEHIND}:8080"))?;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{BEHIND6}]:8080"))?;
    world.netfast(&format!("forward add dns udp {SERVICE}:53 --to {BEHIND}:5353"))?;
    world.netfast(&format!("forward add dns6 udp [{SERVICE6}]:53 --to [{BEHIND6}]:5353"))?;
    for (destination, netfast) in [(SERVICE, "198.51.100.1"), (SERVICE6, "2001:db8:ff::1")] {
        for arguments in ["-U -p 53", "-T -p 80"] {
            let hops = hops(&world, arguments, destination)?;
            let (first, last) = (hops.first().context("none")?, hops.last().context("none")?);
            assert_eq!((netfast, destination), (first.as_str(), last.as_str()), "{arguments}: {hops:?}");
            // The router behind netfast is seen by the service's address: what lies behind a service is not known outside.
            assert!(hops[1..].iter().all(|hop| hop == destination), "{arguments}: {hops:?}");
        }
    }
    ensure!(world.reason("icmp_error")? > 0, "the router's errors went through netfast");
    ensure!(world.reason("ttl_expired")? >= 4, "netfast itself has answered");
    world.sound()
}
