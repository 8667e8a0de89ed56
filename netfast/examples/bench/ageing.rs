//! `cargo xtask bench ageing`: what a million flows cost: to hold, to sweep, and to those that are made beside them.

use std::time::Instant;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    cases::{self, Under},
    measure::{self, median},
    output::Output,
    report,
};

/// Clients' numbers in the tables; each is an IPv4 and an IPv6 flow.
const CLIENTS: u32 = 1 << 19;
/// Sweeps of the living.
const SWEEPS: u32 = 5;
/// Openings of a turn.
const TURN: u32 = 200_000;
/// Packets of established flows of a turn. What a run costs beside its packets is taken off by a run of the empty program with as
/// many of them.
const HITS: u32 = 400_000;
/// Turns.
const TURNS: usize = 9;

/// Measures everything, prints it, writes it.
pub fn run(output: &Output) -> Result<()> {
    output.check()?;
    let mut bed = Bed::new()?;
    measure::settle()?;
    let mut results = Vec::new();
    for clients in [0, CLIENTS / 10, CLIENTS] {
        results.push(new_flows(&mut bed, clients)?);
    }
    results.push(flood(&mut bed)?);
    for map in ["FLOWS", "HALF_OPEN", "CACHE4", "CACHE6", "SOURCE_LIMIT"] {
        results.push(json!({ "name": format!("ageing/bytes_{map}"), "bytes": bed.bytes(map)? }));
    }
    sweeps(&mut bed, &mut results)?;
    for result in &results {
        println!("{result}");
    }
    output.write(json!({ "schema": 1, "machine": report::machine(), "results": results }))
}

/// New flows a second, each of another client, with so many confirmed flows present. The table of half-open flows is full, as it
/// is in a flood: each new flow pushes out an old one.
fn new_flows(bed: &mut Bed, clients: u32) -> Result<Value> {
    let case = cases::named("prog/nat_new")?;
    bed.prepare(clients, &case.plan)?;
    bed.fit(1024)?;
    let (netfast, empty) = (bed.under(Under::Netfast)?, bed.under(Under::Empty)?);
    bed.run(&netfast, TURN)?;
    let mut net = Vec::new();
    for _ in 0..TURNS {
        let (time, answer) = bed.run(&netfast, TURN)?;
        ensure!(answer == case.answer, "a new flow is answered {answer}");
        let (floor, _) = bed.run(&empty, TURN)?;
        net.push((time.as_nanos() as f64 - floor.as_nanos() as f64) / f64::from(TURN));
    }
    let net = median(&mut net);
    Ok(json!({
        "name": "ageing/new_flows", "flows": 2 * clients, "net_ns": net.round(), "per_second": (1e9 / net).round(),
    }))
}

/// A flood of openings in turns with packets of established flows: what these cost, with and without it, and how many are
/// lost.
fn flood(bed: &mut Bed) -> Result<Value> {
    let (opening, hit) = (cases::named("prog/nat_new")?, cases::named("prog/nat_hit")?);
    let netfast = bed.under(Under::Netfast)?;
    let flows = 1024;
    let mut plan = hit.plan;
    plan.mask = flows - 1;
    let empty = bed.under(Under::Empty)?;
    let turn = |bed: &mut Bed| -> Result<f64> {
        bed.aim_at(&plan)?;
        let (time, answer) = bed.run(&netfast, HITS)?;
        ensure!(answer == hit.answer, "a packet of an established flow is answered {answer}");
        let (floor, _) = bed.run(&empty, HITS)?;
        Ok((time.as_nanos() as f64 - floor.as_nanos() as f64) / f64::from(HITS))
    };
    bed.prepare(CLIENTS, &plan)?;
    bed.fit(flows)?;
    turn(bed)?;
    let (mut quiet, mut beside, mut rate) = (Vec::new(), Vec::new(), Vec::new());
    let mut offset = 0;
    for _ in 0..TURNS {
        quiet.push(turn(bed)?);
        let mut plan = opening.plan;
        plan.offset = 10_000_000 + offset;
        offset += TURN;
        bed.aim_at(&plan)?;
        let (time, _) = bed.run(&netfast, TURN)?;
        let (floor, _) = bed.run(&empty, TURN)?;
        rate.push(f64::from(TURN) / (time.as_secs_f64() - floor.as_secs_f64()));
        // These find the CPU's caches full of the flood.
        beside.push(turn(bed)?);
    }
    bed.let_flows_die(false)?;
    bed.datapath().sweep(0)?;
    let present = bed.datapath().tally().confirmed;
    let lost = u64::from(2 * CLIENTS).saturating_sub(present);
    ensure!(lost == 0, "{lost} established flows were lost");
    Ok(json!({
        "name": "ageing/flood", "flows": 2 * CLIENTS, "openings_per_second": median(&mut rate).round(), "lost": lost,
        "hit_net_ns": median(&mut quiet).round(), "hit_net_ns_after_flood": median(&mut beside).round(),
    }))
}

/// Sweeps of the living and of the dead.
fn sweeps(bed: &mut Bed, results: &mut Vec<Value>) -> Result<()> {
    let hit = cases::named("prog/nat_hit")?;
    bed.prepare(CLIENTS, &hit.plan)?;
    bed.let_flows_die(false)?;
    let mut times = Vec::new();
    let mut busy = Vec::new();
    for round in 0..SWEEPS {
        let (began, cpu) = (Instant::now(), cpu_seconds());
        let report = bed.datapath().sweep(round)?;
        ensure!(report.expired == 0, "{report:?}");
        times.push(began.elapsed().as_secs_f64());
        busy.push(cpu_seconds() - cpu);
    }
    let (seconds, cpu) = (median(&mut times), median(&mut busy));
    // The agent pauses for so many times as long as a sweep has taken, and for 5 s at least.
    let share = cpu / (seconds + (f64::from(netfast::agent::SWEEP_PAUSE) * seconds).max(5.0));
    let flows = bed.datapath().tally().confirmed;
    results.push(json!({
        "name": "ageing/living", "flows": flows, "seconds": seconds, "cpu_seconds": cpu,
        "share_of_a_core": (share * 1000.0).round() / 1000.0,
    }));
    bed.let_flows_die(true)?;
    std::thread::sleep(std::time::Duration::from_millis(50));
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let report = bed.datapath().sweep(SWEEPS)?;
    results.push(json!({
        "name": "ageing/dead", "flows": report.expired, "seconds": began.elapsed().as_secs_f64(),
        "cpu_seconds": cpu_seconds() - cpu,
    }));
    ensure!(bed.datapath().tally().confirmed == 0, "dead flows are left");
    bed.let_flows_die(false)
}

/// CPU time of the process.
fn cpu_seconds() -> f64 {
    let usage = nix::sys::resource::getrusage(nix::sys::resource::UsageWho::RUSAGE_SELF);
    usage.map_or(f64::NAN, |usage| {
        [usage.user_time(), usage.system_time()]
            .iter()
            .map(|time| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6)
            .sum()
    })
}
