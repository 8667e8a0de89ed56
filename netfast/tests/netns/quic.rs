//! QUIC clients that move to another port in the middle of a transfer, with aioquic at both ends.

use std::{collections::BTreeMap, fs, io::Read as _, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{
    peers::{self, need},
    support::{
        PATIENCE,
        netns::{Process, wait_for},
    },
    world::{CLIENT, SERVICE, TARGETS, World},
};

/// Server and client.
const SCRIPT: &str = include_str!("quic.py");
/// What the client downloads: more than a move needs, for each move.
const SIZE: u64 = 8 << 20;
/// The client's ports, one after the other: fixed, so that the look-up table chooses the same targets in each run.
const PORTS: [u16; 13] =
    [40001, 40102, 40203, 40304, 40405, 40506, 40607, 40708, 40809, 40910, 41011, 41112, 41213];
/// The targets: which of the topology's they are on, port, server ID.
const SERVERS: [(usize, u16, &str); 3] = [(0, 4433, "0a01"), (1, 4433, "0b02"), (1, 4434, "0c03")];

/// Starts a server on each target; the hash of the file that they send.
fn servers(world: &mut World, python: &Path) -> Result<String> {
    let dir = world.bed.dir().to_owned();
    let (file, certificate, key) = (dir.join("bulk"), dir.join("quic.crt"), dir.join("quic.key"));
    std::io::copy(&mut fs::File::open("/dev/urandom")?.take(SIZE), &mut fs::File::create(&file)?)?;
    let words =
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=quic.example";
    let mut make = world.client.command("openssl");
    make.args(words.split(' ').skip(1)).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    crate::support::netns::output(&mut make, words)?;
    for (target, port, id) in SERVERS {
        let namespace = &world.targets[target];
        let mut command = namespace.command(python);
        command.args(["-c", SCRIPT, "server", TARGETS[target], &port.to_string(), id]);
        let mut server =
            namespace.spawn(&format!("quic-{id}"), command.arg(&certificate).arg(&key).arg(&file))?;
        wait_for("the QUIC server", PATIENCE, || {
            ensure!(server.exited()?.is_none(), "it ended: {}", server.log());
            Ok(server.log().contains("ready").then_some(()))
        })?;
        world.servers.push(server);
    }
    peers::hash(&file)
}

/// Runs the client to its end.
fn client(world: &World, python: &Path, kind: &str, port: u16) -> Result<Process> {
    let mut command = world.client.command(python);
    command.args(["-c", SCRIPT, kind, SERVICE, &port.to_string()]);
    let mut client = world.client.spawn(kind, command.args(PORTS.map(|port| port.to_string())))?;
    let ended = client.wait(PATIENCE).with_context(|| format!("{kind}: {}", client.log()))?;
    ensure!(ended.success(), "{kind}: {ended}: {}\n{:#?}", client.log(), world.flows(""));
    Ok(client)
}

/// The targets that the client's ports have come to.
fn targets(world: &World, forward: &str) -> Result<BTreeMap<String, String>> {
    let flows = world.flows("")?.into_iter().filter(|flow| flow.forward == forward);
    Ok(flows.map(|flow| (flow.client, flow.target)).collect())
}

#[test]
fn a_client_that_moves_stays_with_its_target() -> Result<()> {
    need!("openssl", "sha256sum");
    let Some(python) = peers::quic_python() else { return Ok(()) };
    let mut world = World::new("quic")?;
    let hash = servers(&mut world, &python)?;
    let to = |named: bool| -> String {
        let name = |id: &str| if named { format!(",id={id}") } else { String::new() };
        SERVERS.map(|(target, port, id)| format!(" --to {}:{port}{}", TARGETS[target], name(id))).concat()
    };
    world.netfast(&format!("forward add named udp {SERVICE}:443{} --quic 2", to(true)))?;
    world.netfast(&format!("forward add plain udp {SERVICE}:444{}", to(false)))?;

    let moved = client(&world, &python, "move", 443)?;
    ensure!(moved.log().contains(&format!("sha256 {hash}")), "wanted {hash}: {}", moved.log());
    let seen = targets(&world, "named")?;
    let first = seen.get(&format!("{CLIENT}:{}", PORTS[0])).context("the first flow is gone")?;
    for port in PORTS {
        ensure!(seen.get(&format!("{CLIENT}:{port}")) == Some(first), "{port}: {seen:#?}");
    }

    // What it is worth: without the option some of these moves lead to a target that does not know the client.
    client(&world, &python, "wander", 444)?;
    let seen = targets(&world, "plain")?;
    let first = seen.get(&format!("{CLIENT}:{}", PORTS[0])).context("the first flow is gone")?;
    ensure!(seen.values().any(|target| target != first), "{seen:#?}");
    world.sound()
}
