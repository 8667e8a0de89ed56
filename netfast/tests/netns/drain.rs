//! Targets that leave: by drain, by removal, by death; with nginx, curl and wrk at the ends.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    peers::{self, need},
    support::{
        PATIENCE,
        netns::{Namespace, Process, wait_for},
    },
    world::{SERVICE, TARGETS, World},
};

fn ports() -> [String; 2] {
    TARGETS.map(|target| format!("{target}:8080"))
}

/// Open flows of a target.
fn open(world: &World, target: &str) -> Result<u64> {
    let stats = world.agent.stats()?;
    let row = stats.targets.iter().find(|row| row.target == target);
    Ok(row.map_or(0, |row| row.open))
}

fn packets(world: &World, target: &str) -> Result<u64> {
    let stats = world.agent.stats()?;
    let row = stats.targets.iter().find(|row| row.target == target);
    row.map(|row| row.to_target.packets).with_context(|| format!("no {target} in {stats:?}"))
}

/// A new connection for each request until `work` is done; how many requests failed, of how many.
fn under_load(client: &Namespace, seconds: u32, work: impl FnOnce() -> Result<()>) -> Result<(u64, u64)> {
    let (duration, url) = (format!("{seconds}s"), format!("http://{SERVICE}/"));
    let line =
        ["wrk", "-t", "1", "-c", "4", "-d", &duration, "--timeout", "5s", "-H", "Connection: close", &url];
    thread::scope(|scope| {
        let load = scope.spawn(|| client.run(&line));
        let worked = work();
        let text = load.join().map_err(|_| anyhow::anyhow!("the load has panicked"))??;
        worked?;
        let number = |text: &str| text.trim().trim_end_matches(',').parse::<u64>().ok();
        let made = text.lines().find_map(|line| number(line.split_once(" requests in")?.0));
        let sockets = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors:"));
        let failed: u64 = sockets.unwrap_or_default().split_whitespace().filter_map(number).sum();
        let answers =
            text.lines().find_map(|line| number(line.trim().strip_prefix("Non-2xx or 3xx responses:")?));
        Ok((failed + answers.unwrap_or(0), made.with_context(|| format!("no count in:\n{text}"))?))
    })
}

/// A slow download that lasts until somebody ends it.
fn transfer(world: &World, label: &str) -> Result<Process> {
    let mut command = world.client.command("curl");
    command.args(["-sSf", "--limit-rate", "200k", "-o", "/dev/null", &format!("http://{SERVICE}/bulk")]);
    world.client.spawn(label, &mut command)
}

/// An upload that sends a little now and then, until somebody ends it.
fn upload(world: &World, port: u16, label: &str) -> Result<Process> {
    let line =
        format!("while echo data; do sleep 0.1; done | curl -sS -T - http://{SERVICE}:{port}/put/{label}");
    world.client.spawn(label, world.client.command("sh").args(["-c", &line]))
}

/// Whether curl says that its connection was reset.
fn is_reset(curl: &Process) -> bool {
    let log = curl.log();
    log.contains("reset by peer") || log.contains("Recv failure")
}

#[test]
fn no_request_fails_while_a_target_drains_or_is_removed() -> Result<()> {
    need!("nginx", "curl", "wrk");
    let mut world = World::busy("drains", "")?;
    let [a, b] = ports();
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {a} --to {b}"))?;
    let busy = |world: &World, target: &str, more: u64| {
        let before = packets(world, target).unwrap_or_default();
        wait_for("a busy target", PATIENCE, || Ok((packets(world, target)? > before + more).then_some(())))
    };
    let client = &world.client;
    let (failed, made) = under_load(client, 15, || {
        busy(&world, &b, 200)?;
        let text = world.netfast(&format!("target drain web {b} --wait --timeout 60s"))?;
        ensure!(text.contains(&format!("target web/{b} changed")), "{text}");
        ensure!(open(&world, &b)? == 0, "nothing is open");
        let list = world.netfast("target list web")?;
        ensure!(list.lines().any(|line| line.contains(&b) && line.contains("draining")), "{list}");
        ensure!(world.metric(&format!("netfast_target_draining{{forward=\"web\",target=\"{b}\"}}"))? == 1.0);
        Ok(())
    })?;
    ensure!(failed == 0 && made > 100, "{failed} of {made} requests failed\n{}", world.agent.log());
    ensure!(world.agent.log().contains("target drains"), "{}", world.agent.log());

    // It has nothing to do any more: nobody sees it go, and drained it is for the next agent, too.
    world.servers.remove(1);
    world.agent.kill()?;
    world.agent.restart()?;
    let answers = world.requests(20, &format!("http://{SERVICE}/"))?;
    ensure!(answers.iter().all(|answer| answer.starts_with("target1 ")), "{answers:?}");
    let nginx = peers::nginx(&world.targets[1], world.bed.dir(), "target2")?;
    world.servers.push(nginx);

    let client = &world.client;
    let (failed, made) = under_load(client, 10, || {
        world.netfast(&format!("target drain web {b} --undo"))?;
        busy(&world, &b, 200)?;
        world.netfast(&format!("target delete web {b}")).map(drop)
    })?;
    ensure!(failed == 0 && made > 100, "{failed} of {made} requests failed\n{}", world.agent.log());
    world.sound()
}

#[test]
fn a_long_transfer_keeps_the_target_waiting() -> Result<()> {
    need!("nginx", "curl");
    let world = World::busy("waits", "")?;
    world.bulk()?;
    let [a, b] = ports();
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {b}"))?;
    let mut slow = transfer(&world, "slow")?;
    wait_for("the transfer", PATIENCE, || {
        Ok((!world.flows("--state established")?.is_empty()).then_some(()))
    })?;
    world.netfast(&format!("target add web {a}"))?;
    let drain = ["target", "drain", "web", &b, "--wait", "--timeout", "12s"];
    let waited = world.agent.cli(&drain)?;
    ensure!(waited.status.code() == Some(1), "{waited:?}");
    let told = String::from_utf8_lossy(&waited.stderr).into_owned();
    ensure!(told.contains("1 flow left after 12s"), "{told}");
    ensure!(slow.exited()?.is_none(), "{}", slow.log());
    let answers = world.requests(10, &format!("http://{SERVICE}/"))?;
    ensure!(answers.iter().all(|answer| answer.starts_with("target1 ")), "{answers:?}");
    drop(slow);
    world.netfast(&format!("target drain web {b} --wait --timeout 60s"))?;
    world.sound()
}

#[test]
fn flows_of_a_removed_target_end_in_the_stated_time() -> Result<()> {
    need!("nginx", "curl");
    let world = World::busy("ends", "[flows]\ndrain_timeout = \"3s\"\n")?;
    let [a, b] = ports();
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {b}"))?;
    // One that sends: a client that only reads would first read what its kernel has taken in.
    let mut slow = upload(&world, 80, "slow")?;
    wait_for("the transfer", PATIENCE, || {
        Ok((!world.flows("--state established")?.is_empty()).then_some(()))
    })?;
    world.netfast(&format!("forward set web tcp {SERVICE}:80 --to {a}"))?;
    let ended = slow.wait(PATIENCE)?;
    ensure!(is_reset(&slow), "{ended:?} {}", slow.log());
    ensure!(world.reason("target_ended")? > 0);
    let log = world.agent.log();
    ensure!(log.contains("the flows of a removed target end"), "{log}");
    world.sound()
}

#[test]
fn clients_of_a_dead_target_are_told_by_choice() -> Result<()> {
    need!("nginx", "curl");
    let world = World::busy("told", "")?;
    world.bulk()?;
    let [a, b] = ports();
    let check = "--health http:/,interval=200ms,timeout=150ms,rise=2,fall=2";
    let end = format!("forward add web tcp {SERVICE}:80 --to {b} {check} --on-down end");
    world.netfast(&end)?;
    world.netfast(&format!("forward add keep tcp {SERVICE}:81 --to {b} {check}"))?;
    let (mut ends, mut keeps) = (upload(&world, 80, "ends")?, upload(&world, 81, "keeps")?);
    wait_for(
        "both uploads",
        PATIENCE,
        || Ok((world.flows("--state established")?.len() >= 2).then_some(())),
    )?;
    world.netfast(&format!("target add web {a}"))?;
    // It does not close its connections: it says nothing more.
    let master = world.servers[1].pid();
    let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
    for child in children.split_whitespace() {
        kill(Pid::from_raw(child.parse()?), Signal::SIGSTOP)?;
    }
    let ended = ends.wait(PATIENCE);
    for child in children.split_whitespace() {
        kill(Pid::from_raw(child.parse()?), Signal::SIGCONT)?;
    }
    ended?;
    ensure!(is_reset(&ends), "{}", ends.log());
    ensure!(world.reason("target_ended")? > 0);
    thread::sleep(Duration::from_millis(500));
    ensure!(keeps.exited()?.is_none(), "the other one goes on: {}", keeps.log());
    world.sound()
}
