//! Warnings.

use std::{collections::BTreeSet, sync::Arc};

use proptest::prelude::*;

use super::{any_filter, any_set, echo, filter, filters, forward, rules};
use crate::{
    api::types::{AddressSet, FilterDefault, FilterRule, InterfacePolicy, Rules},
    rules::{analysis, boxes, check::warnings},
};

#[test]
fn shadowed_and_duplicate_filter_rules() {
    for (texts, words) in [
        (
            ["drop proto=tcp", "drop proto=tcp dport=22"],
            vec!["rule 2 (drop proto=tcp dport=22) is never reached", "rule 1 (drop proto=tcp)"],
        ),
        (["drop src=10.0.0.0/8", "drop src=10.0.0.0/8"], vec!["rule 2", "the same as", "rule 1"]),
        (
            ["allow name=all", "drop name=x version=6"],
            vec!["rule 2 \"x\" is never reached", "rule 1 \"all\"", "allows it"],
        ),
        (["drop src=0.0.0.0/0", "drop proto=icmp"], vec!["rule 2 (drop proto=icmp) is never reached"]),
    ] {
        let found = warnings(&filters(&texts));
        assert_eq!(found.len(), 1, "{texts:?}: {found:?}");
        for word in words {
            assert!(found[0].contains(word), "{word:?} is not in: {}", found[0]);
        }
    }
    for texts in [
        ["drop proto=tcp dport=22", "drop proto=tcp"],
        ["drop src=10.0.0.0/8", "drop dst=10.0.0.0/8"],
        ["drop src=0.0.0.0/0", "drop proto=tcp"],
        ["drop interface=eth0", "drop"],
        ["drop proto=tcp sport=1-65535", "drop proto=tcp"],
        ["drop version=4", "drop src=::/0"],
    ] {
        assert_eq!(warnings(&filters(&texts)), Vec::<String>::new(), "{texts:?}");
    }
}

#[test]
fn forwards_and_echoes() {
    let found = warnings(&rules(&[forward("web", "192.0.2.1:80", &[])]));
    assert!(found.len() == 1 && found[0].contains("\"web\" has no target"), "{found:?}");
    let chain = rules(&[
        forward("a", "192.0.2.1:80", &["192.0.2.2:80"]),
        forward("b", "192.0.2.2:80", &["10.0.0.1:80"]),
    ]);
    let found = warnings(&chain);
    assert!(found.len() == 1 && found[0].contains("forward \"a\": forward \"b\" listens"), "{found:?}");
    let open = Rules { echoes: vec![echo("192.0.2.1:7", &["0.0.0.0/0"])], ..Rules::default() };
    assert!(warnings(&open)[0].contains("allows everybody"));
    let fine = Rules { echoes: vec![echo("192.0.2.1:7", &["10.0.0.0/8"])], ..Rules::default() };
    assert_eq!(warnings(&fine), Vec::<String>::new());
}

proptest! {
    /// What the index finds is what comparing every rule with every earlier one finds.
    #[test]
    fn the_index_finds_what_comparing_all_finds(
        filters in prop::collection::vec(any_filter(), 0..40),
        sets in prop::collection::vec(any_set(), 0..3),
    ) {
        let filters: Vec<Arc<FilterRule>> = filters.into_iter().map(Arc::new).collect();
        let named = boxes::by_name(&sets);
        let matches: Vec<Vec<boxes::Match<'_>>> = filters
            .iter()
            .map(|rule| {
                let mut all = Vec::new();
                boxes::for_each(rule, &named, |one| all.push(one));
                prop_assert_eq!(all.len(), boxes::count(rule, &named));
                Ok(all)
            })
            .collect::<Result<_, TestCaseError>>()?;
        let ends = |at: &usize| !filters[*at].action.goes_on();
        let expected: Vec<(usize, Vec<usize>)> = (0..filters.len())
            .filter_map(|at| {
                let mut by = Vec::new();
                for one in &matches[at] {
                    by.push((0..at).filter(ends).find(|earlier| matches[*earlier].iter().any(|m| m.covers(one)))?);
                }
                let mut seen = BTreeSet::new();
                by.retain(|earlier| seen.insert(*earlier));
                by.truncate(8);
                Some((at, by))
            })
            .collect();
        let found: Vec<(usize, Vec<usize>)> =
            analysis::hidden(&filters, &sets).into_iter().map(|hidden| (hidden.rule, hidden.by)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn lists_sets_and_conditions_hide_and_are_hidden() {
    for (texts, hidden) in [
        (["drop proto=tcp,udp", "allow proto=udp dport=53"], true),
        (["drop proto=tcp dport=1-100,200-300", "drop proto=tcp dport=50-60,250"], true),
        (["drop proto=tcp dport=1-100,200-300", "drop proto=tcp dport=50-60,150"], false),
        (["drop proto=tcp flags=syn", "drop proto=tcp flags=syn/syn,ack"], true),
        (["drop proto=tcp flags=syn/syn,ack", "drop proto=tcp flags=syn"], false),
        (["drop proto=icmp icmp=3", "drop proto=icmp icmp=3/4"], true),
        (["drop proto=icmp icmp=3/4", "drop proto=icmp icmp=3"], false),
        (["drop vlan=7", "drop vlan=7 proto=tcp"], true),
        (["count", "drop proto=tcp"], false),
        (["limit rate=5/s", "drop proto=tcp"], false),
        (["drop", "count name=x"], true),
        (["drop version=4", "drop"], false),
    ] {
        assert_eq!(warnings(&filters(&texts)).len(), usize::from(hidden), "{texts:?}");
    }
    // Two rules together.
    let found = warnings(&filters(&["drop version=4", "drop version=6", "allow"]));
    assert!(
        found.len() == 1 && found[0].contains("rule 1 (drop ip-version=4) and filter rule 2"),
        "{found:?}"
    );
    let set = AddressSet { name: "s".to_owned(), addresses: Vec::new(), comment: None };
    let rules = Rules { sets: vec![set], ..filters(&["drop src=@s"]) };
    assert!(warnings(&rules)[0].contains("matches nothing: its sets are empty"));
}

#[test]
fn a_policy_of_drop_needs_neighbour_discovery() {
    let policy = InterfacePolicy { interface: "eth0".to_owned(), filter: FilterDefault::Drop };
    let with = |texts: &[&str]| warnings(&Rules { policies: vec![policy.clone()], ..filters(texts) });
    assert!(with(&[])[0].contains("drops neighbour discovery"));
    assert!(with(&["allow proto=icmpv6 icmp=neighbour-solicitation,neighbour-advertisement"]).is_empty());
    assert!(with(&["allow interface=eth1 proto=icmpv6"]).len() == 1);
}

#[test]
fn a_hundred_thousand_rules_are_analysed_in_a_moment() {
    let rule = |n: u32| {
        let text = format!(
            "drop src=10.{}.{}.0/24 dst=192.{}.0.0/16 proto=tcp dport={}",
            n % 97,
            n % 251,
            n % 113,
            n % 1009
        );
        Arc::new(filter(&text))
    };
    let filters: Vec<_> = (0..100_000).map(rule).collect();
    let started = std::time::Instant::now();
    assert!(analysis::hidden(&filters, &[]).is_empty());
    // Without an index it would take minutes.
    assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
}
