//! The filter, and floods beside traffic that must not suffer.

use std::time::Duration;

use anyhow::Result;

use crate::{
    peers::need,
    stream::during,
    support::{PATIENCE, netns::wait_for},
    world::{CLIENT, CONFIG, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// Whether a TCP connection comes about within a second.
fn connects(world: &World, url: &str) -> bool {
    let line = ["curl", "-s", "-g", "-o", "/dev/null", "--connect-timeout", "1", "--max-time", "3", url];
    world.client.run(&line).is_ok()
}

/// Packets that a filter rule has counted.
fn counted(world: &World, rule: &str) -> Result<u64> {
    let stats = world.agent.stats()?;
    Ok(stats.filters.iter().find(|filter| filter.name == rule).map_or(0, |filter| filter.count.packets))
}

#[test]
fn rules_drop_and_allow_and_count() -> Result<()> {
    need!("nginx", "curl", "ping");
    let world = World::new("filter")?.web()?;
    let [web, web6] = [format!("http://{SERVICE}/"), format!("http://[{SERVICE6}]/")];
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{}]:8080", TARGETS6[0]))?;
    assert!(connects(&world, &web) && connects(&world, &web6));

    // A rule for one IP version leaves the other alone.
    world.netfast("filter add drop --name no-web --proto tcp --dport 80 --src 198.51.100.0/24")?;
    assert!(!connects(&world, &web) && connects(&world, &web6));
    assert!(counted(&world, "no-web")? > 0);
    assert_eq!(counted(&world, "no-web")?, world.reason("filter_drop")?);
    assert!(world.metric("netfast_filter_packets_total{rule=\"no-web\"}")? >= 1.0);

    // The first that matches decides.
    world.netfast(&format!("filter insert 1 allow --name this-one --src {CLIENT}/32"))?;
    assert!(connects(&world, &web));
    assert!(counted(&world, "this-one")? > 0);
    let before = counted(&world, "no-web")?;
    assert!(before > 0, "counters stay with their rules");
    world.netfast("filter move this-one 2")?;
    assert!(!connects(&world, &web));
    assert!(counted(&world, "no-web")? > before);

    // By interface: what comes in elsewhere is not meant.
    world.netfast("filter flush")?;
    world.netfast("filter add drop --name lan --interface lan1 --proto tcp --dport 80")?;
    assert!(connects(&world, &web));
    // An established flow is asked about again when the rules change.
    world.netfast("filter flush")?;
    world.netfast("filter add drop --name icmp --proto icmp")?;
    assert!(world.client.run(&["ping", "-c", "1", "-W", "1", SERVICE]).is_err());
    world.client.run(&["ping", "-c", "1", "-W", "3", SERVICE6])?;
    assert_eq!(1, counted(&world, "icmp")?);
    world.netfast("filter delete icmp")?;
    world.client.run(&["ping", "-c", "1", "-W", "3", SERVICE])?;
    world.sound()
}

#[test]
fn a_rule_stops_flows_that_were_allowed_and_its_end_lets_them_go_on() -> Result<()> {
    need!("python3");
    let mut world = World::new("filterflow")?;
    world.udp_echo(0, "::", 5000)?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", TARGETS[0]))?;
    let ((), echoes) = during(&world.client, &format!("{SERVICE}:5000"), 200, || {
        world.netfast("filter add drop --name stop --proto udp --dport 5000")?;
        wait_for("dropped packets", PATIENCE, || Ok((counted(&world, "stop")? >= 20).then_some(())))?;
        world.netfast("filter delete stop")?;
        Ok(())
    })?;
    assert!(echoes.lost() >= 20 && echoes.received > 50, "{echoes:?}");
    let flows = world.flows("")?;
    assert_eq!(1, flows.len(), "the flow is the same: {flows:?}");
    world.sound()
}

#[test]
fn a_flood_of_openings_fills_the_half_open_table_and_nothing_else() -> Result<()> {
    need!("hping3", "nginx", "curl", "python3");
    let config = CONFIG.replace("half_open = 8192", "half_open = 1024");
    let mut world = World::configured("flood", &config)?.web()?;
    world.udp_echo(0, "::", 5000)?;
    world.netfast(&format!(
        "forward add web tcp {SERVICE}:80 --to {}:8080 --to {}:8080",
        TARGETS[0], TARGETS[1]
    ))?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", TARGETS[0]))?;
    let hash = world.bulk()?;
    let file = world.bed.dir().join("down");
    let client = world.client.clone();
    let ((), echoes) = during(&client, &format!("{SERVICE}:5000"), 500, || {
        let mut command = world.client.command("curl");
        command.args(["-sSf", "--max-time", "60", "--limit-rate", "20M", "-o"]).arg(&file);
        let mut download = command.arg(format!("http://{SERVICE}/bulk")).spawn()?;
        wait_for("the transfer", PATIENCE, || Ok(file.exists().then_some(())))?;
        let before = world.agent.stats()?;
        let made = before.forwards.iter().find(|f| f.forward == "web").map_or(0, |f| f.flows_total);
        // Spoofed sources from a network that the client does not answer for, at a rate that a veth's ring takes.
        let mut flood = world.client.command("hping3");
        flood.args(["-q", "-c", "6000", "-i", "u200", "-S", "-p", "80", "--spoof", "198.51.100.77", SERVICE]);
        let mut flood = world.client.spawn("hping3", &mut flood)?;
        wait_for("the flood", Duration::from_secs(60), || {
            let stats = world.agent.stats()?;
            let now = stats.forwards.iter().find(|f| f.forward == "web").map_or(0, |f| f.flows_total);
            assert!(stats.flows.confirmed <= 64, "{:?}", stats.flows);
            assert!(stats.flows.half_open <= stats.flows.half_open_max, "{:?}", stats.flows);
            Ok((now > made + 2000 || flood.exited()?.is_some()).then_some(now))
        })?;
        // New connections come about in the middle of it.
        for _ in 0..5 {
            assert!(world.curl(&format!("http://{SERVICE}/"))?.starts_with("target"));
        }
        drop(flood);
        assert!(download.wait()?.success());
        Ok(())
    })?;
    assert_eq!(hash, crate::peers::hash(&file)?);
    assert_eq!(0, echoes.lost(), "{echoes:?}");
    let stats = world.agent.stats()?;
    let web = stats.forwards.iter().find(|forward| forward.forward == "web").unwrap();
    assert!(web.flows_total > 1500, "the flood was one: {web:?}");
    world.sound()
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_the_old() -> Result<()> {
    need!("python3");
    let config = CONFIG.replace("flows = 65536", "flows = 1024");
    let mut world = World::configured("full", &config)?;
    world.udp_echo(0, "::", 5000)?;
    let service = format!("{SERVICE}:5000");
    world.netfast(&format!("forward add udp udp {service} --to {}:5000", TARGETS[0]))?;
    let ((), echoes) = during(&world.client, &service, 200, || {
        let mut answered = 0;
        for port in 10_000..11_400 {
            // One after the other: a process may not have that many open.
            let socket = world.client.enter(|| std::net::UdpSocket::bind(("0.0.0.0", port)))??;
            socket.connect(&service)?;
            socket.set_read_timeout(Some(Duration::from_millis(10)))?;
            socket.send(b"room?")?;
            answered += usize::from(socket.recv(&mut [0; 16]).is_ok());
        }
        let stats = world.agent.stats()?;
        assert!(
            (100..=1024).contains(&answered) && stats.flows.confirmed <= stats.flows.confirmed_max,
            "{answered}: {stats:?}"
        );
        Ok(())
    })?;
    assert_eq!(0, echoes.lost(), "{echoes:?}");
    assert!(world.reason("flow_table_full")? >= 300);
    world.sound()
}
