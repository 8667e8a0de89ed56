//! Warnings.

use proptest::prelude::*;

use super::{any_filter, echo, filter, filters, forward, rules};
use crate::{
    api::types::Rules,
    rules::check::{covers, warnings},
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
    #[test]
    fn a_rule_covers_itself_and_one_without_conditions_covers_all(rule in any_filter()) {
        prop_assert!(covers(&rule, &rule));
        prop_assert!(covers(&filter("drop"), &rule));
    }
}
