//! Programs of all kinds through netfast, and those of the host beside it.

use std::{thread::sleep, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{
    peers::{self, KNOWN, need},
    stream::during,
    support::netns::wait_for,
    world::{CLIENT, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// Runs an iperf3 client and gives its report.
fn iperf3(world: &World, service: &str, arguments: &[&str]) -> Result<serde_json::Value> {
    let mut line = vec!["iperf3", "--json", "--connect-timeout", "5000", "--client", service];
    line.extend_from_slice(arguments);
    // The server may still be about to end the last measurement.
    for _ in 0..50 {
        let report: serde_json::Value = serde_json::from_str(&world.client.run(&line)?)?;
        match report["error"].as_str() {
            Some(error) if error.contains("busy") => sleep(Duration::from_millis(200)),
            Some(error) => bail!("iperf3 {arguments:?}: {error}"),
            None => return Ok(report),
        }
    }
    bail!("iperf3's server is busy for ever")
}

#[test]
fn iperf3_measures_through_netfast() -> Result<()> {
    need!("iperf3");
    let mut world = World::new("iperf")?;
    world.servers.push(peers::iperf3(&world.targets[0])?);
    for (name, protocol, service, target) in [
        ("tcp4", "tcp", SERVICE.to_owned(), TARGETS[0].to_owned()),
        ("udp4", "udp", SERVICE.to_owned(), TARGETS[0].to_owned()),
        ("tcp6", "tcp", format!("[{SERVICE6}]"), format!("[{}]", TARGETS6[0])),
        ("udp6", "udp", format!("[{SERVICE6}]"), format!("[{}]", TARGETS6[0])),
    ] {
        world.netfast(&format!("forward add {name} {protocol} {service}:5201 --to {target}:5201"))?;
    }
    for service in [SERVICE, SERVICE6] {
        for reverse in [&[][..], &["--reverse"]] {
            let mut arguments = vec!["--time", "1", "--parallel", "2"];
            arguments.extend_from_slice(reverse);
            let report = iperf3(&world, service, &arguments)?;
            let bits = report["end"]["sum_received"]["bits_per_second"]
                .as_f64()
                .with_context(|| format!("no rate: {report}"))?;
            assert!(bits > 1e6, "{service} {reverse:?}: {bits} bit/s");
            let mut arguments = vec!["--udp", "--bitrate", "20M", "--length", "1200", "--time", "1"];
            arguments.extend_from_slice(reverse);
            let report = iperf3(&world, service, &arguments)?;
            let sum = &report["end"]["sum"];
            let (packets, lost) = (sum["packets"].as_u64().unwrap(), sum["lost_packets"].as_u64().unwrap());
            assert!(
                packets > 1000 && lost * 50 <= packets,
                "{service} {reverse:?}: {lost} of {packets} lost"
            );
        }
    }
    for forward in world.agent.stats()?.forwards {
        assert!(forward.to_target.packets > 1000 && forward.to_client.packets > 10, "{forward:?}");
    }
    world.sound()
}

#[test]
fn dns_by_udp_and_tcp() -> Result<()> {
    need!("dnsmasq", "dig");
    let mut world = World::new("dns")?;
    world.servers.push(peers::dnsmasq(&world.targets[0])?);
    for (name, service, target) in [
        ("dns4", SERVICE.to_owned(), TARGETS[0].to_owned()),
        ("dns6", format!("[{SERVICE6}]"), format!("[{}]", TARGETS6[0])),
    ] {
        world.netfast(&format!("forward add {name}udp udp {service}:53 --to {target}:53"))?;
        world.netfast(&format!("forward add {name}tcp tcp {service}:53 --to {target}:53"))?;
    }
    let dig = |server: &str, arguments: &[&str]| {
        let server = format!("@{server}");
        let mut line = vec!["dig", "+tries=2", "+time=3", &server];
        line.extend_from_slice(arguments);
        world.client.run(&line)
    };
    let (name, v4, v6) = KNOWN;
    for server in [SERVICE, SERVICE6] {
        for transport in ["+notcp", "+tcp"] {
            assert_eq!(v4, dig(server, &["+short", transport, name, "A"])?.trim(), "{server} {transport}");
            assert_eq!(v6, dig(server, &["+short", transport, name, "AAAA"])?.trim(), "{server} {transport}");
        }
        // Truncated over UDP; dig asks again by TCP.
        let text = dig(server, &["+noedns", "large.netfast.example", "TXT"])?;
        assert!(text.contains("Truncated, retrying in TCP mode"), "{text}");
        assert!(text.contains("ANSWER: 40"), "{text}");
    }
    // Each query is a flow of its own, and the forward counts it.
    let stats = world.agent.stats()?;
    let udp = stats.forwards.iter().find(|forward| forward.forward == "dns4udp").unwrap();
    assert!(udp.flows_total >= 3, "{udp:?}");
    assert_eq!(udp.flows_total, udp.to_client.packets);
    world.sound()
}

#[test]
fn udp_echo_and_its_guards() -> Result<()> {
    need!();
    let world = World::new("echo")?;
    world.netfast(&format!("echo add {SERVICE}:7 --allow {CLIENT}/32 --rate 100000"))?;
    world.netfast(&format!("echo add [{SERVICE6}]:7 --allow 2001:db8:ff::/64 --rate 100000"))?;
    world.netfast(&format!("echo add {SERVICE}:1007 --allow 203.0.113.0/24"))?;
    world.netfast(&format!("echo add {SERVICE}:2007 --allow {CLIENT}/32 --rate 50"))?;
    let second = || {
        sleep(Duration::from_secs(1));
        Ok(())
    };
    for service in [format!("{SERVICE}:7"), format!("[{SERVICE6}]:7")] {
        let ((), echoes) = during(&world.client, &service, 500, second)?;
        assert!(echoes.sent > 100 && echoes.lost() == 0, "{service}: {echoes:?}");
    }
    // Not on the list: silence.
    let ((), echoes) = during(&world.client, &format!("{SERVICE}:1007"), 100, second)?;
    assert_eq!(0, echoes.received, "{echoes:?}");
    assert_eq!(echoes.sent, world.reason("echo_not_allowed")?);
    // Over the rate: what is over it. 1.6 s at 50/s and a burst of as much at the most.
    let ((), echoes) = during(&world.client, &format!("{SERVICE}:2007"), 500, second)?;
    assert!((20..=200).contains(&echoes.received), "{echoes:?}");
    assert_eq!(echoes.lost(), world.reason("echo_rate")?, "{echoes:?}");
    assert!(world.metric(&format!("netfast_echo_packets_total{{echo=\"{SERVICE}:7\"}}"))? > 100.0);
    world.sound()
}

#[test]
fn the_hosts_own_services_go_on() -> Result<()> {
    need!("curl", "ping", "nginx", "python3");
    let mut world = World::new("own")?.web()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add udp udp {SERVICE}:53 --to {}:53", TARGETS[0]))?;
    world.netfast("filter add drop --proto tcp --dport 9")?;
    let mut command = world.host.command("python3");
    command.args(["-m", "http.server", "--bind", "::", "2222"]).current_dir("/");
    let server = world.host.spawn("own", &mut command)?;
    world.servers.push(server);
    for address in ["198.51.100.1".to_owned(), SERVICE.to_owned(), format!("[{SERVICE6}]")] {
        wait_for("the host's own server", Duration::from_secs(20), || {
            Ok(world.curl(&format!("http://{address}:2222/etc/hostname")).ok())
        })?;
    }
    for address in [SERVICE, SERVICE6, "198.51.100.1"] {
        let text = world.client.run(&["ping", "-c", "3", "-i", "0.1", "-W", "2", address])?;
        assert!(text.contains(" 0% packet loss"), "{text}");
    }
    // ARP and neighbour discovery: both forget each other and find each other again.
    world.client.ip(&["neighbour", "flush", "all"])?;
    world.host.ip(&["neighbour", "flush", "dev", "wan0"])?;
    for address in [SERVICE, SERVICE6] {
        world.client.run(&["ping", "-c", "1", "-W", "3", address])?;
    }
    assert!(world.curl(&format!("http://{SERVICE}/"))?.starts_with("target1"));
    // Routed through the host, not addressed to it: the kernel's, as ever.
    for target in [TARGETS[1], TARGETS6[1]] {
        world.client.run(&["ping", "-c", "1", "-W", "3", target])?;
    }
    assert!(world.curl(&format!("http://{}:8080/", TARGETS[1]))?.contains(CLIENT));
    // And the host's own connections to the targets, beside netfast's on the same ports.
    for target in TARGETS {
        world.host.run(&["curl", "-sSf", "--max-time", "5", &format!("http://{target}:8080/")])?;
    }
    world.sound()
}
