//! The compiled rules say what a linear match says.

mod delta;

use std::sync::Arc;

use netfast_common::{
    abi::{FILTER_PLACES, FILTER_TCP_ANY, FILTER_TCP_FLAGS, FILTER_TCP_PLAIN, FILTER_TCP_VARIES, FlowKey},
    addr,
    wire::{ACK, Fragment, Packet, SYN, TCP, UDP},
};
use proptest::prelude::*;

use super::{
    Action, Addresses, Compiled, Effort, Limits, Ports, Refused, Rule, compile, compile_while, host::Host,
};

/// The answer of a linear match: the rule that decides, and those before it that go on.
fn linear(rules: &[Rule], packet: &Packet, ifindex: u32, icmp: Option<[u8; 2]>) -> (Option<u32>, Vec<u32>) {
    let mut side = Vec::new();
    for rule in rules.iter().filter(|rule| rule.matches(packet, ifindex, icmp)) {
        if !rule.action.goes_on() {
            return (Some(rule.number), side);
        }
        side.push(rule.number);
    }
    (None, side)
}

/// A small generator: the same numbers on every machine.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    fn one_of<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}

fn v4(numbers: &mut Numbers) -> Addresses {
    let address = 0x0a00_0000 | (numbers.next() as u32 & 0x0003_030f);
    match numbers.below(6) {
        0 => Addresses::Any,
        1 => Addresses::V4 { first: address, last: address + numbers.below(0x0004_0000) as u32 },
        2 => Addresses::V4 { first: 0, last: u32::MAX },
        _ => {
            let mask = u32::MAX << numbers.one_of(&[0, 0, 2, 8, 16, 24]);
            Addresses::V4 { first: address & mask, last: address | !mask }
        }
    }
}

fn v6_address(numbers: &mut Numbers) -> u128 {
    0x2001_0db8 << 96
        | u128::from(numbers.below(3)) << 70
        | u128::from(numbers.below(4)) << 30
        | u128::from(numbers.below(4))
}

fn v6(numbers: &mut Numbers) -> Addresses {
    let length = numbers.one_of(&[0, 1, 20, 32, 48, 57, 63, 64, 65, 97, 98, 126, 128, 128]);
    match numbers.below(4) {
        0 => Addresses::Any,
        _ => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Addresses::V6 { address: v6_address(numbers) & mask, length }
        }
    }
}

fn ports(numbers: &mut Numbers) -> [u16; 2] {
    let at = numbers.below(40) as u16;
    match numbers.below(5) {
        0 => [0, u16::MAX],
        1 => [1024, u16::MAX],
        2 => [at, at + numbers.below(30) as u16],
        _ => [at, at],
    }
}

fn rule(numbers: &mut Numbers, number: u32, version: u8) -> Rule {
    let addresses = |numbers: &mut Numbers| if version == 4 { v4(numbers) } else { v6(numbers) };
    let mut rule = Rule {
        number,
        version: numbers.one_of(&[0, 0, version]),
        source: addresses(numbers),
        destination: addresses(numbers),
        action: numbers.one_of(&[
            Action::Allow,
            Action::Drop,
            Action::Drop,
            Action::Reject(1),
            Action::Count,
            Action::Limit(3),
        ]),
        ..Rule::default()
    };
    match numbers.below(8) {
        0 => {}
        1 => rule.protocol = Some(numbers.one_of(&[TCP, UDP, 47])),
        2 => {
            rule.protocol = Some(if version == 4 { 1 } else { 58 });
            rule.ports = Ports::Icmp {
                kind: [0, numbers.below(9) as u8],
                code: numbers.one_of(&[[0, 255], [0, 0], [1, 3]]),
            };
        }
        3 => rule.ports = Ports::Ports { source: ports(numbers), destination: ports(numbers) },
        _ => {
            rule.protocol = Some(numbers.one_of(&[TCP, UDP]));
            rule.ports = Ports::Ports { source: ports(numbers), destination: ports(numbers) };
        }
    }
    match numbers.below(12) {
        0 => rule.ifindex = 1 + numbers.below(3) as u32,
        1 => rule.vlan = Some(numbers.below(2) as u16 * 7),
        2 => rule.tcp_flags = Some([numbers.one_of(&[SYN, 0, 0x10]), numbers.one_of(&[SYN, 0x12, 0xff, 0])]),
        _ => {}
    }
    rule
}

fn packet(numbers: &mut Numbers, version: u8) -> (Packet, u32, Option<[u8; 2]>) {
    let address = |numbers: &mut Numbers| {
        if version == 4 {
            addr::from_v4((0x0a00_0000 | (numbers.next() as u32 & 0x0007_070f)).to_be_bytes())
        } else {
            v6_address(numbers).to_be_bytes()
        }
    };
    let protocol = numbers.one_of(&[TCP, TCP, UDP, UDP, if version == 4 { 1 } else { 58 }, 47]);
    let mut packet = Packet {
        version,
        key: FlowKey {
            source: address(numbers),
            destination: address(numbers),
            protocol,
            ..FlowKey::default()
        },
        fragment: numbers.one_of(&[Fragment::No, Fragment::No, Fragment::First, Fragment::Later]),
        vlan: numbers.one_of(&[0, 0, 7]),
        ..Packet::default()
    };
    let icmp = netfast_common::classify::has_icmp(&packet)
        .then(|| [numbers.below(12) as u8, numbers.below(5) as u8]);
    if packet.has_ports() {
        packet.key.source_port = (numbers.below(60) as u16).to_be_bytes();
        packet.key.destination_port = (numbers.below(60) as u16).to_be_bytes();
        if protocol == TCP {
            packet.flags = numbers.one_of(&[SYN, 0x12, 0x10, 0x18, 0]);
        }
    }
    (packet, 1 + numbers.below(4) as u32, icmp)
}

fn agree(
    rules: &[Rule],
    compiled: &Compiled,
    numbers: &mut Numbers,
    packets: usize,
) -> Result<(), TestCaseError> {
    let host = Host::new(compiled);
    let most = compiled.report().steps_max;
    for at in 0..packets {
        let version = if at % 2 == 0 { 4 } else { 6 };
        let (packet, ifindex, icmp) = packet(numbers, version);
        let (rule, mut side) = linear(rules, &packet, ifindex, icmp);
        let mut answer = host.ask(&packet, ifindex, icmp);
        side.sort_unstable();
        answer.side.sort_unstable();
        prop_assert_eq!(rule, answer.rule, "{:?}", packet);
        prop_assert_eq!(&side, &answer.side, "{:?}", packet);
        let v6 = usize::from(version == 6);
        prop_assert!(answer.steps <= most[v6] + most[2 + v6] + 2, "{} of {most:?} steps", answer.steps);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Random rules of both versions, with everything that a rule can say.
    #[test]
    fn the_trees_say_what_a_linear_match_says(seed in 1u64.., count in 0u32..250) {
        let mut numbers = Numbers(seed);
        // The fewer rules that decide nothing, the deeper the list.
        let rules: Vec<Rule> = (0..count)
            .map(|number| { let version = numbers.one_of(&[4, 6]); rule(&mut numbers, number, version) })
            .filter(|rule| !rule.action.goes_on() || rule.number % 8 == 0)
            .collect();
        match compile(&rules, &Limits::default()) {
            Ok(compiled) => agree(&rules, &compiled, &mut numbers, 400)?,
            Err(error) => prop_assert!(false, "{error}"),
        }
    }

    /// Rules that come, go and move one by one.
    #[test]
    fn small_changes_say_what_a_linear_match_says(seed in 1u64.., count in 0u32..120) {
        let mut numbers = Numbers(seed);
        let plain = |numbers: &mut Numbers, number| {
            let version = numbers.one_of(&[4, 6]);
            let actions = [Action::Allow, Action::Drop, Action::Drop, Action::Drop, Action::Count];
            Rule { action: numbers.one_of(&actions), ..rule(numbers, number, version) }
        };
        let mut rules: Vec<Rule> = (0..count).map(|number| plain(&mut numbers, number)).collect();
        let limits = Limits { side_steps: 200, ..Limits::default() };
        let mut compiled = compile(&rules, &limits).unwrap();
        for number in count..count + 20 {
            let at = numbers.below(rules.len() as u64 + 1) as usize;
            match numbers.below(3) {
                0 => rules.insert(at, plain(&mut numbers, number)),
                1 if at < rules.len() => { rules.remove(at); }
                _ if at < rules.len() => {
                    let rule = rules.remove(at);
                    rules.insert(numbers.below(rules.len() as u64 + 1) as usize, rule);
                }
                _ => {}
            }
            // Too much beside the large trees: all is compiled anew.
            compiled = match compiled.update(&rules, &limits) {
                Some(updated) => updated.unwrap(),
                None => compile(&rules, &limits).unwrap(),
            };
            prop_assert_eq!(&*compiled.rules, &rules);
            prop_assert!(compiled.orders.is_sorted_by(|a, b| a < b));
            agree(&rules, &compiled, &mut numbers, 100)?;
        }
    }
}

#[test]
fn what_a_rule_has_hidden_comes_back_when_it_goes() {
    let mut numbers = Numbers(5);
    let mut rules: Vec<Rule> = (0..4200)
        .map(|number| {
            let (low, first) = (numbers.below(60_000) as u16, 0x0a00_0000 + number * 256);
            Rule { source: Addresses::V4 { first, last: first + 255 }, ..drop(number, [low, low + 9]) }
        })
        .collect();
    // In front of all rules, over the sources of sixteen of them.
    let over = Addresses::V4 { first: 0x0a00_1000, last: 0x0a00_1fff };
    rules.insert(0, Rule { source: over, action: Action::Allow, ..drop(5000, [0, u16::MAX]) });
    let limits = Limits::default();
    let before = compile(&rules, &limits).unwrap();
    let ask = |compiled: &Compiled, rules: &[Rule]| {
        let host = Host::new(compiled);
        for rule in rules.iter().filter(|rule| rule.number < 40) {
            let (Addresses::V4 { first, .. }, Ports::Ports { destination: [low, _], .. }) =
                (rule.source, rule.ports)
            else {
                panic!("{rule:?}")
            };
            let mut packet = to_port(low);
            packet.key.source = addr::from_v4((first + 7).to_be_bytes());
            assert_eq!(linear(rules, &packet, 1, None).0, host.ask(&packet, 1, None).rule, "{rule:?}");
        }
    };
    ask(&before, &rules);
    let hiding = rules.remove(0);
    let after = before.update(&rules, &limits).unwrap().unwrap();
    assert_eq!((16, 1), (after.revived.len(), after.patches()));
    ask(&after, &rules);
    // One of those that came back goes; another rule moves; the first one is there again.
    rules.remove(20);
    let after = after.update(&rules, &limits).unwrap().unwrap();
    ask(&after, &rules);
    let moved = rules.remove(22);
    rules.insert(1500, moved);
    let after = after.update(&rules, &limits).unwrap().unwrap();
    ask(&after, &rules);
    rules.insert(0, hiding);
    let after = after.update(&rules, &limits).unwrap().unwrap();
    assert_eq!(4, after.patches());
    ask(&after, &rules);
    // A rule over everything has hidden too much.
    rules.insert(0, drop(5001, [0, u16::MAX]));
    let compiled = compile(&rules, &limits).unwrap();
    rules.remove(0);
    assert!(compiled.update(&rules, &limits).is_none());
}

fn drop(number: u32, ports: [u16; 2]) -> Rule {
    Rule {
        number,
        protocol: Some(TCP),
        ports: Ports::Ports { source: [0, u16::MAX], destination: ports },
        ..Rule::default()
    }
}

fn to_port(port: u16) -> Packet {
    let mut packet = Packet { version: 4, ..Packet::default() };
    packet.key.protocol = TCP;
    packet.key.source = addr::from_v4([192, 0, 2, 1]);
    packet.key.destination = addr::from_v4([192, 0, 2, 2]);
    packet.key.destination_port = port.to_be_bytes();
    packet
}

#[test]
fn overlapping_ranges_take_few_steps() {
    let mut numbers = Numbers(7);
    let rules: Vec<Rule> = (0..3000)
        .map(|number| {
            let (a, b) = (numbers.below(65_536) as u16, numbers.below(65_536) as u16);
            drop(number, [a.min(b), a.max(b)])
        })
        .collect();
    let compiled = compile(&rules, &Limits::default()).unwrap();
    let report = compiled.report();
    assert!(report.steps_max[0] < 60, "{report:?}");
    let host = Host::new(&compiled);
    for port in (0..=u16::MAX).step_by(7) {
        let packet = to_port(port);
        let first = rules.iter().find(|rule| rule.matches(&packet, 1, None)).map(|rule| rule.number);
        assert_eq!(first, host.ask(&packet, 1, None).rule, "port {port}");
    }
}

#[test]
fn wide_rules_that_overlap_in_many_fields_take_little_memory() {
    // Ranges of sources and of both ports, each as wide as half of all: a cut goes through most of the others.
    let range = |number: u32, factor: u32| {
        let (a, b) = (number.wrapping_mul(factor) >> 16, number.wrapping_mul(factor ^ 0x5555_5555) >> 16);
        [a.min(b) as u16, a.max(b) as u16]
    };
    let rules: Vec<Rule> = (1..=100)
        .map(|number| {
            let [first, last] = range(number, 0x9e37_79b1).map(|end| u32::from(end) << 16);
            let ports =
                Ports::Ports { source: range(number, 0x85eb_ca6b), destination: range(number, 0xc2b2_ae35) };
            Rule { source: Addresses::V4 { first, last }, ports, ..drop(number, [0, 0]) }
        })
        .collect();
    // With leaves of six records alone they take four times as many.
    let compiled = compile(&rules, &Limits { cells: 1500, ..Limits::default() }).unwrap();
    // Among the small sets that may take more, it is chosen because fewer steps lead there.
    let unbounded = compile(&rules, &Limits::default()).unwrap();
    assert!(unbounded.cost() <= compiled.cost(), "{} and {}", unbounded.cost(), compiled.cost());
    let mut numbers = Numbers(13 << 40);
    let host = Host::new(&compiled);
    for _ in 0..2000 {
        let mut packet = to_port(numbers.below(65_536) as u16);
        packet.key.source = addr::from_v4((numbers.next() as u32).to_be_bytes());
        packet.key.source_port = (numbers.below(65_536) as u16).to_be_bytes();
        let first = rules.iter().find(|rule| rule.matches(&packet, 1, None)).map(|rule| rule.number);
        assert_eq!(first, host.ask(&packet, 1, None).rule, "{packet:?}");
    }
}

#[test]
fn nested_prefixes_take_few_steps() {
    // From the widest to the narrowest the first hides all others; the other way round each counts.
    let prefix = |number: u32, length: u32| {
        let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
        let address = 0x0a01_0203 & mask;
        Rule { number, source: Addresses::V4 { first: address, last: address | !mask }, ..Rule::default() }
    };
    let rules: Vec<Rule> = (0..33).map(|number| prefix(number, 32 - number)).collect();
    let compiled = compile(&rules, &Limits::default()).unwrap();
    assert!(compiled.report().steps_max[0] < 40, "{:?}", compiled.report());
    let host = Host::new(&compiled);
    for length in 0..=32u32 {
        let mut packet = to_port(1);
        let other_bit = if length == 32 { 0 } else { 1 << (31 - length) };
        packet.key.source = addr::from_v4((0x0a01_0203u32 ^ other_bit).to_be_bytes());
        assert_eq!(Some(32 - length), host.ask(&packet, 1, None).rule, "/{length}");
    }
}

#[test]
fn duplicates_are_hidden() {
    let rules: Vec<Rule> = (0..5000).map(|number| drop(number, [80, 80])).collect();
    let compiled = compile(&rules, &Limits::default()).unwrap();
    assert!(compiled.report().steps_max[0] < 12, "{:?}", compiled.report());
    assert_eq!(Some(0), Host::new(&compiled).ask(&to_port(80), 1, None).rule);
    assert_eq!(None, Host::new(&compiled).ask(&to_port(81), 1, None).rule);
}

#[test]
fn what_cannot_be_told_apart_is_refused_with_the_rule() {
    let rules: Vec<Rule> = (0..200)
        .map(|number| Rule { tcp_flags: Some([number as u8, 0xff]), ..drop(number, [80, 80]) })
        .collect();
    let error = compile(&rules, &Limits::default()).unwrap_err();
    assert!(matches!(error, Refused::Steps { rule: 199, .. }), "{error:?}");
    assert!(error.to_string().starts_with("rule 200 overlaps too many"), "{error}");
    // Matches of one rule have one number, and one entry.
    let twice = [drop(1, [1, 1]), drop(1, [2, 2])];
    assert!(compile(&twice, &Limits::default()).is_ok());
    let twice = [drop(1, [1, 1]), Rule { ifindex: 7, ..drop(1, [2, 2]) }];
    assert!(matches!(compile(&twice, &Limits::default()), Err(Refused::Number { rule: 1, number: 1, .. })));
    let limits = Limits { cells: 8, ..Limits::default() };
    let many: Vec<Rule> = (0..1000).map(|number| drop(number, [number as u16; 2])).collect();
    assert!(matches!(compile(&many, &limits), Err(Refused::Memory { .. })));
}

#[test]
fn the_same_rules_give_the_same_trees_and_more_effort_no_more_steps() {
    let mut numbers = Numbers(11);
    let rules: Vec<Rule> =
        (0..400).map(|number| Rule { action: Action::Drop, ..rule(&mut numbers, number, 4) }).collect();
    let quick = compile(&rules, &Limits::default()).unwrap();
    assert_eq!(quick.trees, compile(&rules, &Limits::default()).unwrap().trees);
    let limits = Limits { effort: Effort::Better, ..Limits::default() };
    let better = compile(&rules, &limits).unwrap();
    assert!(better.cost() <= quick.cost(), "{} and {}", better.cost(), quick.cost());
    assert_eq!(None, compile_while(&Arc::new(rules.clone()), &limits, &|| false));
    agree(&rules, &better, &mut numbers, 1000).unwrap();
}

#[test]
fn rules_on_flags_speak_of_flows_unless_they_allow() {
    let flags = |flags: [u8; 2], action| {
        let rule = Rule { tcp_flags: Some(flags), action, ..Rule::default() };
        compile(&[rule], &Limits::default()).unwrap().flags & (FILTER_TCP_FLAGS | FILTER_TCP_PLAIN)
    };
    let both = FILTER_TCP_FLAGS | FILTER_TCP_PLAIN;
    assert_eq!(FILTER_TCP_FLAGS, flags([SYN, SYN | ACK], Action::Drop));
    assert_eq!(FILTER_TCP_FLAGS, flags([0, 0x3f], Action::Drop), "a plain segment has ACK");
    assert_eq!(FILTER_TCP_FLAGS, flags([SYN, SYN], Action::Limit(0)));
    assert_eq!(both, flags([8, 8], Action::Count));
    assert_eq!(both, flags([0, SYN], Action::Reject(0)));
    assert_eq!(both, flags([ACK, ACK], Action::Drop));
    assert_eq!(0, flags([ACK, ACK], Action::Allow));
    assert_eq!(0, flags([0, 0], Action::Drop));
}

#[test]
fn what_verdicts_depend_on_is_told() {
    let all = FILTER_TCP_ANY | FILTER_TCP_VARIES | FILTER_PLACES;
    let flags = |rule| compile(&[rule], &Limits::default()).unwrap().flags & all;
    let on = |flags| Rule { tcp_flags: Some(flags), action: Action::Allow, ..Rule::default() };
    assert_eq!(0, flags(on([0, 0])));
    assert_eq!(FILTER_TCP_ANY, flags(on([ACK, ACK])));
    assert_eq!(FILTER_TCP_ANY, flags(on([SYN, SYN | 8])), "no plain segment matches");
    assert_eq!(FILTER_TCP_ANY | FILTER_TCP_VARIES, flags(on([ACK, ACK | 8])));
    assert_eq!(FILTER_PLACES, flags(Rule { ifindex: 3, ..Rule::default() }));
    assert_eq!(FILTER_PLACES, flags(Rule { vlan: Some(0), ..Rule::default() }));
}
