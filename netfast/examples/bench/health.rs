//! `bench health`: what health checks cost, and what a change of health does to the look-up tables.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netfast::{
    api::types::{Endpoint, Forward, Intent, Rules, Target, Transport},
    health::Checks,
    rules::{
        compile,
        ids::Ids,
        images::{HostView, Table, TargetRoute, TargetStates},
        normal::target_key,
    },
};
use netfast_common::{addr, maglev};
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};
use serde_json::{Value, json};

use crate::{
    measure::median,
    netns::{Process, Testbed, wait_for},
    report::machine,
};

/// Options of `bench health`.
#[derive(clap::Args)]
pub struct Args {
    /// Targets that are checked.
    #[arg(long, default_value_t = 10_000)]
    targets: usize,
    /// Seconds between the checks of a target.
    #[arg(long, default_value_t = 5)]
    interval: u32,
    /// Seconds that each kind of check is watched for, after the first interval.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Forwards that the targets are spread over.
const FORWARDS: usize = 100;
const PORT: u16 = 8080;

struct Host;

impl HostView for Host {
    fn ifindex(&self, _name: &str) -> Option<u32> {
        None
    }

    fn owns(&self, _address: std::net::IpAddr) -> bool {
        true
    }

    fn route(&self, _target: std::net::IpAddr) -> Option<TargetRoute> {
        Some(TargetRoute { source: [10, 255, 255, 1].into(), next_hop: 1 })
    }
}

fn endpoint(first: u8, number: usize) -> Result<Endpoint> {
    let text = format!("{first}.{}.{}.1:{PORT}", number / 250 + 1, number % 250 + 1);
    text.parse().with_context(|| format!("{text} is no target"))
}

/// Forwards with that many targets in the network of a first byte.
fn forwards(first: u8, count: usize, check: &str) -> Result<Vec<Forward>> {
    (0..FORWARDS)
        .map(|at| {
            let listen = format!("192.0.2.1:{}", 1000 + at).parse().map_err(anyhow::Error::from)?;
            let targets = (0..count).skip(at).step_by(FORWARDS).map(|number| endpoint(first, number));
            Ok(Forward {
                health: Some(check.parse()?),
                targets: targets.map(|address| Ok(Target::new(address?))).collect::<Result<_>>()?,
                ..Forward::new(format!("f{at}"), Transport::Tcp, listen)
            })
        })
        .collect()
}

/// Runs the bench.
///
/// # Errors
/// If a peer is missing, or checks go wrong.
pub fn run(args: &Args) -> Result<()> {
    ensure!(
        args.targets >= FORWARDS && args.targets <= 60_000 && args.interval > 0,
        "--targets must be {FORWARDS} to 60000, --interval at least 1"
    );
    let tables = tables(args.targets)?;
    println!(
        "{:<58} {:>10.3} ms",
        "Maglev table for 1,000 targets (65,521 entries)",
        number(&tables, "build_ms")
    );
    let label = format!("tables anew, 1 of {} targets down", args.targets);
    println!("{label:<58} {:>10.3} ms", number(&tables, "one_ms"));
    let label = format!("tables anew, 1 of each of {FORWARDS} forwards' targets down");
    println!("{label:<58} {:>10.3} ms", number(&tables, "each_ms"));
    let mut checks = Vec::new();
    for kind in ["tcp", "http:/"] {
        let row = watch(args, kind)?;
        println!(
            "{:<6} {} targets, every {} s: {:.0} checks a second, {:.1} % of a CPU, {:.1} MiB, latest {} ms after its time, \
             {} failed, {} down {}",
            kind.trim_end_matches(":/"),
            args.targets,
            args.interval,
            number(&row, "checks_per_second"),
            number(&row, "cpu_percent"),
            number(&row, "memory_mib"),
            number(&row, "delay_ms"),
            row["failed"],
            row["down"],
            row["errors"],
        );
        checks.push(row);
    }
    if let Some(path) = &args.json {
        let report = json!({ "schema": 1, "machine": machine(), "tables": tables, "checks": checks });
        fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    Ok(())
}

fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or(f64::NAN)
}

fn milliseconds(mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..15)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_secs_f64() * 1e3
        })
        .collect();
    median(&mut times)
}

fn tables(count: usize) -> Result<Value> {
    let thousand: Vec<maglev::Candidate> = (0..1000_u16)
        .map(|n| maglev::Candidate {
            address: addr::from_v4([10, 0, (n >> 8) as u8, n as u8]),
            port: PORT,
            weight: 1,
            index: n,
        })
        .collect();
    let size = maglev::size_for(maglev::units(&thousand), maglev::ENTRIES_PER_UNIT);
    ensure!(size == 65_521, "the size is {size}");
    let build = milliseconds(|| drop(std::hint::black_box(Table::build(1, thousand.clone(), 7, size))));

    let rules = Rules { forwards: forwards(10, count, "tcp")?, ..Rules::default() };
    let intent = Intent { revision: 1, attachments: Vec::new(), rules };
    let mut ids = Ids::default();
    let images = compile::compile(&intent, &mut ids, &Host)?;
    let down = |targets: &[(usize, usize)]| {
        let mut states = TargetStates::default();
        for (forward, target) in targets {
            let forward = &intent.rules.forwards[*forward];
            states.set(&forward.name, target_key(&forward.targets[*target].address), true);
        }
        // Down and up again, so that there is something to do each time.
        let mut images = images.clone();
        milliseconds(|| {
            compile::rebalance(&intent, &ids, &states, &mut images);
            compile::rebalance(&intent, &ids, &TargetStates::default(), &mut images);
        }) / 2.0
    };
    let (one, each) = (down(&[(0, 0)]), down(&(0..FORWARDS).map(|at| (at, 0)).collect::<Vec<_>>()));
    Ok(json!({ "build_ms": build, "targets": count, "one_ms": one, "each_ms": each }))
}

/// nginx on all addresses of a namespace, in which the checks run, too.
fn nginx(bed: &Testbed, namespace: &crate::netns::Namespace) -> Result<Process> {
    let own = bed.dir().display().to_string();
    let file = format!("{own}/nginx.conf");
    let text = format!(
        "daemon off; user root; worker_processes 2; pid {own}/pid; error_log stderr crit;\n\
         events {{ worker_connections 16384; }}\nworker_rlimit_nofile 32768;\n\
         http {{ access_log off; client_body_temp_path {own}/b; proxy_temp_path {own}/p; fastcgi_temp_path {own}/f; \
         uwsgi_temp_path {own}/u; scgi_temp_path {own}/s;\n\
         server {{ listen 0.0.0.0:{PORT} backlog=4096; location / {{ return 200 \"ready\\n\"; }} }} }}\n"
    );
    fs::write(&file, text)?;
    let mut command = namespace.command("nginx");
    let mut server = namespace.spawn("nginx", command.args(["-c", &file, "-e", "stderr"]))?;
    server.wait_ready(Duration::from_secs(20), || {
        Ok(namespace.run(&["curl", "-sf", &format!("http://127.0.0.1:{PORT}/")]).ok().map(drop))
    })?;
    Ok(server)
}

fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e6)
}

fn memory_mib() -> Result<f64> {
    let text = fs::read_to_string("/proc/self/statm")?;
    let pages = text.split_whitespace().nth(1).context("no pages")?.parse::<f64>()?;
    Ok(pages * 4096.0 / f64::from(1 << 20))
}

/// Checks all targets of one kind for a while.
fn watch(args: &Args, kind: &str) -> Result<Value> {
    for program in ["nginx", "curl"] {
        let there = Command::new(program).arg("-V").output().is_ok();
        ensure!(there, "{program} is needed: `cargo xtask setup` installs it");
    }
    let bed = Testbed::new("health")?;
    let namespace = bed.namespace("checks")?;
    let _server = nginx(&bed, &namespace)?;
    let forwards = forwards(127, args.targets, &format!("{kind},interval={}s", args.interval))?;
    let before = memory_mib()?;
    let row = namespace.enter(|| -> Result<Value> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let checks = Checks::new();
        let _guard = runtime.enter();
        let task = checks.spawn();
        checks.follow(&forwards);
        let done = || -> u64 {
            let counts = forwards.iter().map(|forward| checks.forward(&forward.name));
            counts.map(|counts| counts.healthy).sum()
        };
        wait_for("the first results", Duration::from_secs(120), || {
            Ok((done() >= args.targets as u64).then_some(()))
        })?;
        // What the start has delayed is no longer told then.
        std::thread::sleep(Duration::from_secs(u64::from(args.interval).max(30)));
        let (started, cpu, count) = (Instant::now(), cpu_seconds()?, done());
        let mut delay = 0;
        while started.elapsed() < Duration::from_secs(args.seconds) {
            std::thread::sleep(Duration::from_secs(1));
            delay = delay.max(checks.summary().delay_milliseconds);
        }
        let (seconds, cpu, count) = (started.elapsed().as_secs_f64(), cpu_seconds()? - cpu, done() - count);
        let failed: u64 = forwards.iter().map(|forward| checks.forward(&forward.name).failed).sum();
        let why = forwards.iter().flat_map(|forward| checks.targets(&forward.name));
        let why: Vec<String> = why.filter_map(|(_, health)| health.last_error).take(3).collect();
        task.abort();
        Ok(json!({
            "kind": kind,
            "targets": args.targets,
            "interval_seconds": args.interval,
            "checks_per_second": count as f64 / seconds,
            "cpu_percent": cpu / seconds * 100.0,
            "memory_mib": memory_mib()? - before,
            "delay_ms": delay,
            "failed": failed,
            "down": checks.summary().down,
            "errors": why,
        }))
    })??;
    Ok(row)
}
