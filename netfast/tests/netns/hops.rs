//! Next hops that change while packets go by them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{
    peers::need,
    stream::during,
    support::{PATIENCE, netns::wait_for},
    world::{SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// How soon traffic has to go on.
const SOON: Duration = Duration::from_secs(3);

/// Both services, by UDP to the first target.
fn start(tag: &str) -> Result<World> {
    let mut world = World::new(tag)?;
    world.udp_echo(0, "::", 5000)?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", TARGETS[0]))?;
    world.netfast(&format!("forward add udp6 udp [{SERVICE6}]:5000 --to [{}]:5000", TARGETS6[0]))?;
    Ok(world)
}

fn services() -> [String; 2] {
    [format!("{SERVICE}:5000"), format!("[{SERVICE6}]:5000")]
}

/// Sends until an echo comes back; how long that took.
fn until_answered(world: &World, service: &str) -> Result<Duration> {
    let address: std::net::SocketAddr = service.parse()?;
    let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = world.client.enter(|| std::net::UdpSocket::bind(any))??;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let begin = Instant::now();
    wait_for(&format!("an echo of {service}"), PATIENCE, || {
        let _ = socket.send(b"there?");
        Ok(socket.recv(&mut [0; 16]).is_ok().then(|| begin.elapsed()))
    })
    .with_context(|| format!("{:#?}\n{}", world.agent.stats(), world.agent.log()))
}

#[test]
fn a_target_with_another_mac_address_is_found_again() -> Result<()> {
    need!("python3");
    let world = start("hopmac")?;
    // It says so, as machines do that take over an address.
    world.targets[0].sysctl("net.ipv4.conf.eth0.arp_notify", "1")?;
    world.targets[0].sysctl("net.ipv6.conf.eth0.ndisc_notify", "1")?;
    for (service, mac) in services().iter().zip(["02:00:00:00:07:01", "02:00:00:00:07:02"]) {
        let ((), echoes) = during(&world.client, service, 200, || {
            world.targets[0].ip(&["link", "set", "dev", "eth0", "address", mac])?;
            std::thread::sleep(Duration::from_secs(1));
            until_answered(&world, service).map(drop)
        })?;
        assert!(echoes.gap < SOON, "{service}: {echoes:?}");
        assert!(echoes.received > 100, "{service}: {echoes:?}");
    }
    world.sound()
}

#[test]
fn a_client_with_another_mac_address_is_found_again() -> Result<()> {
    need!("python3");
    let world = start("hopclient")?;
    for (service, mac) in services().iter().zip(["02:00:00:00:08:01", "02:00:00:00:08:02"]) {
        let ((), echoes) = during(&world.client, service, 200, || {
            world.client.ip(&["link", "set", "dev", "eth0", "address", mac])?;
            std::thread::sleep(Duration::from_secs(1));
            until_answered(&world, service).map(drop)
        })?;
        assert!(echoes.gap < SOON, "{service}: {echoes:?}");
    }
    world.sound()
}

#[test]
fn a_deleted_neighbour_is_resolved_again_at_once() -> Result<()> {
    need!("python3");
    let world = start("hopdel")?;
    for (service, target, end) in
        [(&services()[0], TARGETS[0], "198.51.100.2"), (&services()[1], TARGETS6[0], "2001:db8:ff::2")]
    {
        let ((), echoes) = during(&world.client, service, 200, || {
            world.host.ip(&["neighbour", "del", target, "dev", "lan1"])?;
            world.host.ip(&["neighbour", "del", end, "dev", "wan0"])?;
            std::thread::sleep(Duration::from_secs(1));
            until_answered(&world, service).map(drop)
        })?;
        assert!(echoes.gap < SOON, "{service}: {echoes:?}");
    }
    world.sound()
}

#[test]
fn a_route_by_another_gateway_is_followed_by_flows_that_exist() -> Result<()> {
    need!("python3");
    let mut world = World::new("hoproute")?;
    // Addresses that both targets have: whichever is the gateway answers.
    let far = ["10.9.9.9", "2001:db8:9::9"];
    for index in [0, 1] {
        for (address, prefix) in far.iter().zip(["32", "128"]) {
            world.targets[index].address("lo", &format!("{address}/{prefix}"))?;
            world.udp_echo(index, address, 5000)?;
        }
    }
    let route = |index: usize, verb: &str| -> Result<()> {
        let lan = format!("lan{}", index + 1);
        for (address, gateway, version) in [(far[0], TARGETS[index], "-4"), (far[1], TARGETS6[index], "-6")] {
            world.host.ip(&[version, "route", verb, address, "via", gateway, "dev", &lan])?;
        }
        Ok(())
    };
    route(0, "replace")?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", far[0]))?;
    world.netfast(&format!("forward add udp6 udp [{SERVICE6}]:5000 --to [{}]:5000", far[1]))?;
    let sent = |namespace: usize| -> Result<u64> {
        let stats: serde_json::Value =
            serde_json::from_str(&world.targets[namespace].ip(&["-j", "-s", "link", "show", "eth0"])?)?;
        stats[0]["stats64"]["rx"]["packets"].as_u64().context("no counter")
    };
    for service in services() {
        route(0, "replace")?;
        until_answered(&world, &service)?;
        let ((), echoes) =
            during(&world.client, &service, 200, || {
                let before = sent(1)?;
                route(1, "replace")?;
                wait_for("packets by the other gateway", PATIENCE, || {
                    Ok((sent(1)? > before + 50).then_some(()))
                })?;
                Ok(())
            })?;
        assert!(echoes.gap < SOON && echoes.received > 50, "{service}: {echoes:?}");
    }
    world.sound()
}

#[test]
fn a_target_that_is_down_is_counted_and_told_and_used_again() -> Result<()> {
    need!("python3");
    let world = start("hopdown")?;
    world.targets[0].ip(&["link", "set", "dev", "eth0", "down"])?;
    let status = world.agent.wait_status("the problem", |status| !status.problems.is_empty())?;
    assert!(status.problems.iter().any(|problem| problem.contains(TARGETS[0])), "{:?}", status.problems);
    for service in services() {
        let before = world.reason("hop_unresolved")?;
        let ((), echoes) = during(&world.client, &service, 100, || Ok(()))?;
        assert_eq!(0, echoes.received, "{service}: {echoes:?}");
        let counted = world.reason("hop_unresolved")? - before;
        assert!(counted >= echoes.sent, "{service}: {counted} counted of {echoes:?}");
    }
    world.targets[0].ip(&["link", "set", "dev", "eth0", "up"])?;
    // Its IPv6 address went with the link, its routes too.
    world.targets[0].address("eth0", &format!("{}/64", TARGETS6[0]))?;
    world.targets[0].route("default via 10.0.1.1")?;
    world.targets[0].route("default via 2001:db8:1::1")?;
    for service in services() {
        until_answered(&world, &service)?;
    }
    world.agent.wait_status("all well", |status| status.problems.is_empty())?;
    world.sound()
}

#[test]
fn a_host_that_is_no_router_answers_by_the_way_that_clients_came() -> Result<()> {
    need!("python3");
    let mut world = World::new("hopnofwd")?;
    world.host.sysctl("net.ipv4.ip_forward", "0")?;
    world.host.sysctl("net.ipv6.conf.all.forwarding", "0")?;
    world.udp_echo(0, "::", 5000)?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", TARGETS[0]))?;
    world.netfast(&format!("forward add udp6 udp [{SERVICE6}]:5000 --to [{}]:5000", TARGETS6[0]))?;
    for (service, mac) in services().iter().zip(["02:00:00:00:09:01", "02:00:00:00:09:02"]) {
        let ((), echoes) = during(&world.client, service, 200, || Ok(()))?;
        assert_eq!(0, echoes.lost(), "{service}: {echoes:?}");
        // The station changes, and says so.
        world.client.sysctl("net.ipv4.conf.eth0.arp_notify", "1")?;
        world.client.sysctl("net.ipv6.conf.eth0.ndisc_notify", "1")?;
        world.client.ip(&["link", "set", "dev", "eth0", "address", mac])?;
        until_answered(&world, service)?;
    }
    world.sound()
}

#[test]
fn clients_behind_a_router_are_answered_by_the_route_to_them() -> Result<()> {
    need!("python3");
    let mut world = World::new("hoprouter")?;
    world.udp_echo(0, "::", 5000)?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", TARGETS[0]))?;
    world.netfast(&format!("forward add udp6 udp [{SERVICE6}]:5000 --to [{}]:5000", TARGETS6[0]))?;
    // The client becomes the router of a network behind it; the host has a route to that network.
    let far = world.bed.namespace("far")?;
    world.bed.veth((&far, "eth0"), (&world.client, "eth1"))?;
    world.client.forwarding()?;
    for (namespace, device, address) in [
        (&world.client, "eth1", "10.77.0.1/24"),
        (&world.client, "eth1", "2001:db8:77::1/64"),
        (&far, "eth0", "10.77.0.2/24"),
        (&far, "eth0", "2001:db8:77::2/64"),
    ] {
        namespace.address(device, address)?;
    }
    far.route("default via 10.77.0.1")?;
    far.route("default via 2001:db8:77::1")?;
    world.host.route("10.77.0.0/24 via 198.51.100.2")?;
    world.host.route("2001:db8:77::/64 via 2001:db8:ff::2")?;
    for service in services() {
        wait_for("the way to become known", PATIENCE, || {
            let ((), echoes) = during(&far, &service, 100, || Ok(()))?;
            Ok((echoes.lost() == 0 && echoes.sent > 20).then_some(()))
        })?;
    }
    world.sound()
}

#[test]
fn an_interface_that_was_made_again_forwards_again() -> Result<()> {
    need!("python3");
    let world = start("hopiface")?;
    for service in services() {
        until_answered(&world, &service)?;
    }
    world.host.ip(&["link", "del", "lan1"])?;
    world.agent.wait_status("the loss", |status| !status.ready)?;
    world.bed.veth((&world.targets[0], "eth0"), (&world.host, "lan1"))?;
    world.host.address("lan1", "10.0.1.1/24")?;
    world.host.address("lan1", "2001:db8:1::1/64")?;
    world.targets[0].address("eth0", &format!("{}/24", TARGETS[0]))?;
    world.targets[0].address("eth0", &format!("{}/64", TARGETS6[0]))?;
    world.targets[0].xdp_pass("eth0")?;
    world.agent.wait_status("its return", |status| status.ready)?;
    for service in services() {
        until_answered(&world, &service)?;
    }
    Ok(())
}
