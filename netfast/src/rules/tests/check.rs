//! Warnings.

use std::sync::Arc;

use proptest::prelude::*;

use super::{any_filter, any_set, echo, filter, filters, forward, rules};
use crate::{
    api::types::{AddressSet, FilterDefault, FilterRule, InterfacePolicy, Rules, Transport},
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
    let mut leaving = forward("web", "192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80"]);
    leaving.targets[0].drain = true;
    assert_eq!(warnings(&rules(&[leaving.clone()])), Vec::<String>::new());
    leaving.targets[1].drain = true;
    let found = warnings(&rules(&[leaving]));
    assert!(found.len() == 1 && found[0].contains("every target of forward \"web\" drains"), "{found:?}");
    let quic = |ids: [Option<&str>; 2]| {
        let mut quic = forward("video", "192.0.2.1:443", &["10.0.0.1:443", "10.0.0.2:443"]);
        (quic.protocol, quic.quic) = (Transport::Udp, Some(1));
        for (target, id) in quic.targets.iter_mut().zip(ids) {
            target.id = id.map(|id| id.parse().unwrap());
        }
        warnings(&rules(&[quic]))
    };
    assert_eq!(quic([Some("0a"), Some("0b")]), Vec::<String>::new());
    let found = quic([Some("0a"), None]);
    assert!(found.len() == 1 && found[0].contains("target 10.0.0.2:443 has no id"), "{found:?}");
    let open = Rules { echoes: vec![echo("192.0.2.1:7", &["0.0.0.0/0"])], ..Rules::default() };
    assert!(warnings(&open)[0].contains("allows everybody"));
    let fine = Rules { echoes: vec![echo("192.0.2.1:7", &["10.0.0.0/8"])], ..Rules::default() };
    assert_eq!(warnings(&fine), Vec::<String>::new());
}

proptest! {
    /// What comparing every rule with every earlier one finds is found, and whatever is found is so.
    #[test]
    fn the_analysis_finds_what_comparing_all_finds_and_tells_the_truth(
        filters in prop::collection::vec(any_filter(), 0..40),
        sets in prop::collection::vec(any_set(), 0..3),
        seed in 1u64..,
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
        let covered = |at: usize, one: &boxes::Match<'_>| {
            (0..at).filter(ends).any(|earlier| matches[earlier].iter().any(|m| m.covers(one)))
        };
        let found = analysis::hidden(&filters, &sets);
        for at in (0..filters.len()).filter(|at| matches[*at].iter().all(|one| covered(*at, one))) {
            prop_assert!(found.iter().any(|hidden| hidden.rule == at), "rule {at}");
        }
        let mut random = seed;
        for hidden in &found {
            prop_assert!(hidden.by.iter().all(|by| *by < hidden.rule && ends(by)));
            let by = || (0..hidden.rule).filter(ends).flat_map(|earlier| &matches[earlier]);
            for one in &matches[hidden.rule] {
                for _ in 0..20 {
                    let point = point_in(one, by(), &mut random);
                    prop_assert!(by().any(|earlier| earlier.covers(&point)), "{hidden:?} {point:?}");
                }
            }
        }
    }
}

/// One packet's worth of a match: at an end of the match or of one of `others`, where that is inside.
fn point_in<'a>(
    one: &'a boxes::Match<'a>,
    others: impl Iterator<Item = &'a boxes::Match<'a>>,
    random: &mut u64,
) -> boxes::Match<'a> {
    let mut next = || {
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        *random >> 11
    };
    let others: Vec<_> = others.chain([one]).collect();
    let mut pick = || *others[next() as usize % others.len()];
    let host = |prefix: boxes::Prefix, of: boxes::Prefix, last: bool| {
        let at = if last { of.first | !of.mask() } else { of.first };
        let at = if prefix.covers(boxes::Prefix { first: at, length: 128 }) { at } else { prefix.first };
        boxes::Prefix { first: at, length: 128 }
    };
    let port = |ports: Option<[u16; 2]>, of: Option<[u16; 2]>, around: u64| {
        let [low, high] = ports.unwrap_or([0, u16::MAX]);
        let [first, last] = of.unwrap_or([0, u16::MAX]);
        let at = [first, last, first.saturating_sub(1), last.saturating_add(1)][around as usize % 4];
        [at.clamp(low, high); 2]
    };
    let (a, b, c) = (pick(), pick(), pick());
    // Packets that have no ports are some of those that match without any.
    let with_ports = one.source_ports.is_some() || one.destination_ports.is_some() || next() % 3 > 0;
    boxes::Match {
        source: host(one.source, a.source, next() % 2 == 0),
        destination: host(one.destination, b.destination, next() % 2 == 0),
        protocol: one.protocol.or(a.protocol).or(Some(next() as u8)),
        source_ports: with_ports.then(|| port(one.source_ports, c.source_ports, next())),
        destination_ports: with_ports.then(|| port(one.destination_ports, c.destination_ports, next())),
        ..*one
    }
}

#[test]
fn several_rules_together_hide_one() {
    let hidden = |texts: &[&str]| -> Vec<(usize, analysis::Hiding, Vec<usize>)> {
        let found = analysis::hidden(&filters(texts).filters, &[]);
        found.into_iter().map(|hidden| (hidden.rule, hidden.kind, hidden.by)).collect()
    };
    use analysis::Hiding::{Redundant, Shadowed};
    let halves = ["drop src=10.0.0.0/25", "allow dst=10.9.0.0/16", "drop src=10.0.0.128/25"];
    assert_eq!(
        hidden(&[&halves[..], &["allow src=10.0.0.0/24 proto=udp"]].concat()),
        [(3, Shadowed, vec![0, 1, 2])]
    );
    assert_eq!(
        hidden(&["drop src=10.0.0.0/25", "drop src=10.0.0.128/25", "drop src=10.0.0.0/24"]),
        [(2, Redundant, vec![0, 1])]
    );
    assert_eq!(hidden(&["drop src=10.0.0.0/25", "drop src=10.0.0.128/26", "drop src=10.0.0.0/24"]), []);
    // Ports and protocols.
    let ports = [
        "drop proto=tcp dport=0-1000",
        "allow proto=tcp dport=900-60000",
        "drop proto=tcp dport=60001-65535",
    ];
    let with = |last: &str| hidden(&[&ports[..], &[last]].concat());
    assert_eq!(with("drop proto=tcp dport=22-65000"), [(3, Shadowed, vec![0, 1, 2])]);
    assert_eq!(with("drop proto=tcp sport=7 dport=22-2000"), [(3, Shadowed, vec![0, 1])]);
    // Later fragments have no ports.
    assert_eq!(with("drop proto=tcp"), []);
    assert_eq!(with("drop proto=tcp,udp dport=22"), []);
    // What only some packets of a range meet hides none of it.
    assert_eq!(
        hidden(&["drop src=10.0.0.0/25 vlan=7", "drop src=10.0.0.128/25", "drop src=10.0.0.0/24"]),
        []
    );
    assert_eq!(
        hidden(&["drop src=10.0.0.0/25", "drop src=10.0.0.128/25 vlan=7", "drop src=10.0.0.0/24 vlan=7"]),
        [(2, Redundant, vec![0, 1])]
    );
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
