//! Flows through the whole agent: they survive it, they are listed, ended, aged, and their forward's end is theirs.

mod support;

use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use netfast::api::types::FlowList;
use nix::sys::signal::Signal;
use support::{Agent, NETFAST, PATIENCE, Topology, netns::wait_for};

const SERVICE: &str = "192.0.2.10:5000";

/// A client's socket, on the client.
fn client(topology: &Topology, service: &str) -> Result<UdpSocket> {
    let local = if service.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = topology.client.enter(|| UdpSocket::bind(local))??;
    socket.connect(service)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

/// Sends a datagram and waits for its echo.
fn echo(socket: &UdpSocket, text: &str) -> bool {
    let mut buffer = [0; 256];
    socket.send(text.as_bytes()).is_ok()
        && socket.recv(&mut buffer).is_ok_and(|length| &buffer[..length] == text.as_bytes())
}

/// The first echo: until it comes, next hops may have to be learned.
fn first_echo(socket: &UdpSocket) -> Result<()> {
    wait_for("the first echo", PATIENCE, || Ok(echo(socket, "first").then_some(())))
}

fn flows(agent: &Agent, arguments: &[&str]) -> Result<FlowList> {
    let line = [&["flows", "list", "-o", "json"], arguments].concat();
    Ok(serde_json::from_str(&agent.ok(&line)?)?)
}

#[test]
fn a_start_that_ended_half_way_is_begun_anew() -> Result<()> {
    let topology = Topology::new("flowhalf")?;
    let file = topology.bed.dir().join("rules.toml");
    let config =
        format!("rules_file = {file:?}\n[[interface]]\nname = \"wan0\"\n[[interface]]\nname = \"lan0\"\n");
    std::fs::write(&file, "[[forward]")?;
    let path = Agent::configure(&topology.bed, &config)?;
    let output = topology.host.command(NETFAST).args(["agent", "--config"]).arg(path).output()?;
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // What a kill leaves between the first map and the last one.
    let pins = topology.bed.dir().join(format!("bpf/netfast/v{}/maps", netfast_common::abi::ABI_VERSION));
    std::fs::remove_file(pins.join("HOP_FREE"))?;
    std::fs::write(
        &file,
        format!(
            "[[forward]]\nname = \"game\"\nprotocol = \"udp\"\nlisten = \"{SERVICE}\"\n\
             [[forward.target]]\naddress = \"10.0.1.11:6000\"\n"
        ),
    )?;
    let agent = Agent::start(&topology.bed, &topology.host, &config)?;
    let _server = topology.udp_echo(6000)?;
    // The way back to the client takes one of the free next hops.
    first_echo(&client(&topology, SERVICE)?)?;
    assert!(agent.log().contains("adopted=false"), "{}", agent.log());
    Ok(())
}

#[test]
fn flows_are_listed_flushed_and_end_with_their_forward() -> Result<()> {
    let topology = Topology::new("flows")?;
    let agent = topology.agent()?;
    let _server = topology.udp_echo(6000)?;
    agent.ok(&["forward", "add", "game", "udp", SERVICE, "--to", "10.0.1.11:6000"])?;
    agent.ok(&["forward", "add", "game6", "udp", "[2001:db8::10]:5000", "--to", "[2001:db8:1::11]:6000"])?;
    let (v4, v6) = (client(&topology, SERVICE)?, client(&topology, "[2001:db8::10]:5000")?);
    first_echo(&v4)?;
    first_echo(&v6)?;
    for number in 0..50 {
        assert!(echo(&v4, &number.to_string()), "{number}");
        assert!(echo(&v6, &number.to_string()), "{number}");
    }

    let list = flows(&agent, &["--forward", "game"])?;
    assert_eq!(1, list.count, "{list:#?}");
    let flow = &list.flows[0];
    assert_eq!(format!("198.51.100.2:{}", v4.local_addr()?.port()), flow.client);
    assert_eq!((SERVICE, "10.0.1.11:6000"), (flow.service.as_str(), flow.target.as_str()));
    assert!(flow.source.starts_with("10.0.1.1:"), "{flow:#?}");
    assert_eq!("two-way", flow.state);
    assert!(flow.idle_seconds <= 20 && flow.expires_seconds > 250, "{flow:#?}");
    assert_eq!(1, flows(&agent, &["--forward", "game6"])?.count);
    assert_eq!(0, flows(&agent, &["--forward", "other"])?.count);

    // The sweep has counted them, the program the packets.
    wait_for("the sweep", PATIENCE, || {
        let stats = agent.stats()?;
        let game = stats.forwards.iter().find(|f| f.forward == "game").context("no forward game")?;
        Ok((game.flows == 1 && stats.flows.confirmed == 2).then_some(()))
    })?;
    let stats = agent.stats()?;
    let game = stats.forwards.iter().find(|f| f.forward == "game").unwrap();
    assert_eq!(1, game.flows_total);
    assert!(game.to_target.packets >= 51 && game.to_client.packets >= 51, "{game:#?}");
    assert_eq!(
        game.to_target.packets,
        stats.targets.iter().find(|t| t.forward == "game").unwrap().to_target.packets
    );

    // A flow that is ended is made anew by the next packet.
    agent.ok(&["flows", "flush", "--forward", "game"])?;
    assert_eq!(0, flows(&agent, &["--forward", "game"])?.count);
    assert_eq!(1, flows(&agent, &["--forward", "game6"])?.count);
    assert!(echo(&v4, "again"));
    assert_eq!(1, flows(&agent, &["--forward", "game"])?.count);

    // A change of other rules leaves it alone: same translated port.
    let before = flows(&agent, &["--forward", "game"])?.flows[0].source.clone();
    agent.ok(&["filter", "add", "drop", "--src", "203.0.113.0/24"])?;
    assert!(echo(&v4, "still"));
    assert_eq!(before, flows(&agent, &["--forward", "game"])?.flows[0].source);

    // The end of a forward is the end of its flows.
    agent.ok(&["forward", "delete", "game"])?;
    wait_for("the sweep", PATIENCE, || {
        Ok(agent.log().contains("because their forward was removed flows=1").then_some(()))
    })?;
    assert_eq!(1, flows(&agent, &[])?.count);
    assert!(!echo(&v4, "gone"));
    assert!(echo(&v6, "stays"));
    Ok(())
}

#[test]
fn no_packet_is_lost_to_a_crash_of_the_agent() -> Result<()> {
    let topology = Topology::new("flowskill")?;
    let mut agent = topology.agent()?;
    let _server = topology.udp_echo(6000)?;
    agent.ok(&["forward", "add", "game", "udp", SERVICE, "--to", "10.0.1.11:6000"])?;
    let socket = client(&topology, SERVICE)?;
    first_echo(&socket)?;
    let source = flows(&agent, &[])?.flows[0].source.clone();

    let done = AtomicBool::new(false);
    let (sent, lost) = std::thread::scope(|scope| -> Result<(u32, u32)> {
        let traffic = scope.spawn(|| {
            let (mut sent, mut lost) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                sent += 1;
                if !echo(&socket, &sent.to_string()) {
                    lost += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            (sent, lost)
        });
        let restarts = (|| -> Result<()> {
            for _ in 0..2 {
                agent.kill()?;
                std::thread::sleep(Duration::from_millis(300));
                agent.restart()?;
                agent.wait_status("readiness", |status| status.ready)?;
            }
            // A clean stop, likewise.
            agent.signal(Signal::SIGTERM)?;
            agent.wait()?;
            agent.restart()
        })();
        done.store(true, Ordering::Relaxed);
        let counts = traffic.join().expect("the traffic's thread does not panic");
        restarts.map(|()| counts)
    })?;
    assert_eq!(0, lost, "of {sent}");
    assert!(sent > 500, "{sent}");
    assert_eq!(source, flows(&agent, &[])?.flows[0].source, "the same flow");
    // Counters went on, too.
    let game = agent.stats()?.forwards.remove(0);
    assert!(game.to_target.packets >= u64::from(sent) && game.flows_total == 1, "{game:#?} of {sent}");
    Ok(())
}

#[test]
fn idle_flows_go_away_and_their_indexes_come_back() -> Result<()> {
    let topology = Topology::new("flowsidle")?;
    let config = "[[interface]]\nname = \"wan0\"\n[[interface]]\nname = \"lan0\"\n\
                  [timeouts]\nudp = \"8s\"\nudp_one_way = \"2s\"\n";
    let agent = Agent::start(&topology.bed, &topology.host, config)?;
    let _server = topology.udp_echo(6000)?;
    agent.ok(&["forward", "add", "game", "udp", SERVICE, "--to", "10.0.1.11:6000"])?;
    // Nobody listens on 6001: one way only.
    agent.ok(&["forward", "add", "void", "udp", "192.0.2.10:5001", "--to", "10.0.1.11:6001"])?;
    let (socket, void) = (client(&topology, SERVICE)?, client(&topology, "192.0.2.10:5001")?);
    first_echo(&socket)?;
    assert!(!echo(&void, "anybody?"));
    wait_for("the sweep", PATIENCE, || Ok((agent.stats()?.flows.confirmed == 1).then_some(())))?;
    let started = Instant::now();
    // Kept alive beyond its idle time by packets that only the cache sees.
    while started.elapsed() < Duration::from_secs(12) {
        assert!(echo(&socket, "alive"));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(1, flows(&agent, &["--forward", "game"])?.count);
    assert_eq!(0, flows(&agent, &["--forward", "void"])?.count);
    let idle = Instant::now();
    wait_for("its end", PATIENCE, || Ok((agent.stats()?.flows.confirmed == 0).then_some(())))?;
    assert!(idle.elapsed() > Duration::from_secs(5), "{:?}", idle.elapsed());
    Ok(())
}

#[test]
fn source_ports_that_run_out_are_counted_and_logged() -> Result<()> {
    let topology = Topology::new("flowsport")?;
    let config =
        "[[interface]]\nname = \"wan0\"\n[[interface]]\nname = \"lan0\"\n[nat]\nports = \"20000-20001\"\n";
    let agent = Agent::start(&topology.bed, &topology.host, config)?;
    let _server = topology.udp_echo(6000)?;
    agent.ok(&["forward", "add", "game", "udp", SERVICE, "--to", "10.0.1.11:6000"])?;
    let (first, second, third) =
        (client(&topology, SERVICE)?, client(&topology, SERVICE)?, client(&topology, SERVICE)?);
    first_echo(&first)?;
    first_echo(&second)?;
    assert!(!echo(&third, "no port is left"));
    assert!(echo(&first, "still") && echo(&second, "still"));
    let stats = agent.stats()?;
    let row =
        stats.interfaces.iter().find(|row| row.reason == "ports_exhausted").context("no such reason")?;
    assert_eq!(("wan0", "drop", 1), (row.interface.as_str(), row.verdict.as_str(), row.count.packets));
    // The program's own line, in the agent's log.
    wait_for("the program's line", PATIENCE, || {
        Ok(agent.log().contains("no free source port for a flow to port 5000").then_some(()))
    })?;
    Ok(())
}
