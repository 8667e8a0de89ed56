//! The agent is killed, stopped and started under load: traffic does not notice.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use netfast::api::types::FlowRecord;
use nix::sys::signal::Signal;

use crate::{
    peers::{self, need},
    stream::during,
    support::{
        PATIENCE,
        netns::{Process, wait_for},
    },
    world::{BULK, CLIENT, SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// Echoes a second.
const RATE: u32 = 2000;

fn ready(world: &World) -> Result<()> {
    world.agent.wait_status("the agent after its restart", |status| status.ready).map(drop)
}

#[test]
fn no_echo_is_lost_over_a_kill_and_a_restart() -> Result<()> {
    need!();
    let mut world = World::alone("killecho")?;
    world.netfast(&format!("echo add {SERVICE}:7 --allow {CLIENT}/32 --rate 100000"))?;
    world.netfast(&format!("echo add [{SERVICE6}]:7 --allow 2001:db8:ff::/64 --rate 100000"))?;
    let client = world.client.clone();
    for service in [format!("{SERVICE}:7"), format!("[{SERVICE6}]:7")] {
        let ((), echoes) = during(&client, &service, RATE, || {
            for _ in 0..2 {
                world.agent.kill()?;
                std::thread::sleep(Duration::from_millis(300));
                world.agent.restart()?;
                ready(&world)?;
            }
            Ok(())
        })?;
        assert_eq!(0, echoes.lost(), "{service}: {echoes:?}");
        assert!(echoes.sent > u64::from(RATE), "{service}: {echoes:?}");
        println!("{service}: {echoes:?} over two kills and restarts");
    }
    world.sound()
}

#[test]
fn no_forwarded_datagram_is_lost_over_a_stop_and_a_start() -> Result<()> {
    need!("python3");
    let mut world = World::alone("stopudp")?;
    world.udp_echo(0, "::", 5000)?;
    world.netfast(&format!("forward add udp udp {SERVICE}:5000 --to {}:5000", TARGETS[0]))?;
    let client = world.client.clone();
    let ((), echoes) = during(&client, &format!("{SERVICE}:5000"), RATE, || {
        world.agent.signal(Signal::SIGTERM)?;
        ensure!(world.agent.wait()? == Some(0));
        world.agent.restart()?;
        ready(&world)?;
        world.agent.kill()?;
        world.agent.restart()?;
        ready(&world)
    })?;
    assert_eq!(0, echoes.lost(), "{echoes:?}");
    let flows = world.flows("--forward udp")?;
    assert_eq!(1, flows.len(), "one flow all the time: {flows:?}");
    world.sound()
}

/// Downloads `/bulk` again and again, by one connection, at a rate that leaves the machine some air.
struct Download {
    process: Process,
    files: PathBuf,
}

impl Download {
    fn start(world: &World, service: &str, label: &str) -> Result<Self> {
        let files = world.bed.dir().join(label);
        std::fs::create_dir(&files)?;
        let mut command = world.client.command("curl");
        command.args(["-sSf", "--limit-rate", "16M", "-o"]).arg(files.join("#1"));
        command.arg(format!("http://{service}/bulk?[1-100]"));
        Ok(Self { process: world.client.spawn(label, &mut command)?, files })
    }

    fn file(&self, number: u64) -> PathBuf {
        self.files.join(number.to_string())
    }

    /// Bytes so far.
    fn progress(&self) -> u64 {
        (1..).map_while(|number| self.file(number).metadata().ok()).map(|data| data.len()).sum()
    }

    /// Waits for so many bytes more.
    fn go_on(&mut self, bytes: u64) -> Result<()> {
        let wanted = self.progress() + bytes;
        wait_for("progress of a transfer", PATIENCE, || {
            ensure!(self.process.exited()?.is_none(), "curl ended: {}", self.process.log());
            Ok((self.progress() >= wanted).then_some(()))
        })
    }
}

/// What is a flow's identity: it must not change.
fn identity(flow: &FlowRecord) -> [String; 5] {
    [&flow.client, &flow.service, &flow.source, &flow.target, &flow.forward].map(String::clone)
}

#[test]
fn a_transfer_survives_kills_and_stops() -> Result<()> {
    need!("nginx", "curl");
    let mut world = World::new("killtcp")?.web()?;
    let hash = world.bulk()?;
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {}:8080", TARGETS[0]))?;
    world.netfast(&format!("forward add web6 tcp [{SERVICE6}]:80 --to [{}]:8080", TARGETS6[1]))?;
    let mut downloads = [
        Download::start(&world, SERVICE, "down4")?,
        Download::start(&world, &format!("[{SERVICE6}]"), "down6")?,
    ];
    let mut go_on = |bytes: u64| downloads.iter_mut().try_for_each(|download| download.go_on(bytes));
    go_on(1 << 20)?;
    let flows = |world: &World| -> Result<Vec<_>> {
        let mut flows: Vec<_> = world.flows("--state established")?.iter().map(identity).collect();
        flows.sort_unstable();
        Ok(flows)
    };
    let before = flows(&world)?;
    assert_eq!(2, before.len(), "{before:?}");

    world.agent.kill()?;
    // Nobody is there, and it goes on.
    go_on(4 << 20)?;
    world.agent.restart()?;
    ready(&world)?;
    assert_eq!(before, flows(&world)?, "after the kill");
    world.agent.signal(Signal::SIGTERM)?;
    ensure!(world.agent.wait()? == Some(0));
    go_on(4 << 20)?;
    world.agent.restart()?;
    ready(&world)?;
    go_on(4 << 20)?;
    assert_eq!(before, flows(&world)?, "after the stop");

    go_on(BULK.saturating_sub(12 << 20))?;
    for download in &downloads {
        assert_eq!(hash, peers::hash(&download.file(1))?);
    }
    drop(downloads);
    world.sound()
}

#[test]
fn killed_in_a_burst_of_changes_the_rules_are_old_or_new() -> Result<()> {
    need!("nginx", "curl");
    let mut world = World::new("killburst")?.web()?;
    // Each revision has both forwards on the same target: one on each would be a mixture.
    let rules = |target: &str| {
        ["a", "b"]
            .map(|name| {
                let port = if name == "a" { 81 } else { 82 };
                format!(
                    "[[forward]]\nname = \"{name}\"\nprotocol = \"tcp\"\nlisten = \"{SERVICE}:{port}\"\n\
                     [[forward.target]]\naddress = \"{target}:8080\"\n"
                )
            })
            .concat()
    };
    let files = ["one.toml", "two.toml"].map(|name| world.bed.dir().join(name));
    for (file, target) in files.iter().zip(TARGETS) {
        std::fs::write(file, rules(target))?;
    }
    world.netfast(&format!("apply -f {}", files[0].display()))?;
    let targets = |world: &World| -> Result<[String; 2]> {
        let name = |port: u16| -> Result<String> {
            let answer = world.curl(&format!("http://{SERVICE}:{port}/"))?;
            Ok(answer.split(' ').next().unwrap_or_default().to_owned())
        };
        Ok([name(81)?, name(82)?])
    };
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..3 {
        let line = format!(
            "while true; do {0} -f {1}; {0} -f {2}; done",
            format_args!(
                "{} --quiet --socket {} apply",
                crate::support::NETFAST,
                world.bed.dir().join("run/netfast.sock").display()
            ),
            files[1].display(),
            files[0].display()
        );
        let burst =
            world.host.spawn(&format!("burst{round}"), world.host.command("sh").args(["-c", &line]))?;
        let revision = world.agent.status()?.revision;
        world.agent.wait_status("changes", |status| status.revision > revision + 2)?;
        std::thread::sleep(Duration::from_millis(37 * round));
        world.agent.kill()?;
        drop(burst);
        // What the kernel does without an agent.
        let [a, b] = targets(&world)?;
        assert_eq!(a, b, "without the agent");
        world.agent.restart()?;
        ready(&world)?;
        let [a, b] = targets(&world)?;
        assert_eq!(a, b, "after the restart");
        seen.insert(a.clone());
        // The store says the same as the kernel does.
        let stored = world.netfast("target list -o json")?;
        let wanted = TARGETS[if a == "target1" { 0 } else { 1 }];
        assert_eq!(2, stored.matches(wanted).count(), "{a}: {stored}");
        let status = world.agent.status()?;
        assert_eq!(status.revision, status.applied_revision);
    }
    println!("answered: {seen:?}");
    world.sound().context("after the bursts")
}
