//! The agent against what goes wrong around it, and what it tells systemd.

mod support;

use std::{
    fs,
    os::unix::net::UnixDatagram,
    process::Command,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::Duration,
};

use anyhow::Result;
use netfast::api::types::Intent;
use nix::sys::signal::Signal;
use support::{Agent, NETFAST, PATIENCE, Topology, netns::wait_for};

#[test]
fn a_kill_in_the_middle_of_changes_keeps_what_was_acknowledged() -> Result<()> {
    let topology = Topology::new("agentmid")?;
    let mut agent = topology.agent()?;
    let socket = topology.bed.dir().join("run/netfast.sock");
    let acknowledged = AtomicU32::new(0);
    for round in 0..3 {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| -> Result<()> {
            scope.spawn(|| {
                // One change after the other, until one is not acknowledged.
                while !done.load(Ordering::Relaxed) {
                    let number = acknowledged.load(Ordering::Relaxed);
                    let added = Command::new(NETFAST)
                        .arg("--socket")
                        .arg(&socket)
                        .args(["forward", "add", &format!("f{number}"), "udp"])
                        .arg(format!("192.0.2.10:{}", 10_000 + number))
                        .args(["--to", "10.0.1.11:6000", "--if-not-exists"])
                        .output();
                    if added.is_ok_and(|output| output.status.success()) {
                        acknowledged.store(number + 1, Ordering::Relaxed);
                    } else {
                        break;
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(700 + 130 * round));
            let killed = agent.kill();
            done.store(true, Ordering::Relaxed);
            killed
        })?;
        agent.restart()?;
        let count = acknowledged.load(Ordering::Relaxed) as usize;
        let status = agent.wait_status("readiness", |status| status.ready)?;
        // The one that was under way may be there or not, whole.
        assert!(status.forwards == count || status.forwards == count + 1, "{} of {count}", status.forwards);
        assert_eq!(status.revision as usize, status.forwards);
        let intent: Intent =
            serde_json::from_str(&fs::read_to_string(topology.bed.dir().join("state/intent.json"))?)
                .and_then(|document: serde_json::Value| serde_json::from_value(document["intent"].clone()))?;
        assert_eq!(status.revision, intent.revision);
        assert!(count > 0, "no change was acknowledged");
    }
    Ok(())
}

#[test]
fn a_local_listener_and_a_taken_port_are_told() -> Result<()> {
    let topology = Topology::new("agentport")?;
    let taken = topology.host.enter(|| std::net::TcpListener::bind("127.0.0.1:9460"))??;
    let web = topology.host.enter(|| std::net::TcpListener::bind("0.0.0.0:80"))??;
    let agent = topology.agent()?;
    let output = agent.cli(&["forward", "add", "web", "tcp", "192.0.2.10:80", "--to", "10.0.1.11:8080"])?;
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stderr);
    let me = format!("(pid {})", std::process::id());
    assert!(text.contains(&me) && text.contains("tcp port 80"), "{text}");

    let status = agent.status()?;
    assert!(!status.ready);
    assert!(
        status.problems.iter().any(|problem| problem.contains("cannot listen on 127.0.0.1:9460")),
        "{status:#?}"
    );
    assert!(status.problems.iter().any(|problem| problem.contains(&me)), "{status:#?}");
    drop((taken, web));
    // Both heal by themselves.
    agent.wait_status("the metrics", |status| status.ready)?;
    let scraped = topology.host.run(&["curl", "-s", "http://127.0.0.1:9460/healthz"])?;
    assert_eq!("ready\n", scraped);
    Ok(())
}

#[test]
fn a_target_that_does_not_answer_is_told() -> Result<()> {
    let topology = Topology::new("agenthop")?;
    let agent = topology.agent()?;
    agent.ok(&["forward", "add", "dead", "udp", "192.0.2.10:53", "--to", "10.0.1.99:53"])?;
    agent.ok(&["forward", "add", "lost", "udp", "192.0.2.10:54", "--to", "172.16.0.1:53"])?;
    let status = agent.status()?;
    assert!(status.ready, "the agent did what it could: {status:#?}");
    let told = |text: &str| status.problems.iter().any(|problem| problem.contains(text));
    assert!(told("dead/10.0.1.99:53: its next hop does not answer"), "{status:#?}");
    assert!(told("lost/172.16.0.1:53 has no route"), "{status:#?}");
    // A route comes, and is followed.
    topology.host.route("172.16.0.0/16 via 10.0.1.11")?;
    agent
        .wait_status("the route", |status| !status.problems.iter().any(|problem| problem.contains("lost")))?;
    Ok(())
}

#[test]
fn systemd_is_told() -> Result<()> {
    let topology = Topology::new("agentsd")?;
    let path = topology.bed.dir().join("notify");
    let notify = UnixDatagram::bind(&path)?;
    notify.set_read_timeout(Some(Duration::from_millis(100)))?;
    let config = Agent::configure(&topology.bed, "")?;
    let mut process = topology.host.spawn(
        "agent",
        topology
            .host
            .command("sh")
            .args(["-c", "WATCHDOG_PID=$$ exec \"$0\" agent --detach --config \"$1\"", NETFAST])
            .arg(&config)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000"),
    )?;
    let mut told = String::new();
    let mut expect = |what: &str| {
        wait_for(what, PATIENCE, || {
            let mut buffer = [0; 512];
            if let Ok(length) = notify.recv(&mut buffer) {
                told.push_str(&String::from_utf8_lossy(&buffer[..length]));
                told.push('\n');
            }
            let at = told.find(what);
            if let Some(at) = at {
                told.drain(..at + what.len());
            }
            Ok(at)
        })
    };
    expect("READY=1")?;
    expect("WATCHDOG=1")?;
    process.signal(Signal::SIGHUP)?;
    expect("RELOADING=1")?;
    expect("READY=1")?;
    process.signal(Signal::SIGTERM)?;
    expect("STOPPING=1")?;
    assert_eq!(Some(0), process.wait(PATIENCE)?.code());
    assert!(!topology.bed.dir().join("bpf/netfast").exists(), "started with --detach");
    Ok(())
}
