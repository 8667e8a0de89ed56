//! `bench rules`: packets through the kernel, with filter rules in netfast, in nftables one by one, and in a set of nftables.
//!
//! Every packet comes in by a veth interface, is matched by no rule, is routed by the kernel and leaves by another one, where
//! it is counted. So what rules cost is seen as fewer packets a second behind the same router.

mod chart;
pub mod road;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use netfast::{
    api::types::AttachMode,
    classifier::{Action, Addresses, Compiled, Ports, Rule, classbench::Header, compile},
    datapath::{Datapath, Link, Options, TableSizes},
    rules::images::Images,
};
use netfast_common::{
    abi::{self, bench::TRACE_FRAME},
    reason::Verdict,
};
use serde_json::json;

use self::road::{Generator, Road, nft, rate};
use crate::{bed, classify, generate::Numbers, measure::median, report::machine};

/// Options of `bench rules`.
#[derive(clap::Args)]
pub struct Args {
    /// Rounds of turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Milliseconds of a turn.
    #[arg(long, default_value_t = 600)]
    turn: u64,
    /// Only cases whose name contains this, and those that they are compared with.
    #[arg(long)]
    only: Option<String>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw nanoseconds against rules.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Most rules.
const MOST: u32 = 100_000;
/// Different packets.
const PACKETS: u32 = 8192;

/// Who has the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// Nobody: the kernel routes.
    Kernel,
    /// netfast.
    Netfast,
    /// netfast, and each packet is dropped by one of them.
    NetfastDrops,
    /// A chain of nftables.
    NftLinear,
    /// A set of nftables, of addresses and ports.
    NftSet,
}

struct Case {
    who: Who,
    rules: u32,
    /// The second turn of a case, against its first.
    again: bool,
}

impl Case {
    fn name(&self) -> String {
        let Self { who, rules, again } = self;
        let again = if *again { "_again" } else { "" };
        match who {
            Who::Kernel => "rules/kernel_forward".to_owned(),
            Who::Netfast => format!("rules/netfast_{rules}{again}"),
            Who::NetfastDrops => format!("rules/netfast_drop_{rules}"),
            Who::NftLinear => format!("rules/nft_linear_{rules}"),
            Who::NftSet => format!("rules/nft_set_{rules}"),
        }
    }

    /// The case that it is compared with: the same with ten rules.
    fn beside(&self) -> String {
        Self { rules: 10, again: false, ..*self }.name()
    }
}

fn cases() -> Vec<Case> {
    let case = |who| move |rules| Case { who, rules, again: false };
    let mut cases = vec![Case { who: Who::Kernel, rules: 0, again: false }];
    cases.extend([0, 10, 100, 1000, 10_000, MOST].map(case(Who::Netfast)));
    cases.extend([10, 100, 1000, 10_000].map(case(Who::NftLinear)));
    cases.extend([10, 100, 1000, 10_000, MOST].map(case(Who::NftSet)));
    cases.extend([10, 10_000].map(case(Who::NetfastDrops)));
    cases.push(Case { who: Who::Netfast, rules: 10, again: true });
    cases
}

/// Source address (odd) and destination port of a rule.
fn rule_at(number: u32) -> (u32, u16) {
    // A multiplication by an odd number takes no two to the same address.
    (0x0a00_0000 | number.wrapping_mul(0x9e37_79b1) & 0x00ff_fffe | 1, 1000 + (number % 500) as u16)
}

fn rules(count: u32) -> Vec<Rule> {
    let rule = |number| {
        let (address, port) = rule_at(number);
        Rule {
            number,
            version: 4,
            source: Addresses::V4 { first: address, last: address },
            protocol: Some(17),
            ports: Ports::Ports { source: [0, u16::MAX], destination: [port, port] },
            action: Action::Drop,
            ..Rule::default()
        }
    };
    (0..count).map(rule).collect()
}

/// Packets beside the rules: the next address, and a port that a rule has. With `dropped`: of the first so many rules.
fn frames(dropped: Option<u32>) -> Vec<[u8; TRACE_FRAME]> {
    let mut numbers = Numbers::new(3);
    let packet = |_| {
        let (address, port) = rule_at(numbers.below(dropped.unwrap_or(MOST).into()) as u32);
        let source = if dropped.is_some() { address } else { address & !1 };
        classify::frame(&Header {
            source: std::net::Ipv4Addr::from_bits(source).into(),
            destination: std::net::Ipv4Addr::from_bits(0xc633_6400 | numbers.below(256) as u32).into(),
            ports: [numbers.below(65_536) as u16, port],
            protocol: 17,
        })
    };
    (0..PACKETS).map(packet).collect()
}

/// One turn's worth of nftables.
fn nft_rules(who: Who, count: u32) -> String {
    use std::fmt::Write as _;
    let mut text = String::from("flush ruleset\ntable ip nf_bench {\n");
    let address = |number| {
        let (address, port) = rule_at(number);
        (std::net::Ipv4Addr::from_bits(address), port)
    };
    if who == Who::NftSet {
        text.push_str("set bad { type ipv4_addr . inet_service; elements = {\n");
        for number in 0..count {
            let (address, port) = address(number);
            let _ = writeln!(text, "{address} . {port},");
        }
        text.push_str("} }\n");
    }
    text.push_str("chain forward { type filter hook forward priority 0; policy accept;\n");
    if who == Who::NftSet {
        text.push_str("ip saddr . udp dport @bad drop\n");
    } else {
        for number in 0..count {
            let (address, port) = address(number);
            let _ = writeln!(text, "ip saddr {address} udp dport {port} drop");
        }
    }
    text.push_str("}\n}\n");
    text
}

struct Live {
    road: Road,
    datapath: Datapath,
    link: Link,
    compiled: BTreeMap<u32, Compiled>,
    turn: Duration,
    _dir: tempfile::TempDir,
}

impl Live {
    fn new(turn: Duration) -> Result<Self> {
        let (dir, _) = bed::namespace()?;
        let tables = TableSizes {
            flows: 1024,
            mappings: 1024,
            half_open: 1024,
            direct: 1024,
            cache4_sets: 262_144,
            cache6_sets: 262_144,
            filter_rules: abi::MAX_FILTER_NUMBERS,
        };
        let (datapath, _) = Datapath::open(&Options { pin_dir: dir.path().join("netfast"), tables })?;
        datapath.configure(&bed::settings());
        let road = Road::new()?;
        let link = Link {
            name: road::IN.to_owned(),
            ifindex: road.ifindex,
            mac: bed::MAC,
            mtu: 1500,
            driver: "veth".to_owned(),
        };
        let limits = datapath.filter_limits();
        let mut compiled = BTreeMap::new();
        for count in [0, 10, 100, 1000, 10_000, MOST] {
            compiled.insert(count, compile(&rules(count), &limits)?);
        }
        Ok(Self { road, datapath, link, compiled, turn, _dir: dir })
    }

    /// Packets a second of a case.
    fn turn(&self, case: &Case) -> Result<f64> {
        let netfast = matches!(case.who, Who::Netfast | Who::NetfastDrops);
        if netfast {
            let filter = self.compiled.get(&case.rules).context("not compiled")?.clone();
            self.datapath.publish(&Images { filter, ..Images::default() });
            self.datapath.attach(&self.link, AttachMode::Native)?;
        } else if case.who != Who::Kernel {
            nft(&nft_rules(case.who, case.rules))?;
        }
        // Another XDP program may mean another thread.
        self.road.pin()?;
        let dropped = (case.who == Who::NetfastDrops).then_some(case.rules);
        let generator = Generator::start(frames(dropped))?;
        let rate = if dropped.is_some() {
            rate(self.turn, || Ok(self.dropped()))
        } else {
            rate(self.turn, || self.road.forwarded())
        };
        generator.end()?;
        if netfast {
            self.datapath.detach(self.road.ifindex)?;
        } else {
            nft("flush ruleset\n")?;
        }
        rate
    }

    fn dropped(&self) -> u64 {
        let rows = self.datapath.interface_rows();
        let counts = rows.into_iter().flat_map(|(_, row)| self.datapath.counters().interface(row));
        counts.filter(|(verdict, ..)| *verdict == Verdict::Drop).map(|(.., count)| count.packets).sum()
    }
}

/// Returns whether the machine was steady.
pub fn run(args: &Args) -> Result<bool> {
    let all = cases();
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| name.contains(only.as_str()));
    let needed: Vec<String> = all
        .iter()
        .filter(|case| wanted(&case.name()))
        .map(Case::beside)
        .chain(["rules/netfast_10".into()])
        .collect();
    let cases: Vec<&Case> = all
        .iter()
        .filter(|case| wanted(&case.name()) || case.again || needed.contains(&case.name()))
        .collect();
    let live = Live::new(Duration::from_millis(args.turn))?;
    let mut rates: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    for round in 0..args.rounds {
        for case in &cases {
            let name = case.name();
            eprint!("\r\x1b[Kround {} of {}: {name} ...", round + 1, args.rounds);
            let rate = live.turn(case).with_context(|| name.clone())?;
            rates.entry(name).or_default().push(rate);
        }
    }
    eprint!("\r\x1b[K");
    // Medians of the ratios of turns of the same round.
    let ratio = |name: &str, to: &str| {
        let pairs = rates.get(name).into_iter().flatten().zip(rates.get(to).into_iter().flatten());
        median(&mut pairs.map(|(a, b)| a / b).collect::<Vec<_>>())
    };
    let aa = ratio("rules/netfast_10_again", "rules/netfast_10");
    let steady = (0.97..=1.03).contains(&aa);
    let round = |x: f64| if x.is_finite() { json!((x * 1000.0).round() / 1000.0) } else { json!(null) };
    let mut results = Vec::new();
    let mut points = Vec::new();
    println!("{:<24} {:>8} {:>10}   {:>8}", "case", "Mpps", "ns", "ratio");
    for case in cases.iter().filter(|case| !case.again) {
        let (name, beside) = (case.name(), case.beside());
        let mpps = median(&mut rates[&name].clone()) / 1e6;
        let ratio = if name == beside || case.rules == 0 { f64::NAN } else { ratio(&name, &beside) };
        let shown = if ratio.is_finite() { format!("{ratio:.3} x {beside}") } else { String::new() };
        println!("{name:<24} {mpps:>8.3} {:>10.0}   {shown}", 1000.0 / mpps);
        points.push((case.who, case.rules, 1000.0 / mpps));
        results.push(json!({
            "name": name,
            "rules": case.rules,
            "mpps": round(mpps),
            "ns": round(1000.0 / mpps),
            "ratio_to": if ratio.is_finite() { json!(beside) } else { json!(null) },
            "ratio": round(ratio),
        }));
    }
    println!(
        "\nA/A ratio {aa:.3}{}",
        if steady { ": valid" } else { ", outside 0.97 to 1.03: the machine is too noisy, this run is VOID" }
    );
    if let Some(path) = &args.json {
        let report = json!({
            "schema": 1, "machine": machine(), "aa_ratio": round(aa), "void": !steady, "results": results,
        });
        std::fs::write(path, serde_json::to_string_pretty(&report)?)?;
    }
    if let Some(path) = &args.svg {
        std::fs::write(path, chart::draw(&points))?;
    }
    Ok(steady)
}
