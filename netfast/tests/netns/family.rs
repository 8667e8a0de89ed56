//! Forwards between the IP versions: clients of IPv6 at targets of IPv4, and the other way round.

use anyhow::Result;

use crate::{
    peers::{self, KNOWN, need},
    world::{SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

#[test]
fn web_servers_of_the_other_version() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("family")?.web()?;
    let hash = world.bulk()?;
    world.netfast(&format!("forward add up tcp [{SERVICE6}]:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add down tcp {SERVICE}:80 --to [{}]:8080", TARGETS6[1]))?;
    for (service, target, host) in
        [(format!("[{SERVICE6}]"), "target1", "10.0.1.1"), (SERVICE.to_owned(), "target2", "2001:db8:2::1")]
    {
        for answer in world.requests(20, &format!("http://{service}/"))? {
            let mut words = answer.split(' ');
            assert_eq!(Some(target), words.next(), "{answer}");
            assert_eq!(Some(host), words.next().map(|seen| seen.trim_start_matches("::ffff:")), "{answer}");
        }
        let down = world.bed.dir().join("down");
        let line = format!("curl -sSf -g --max-time 60 -o {} http://{service}/bulk", down.display());
        world.client.run(&line.split(' ').collect::<Vec<_>>())?;
        assert_eq!(hash, peers::hash(&down)?, "downloaded by {service}");
        let up = world.bulk_file();
        let line = format!("curl -sSf -g --max-time 60 -T {} http://{service}/put/up", up.display());
        world.client.run(&line.split(' ').collect::<Vec<_>>())?;
        assert_eq!(hash, peers::hash(&world.bed.dir().join(target).join("put/up"))?, "uploaded by {service}");
    }
    let flows = world.flows("")?;
    assert!(!flows.is_empty());
    for flow in &flows {
        let mixed = flow.client.starts_with('[') != flow.target.starts_with('[');
        assert!(mixed, "{flow:?}");
    }
    for forward in world.agent.stats()?.forwards {
        assert_eq!(22, forward.flows_total, "{forward:?}");
        assert!(forward.to_target.bytes > 64 << 20 && forward.to_client.bytes > 64 << 20, "{forward:?}");
    }
    world.sound()
}

#[test]
fn names_by_the_other_version() -> Result<()> {
    need!("dnsmasq", "dig");
    let mut world = World::new("familydns")?;
    world.servers.push(peers::dnsmasq(&world.targets[0])?);
    for (name, service, target) in [
        ("up", format!("[{SERVICE6}]"), TARGETS[0].to_owned()),
        ("down", SERVICE.to_owned(), format!("[{}]", TARGETS6[0])),
    ] {
        world.netfast(&format!("forward add {name}udp udp {service}:53 --to {target}:53"))?;
        world.netfast(&format!("forward add {name}tcp tcp {service}:53 --to {target}:53"))?;
    }
    let (name, v4, v6) = KNOWN;
    for server in [SERVICE, SERVICE6] {
        for transport in ["+notcp", "+tcp"] {
            for (kind, expected) in [("A", v4), ("AAAA", v6)] {
                let at = format!("@{server}");
                let line = ["dig", "+tries=2", "+time=3", &at, "+short", transport, name, kind];
                assert_eq!(expected, world.client.run(&line)?.trim(), "{server} {transport}");
            }
        }
    }
    world.sound()
}

/// The way to the targets takes less than they say: netfast tells the clients, each in the numbers of its own version.
#[test]
fn path_mtu_of_the_other_version() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("familymtu")?.web()?;
    let hash = world.bulk()?;
    for device in ["lan1", "lan2"] {
        world.host.ip(&["link", "set", "dev", device, "mtu", "1400"])?;
    }
    world.netfast(&format!("forward add up tcp [{SERVICE6}]:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add down tcp {SERVICE}:80 --to [{}]:8080", TARGETS6[1]))?;
    for (service, address, target, mtu) in
        [(format!("[{SERVICE6}]"), SERVICE6, "target1", 1420), (SERVICE.to_owned(), SERVICE, "target2", 1380)]
    {
        let up = world.bulk_file();
        let line = format!("curl -sSf -g --max-time 60 -T {} http://{service}/put/up", up.display());
        world.client.run(&line.split(' ').collect::<Vec<_>>())?;
        assert_eq!(hash, peers::hash(&world.bed.dir().join(target).join("put/up"))?, "uploaded by {service}");
        let learned = world.client.run(&["ip", "route", "get", address])?;
        assert!(learned.contains(&format!("mtu {mtu} ")), "{learned}");
    }
    assert!(world.reason("mtu_exceeded")? > 0);
    world.sound()
}

/// A router behind the host has the narrow link: its ICMP errors get to the client in the client's version.
#[test]
fn path_mtu_from_a_router_of_the_other_version() -> Result<()> {
    need!("nginx", "curl");
    let world = World::new("familyrouter")?;
    // target1 becomes a router: behind it a server by a link of 1400 bytes.
    let server = world.bed.namespace("server")?;
    let router = &world.targets[0];
    world.bed.veth((&server, "eth0"), (router, "lan0"))?;
    router.forwarding()?;
    for (namespace, device, v4, v6) in [
        (router, "lan0", "10.0.3.1/24", "2001:db8:3::1/64"),
        (&server, "eth0", "10.0.3.11/24", "2001:db8:3::11/64"),
    ] {
        namespace.address(device, v4)?;
        namespace.address(device, v6)?;
    }
    for gateway in ["10.0.3.1", "2001:db8:3::1"] {
        server.route(&format!("default via {gateway}"))?;
    }
    world.host.route(&format!("10.0.3.0/24 via {}", TARGETS[0]))?;
    world.host.route(&format!("2001:db8:3::/64 via {}", TARGETS6[0]))?;
    router.ip(&["link", "set", "dev", "lan0", "mtu", "1400"])?;
    let nginx = peers::nginx(&server, world.bed.dir(), "server")?;
    let hash = world.bulk()?;
    world.netfast(&format!("forward add up tcp [{SERVICE6}]:80 --to 10.0.3.11:8080"))?;
    world.netfast(&format!("forward add down tcp {SERVICE}:80 --to [2001:db8:3::11]:8080"))?;
    for (service, address, mtu) in
        [(format!("[{SERVICE6}]"), SERVICE6, 1420), (SERVICE.to_owned(), SERVICE, 1380)]
    {
        let up = world.bulk_file();
        let line = format!("curl -sSf -g --max-time 60 -T {} http://{service}/put/up", up.display());
        world.client.run(&line.split(' ').collect::<Vec<_>>())?;
        assert_eq!(hash, peers::hash(&world.bed.dir().join("server/put/up"))?, "uploaded by {service}");
        let learned = world.client.run(&["ip", "route", "get", address])?;
        assert!(learned.contains(&format!("mtu {mtu} ")), "{learned}");
    }
    assert!(world.reason("icmp_error")? > 0);
    drop(nginx);
    world.sound()
}
