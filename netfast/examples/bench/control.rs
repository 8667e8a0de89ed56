//! `bench control`: the agent. Changes, an apply, scrapes, memory, ageing and restarts, with many rules and a million flows.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netfast::api::{
    client::Client,
    types::{ChangeRequest, Forward, Operation, Target, Transport},
};
use netfast_common::{
    abi::bench::{SINK_ANSWERS, SINK_DROPS},
    maglev,
};
use serde_json::{Value, json};

use crate::{
    live::{
        self,
        agent::{self, Agent},
        cases::{Case, case},
        turns::Turns,
        world::{Kind, SERVICE, TARGET, TARGETS, Tables, World},
    },
    measure::median,
    report,
};

/// Forwards and targets of each that are applied.
const FORWARDS: u16 = 1000;
const PER_FORWARD: u16 = 10;
/// Scrapes, builds and applies of which the median counts.
const TIMES: usize = 5;
/// How long the agent's CPU time is looked at while it only ages flows.
const IDLE: Duration = Duration::from_secs(60);

/// Options of `bench control`.
#[derive(clap::Args)]
pub struct Args {
    /// Flows that stand in the table; a power of two.
    #[arg(long, default_value_t = 1 << 20)]
    flows: u32,
    /// Changes whose latency is measured.
    #[arg(long, default_value_t = 200)]
    changes: usize,
    /// The program netfast, if not the one of the same build.
    #[arg(long, value_name = "FILE")]
    netfast: Option<PathBuf>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write them as a page with charts.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Measures, prints, writes.
pub fn run(args: &Args) -> Result<bool> {
    ensure!(args.flows.is_power_of_two(), "--flows {}: use a power of two", args.flows);
    let cpus = std::thread::available_parallelism()?.get();
    live::private_mounts()?;
    let binary = agent::binary(args.netfast.as_deref())?;
    let tables = Tables { flows: Some(args.flows + args.flows / 8), ..Tables::default() };
    let mut world = World::new(&[Kind::Netfast], cpus - 1, &binary, tables)?;
    let mut rows = vec![maglev_build()];
    let mut say = |row: Value| {
        println!("{row}");
        rows.push(row);
    };
    {
        let agent = world.stations[0].agent()?;
        say(apply(agent)?);
        changes(agent, args.changes)?.into_iter().for_each(&mut say);
        say(scrape(agent, "control/scrape", 0)?);
        say(memory(agent, "control/memory", 0)?);
    }
    world.programs.set_sink(SINK_ANSWERS)?;
    let flows = Case { flows: args.flows, ..case("control/flows", Kind::Netfast, (SERVICE, 53)) };
    let turns = Turns::new(Duration::from_millis(100), cpus - 1);
    let began = Instant::now();
    // Some find no source port at the first attempt, and others are still half-open: all but a few is enough.
    let wanted = Case { flows: args.flows - args.flows / 32, ..flows };
    let made = turns.make_flows(&mut world, &wanted)?;
    say(json!({ "name": "control/flows_made", "flows": made, "seconds": seconds(began.elapsed()) }));
    world.programs.set_sink(SINK_DROPS)?;
    {
        let agent = world.stations[0].agent()?;
        say(scrape(agent, "control/scrape_with_flows", made)?);
        say(memory(agent, "control/memory_with_flows", made)?);
        say(ageing(agent, made)?);
    }
    let agent = world.stations[0].agent.as_mut().context("no agent")?;
    let time = agent.restart()?;
    let count = agent.json::<Value>(&["flows", "count"])?["count"].as_u64();
    say(json!({ "name": "control/restart", "flows": count, "seconds": seconds(time) }));
    let marks = marks(&rows);
    for mark in &marks {
        println!("{mark}");
    }
    let document = json!({ "schema": 1, "machine": report::machine(), "results": rows, "marks": marks });
    crate::write(&document, args.json.as_deref(), args.html.as_deref())?;
    Ok(true)
}

/// Row, figure, at most.
const MARKS: [(&str, &str, f64); 6] = [
    ("control/apply_1000x10", "seconds", 1.0),
    ("control/scrape", "milliseconds", 100.0),
    ("control/scrape_with_flows", "milliseconds", 100.0),
    ("control/memory", "over_maps_mib", 64.0),
    ("control/memory_with_flows", "over_maps_mib", 64.0),
    ("control/ageing", "share_of_a_core", 0.02),
];

fn marks(rows: &[Value]) -> Vec<Value> {
    let mark = |(name, figure, at_most): &(&str, &str, f64)| {
        let value = rows.iter().find(|row| row["name"] == *name)?[*figure].as_f64()?;
        Some(
            json!({ "of": name, "figure": figure, "value": value, "at_most": at_most, "met": value <= *at_most }),
        )
    };
    MARKS.iter().filter_map(mark).collect()
}

fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e6
}

/// Median of some times of something, in milliseconds.
fn milliseconds(mut times: Vec<f64>) -> f64 {
    (median(&mut times) * 1e6).round() / 1e3
}

/// The look-up table of 1,000 targets.
fn maglev_build() -> Value {
    let candidates: Vec<_> = (0..1000u16)
        .map(|n| {
            let mut address = [0; 16];
            address[14..].copy_from_slice(&n.to_be_bytes());
            maglev::Candidate { address, port: 80, weight: 1, index: n }
        })
        .collect();
    let size = maglev::size_for(maglev::units(&candidates), maglev::ENTRIES_PER_UNIT);
    let mut table = vec![0; size as usize];
    let times = (0..TIMES).map(|_| {
        let began = Instant::now();
        maglev::build(&candidates, 1, &mut table);
        began.elapsed().as_secs_f64()
    });
    json!({ "name": "control/maglev_1000", "entries": size, "milliseconds": milliseconds(times.collect()) })
}

fn forward(name: String, listen: String) -> Result<Forward> {
    let first = TARGET.octets();
    let target = |n: u16| -> Result<Target> {
        let last = first[3] + (n % u16::from(TARGETS)) as u8;
        Ok(Target::new(format!("{}.{}.{}.{last}:{}", first[0], first[1], first[2], 1000 + n).parse()?))
    };
    Ok(Forward {
        targets: (0..PER_FORWARD).map(target).collect::<Result<_>>()?,
        ..Forward::new(name, Transport::Tcp, listen.parse()?)
    })
}

/// `netfast apply -f` of 1,000 forwards with 10 targets each, and of nothing that is new.
fn apply(agent: &Agent) -> Result<Value> {
    let mut text = String::new();
    for n in 0..FORWARDS {
        text += &format!(
            "[[forward]]\nname = \"f{n}\"\nprotocol = \"tcp\"\nlisten = \"{SERVICE}:{}\"\n",
            10_000 + n
        );
        for target in forward(String::new(), format!("{SERVICE}:1"))?.targets {
            text += &format!("[[forward.target]]\naddress = \"{}\"\n", target.address);
        }
    }
    let file = tempfile::NamedTempFile::new()?;
    std::fs::write(file.path(), text)?;
    let path = file.path().display().to_string();
    let apply = || -> Result<f64> {
        let began = Instant::now();
        agent.ok(&["apply", "-f", &path])?;
        Ok(seconds(began.elapsed()))
    };
    Ok(json!({
        "name": "control/apply_1000x10", "forwards": FORWARDS, "targets": FORWARDS * PER_FORWARD,
        "seconds": apply()?, "again_seconds": apply()?,
    }))
}

/// A forward more and a forward less by the API, beside 1,000 others: one after the other, and by several clients at once.
fn changes(agent: &Agent, count: usize) -> Result<Vec<Value>> {
    const CLIENTS: usize = 8;
    let client = Client::new(agent.socket());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let pair = |number: usize| -> Result<[ChangeRequest; 2]> {
        let name = format!("change{number}");
        let one =
            |operation| ChangeRequest { operations: vec![operation], dry_run: false, if_revision: None };
        let forward = forward(name.clone(), format!("{SERVICE}:{}", 20_000 + number))?;
        Ok([
            one(Operation::ForwardAdd { forward, if_not_exists: false }),
            one(Operation::ForwardDelete { name }),
        ])
    };
    let change = |request: ChangeRequest| {
        let client = client.clone();
        async move {
            let began = Instant::now();
            let reply = client.change(&request).await;
            reply.map_err(|error| anyhow::anyhow!("{}", error.message))?;
            anyhow::Ok(began.elapsed().as_secs_f64())
        }
    };
    let mut times = Vec::new();
    let began = Instant::now();
    for number in 0..count.div_ceil(2) {
        for request in pair(number)? {
            times.push(runtime.block_on(change(request))?);
        }
    }
    let rate = times.len() as f64 / began.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let quantile = |q: f64| {
        let at = ((times.len() - 1) as f64 * q) as usize;
        (times[at] * 1e6).round() / 1e3
    };
    let one_by_one = json!({
        "name": "control/changes", "forwards": FORWARDS, "changes": times.len(), "per_second": (rate * 10.0).round() / 10.0,
        "milliseconds": quantile(0.5), "p99_milliseconds": quantile(0.99),
    });

    let began = Instant::now();
    let done: usize = runtime.block_on(async {
        let clients = (0..CLIENTS).map(|client| async move {
            let mut done = 0;
            for number in 0..count.div_ceil(2 * CLIENTS) {
                for request in pair(1000 + client * 1000 + number)? {
                    change(request).await?;
                    done += 1;
                }
            }
            anyhow::Ok(done)
        });
        let done = futures::future::try_join_all(clients).await?;
        anyhow::Ok(done.into_iter().sum())
    })?;
    let rate = done as f64 / began.elapsed().as_secs_f64();
    let at_once = json!({
        "name": "control/changes_8_clients", "forwards": FORWARDS, "changes": done, "per_second": (rate * 10.0).round() / 10.0,
    });
    Ok(vec![one_by_one, at_once])
}

/// Scrapes of /metrics.
fn scrape(agent: &Agent, name: &str, flows: u64) -> Result<Value> {
    let once = || -> Result<(f64, String)> {
        agent.namespace().enter(|| {
            let began = Instant::now();
            let mut stream = TcpStream::connect("127.0.0.1:9460")?;
            stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            ensure!(
                text.starts_with("HTTP/1.1 200"),
                "/metrics: {}",
                text.lines().next().unwrap_or_default()
            );
            Ok((began.elapsed().as_secs_f64(), text))
        })?
    };
    let mut times = Vec::new();
    let mut text = String::new();
    for _ in 0..TIMES {
        let (time, answer) = once()?;
        times.push(time);
        text = answer;
    }
    let series = text.lines().filter(|line| line.starts_with("netfast_")).count();
    Ok(json!({
        "name": name, "flows": flows, "series": series, "bytes": text.len(), "milliseconds": milliseconds(times),
    }))
}

/// What the agent holds in memory, without the maps that it has mapped.
fn memory(agent: &Agent, name: &str, flows: u64) -> Result<Value> {
    let text = std::fs::read_to_string(format!("/proc/{}/smaps", agent.pid()))?;
    let (mut all, mut maps, mut of_map) = (0, 0, false);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("Rss:") => {
                let kib: u64 = words.next().context("no size")?.parse()?;
                all += kib;
                maps += if of_map { kib } else { 0 };
            }
            // The head of a mapping: its addresses, and at the end what it is of.
            Some(first) if first.contains('-') && !first.ends_with(':') => of_map = line.contains("bpf-map"),
            _ => {}
        }
    }
    let mib = |kib: u64| (kib as f64 / 102.4).round() / 10.0;
    Ok(json!({
        "name": name, "flows": flows, "rss_mib": mib(all), "maps_mib": mib(maps), "over_maps_mib": mib(all - maps),
    }))
}

/// The agent's CPU time while nothing happens but that flows age.
fn ageing(agent: &Agent, flows: u64) -> Result<Value> {
    let ticks = || -> Result<u64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", agent.pid()))?;
        // The name in parentheses may hold anything; user and system time are the 12th and 13th after it.
        let rest = text.rsplit(')').next().unwrap_or_default();
        Ok(rest.split_whitespace().skip(11).take(2).filter_map(|word| word.parse::<u64>().ok()).sum())
    };
    let (began, before) = (Instant::now(), ticks()?);
    std::thread::sleep(IDLE);
    // Linux tells user space in hundredths of a second.
    let busy = (ticks()? - before) as f64 / 100.0;
    let share = busy / began.elapsed().as_secs_f64();
    Ok(json!({ "name": "control/ageing", "flows": flows, "share_of_a_core": (share * 1e4).round() / 1e4 }))
}
