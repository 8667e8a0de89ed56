//! `bench classify`: a rule set and a trace through the real program.

use std::{
    collections::HashMap,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, ProgramArray},
    programs::Xdp,
};
use aya_obj::programs::XdpAttachType;
use netfast::{
    classifier::{
        Action, Compiled, Effort, Limits, Rule,
        classbench::{self, Header},
        compile, host,
    },
    datapath::{Datapath, Options, TableSizes},
    rules::images::Images,
};
use netfast_common::{
    abi::{
        self, Policy, PolicyClass,
        bench::{TRACE_FRAME, TraceFrame, TraceState},
    },
    addr,
    wire::{self, Packet},
};
use serde_json::json;

use crate::{
    bed,
    generate::{self, Family, Numbers},
    linear,
    measure::{median, settle, test_run},
    output::{self, Output},
    report,
};

/// Options of `bench classify`.
#[derive(clap::Args)]
pub struct Args {
    /// Rules in ClassBench's format; without it they are made up.
    #[arg(long, value_name = "FILE")]
    rules: Option<PathBuf>,
    /// Headers to send: lines of decimal `source destination source-port destination-port protocol`; without it they are
    /// made up of the rules' corners.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// What made-up rules look like.
    #[arg(long, value_enum, default_value = "acl")]
    family: Family,
    /// How many are made up.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// Make up IPv6 rules.
    #[arg(long)]
    v6: bool,
    /// Where made-up rules begin.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Headers whose answer is compared with a linear match.
    #[arg(long, default_value_t = 10_000)]
    sample: usize,
    /// Rounds of turns.
    #[arg(long, default_value_t = 7, value_parser = output::rounds)]
    rounds: usize,
    /// Do not measure nftables with the same rules, which takes a while.
    #[arg(long)]
    no_linear: bool,
    #[command(flatten)]
    output: Output,
}

/// Headers of a made-up trace.
const TRACE: usize = 131_072;

/// Headers whose verdicts are measured out of the flow cache, all of which fit into it.
const CACHED: usize = 64;

/// Packets of a turn, at least.
const PACKETS: u32 = 131_072;

/// Packets before it, at least.
const WARM_UP: u32 = 50_000;

/// What is measured.
#[derive(Clone, Copy, Default)]
struct Net {
    /// Verdicts may be cached.
    cached: bool,
}

/// What came out; times in nanoseconds a packet.
#[derive(Clone, Copy)]
struct Measured {
    /// Median of the differences to the turn with an empty filter beside it.
    net: f64,
    /// Median of all turns with the rules.
    whole: f64,
    /// Median of the ratios of a round's second turn with the rules to its first.
    aa: f64,
}

/// Returns whether every answer was right.
pub fn run(args: &Args) -> Result<bool> {
    args.output.check()?;
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
    };
    let rules = match &args.rules {
        Some(path) => classbench::rules(&read(path)?).with_context(|| path.display().to_string())?,
        None => generate::rules(args.family, args.count, args.v6, args.seed),
    };
    let mut headers = match &args.trace {
        Some(path) => classbench::trace(&read(path)?).with_context(|| path.display().to_string())?,
        None => generate::trace(&rules, TRACE, args.seed),
    };
    ensure!(!headers.is_empty(), "the trace is empty");
    let mut numbers = Numbers::new(args.seed);
    for at in (1..headers.len()).rev() {
        headers.swap(at, numbers.below(at as u64 + 1) as usize);
    }
    let mut bed = Bed::new(headers.len().max(TRACE) as u32)?;
    settle()?;
    let limits = bed.datapath.filter_limits();

    // Every second rule drops, so that a wrong rule is mostly a wrong answer, too.
    let mixed: Vec<Rule> = rules
        .iter()
        .map(|rule| Rule { action: if rule.number % 2 == 0 { Action::Drop } else { Action::Allow }, ..*rule })
        .collect();
    let begin = Instant::now();
    let compiled = compile(&mixed, &limits)?;
    let commit = begin.elapsed();
    let begin = Instant::now();
    bed.publish(&compiled);
    let published = begin.elapsed();
    let wrong = bed.check(&mixed, &headers, args.sample)?;

    // A rule in the middle of the others.
    let mut longer = mixed.clone();
    let number = mixed.iter().map(|rule| rule.number + 1).max().unwrap_or_default();
    longer
        .insert(mixed.len() / 2, Rule { number, ..mixed.get(mixed.len() / 3).copied().unwrap_or_default() });
    let begin = Instant::now();
    let added = compiled.update(&longer, &limits).unwrap_or_else(|| compile(&longer, &limits))?;
    bed.publish(&added);
    let one_rule = begin.elapsed();
    drop(added);
    // And one of them that goes.
    let mut shorter = mixed.clone();
    shorter.remove(mixed.len() / 3);
    let begin = Instant::now();
    let updated = compiled.update(&shorter, &limits);
    let beside = updated.is_some();
    let less = updated.unwrap_or_else(|| compile(&shorter, &limits))?;
    bed.publish(&less);
    let one_less = begin.elapsed();
    let wrong = wrong + bed.check(&shorter, &headers, args.sample.min(1000))?;
    drop(less);

    // For the time all of them allow: then every packet goes on as it does without rules.
    let allowing: Vec<Rule> = rules.iter().map(|rule| Rule { action: Action::Allow, ..*rule }).collect();
    let quick = compile(&allowing, &limits)?;
    let begin = Instant::now();
    let optimised = compile(&allowing, &Limits { effort: Effort::Better, ..limits })?;
    let optimise = begin.elapsed();
    let uniform: Vec<u32> = (0..headers.len() as u32).collect();
    let zipf = zipf(headers.len(), &mut numbers);
    bed.send(&headers, &uniform)?;
    let uncached = Net::default();
    let all = headers.len() as u32;
    let uniform_quick = bed.net(&quick, all, args.rounds, uncached)?;
    let uniform_optimised = bed.net(&optimised, all, args.rounds, uncached)?;
    bed.send(&headers, &zipf)?;
    let zipf_quick = bed.net(&quick, all, args.rounds, uncached)?;
    let zipf_optimised = bed.net(&optimised, all, args.rounds, uncached)?;
    let few: Vec<u32> = uniform
        .iter()
        .copied()
        .filter(|at| matches!(headers[*at as usize].protocol, wire::TCP | wire::UDP))
        .take(CACHED)
        .collect();
    let cached = if few.is_empty() {
        Measured { net: f64::NAN, whole: f64::NAN, aa: 1.0 }
    } else {
        bed.send(&headers, &few)?;
        bed.net(&quick, few.len() as u32, args.rounds, Net { cached: true })?
    };
    // Of all that was measured, what is farthest from 1.
    let aa_ratio = [uniform_quick, uniform_optimised, zipf_quick, zipf_optimised, cached]
        .into_iter()
        .map(|measured| measured.aa)
        .max_by(|a, b| a.ln().abs().total_cmp(&b.ln().abs()))
        .unwrap_or(1.0);
    let ns_floor = bed.floor(args.rounds)?;

    let ns_linear = if args.no_linear { None } else { linear::measure(&rules, &headers, args.rounds)? };

    let report = compiled.report();
    let (average, most) = steps(&compiled, &headers);
    let filter = aya::programs::ProgramInfo::from_pin(bed.pin_dir.join("programs/netfast_filter"))?;
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let round = |ns: f64| (ns * 10.0).round() / 10.0;
    let result = json!({
        "rules": report.rules,
        "headers": headers.len(),
        "trees": report.trees.iter().sum::<u32>(),
        "bytes": report.bytes,
        "build_ms": {"commit": ms(commit), "optimised": ms(optimise)},
        "publish_ms": ms(published),
        "one_rule_ms": ms(one_rule),
        "one_rule_less_ms": ms(one_less),
        "one_rule_less_beside": beside,
        "wrong": wrong,
        "sampled": args.sample.min(headers.len()),
        "steps_avg": round(average),
        "steps_max": most,
        "steps_bound": report.steps_max,
        "ns_uncached": round(uniform_quick.net),
        "ns_uncached_zipf": round(zipf_quick.net),
        "ns_uncached_optimised": round(uniform_optimised.net),
        "ns_uncached_optimised_zipf": round(zipf_optimised.net),
        "ns_cached": round(cached.net),
        "ns_cached_whole": round(cached.whole - ns_floor),
        "aa_ratio": (aa_ratio * 1e3).round() / 1e3,
        "ns_floor": round(ns_floor),
        "ns_linear": ns_linear.map(round),
        "optimised": {
            "trees": optimised.report().trees.iter().sum::<u32>(),
            "bytes": optimised.report().bytes,
            "steps_avg": round(steps(&optimised, &headers).0),
            "cost": round(optimised.cost()),
            "cost_before": round(quick.cost()),
        },
        "verified_instructions": filter.verified_instruction_count(),
    });
    println!("{}", serde_json::to_string_pretty(&result)?);
    // The figures of a rule set stand at the top, and as a row of the form that all parts of the benchmark share.
    let mut document = result.clone();
    let mut row = result;
    let name =
        if args.rules.is_some() { "file".to_owned() } else { format!("{:?}", args.family).to_lowercase() };
    row["name"] = json!(format!("classify/{name}{}", if args.v6 { "_v6" } else { "" }));
    (row["ns"], row["net_ns"]) = (json!(round(uniform_quick.whole)), json!(round(uniform_quick.net)));
    (row["floor_ns"], row["mpps"]) = (json!(round(ns_floor)), json!(round(1e3 / uniform_quick.whole)));
    document["schema"] = json!(1);
    document["machine"] = report::machine();
    document["void"] = json!(!report::is_steady(aa_ratio));
    document["results"] = json!([row]);
    println!("{}", report::verdict(&document));
    args.output.write(document)?;
    Ok(wrong == 0)
}

/// A sequence in which header of rank r comes in proportion to 1 / r^1.1.
fn zipf(count: usize, numbers: &mut Numbers) -> Vec<u32> {
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=count)
        .map(|rank| {
            sum += (rank as f64).powf(-1.1);
            sum
        })
        .collect();
    (0..count)
        .map(|_| {
            let at = numbers.below(1 << 50) as f64 / (1u64 << 50) as f64 * sum;
            sums.partition_point(|sum| *sum < at).min(count - 1) as u32
        })
        .collect()
}

/// Average and most steps of the headers.
fn steps(compiled: &Compiled, headers: &[Header]) -> (f64, u32) {
    let host = host::Host::new(compiled);
    let (mut sum, mut most) = (0u64, 0);
    for header in headers {
        let steps = host.ask(&packet(header), 1, None).steps;
        sum += u64::from(steps);
        most = most.max(steps);
    }
    (sum as f64 / headers.len() as f64, most)
}

fn packet(header: &Header) -> Packet {
    wire::parse_slice(&frame(header)).unwrap_or_else(|_| Packet {
        version: if header.source.is_ipv4() { 4 } else { 6 },
        ..Packet::default()
    })
}

/// The header as a frame that is TCP, UDP or anything else alike.
pub fn frame(header: &Header) -> [u8; TRACE_FRAME] {
    let mut bytes = Vec::with_capacity(TRACE_FRAME);
    bytes.extend(bed::MAC);
    bytes.extend(bed::PEER);
    let (source, destination) = (addr::from_ip(header.source), addr::from_ip(header.destination));
    let payload = if header.source.is_ipv4() {
        bytes.extend([0x08, 0x00]);
        let mut ip = vec![0x45, 0, 0, 66, 0, 1, 0x40, 0, 64, header.protocol, 0, 0];
        ip.extend(&source[12..]);
        ip.extend(&destination[12..]);
        let sum: u32 = ip.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
        let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(ip);
        46u16
    } else {
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 26, header.protocol, 64]);
        bytes.extend(source);
        bytes.extend(destination);
        26
    };
    bytes.extend(header.ports[0].to_be_bytes());
    bytes.extend(header.ports[1].to_be_bytes());
    // UDP's length and checksum, or the sequence number of a TCP segment.
    bytes.extend(payload.to_be_bytes());
    bytes.extend([0xab, 0xcd, 0, 0, 0, 0, 0x50, 0x10]);
    bytes.resize(TRACE_FRAME, 0);
    std::array::from_fn(|at| bytes[at])
}

struct Bed {
    datapath: Datapath,
    bench: Ebpf,
    pin_dir: PathBuf,
    ifindex: u32,
    _dir: tempfile::TempDir,
}

impl Bed {
    fn new(headers: u32) -> Result<Self> {
        let (dir, ifindex) = bed::namespace()?;
        let pin_dir = dir.path().join("netfast");
        let tables = TableSizes {
            flows: 1024,
            mappings: 1024,
            half_open: 1024,
            direct: 1024,
            cache4_sets: 262_144,
            cache6_sets: 262_144,
            filter_rules: abi::MAX_FILTER_NUMBERS,
        };
        let (datapath, _) = Datapath::open(&Options { pin_dir: pin_dir.clone(), tables })?;
        let mut settings = bed::settings();
        // What is unusual is not to be decided before the filter.
        settings.policies = [Policy::Pass; PolicyClass::COUNT];
        datapath.configure(&settings);
        let mut bench = EbpfLoader::new().map_max_entries("TRACE", headers).load(bed::BENCH)?;
        bed::program(&mut bench, "bench_trace")?.load()?;
        bed::keep_in_dispatcher(&mut bench, "bench_trace")?;
        let pin_dir = pin_dir.join(format!("v{}", abi::ABI_VERSION));
        bed::announce(&pin_dir, ifindex)?;
        let entry = Xdp::from_pin(pin_dir.join("programs/netfast"), XdpAttachType::Interface)?;
        let map = bench.map_mut("UNDER_TEST").context("no map UNDER_TEST")?;
        ProgramArray::try_from(map)?.set(0, entry.fd()?, 0)?;
        Ok(Self { datapath, bench, pin_dir, ifindex, _dir: dir })
    }

    fn publish(&self, compiled: &Compiled) {
        self.datapath.publish(&Images { filter: compiled.clone(), ..Images::default() });
    }

    /// Puts headers into the trace.
    fn send(&mut self, headers: &[Header], sequence: &[u32]) -> Result<()> {
        let mut frames: HashMap<u32, TraceFrame> = HashMap::new();
        let map = self.bench.map_mut("TRACE").context("no map TRACE")?;
        let mut trace = Array::<_, TraceFrame>::try_from(map)?;
        for (at, header) in (0..).zip(sequence) {
            let frame = frames.entry(*header).or_insert_with(|| {
                let bytes = frame(&headers[*header as usize]);
                TraceFrame {
                    words: std::array::from_fn(|i| {
                        u64::from_ne_bytes(std::array::from_fn(|j| bytes[8 * i + j]))
                    }),
                }
            });
            trace.set(at, *frame, 0)?;
        }
        self.rewind(sequence.len() as u32)
    }

    fn rewind(&mut self, count: u32) -> Result<()> {
        let map = self.bench.map_mut("TRACE_STATE").context("no map TRACE_STATE")?;
        Ok(Array::<_, TraceState>::try_from(map)?.set(0, TraceState { position: 0, count }, 0)?)
    }

    fn run(&mut self, packets: u32) -> Result<(Duration, u32)> {
        let mut context = [0u8; 24];
        context[4..8].copy_from_slice(&(TRACE_FRAME as u32).to_ne_bytes());
        context[12..16].copy_from_slice(&self.ifindex.to_ne_bytes());
        test_run(bed::program(&mut self.bench, "bench_trace")?, &[0; TRACE_FRAME], &context, packets)
    }

    /// Sends headers one by one: the answer and the counter of the rule must be those of a linear match. Returns how many
    /// were not.
    fn check(&mut self, rules: &[Rule], headers: &[Header], sample: usize) -> Result<u32> {
        let sample = sample.min(headers.len()).max(1);
        let sequence: Vec<u32> =
            (0..headers.len()).step_by(headers.len() / sample).map(|at| at as u32).take(sample).collect();
        self.send(headers, &sequence)?;
        let mut wrong = 0;
        for at in sequence {
            let packet = packet(&headers[at as usize]);
            let icmp = netfast_common::classify::has_icmp(&packet).then(|| {
                let bytes = frame(&headers[at as usize]);
                [bytes[usize::from(packet.l4)], bytes[usize::from(packet.l4) + 1]]
            });
            let first = rules.iter().find(|rule| rule.matches(&packet, self.ifindex, icmp));
            let counted =
                |bed: &Self| first.map_or(0, |rule| bed.datapath.counters().filter(rule.number).packets);
            let before = counted(self);
            let (_, answer) = self.run(1)?;
            let drops = first.is_some_and(|rule| rule.action == Action::Drop);
            // XDP_DROP is 1, XDP_PASS 2.
            let right = answer == if drops { 1 } else { 2 };
            if !right || counted(self) != before + u64::from(first.is_some()) {
                wrong += 1;
            }
        }
        Ok(wrong)
    }

    /// Nanoseconds a packet of an empty program in place of the one under test. To be called last.
    fn floor(&mut self, rounds: usize) -> Result<f64> {
        bed::program(&mut self.bench, "bench_empty")?.load()?;
        let empty = bed::program(&mut self.bench, "bench_empty")?.fd()?.try_clone()?;
        let map = self.bench.map_mut("UNDER_TEST").context("no map UNDER_TEST")?;
        ProgramArray::try_from(map)?.set(0, &empty, 0)?;
        let mut all = Vec::new();
        for _ in 0..rounds {
            let packets = 400_000;
            let (time, _) = self.run(packets)?;
            all.push(time.as_nanos() as f64 / f64::from(packets));
        }
        Ok(median(&mut all))
    }

    /// What a packet costs with the rules beside what it costs the same program with an empty filter, in turns.
    fn net(&mut self, compiled: &Compiled, trace: u32, rounds: usize, what: Net) -> Result<Measured> {
        let (mut differences, mut whole, mut aa) = (Vec::new(), Vec::new(), Vec::new());
        let empty = Compiled::default();
        for _ in 0..rounds {
            let first = self.turn(compiled, trace, what)?;
            let floor = self.turn(&empty, trace, what)?;
            let second = self.turn(compiled, trace, what)?;
            differences.extend([first - floor, second - floor]);
            whole.extend([first, second]);
            aa.push(second / first);
        }
        Ok(Measured { net: median(&mut differences), whole: median(&mut whole), aa: median(&mut aa) })
    }

    /// Nanoseconds a packet under these rules.
    fn turn(&mut self, filter: &Compiled, trace: u32, what: Net) -> Result<f64> {
        // No verdict is cached where answers to flows may come to any address.
        let dnat = abi::Forward { uid: 1, mode: abi::Mode::Dnat as u8, ..abi::Forward::default() };
        let forwards = if what.cached { Vec::new() } else { vec![(0, dnat)] };
        self.datapath.publish(&Images { filter: filter.clone(), forwards, ..Images::default() });
        // The whole trace once, uncounted: publishing and the turn before have had the CPU's caches for themselves.
        self.run(trace.max(WARM_UP))?;
        // And then as a whole again, so that every turn is about the same packets.
        let packets = trace * PACKETS.div_ceil(trace);
        let (time, _) = self.run(packets)?;
        Ok(time.as_nanos() as f64 / f64::from(packets))
    }
}
