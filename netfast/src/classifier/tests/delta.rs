//! Rules that come, go and move one by one.

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Rules that come at one place again and again, before or behind each other, while others go and move: orders never run
    /// out, and no record of a tree that stays gets another one.
    #[test]
    fn many_changes_at_one_place_say_what_a_linear_match_says(seed in 1u64.., count in 0u32..120) {
        let mut numbers = Numbers(seed);
        let plain = |numbers: &mut Numbers, number| {
            let version = numbers.one_of(&[4, 6]);
            Rule { action: numbers.one_of(&[Action::Allow, Action::Drop]), ..rule(numbers, number, version) }
        };
        let mut rules: Vec<Rule> = (0..count).map(|number| plain(&mut numbers, number)).collect();
        let limits = Limits::default();
        let mut compiled = compile(&rules, &limits).unwrap();
        let mut place = numbers.below(rules.len() as u64 + 1) as usize;
        for number in count..count + 40 {
            match numbers.below(8) {
                0 if !rules.is_empty() => {
                    let at = numbers.below(rules.len() as u64) as usize;
                    rules.remove(at);
                    place -= usize::from(at < place);
                }
                1 if !rules.is_empty() => {
                    let rule = rules.remove(numbers.below(rules.len() as u64) as usize);
                    place = place.min(rules.len());
                    rules.insert(place, rule);
                }
                way => {
                    rules.insert(place, plain(&mut numbers, number));
                    place += usize::from(way < 5);
                }
            }
            compiled = match compiled.update(&rules, &limits) {
                Some(updated) => updated.unwrap(),
                None => compile(&rules, &limits).unwrap(),
            };
            prop_assert_eq!(&*compiled.rules, &rules);
            prop_assert!(compiled.orders.is_sorted_by(|a, b| a < b));
            agree(&rules, &compiled, &mut numbers, 30)?;
        }
    }
}

#[test]
fn orders_do_not_run_out() {
    let mut rules: Vec<Rule> = (0..2000).map(|n| Rule { source: host(n), ..drop(n, [80, 80]) }).collect();
    let limits = Limits::default();
    let mut compiled = compile(&rules, &limits).unwrap();
    let mut numbers = Numbers(3);
    // Before what came last, behind it, at the front and at the end.
    for (way, from) in [1000, 1000, 0, 2180].into_iter().enumerate() {
        for number in 0..60 {
            let at = from + if way % 2 == 1 { number as usize } else { 0 };
            let number = 2000 + way as u32 * 60 + number;
            rules.insert(at, Rule { source: host(number), ..drop(number, [90, 90]) });
            if number % 20 == 19 {
                let (gone, to) = (numbers.below(1500) as usize, numbers.below(1500) as usize);
                let rule = rules.remove(gone);
                compiled = compiled.update(&rules, &limits).unwrap().unwrap();
                rules.insert(to, rule);
            }
            compiled = compiled.update(&rules, &limits).expect("a small change").unwrap();
        }
    }
    assert!(compiled.patches() > 240);
    assert!(compiled.orders.is_sorted_by(|a, b| a < b));
    let tested = Host::new(&compiled);
    for rule in rules.iter().filter(|rule| rule.number >= 1500) {
        let (Addresses::V4 { first, .. }, Ports::Ports { destination: [port, _], .. }) =
            (rule.source, rule.ports)
        else {
            panic!("{rule:?}")
        };
        let mut packet = to_port(port);
        packet.key.source = addr::from_v4(first.to_be_bytes());
        assert_eq!(Some(rule.number), tested.ask(&packet, 1, None).rule);
    }
}

/// One address for each number.
fn host(number: u32) -> Addresses {
    let address = 0x0a00_0000 | number.wrapping_mul(0x9e37_79b1) & 0x00ff_ffff;
    Addresses::V4 { first: address, last: address }
}
