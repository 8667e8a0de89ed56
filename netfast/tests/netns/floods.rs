//! Floods by hping3 beside a thousand connections that are in the flow table: none of them loses a byte.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    peers::need,
    support::netns::Namespace,
    world::{SERVICE, SERVICE6, TARGETS, TARGETS6, World},
};

/// Connections, half of them over each IP version.
const CONNECTIONS: usize = 1000;
const PORT: u16 = 6000;

/// A server on a target that sends back what it reads; it ends when all its connections have.
fn tcp_echo(target: &Namespace) -> Result<()> {
    let listener = target.enter(|| TcpListener::bind(("::", PORT)))??;
    listener.set_nonblocking(true)?;
    thread::spawn(move || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            loop {
                let (mut stream, _) = listener.accept().await?;
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        })
    });
    Ok(())
}

/// The connections, and what was sent by each of them so far.
struct Connections {
    streams: Vec<TcpStream>,
    rounds: u64,
}

impl Connections {
    fn open(client: &Namespace) -> Result<Self> {
        let streams = client.enter(|| {
            (0..CONNECTIONS)
                .map(|number| {
                    let service = [SERVICE, SERVICE6][number % 2];
                    let stream = TcpStream::connect((service, PORT))?;
                    stream.set_nodelay(true)?;
                    // A segment that is lost on a full ring is sent again; this is about what never comes.
                    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
                    Ok(stream)
                })
                .collect::<std::io::Result<Vec<_>>>()
        })??;
        Ok(Self { streams, rounds: 0 })
    }

    /// Each sends its number and the round's, and has it back.
    fn round(&mut self) -> Result<()> {
        let (rounds, count) = (self.rounds, self.streams.len());
        let message = |number: usize| [rounds.to_be_bytes(), (number as u64).to_be_bytes()].concat();
        for some in 0..count.div_ceil(64) {
            let range = some * 64..(some * 64 + 64).min(count);
            for number in range.clone() {
                self.streams[number]
                    .write_all(&message(number))
                    .with_context(|| format!("connection {number}"))?;
            }
            for number in range {
                let mut answer = [0; 16];
                self.streams[number]
                    .read_exact(&mut answer)
                    .with_context(|| format!("connection {number}"))?;
                ensure!(
                    answer[..] == message(number),
                    "connection {number} got {answer:?} in round {rounds}"
                );
            }
        }
        self.rounds += 1;
        Ok(())
    }
}

#[test]
fn a_thousand_connections_outlive_floods() -> Result<()> {
    need!("hping3", "python3");
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, soft.max(4096).min(hard.max(4096)), hard.max(4096))?;
    let mut world = World::alone("floods")?;
    world.udp_echo(0, "::", 5000)?;
    tcp_echo(&world.targets[0])?;
    for (version, service, target) in [
        (4, SERVICE.to_owned(), TARGETS[0].to_owned()),
        (6, format!("[{SERVICE6}]"), format!("[{}]", TARGETS6[0])),
    ] {
        world.netfast(&format!("forward add tcp{version} tcp {service}:{PORT} --to {target}:{PORT}"))?;
        world.netfast(&format!("forward add udp{version} udp {service}:5000 --to {target}:5000"))?;
    }
    let mut connections = Connections::open(&world.client)?;
    connections.round()?;
    let established = world.flows("--proto tcp")?.len();
    assert_eq!(CONNECTIONS, established);

    let tcp = PORT.to_string();
    for (name, line) in [
        ("SYN", format!("-c 20000 -i u50 -S -p {tcp} --rand-source {SERVICE}")),
        ("UDP", format!("-c 20000 -i u50 -2 -p 5000 -d 100 --rand-source {SERVICE}")),
        ("ACK", format!("-c 10000 -i u50 -A -p {tcp} --rand-source {SERVICE}")),
        ("fragments", format!("-c 1500 -i u400 -2 -f -p 5000 -d 200 --rand-source {SERVICE}")),
        ("fragments of SYN", format!("-c 1500 -i u400 -S -f -p {tcp} -d 200 --rand-source {SERVICE}")),
    ] {
        let before = counted(&world)?;
        let mut command = world.client.command("hping3");
        command.arg("-q").args(line.split(' '));
        let mut flood = world.client.spawn(&format!("hping3-{}", name.replace(' ', "-")), &mut command)?;
        let mut rounds = 0;
        while flood.exited()?.is_none() {
            connections.round().with_context(|| format!("beside the flood of {name}"))?;
            rounds += 1;
        }
        connections.round().with_context(|| format!("after the flood of {name}"))?;
        let arrived = counted(&world)? - before;
        let own = (rounds + 1) * 4 * CONNECTIONS as u64;
        println!(
            "{name}: {arrived} packets, at most {own} of them the connections'; {rounds} rounds beside it"
        );
        assert!(arrived > 1000, "{name}: {arrived} packets arrived: that was no flood");
    }
    let flows = world.flows("--proto tcp --state established")?;
    assert!(flows.len() >= CONNECTIONS, "{} connections of {CONNECTIONS} are left", flows.len());
    world.sound()
}

/// All packets that came in by the client's side.
fn counted(world: &World) -> Result<u64> {
    let stats = world.agent.stats()?;
    let rows = stats.interfaces.iter().filter(|row| row.interface == "wan0");
    Ok(rows.map(|row| row.count.packets).sum())
}
