//! Turns: a case's packets for a while, and what came out.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use netfast::api::types::Stats;
use serde_json::{Value, json};

use super::{
    cases::Case,
    kernel::Generator,
    stream::{Destination, stream},
    world::World,
};
use crate::{
    measure::median,
    netns::wait_for,
    output::{self, number},
};

/// From the first packet until it counts. A line of the flow cache lives for 16 s, and a case has a turn of a fraction of a second every few
/// seconds: at each turn many lines have ended that would have been renewed one by one if the traffic had gone on.
const SETTLE: Duration = Duration::from_millis(150);
/// Least part of the best rate that a generator must reach for a turn to count.
const STEADY: f64 = 0.85;
/// Attempts at a turn.
const ATTEMPTS: usize = 3;

/// A turn: packets a second in millions that came out, and that were sent.
#[derive(Clone, Copy, Debug)]
struct Sample {
    round: usize,
    out: f64,
    offered: f64,
    /// Which part of netfast's packets the flow cache did not decide.
    missed: f64,
}

/// Packets of netfast in a case's box, and those of them that its flow cache did not decide; none where it is not netfast.
fn missed(world: &World, case: &Case) -> Result<[u64; 2]> {
    let station = world.stations.iter().find(|station| station.kind == case.kind);
    let Some(agent) = station.and_then(|station| station.agent.as_ref()) else { return Ok([0; 2]) };
    let stats = agent.json::<Stats>(&["stats"])?;
    let packets = stats.interfaces.iter().map(|row| row.count.packets).sum();
    Ok([packets, stats.cache.misses.iter().map(|row| row.packets).sum()])
}

/// All turns.
pub struct Turns {
    length: Duration,
    cpu: usize,
    samples: HashMap<&'static str, Vec<Sample>>,
    best: HashMap<&'static str, f64>,
    dropped: u32,
}

impl Turns {
    /// Turns of such a length, on boxes that work on `cpu`.
    pub fn new(length: Duration, cpu: usize) -> Self {
        Self { length, cpu, samples: HashMap::new(), best: HashMap::new(), dropped: 0 }
    }

    /// A case's turn; round 0 does not count.
    pub fn take(&mut self, world: &mut World, case: &Case, round: usize) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let sample = self.turn(world, case, round).with_context(|| case.name.to_owned())?;
            if sample.out == 0.0 {
                self.dropped += 1;
                continue;
            }
            if round == 0 {
                return Ok(());
            }
            let best = self.best.entry(case.name).or_default();
            *best = best.max(sample.offered);
            if sample.offered >= STEADY * *best {
                self.samples.entry(case.name).or_default().push(sample);
                return Ok(());
            }
            self.dropped += 1;
        }
        ensure!(round > 0, "{}: nothing came out in {ATTEMPTS} turns", case.name);
        Ok(())
    }

    fn turn(&self, world: &mut World, case: &Case, round: usize) -> Result<Sample> {
        let before = missed(world, case)?;
        let generators = self.start(world, case, case.flows, case.zipf)?;
        std::thread::sleep(SETTLE);
        let (began, made, seen) = (Instant::now(), world.programs.made()?, world.programs.seen()?);
        std::thread::sleep(self.length);
        let (seconds, made, seen) =
            (began.elapsed().as_secs_f64(), world.programs.made()? - made, world.programs.seen()? - seen);
        generators.into_iter().try_for_each(Generator::stop)?;
        let after = missed(world, case)?;
        let [packets, misses] = [0, 1].map(|at| after[at].saturating_sub(before[at]) as f64);
        let rate = |packets: u64| packets as f64 / seconds / 1e6;
        Ok(Sample { round, out: rate(seen), offered: rate(made), missed: misses / packets })
    }

    /// Starts the generators, and waits for the first packet that comes out.
    fn start(&self, world: &mut World, case: &Case, flows: u32, zipf: bool) -> Result<Vec<Generator>> {
        let station = world.stations.iter().find(|station| station.kind == case.kind);
        let station = station.context("no such box")?;
        let to = Destination { mac: station.mac, address: case.to.0, port: case.to.1 };
        let (from, device) = (station.generator_mac, station.generator.clone());
        let sequence = if zipf { super::kernel::SEQUENCE - 1 } else { 0 };
        world.programs.set_streams(|cpu| stream(&to, from, flows, sequence, case.spread, cpu))?;
        let before = world.programs.seen()?;
        // A box with queues receives where it is sent from.
        let cpus = if case.kind.queues() { [self.cpu, 0] } else { [0, 0] };
        let generators = cpus
            .into_iter()
            .take(case.generators)
            .map(|cpu| world.programs.generate(&world.generator, &device, cpu))
            .collect::<Result<Vec<_>>>()?;
        let first = wait_for("the first packet", Duration::from_secs(10), || {
            let ended = generators.iter().any(Generator::is_finished);
            Ok((ended || world.programs.seen()? > before).then_some(ended))
        });
        match first {
            Ok(false) => Ok(generators),
            // One that has ended says why.
            Ok(true) => {
                generators.into_iter().try_for_each(Generator::stop)?;
                anyhow::bail!("a generator ended by itself")
            }
            Err(error) => Err(error.context(format!("{device}: sent {}", world.programs.made()?))),
        }
    }

    /// Sends packets of all flows, which the sink answers, until the agent counts so many that were answered: others are half-open, and
    /// no line of the flow cache is made for them. Returns how many.
    pub fn make_flows(&self, world: &mut World, case: &Case) -> Result<u64> {
        // Of each flow alike: those that are rare are to be there, too.
        let generators = self.start(world, case, case.flows, false)?;
        let station = world.stations.iter().find(|station| station.kind == case.kind);
        let agent = station.context("no such box")?.agent()?;
        let wanted = u64::from(case.flows) * case.generators as u64;
        let mut count = 0;
        let made = wait_for("the flows", Duration::from_secs(400), || {
            count = agent.json::<Value>(&["flows", "count", "--state", "two-way"])?["count"]
                .as_u64()
                .unwrap_or(0);
            Ok((count >= wanted).then_some(()))
        });
        generators.into_iter().try_for_each(Generator::stop)?;
        made.with_context(|| format!("{}: {count} flows of {wanted}; {}", case.name, agent.log()))?;
        Ok(count)
    }

    fn of(&self, name: &str) -> &[Sample] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// Median of packets a second, in millions.
    pub fn median(&self, name: &str) -> f64 {
        median(&mut self.of(name).iter().map(|sample| sample.out).collect::<Vec<_>>())
    }

    /// Median of those that were sent.
    fn offered(&self, name: &str) -> f64 {
        median(&mut self.of(name).iter().map(|sample| sample.offered).collect::<Vec<_>>())
    }

    /// Median of the parts of packets that netfast's flow cache did not decide; NaN where it is not netfast.
    fn missed(&self, name: &str) -> f64 {
        median(
            &mut self
                .of(name)
                .iter()
                .map(|sample| sample.missed)
                .filter(|part| part.is_finite())
                .collect::<Vec<_>>(),
        )
    }

    /// A case's row of the results, and its ratio to another case.
    pub fn row(&self, case: &Case, to: Option<&str>) -> Value {
        let mpps = self.median(case.name);
        let ratio = to.map_or(f64::NAN, |to| self.ratio(case.name, to));
        json!({
            "name": case.name,
            "flows": case.flows,
            "ns": number(1000.0 / mpps),
            "net_ns": Value::Null,
            "floor_ns": Value::Null,
            "mpps": number(mpps),
            "offered_mpps": number(self.offered(case.name)),
            "samples": self.of(case.name).len(),
            "cache_missed": number(self.missed(case.name)),
            "ratio_to": to.filter(|_| ratio.is_finite()),
            "ratio": number(ratio),
        })
    }

    /// What was measured, if cases with two turns in a round are the A/A control.
    pub fn document(&self, twice: &[&str], results: Vec<Value>, marks: Vec<Value>) -> Value {
        let mut document = output::document(self.aa(twice), results, marks);
        // Turns that were thrown away, since the generator was held up.
        document["dropped_turns"] = json!(self.dropped);
        document
    }

    /// Median over the rounds of the ratio of two cases' turns in the same round.
    pub fn ratio(&self, of: &str, to: &str) -> f64 {
        self.compared(of, to, |of, to| of / to)
    }

    /// Median over the rounds of the nanoseconds that a packet of one case takes more than one of another.
    pub fn difference_ns(&self, of: &str, to: &str) -> f64 {
        self.compared(of, to, |of, to| 1000.0 / of - 1000.0 / to)
    }

    /// Median over the rounds of what is said of two cases' rates in the same round.
    fn compared(&self, of: &str, to: &str, say: impl Fn(f64, f64) -> f64) -> f64 {
        let mean = |name: &str, round: usize| {
            let mut turns: Vec<f64> = self
                .of(name)
                .iter()
                .filter(|sample| sample.round == round)
                .map(|sample| sample.out)
                .collect();
            median(&mut turns)
        };
        let rounds = self.of(of).iter().map(|sample| sample.round).max().unwrap_or(0);
        let mut said: Vec<f64> = (1..=rounds)
            .map(|round| say(mean(of, round), mean(to, round)))
            .filter(|value| value.is_finite())
            .collect();
        median(&mut said)
    }

    /// Median of second turns to first ones of the same round, of cases that have more than one.
    fn aa(&self, names: &[&str]) -> f64 {
        median(&mut self.pairs(names).map(|[first, second]| second / first).collect::<Vec<_>>())
    }

    /// Median of the nanoseconds by which two turns of one case in the same round differ, whichever takes more.
    pub fn spread_ns(&self, names: &[&str]) -> f64 {
        let between = |[first, second]: [f64; 2]| (1000.0 / first - 1000.0 / second).abs();
        median(&mut self.pairs(names).map(between).collect::<Vec<_>>())
    }

    /// Rates of turns of one case that follow each other in a round.
    fn pairs<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = [f64; 2]> + 'a {
        let pairs = names.iter().flat_map(|name| self.of(name).windows(2));
        pairs.filter(|pair| pair[0].round == pair[1].round).map(|pair| [pair[0].out, pair[1].out])
    }
}
