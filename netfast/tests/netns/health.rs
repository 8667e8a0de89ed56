//! Health checks: each kind against peers that nobody here wrote, targets that die under load, and an agent that starts again.

use std::{fs, thread, time::Instant};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    health_tls,
    peers::{self, KNOWN, need},
    support::{
        PATIENCE,
        netns::{Namespace, Process, wait_for},
    },
    world::{SERVICE, TARGETS, TARGETS6, World},
};

/// Checks often, so that the test is short; `fall` failures take a target out.
const OFTEN: &str = "interval=200ms,timeout=150ms,rise=2,fall=2";

/// State and last error of a target.
fn health(world: &World, forward: &str, target: &str) -> Result<(String, String)> {
    let list: Value = serde_json::from_str(&world.netfast(&format!("target list {forward} -o json"))?)?;
    let rows = list["targets"].as_array().context("no targets")?;
    let row =
        rows.iter().find(|row| row["address"] == target).with_context(|| format!("no {target} in {list}"))?;
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok((text("state"), text("last_error")))
}

/// Waits until a target is in a state.
pub fn wait_state(world: &World, forward: &str, target: &str, state: &str) -> Result<String> {
    let mut last = None;
    let found = wait_for(&format!("{forward}/{target} {state}"), PATIENCE, || {
        let (now, error) = health(world, forward, target)?;
        let done = now == state;
        last = Some((now, error.clone()));
        Ok(done.then_some(error))
    });
    found.with_context(|| format!("the last was {last:?}; the agent's log:\n{}", world.agent.log()))
}

/// Entries of the forward's look-up table that lead to a target: it is out of the table when the program has the new one.
fn entries(world: &World, forward: &str, target: &str) -> Result<u32> {
    let stats = world.agent.stats()?;
    let row = stats.targets.iter().find(|row| row.forward == forward && row.target == target);
    row.map(|row| row.entries).with_context(|| format!("no {target} in {stats:?}"))
}

/// Packets that went to a target.
fn packets(world: &World, target: &str) -> Result<u64> {
    let stats = world.agent.stats()?;
    let row = stats.targets.iter().find(|row| row.target == target);
    row.map(|row| row.to_target.packets).with_context(|| format!("no {target} in {stats:?}"))
}

fn wait_entries(world: &World, forward: &str, target: &str, some: bool) -> Result<()> {
    wait_for("another look-up table", PATIENCE, || {
        Ok(((entries(world, forward, target)? > 0) == some).then_some(()))
    })
}

#[test]
fn each_kind_of_check_against_real_peers() -> Result<()> {
    need!("nginx", "curl", "openssl", "dnsmasq", "dig", "nft");
    let mut world = World::new("checks")?.web()?;
    // Echo requests need no privilege but this.
    world.host.sysctl("net.ipv4.ping_group_range", "0 2147483647")?;
    let (tls, dns) =
        (health_tls::self_signed(&world.targets[0], world.bed.dir())?, peers::dnsmasq(&world.targets[0])?);
    world.servers.extend([tls, dns]);
    // Not a word on these: no refusal either.
    world.targets[0].run(&["nft", "add table inet guard"])?;
    world.targets[0].run(&["nft", "add chain inet guard in { type filter hook input priority 0; }"])?;
    world.targets[0].run(&["nft", "add rule inet guard in tcp dport 9009 drop"])?;
    world.targets[1].run(&["nft", "add table inet guard"])?;
    world.targets[1].run(&["nft", "add chain inet guard in { type filter hook input priority 0; }"])?;
    world.targets[1].run(&["nft", "add rule inet guard in icmp type echo-request drop"])?;

    let (v4, v6, other) = (TARGETS[0], format!("[{}]", TARGETS6[0]), TARGETS[1]);
    let name = KNOWN.0;
    let slow = "interval=500ms,timeout=400ms,fall=2";
    let up = [
        ("tcp", v4, 8080, "tcp".to_owned()),
        ("tcp6", &v6, 8080, "tcp".to_owned()),
        ("http", v4, 8080, "http:/,body=target1".to_owned()),
        ("http6", &v6, 8080, "http".to_owned()),
        ("port", v4, 1, "tcp,port=8080".to_owned()),
        ("codes", v4, 8080, "http:/nothing,status=404".to_owned()),
        ("sni", v4, 8443, "https:/,host=good.example,body=all is well".to_owned()),
        ("sni2", &v6, 8443, "https:/,host=good.example:8443,sni=good.example".to_owned()),
        ("dns", v4, 53, format!("dns:{name}")),
        ("dns6", &v6, 53, format!("dns:{name},record=aaaa")),
        ("ping", v4, 1, "icmp".to_owned()),
        ("ping6", &v6, 1, "icmp".to_owned()),
    ];
    let down = [
        ("closed", v4, 81, "tcp".to_owned(), "connection refused"),
        ("guarded", v4, 9009, "tcp".to_owned(), "timeout after 400ms"),
        ("missing", v4, 8080, "http:/nothing".to_owned(), "status 404, wanted 200-399"),
        ("wrong", v4, 8080, "http:/,body=target2".to_owned(), "the body has no \"target2\""),
        ("nosni", v4, 8443, "https".to_owned(), "status 421, wanted 200-399"),
        ("plain", v4, 8080, "https".to_owned(), "TLS: "),
        (
            "verify",
            v4,
            8443,
            "https,sni=good.example,verify=true".to_owned(),
            "TLS: certificate refused: unknown issuer",
        ),
        ("refused", v4, 53, "dns:elsewhere.example".to_owned(), "answer refused, wanted noerror"),
        ("nodns", v4, 54, format!("dns:{name}"), "connection refused"),
        ("silent", other, 1, "icmp".to_owned(), "timeout after 400ms"),
        ("noroute", "10.0.1.77", 80, "tcp".to_owned(), ""),
    ];
    let all = up.iter().map(|(name, target, port, check)| (name, *target, port, check));
    let all = all.chain(down.iter().map(|(name, target, port, check, _)| (name, *target, port, check)));
    for (at, (name, target, port, check)) in all.enumerate() {
        let (listen, to) = (format!("{SERVICE}:{}", 3000 + at), format!("{target}:{port}"));
        let check = format!("{check},{slow}");
        world.agent.ok(&["forward", "add", name, "tcp", &listen, "--to", &to, "--health", &check])?;
    }
    for (name, target, port, ..) in &down {
        let words = down.iter().find(|row| row.0 == *name).map_or("", |row| row.4);
        let error = wait_state(&world, name, &format!("{target}:{port}"), "down")?;
        ensure!(error.contains(words), "{name}: {error}");
    }
    for (name, target, port, _) in &up {
        wait_state(&world, name, &format!("{target}:{port}"), "up")?;
    }
    // What the operator sees of it elsewhere.
    ensure!(world.metric("netfast_target_up{forward=\"http\",target=\"10.0.1.11:8080\"}")? == 1.0);
    ensure!(world.metric("netfast_target_up{forward=\"closed\",target=\"10.0.1.11:81\"}")? == 0.0);
    ensure!(world.metric("netfast_target_health_checks_total{forward=\"closed\",result=\"failed\"}")? >= 2.0);
    ensure!(world.metric("netfast_forward_targets_healthy{forward=\"closed\"}")? == 0.0);
    let problems = world.agent.status()?.problems;
    let told = |text: &str| problems.iter().any(|problem| problem == text);
    ensure!(told("forward closed: 0 of 1 targets healthy (connection refused)"), "{problems:?}");
    let log = world.agent.log();
    ensure!(log.contains("target is down: status 421, wanted 200-399"), "{log}");
    world.sound()
}

/// Failed requests of wrk, and how many it made. Each request is a connection of its own.
fn load(client: &Namespace, seconds: u32) -> Result<(u64, u64)> {
    let (duration, url) = (format!("{seconds}s"), format!("http://{SERVICE}/"));
    let text = client.run(&[
        "wrk",
        "-t",
        "1",
        "-c",
        "8",
        "-d",
        &duration,
        "--timeout",
        "2s",
        "-H",
        "Connection: close",
        &url,
    ])?;
    let number =
        |text: Option<&str>| text.and_then(|text| text.trim().trim_end_matches(',').parse::<u64>().ok());
    let made = text.lines().find_map(|line| number(line.split_once(" requests in").map(|(count, _)| count)));
    let made = made.with_context(|| format!("no count in:\n{text}"))?;
    let errors = text.lines().find_map(|line| line.trim().strip_prefix("Socket errors:"));
    let errors =
        errors.unwrap_or_default().split_whitespace().filter_map(|word| number(Some(word))).sum::<u64>();
    let answers = text.lines().find_map(|line| number(line.trim().strip_prefix("Non-2xx or 3xx responses:")));
    Ok((errors + answers.unwrap_or(0), made))
}

#[test]
fn after_detection_no_request_fails() -> Result<()> {
    need!("nginx", "curl", "wrk");
    let mut world = World::busy("dies", "")?;
    let [a, b] = TARGETS.map(|target| format!("{target}:8080"));
    let check = format!("http:/,{OFTEN}");
    let line = format!("forward add web tcp {SERVICE}:80 --to {a} --to {b} --health {check} --on-down end");
    world.netfast(&line)?;
    for target in [&a, &b] {
        wait_state(&world, "web", target, "up")?;
    }
    let good = |world: &World, when: &str| -> Result<()> {
        let (failed, made) = load(&world.client, 2)?;
        ensure!(
            failed == 0 && made > 100,
            "{when}: {failed} of {made} requests failed\n{}",
            world.agent.log()
        );
        Ok(())
    };
    good(&world, "with both")?;

    // Paused: the kernel still accepts connections, nobody answers.
    world.servers[0].signal(Signal::SIGSTOP)?;
    pause_workers(&world, Signal::SIGSTOP)?;
    let error = wait_state(&world, "web", &a, "down")?;
    ensure!(error == "timeout after 150ms", "{error}");
    wait_entries(&world, "web", &a, false)?;
    good(&world, "with one paused")?;
    pause_workers(&world, Signal::SIGCONT)?;
    world.servers[0].signal(Signal::SIGCONT)?;
    wait_state(&world, "web", &a, "up")?;
    wait_entries(&world, "web", &a, true)?;
    good(&world, "with the paused one back")?;

    // Killed (all its processes, and not told before) while clients are at work: what fails then does so before it is found.
    let mut command = world.client.command("wrk");
    command.args([
        "-t",
        "1",
        "-c",
        "8",
        "-d",
        "60s",
        "-H",
        "Connection: close",
        &format!("http://{SERVICE}/"),
    ]);
    let clients = world.client.spawn("wrk", &mut command)?;
    wait_for("a busy target", PATIENCE, || Ok((packets(&world, &b)? > 1000).then_some(())))?;
    let dead = world.servers.remove(1);
    kill(Pid::from_raw(-dead.pid().cast_signed()), Signal::SIGKILL)?;
    drop(dead);
    let died = Instant::now();
    wait_entries(&world, "web", &b, false)?;
    eprintln!("dead for {:?} until no new flow went there", died.elapsed());
    wait_state(&world, "web", &b, "down")?;
    drop(clients);
    good(&world, "with one dead")?;
    let stats = world.agent.stats()?;
    let web = stats.forwards.iter().find(|row| row.forward == "web").context("no forward")?;
    ensure!((web.targets, web.healthy) == (2, 1), "{web:?}");
    let page = world.netfast("forward show web")?;
    ensure!(page.contains("1 of 2 healthy") && page.contains("100%") && page.contains("0%"), "{page}");

    // The last one goes, too: nothing is left to send new flows to.
    world.servers.remove(0);
    wait_for("an empty table", PATIENCE, || {
        let stats = world.agent.stats()?;
        Ok(stats.forwards.iter().any(|row| row.forward == "web" && row.entries == 0).then_some(()))
    })?;
    ensure!(world.curl(&format!("http://{SERVICE}/")).is_err());
    let problems = world.agent.status()?.problems;
    ensure!(
        problems.iter().any(|text| text.starts_with("forward web: 0 of 2 targets healthy")),
        "{problems:?}"
    );
    // And back.
    let nginx = peers::nginx(&world.targets[1], world.bed.dir(), "target2")?;
    world.servers.push(nginx);
    wait_entries(&world, "web", &b, true)?;
    good(&world, "with one back")?;
    world.sound()
}

/// Connections of a client's that stay open: each asks once and tells who answered; by SIGUSR1 all ask once more and say whether there was an
/// answer, in a file.
const HELD: &str = "import json, os, signal, socket, sys
service, count, first, second = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
def ask(connection):
    try:
        connection.sendall(b'GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')
        answer = b''
        while not answer.partition(b'\\r\\n\\r\\n')[2].endswith(b'\\n'):
            part = connection.recv(4096)
            if not part:
                return None
            answer += part
        return answer.split(b'\\r\\n\\r\\n')[1].split()[0].decode()
    except OSError:
        return None
def all_ask(file):
    answers = [ask(connection) for connection in connections]
    with open(file + '.new', 'w') as out:
        json.dump(answers, out)
    os.rename(file + '.new', file)
connections = [socket.create_connection((service, 80), timeout=20) for _ in range(count)]
all_ask(first)
signal.sigwait({signal.SIGUSR1})
all_ask(second)
";

#[test]
fn a_crash_ends_the_dead_targets_connections_and_no_other() -> Result<()> {
    need!("nginx", "curl", "python3");
    let mut world = World::new("crash")?.web()?;
    let [a, b] = TARGETS.map(|target| format!("{target}:8080"));
    let line = format!("forward add web tcp {SERVICE}:80 --to {a} --to {b} --health http:/,{OFTEN}");
    world.netfast(&line)?;
    for target in [&a, &b] {
        wait_state(&world, "web", target, "up")?;
    }
    let files = ["first", "second"].map(|name| world.bed.dir().join(name));
    let answers = |at: usize| -> Result<Vec<Option<String>>> {
        wait_for("the clients' answers", PATIENCE, || Ok(files[at].exists().then_some(())))?;
        Ok(serde_json::from_str(&fs::read_to_string(&files[at])?)?)
    };
    let mut command = world.client.command("python3");
    let clients = world.client.spawn("held", command.args(["-c", HELD, SERVICE, "32"]).args(&files))?;
    let before = answers(0)?;
    for target in ["target1", "target2"] {
        ensure!(
            before.iter().flatten().any(|answer| answer == target),
            "nobody reached {target}: {before:?}"
        );
    }
    ensure!(before.iter().all(Option::is_some), "{before:?}");

    let dead = world.servers.remove(1);
    kill(Pid::from_raw(-dead.pid().cast_signed()), Signal::SIGKILL)?;
    drop(dead);
    wait_entries(&world, "web", &b, false)?;
    clients.signal(Signal::SIGUSR1)?;
    let after = answers(1)?;
    // Who was with the living one is with it still; the others' connections have died with their target.
    let expected: Vec<_> =
        before.into_iter().map(|answer| answer.filter(|target| target == "target1")).collect();
    ensure!(after == expected, "{after:?}, not {expected:?}\n{}", world.agent.log());
    let fresh = world.requests(20, &format!("http://{SERVICE}/"))?;
    ensure!(fresh.iter().all(|answer| answer.starts_with("target1 ")), "{fresh:?}");
    world.sound()
}

/// Answers HTTP on a port of a namespace's loopback, each time after 0.8 s.
fn sleeper(namespace: &Namespace, port: u16) -> Result<Process> {
    let program = format!(
        "import asyncio\nasync def answer(reader, writer):\n await reader.readuntil(b'\\r\\n\\r\\n')\n \
         await asyncio.sleep(0.8)\n \
         writer.write(b'HTTP/1.0 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nslow\\n')\n \
         await writer.drain()\n writer.close()\nasync def main():\n \
         server = await asyncio.start_server(answer, '127.0.0.1', {port})\n print('ready', flush=True)\n \
         await server.serve_forever()\nasyncio.run(main())"
    );
    let mut server = namespace.spawn("sleeper", namespace.command("python3").args(["-c", &program]))?;
    server.wait_ready(PATIENCE, || {
        let url = format!("http://127.0.0.1:{port}/");
        Ok(namespace.run(&["curl", "-s", "-f", &url]).ok().map(drop))
    })?;
    Ok(server)
}

#[test]
fn a_target_that_is_slow_costs_no_request() -> Result<()> {
    need!("nginx", "curl", "wrk", "python3");
    let mut world = World::busy("slow", "")?;
    let sleeper = sleeper(&world.targets[0], 7000)?;
    world.servers.push(sleeper);
    let [a, b] = TARGETS.map(|target| format!("{target}:8080"));
    let check = "http:/,interval=400ms,timeout=400ms,rise=2,fall=2";
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {a} --to {b} --health {check}"))?;
    for target in [&a, &b] {
        wait_state(&world, "web", target, "up")?;
    }
    // nginx goes on with another configuration, without closing its socket.
    let file = world.bed.dir().join("target1/nginx.conf");
    let quick = fs::read_to_string(&file)?;
    let answer = "return 200 \"target1 $remote_addr $server_port\\n\";";
    ensure!(quick.contains(answer), "{quick}");
    let configure = |text: &str| -> Result<()> {
        fs::write(&file, text)?;
        world.servers[0].signal(Signal::SIGHUP)
    };
    // A slow answer is late, and not lost: by default what is open stays with its target.
    let (failed, made) = thread::scope(|scope| {
        let load = scope.spawn(|| load(&world.client, 8));
        let work = || {
            wait_for("a busy target", PATIENCE, || Ok((packets(&world, &a)? > 1000).then_some(())))?;
            configure(&quick.replace(answer, "proxy_pass http://127.0.0.1:7000;"))?;
            let error = wait_state(&world, "web", &a, "down")?;
            ensure!(error == "timeout after 400ms", "{error}");
            wait_entries(&world, "web", &a, false)
        };
        let worked = work();
        let counts = load.join().map_err(|_| anyhow::anyhow!("the load has panicked"))??;
        worked.map(|()| counts)
    })?;
    ensure!(failed == 0 && made > 100, "{failed} of {made} requests failed\n{}", world.agent.log());
    let answers = world.requests(20, &format!("http://{SERVICE}/"))?;
    ensure!(answers.iter().all(|answer| answer.starts_with("target2 ")), "{answers:?}");

    configure(&quick)?;
    wait_state(&world, "web", &a, "up")?;
    wait_entries(&world, "web", &a, true)?;
    let (failed, made) = load(&world.client, 2)?;
    ensure!(failed == 0 && made > 100, "{failed} of {made} requests failed\n{}", world.agent.log());
    world.sound()
}

/// Signals the children of the first server: nginx answers by them.
fn pause_workers(world: &World, signal: Signal) -> Result<()> {
    let master = world.servers[0].pid();
    let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
    for child in children.split_whitespace() {
        kill(Pid::from_raw(child.parse()?), signal)?;
    }
    Ok(())
}

#[test]
fn an_agent_that_starts_again_knows_who_was_down() -> Result<()> {
    need!("nginx", "curl");
    let mut world = World::new("reborn")?.web()?;
    let [a, b] = TARGETS.map(|target| format!("{target}:8080"));
    let forward = format!("web tcp {SERVICE}:80 --to {a} --to {b} --health");
    world.netfast(&format!("forward add {forward} tcp,{OFTEN}"))?;
    world.servers.remove(0);
    wait_state(&world, "web", &a, "down")?;
    wait_entries(&world, "web", &a, false)?;
    // With other checks, of which no second one comes in the time of this test, it is down still.
    world.netfast(&format!("forward set {forward} tcp,interval=1h"))?;
    ensure!(health(&world, "web", &a)?.0 == "down");
    ensure!(entries(&world, "web", &a)? == 0);

    // It is up again, but nobody has found that out when the agent dies.
    let nginx = peers::nginx(&world.targets[0], world.bed.dir(), "target1")?;
    world.servers.push(nginx);
    world.agent.kill()?;
    world.agent.restart()?;
    let (state, error) = health(&world, "web", &a)?;
    ensure!(state == "down" && error == "down when the agent started", "{state}: {error}");
    ensure!(entries(&world, "web", &a)? == 0 && entries(&world, "web", &b)? > 0);
    let answers = world.requests(20, &format!("http://{SERVICE}/"))?;
    ensure!(answers.iter().all(|answer| answer.starts_with("target2 ")), "{answers:?}");
    // Checks bring it back as they would any other.
    world.netfast(&format!("forward set {forward} tcp,{OFTEN}"))?;
    world.agent.signal(Signal::SIGTERM)?;
    world.agent.wait()?;
    world.agent.restart()?;
    wait_state(&world, "web", &a, "up")?;
    wait_entries(&world, "web", &a, true)?;
    world.sound()
}

#[test]
fn a_target_that_flaps_is_held_down() -> Result<()> {
    need!("nginx", "curl");
    let mut world = World::new("flaps")?.web()?;
    let a = format!("{}:8080", TARGETS[0]);
    world.netfast(&format!("forward add web tcp {SERVICE}:80 --to {a} --health tcp,{OFTEN}"))?;
    wait_state(&world, "web", &a, "up")?;
    for _ in 0..3 {
        world.servers.remove(0);
        wait_entries(&world, "web", &a, false)?;
        let nginx = peers::nginx(&world.targets[0], world.bed.dir(), "target1")?;
        world.servers.insert(0, nginx);
        wait_state(&world, "web", &a, "up")?;
    }
    let log = world.agent.log();
    ensure!(log.contains("it goes up and down, so it is held down for 800ms"), "{log}");
    world.sound()
}
