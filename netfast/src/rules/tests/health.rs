//! Health checks in rules: what is refused, and who gets new flows.

use std::sync::Arc;

use netfast_common::abi::{MAGLEV_PER_CELL, TARGET_LEAVES};
use proptest::prelude::*;

use super::{Host, any_rules, forward, intent, rules};
use crate::{
    api::types::{ErrorCode, Health, Rules},
    classifier::Limits,
    rules::{
        compile::{compile, compile_beside, rebalance},
        ids::Ids,
        images::{Images, TargetStates},
        normal::target_key,
        validate::validate,
    },
};

fn checked(check: &str) -> Rules {
    let mut web = forward("web", "192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]);
    web.health = Some(check.parse().unwrap());
    rules(&[web, forward("plain", "192.0.2.2:80", &["10.0.0.1:80", "10.0.0.2:80"])])
}

fn with(rules: &Rules, states: &TargetStates) -> (Images, Ids) {
    let mut ids = Ids::default();
    let images = compile_beside(
        &intent(rules.clone()),
        &mut ids,
        &Host::default(),
        &Images::default(),
        &Limits::default(),
        states,
    );
    (images.unwrap(), ids)
}

fn down(rules: &Rules, which: impl Fn(usize, usize) -> bool) -> TargetStates {
    let mut states = TargetStates::default();
    for (at, forward) in rules.forwards.iter().enumerate() {
        for (number, target) in forward.targets.iter().enumerate() {
            states.set(&forward.name, target_key(&target.address), which(at, number));
        }
    }
    states
}

#[test]
fn checks_that_cannot_be_are_refused_with_the_key() {
    for (check, key, words) in [
        ("tcp,path=/", "path", "type tcp has no use for path"),
        ("http,sni=a.example", "sni", "no use for sni"),
        ("icmp,port=7", "port", "no use for port"),
        ("tcp,record=aaaa", "record", "no use for record"),
        ("http:ready", "path", "begins with /"),
        ("http,host=a b", "host", "not a host"),
        ("https,sni=10.0.0.1", "sni", "is an address"),
        ("https,verify=true", "verify", "give sni or host"),
        ("dns", "name", "needs the name"),
        ("dns:a..b", "name", "not a name of the DNS"),
        ("http,body=", "body", "0 bytes"),
        ("tcp,interval=10ms", "interval", "100ms to 1h"),
        ("tcp,interval=1s,timeout=2s", "timeout", "longer than the interval of 1s"),
        ("tcp,jitter=51", "jitter", "0 to 50"),
        ("tcp,rise=0", "rise", "1 to 100"),
        ("tcp,fall=101", "fall", "1 to 100"),
        ("tcp,port=0", "port", "port 0"),
    ] {
        let error = validate(&checked(check)).expect_err(check);
        assert_eq!(ErrorCode::Rejected, error.code);
        assert_eq!(Some(format!("forward.web.health.{key}")), error.field, "{check}: {}", error.message);
        assert!(error.message.contains(words), "{check}: {}", error.message);
    }
    for good in [
        "tcp",
        "http:/a?b=c,host=[fd00::1]:80",
        "https,host=a.example,verify=true",
        "dns:.",
        "icmp,timeout=5s",
    ] {
        assert_eq!(Ok(()), validate(&checked(good)), "{good}");
    }
}

#[test]
fn a_target_that_is_down_gets_no_new_flows_and_the_others_keep_theirs() {
    let rules = checked("tcp");
    let (before, _) = with(&rules, &TargetStates::default());
    let (after, _) = with(&rules, &down(&rules, |at, number| (at, number) == (0, 1)));
    let entries = |images: &Images, at: usize| -> Vec<u16> {
        let image = images.forwards[at].1;
        let all: Vec<u16> = images.maglev.iter().flat_map(|cell| cell.targets).collect();
        all[image.maglev_offset as usize..][..image.maglev_size as usize].to_vec()
    };
    let (old, new) = (entries(&before, 0), entries(&after, 0));
    assert_eq!(old.len(), new.len(), "the table's size does not depend on states");
    let gone = before.targets[1].0;
    assert!(old.contains(&gone) && !new.contains(&gone));
    let moved = old.iter().zip(&new).filter(|(old, new)| old != new && **old != gone).count();
    assert!(moved * 20 < old.len(), "{moved} of {} entries of others moved", old.len());
    assert_eq!(entries(&before, 1), entries(&after, 1));
    let mut expected = before.targets.clone();
    expected[1].1.state = TARGET_LEAVES;
    assert_eq!(expected, after.targets, "its flows stay where they are");
}

#[test]
fn with_all_targets_down_nobody_gets_new_flows_and_without_checks_nobody_is_down() {
    let rules = checked("tcp");
    let (images, _) = with(&rules, &down(&rules, |_, _| true));
    assert_eq!(0, images.forwards[0].1.maglev_size);
    assert_ne!(0, images.forwards[1].1.maglev_size, "nobody checks it");
    assert_eq!((0, &[][..]), (images.tables[0].size(), images.tables[0].entries()));
}

#[test]
fn tables_whose_targets_are_the_same_are_taken_over() {
    let rules = checked("icmp");
    let (mut images, ids) = with(&rules, &TargetStates::default());
    let before = images.tables.clone();
    rebalance(&intent(rules.clone()), &ids, &down(&rules, |at, number| (at, number) == (0, 2)), &mut images);
    assert!(!Arc::ptr_eq(&before[0], &images.tables[0]));
    assert!(Arc::ptr_eq(&before[1], &images.tables[1]));
}

proptest! {
    #[test]
    fn rebalancing_makes_what_compiling_anew_does(rules in any_rules(), bits in any::<u64>()) {
        let rules = { let mut rules = rules; rules.forwards.iter_mut().for_each(|f| f.health = Some(Health::new("tcp".parse().unwrap()))); rules };
        let states = down(&rules, |at, number| bits >> ((at * 7 + number) % 64) & 1 == 1);
        let mut ids = Ids::default();
        let mut images = compile(&intent(rules.clone()), &mut ids, &Host::default()).unwrap();
        rebalance(&intent(rules.clone()), &ids, &states, &mut images);
        prop_assert_eq!(&with(&rules, &states).0, &images);
        // Each table's part is its own, and the counts are those of its cells.
        for (table, (_, image)) in images.tables.iter().zip(&images.forwards) {
            prop_assert_eq!(table.size(), image.maglev_size);
            prop_assert_eq!(table.size(), table.entries().iter().map(|(_, count)| count).sum::<u32>());
            let first = (image.maglev_offset / MAGLEV_PER_CELL) as usize;
            prop_assert_eq!(table.cells(), &images.maglev[first..][..table.cells().len()]);
        }
        rebalance(&intent(rules.clone()), &ids, &TargetStates::default(), &mut images);
        prop_assert_eq!(&with(&rules, &TargetStates::default()).0, &images);
    }
}
