//! Operations.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    any_echo, any_filter, any_forward, any_policy, any_rules, any_set, any_target, echo, filter, filters,
    forward, intent, rules, target,
};
use crate::{
    api::types::{
        AddressSet, AttachMode, Attachment, ChangeAction, ErrorCode, FilterDefault, FilterRule, FilterRules,
        Intent, InterfacePolicy, Operation, Rules,
    },
    rules::{change::apply, normal::normalize, validate},
};

fn web() -> Intent {
    intent(rules(&[
        forward("web", "192.0.2.10:443", &["10.0.0.11:8443", "10.0.0.12:8443"]),
        forward("mail", "192.0.2.10:25", &["10.0.0.25:25"]),
    ]))
}

/// The changes as `kind name action`.
fn done(intent: &Intent, operations: &[Operation]) -> (Intent, Vec<String>) {
    let changed = apply(intent, operations).unwrap();
    let words = changed.changes.iter().map(|c| format!("{} {} {}", c.kind, c.name, c.action)).collect();
    assert_eq!(changed.is_changed(), changed.intent.revision != intent.revision, "{:?}", changed.changes);
    (changed.intent, words)
}

fn refused(intent: &Intent, operations: &[Operation], code: ErrorCode, word: &str) {
    let error = apply(intent, operations).unwrap_err();
    assert_eq!(error.code, code, "{}", error.message);
    assert!(error.message.contains(word), "{word:?} is not in: {}", error.message);
}

#[test]
fn forwards_come_change_and_go() {
    let (one, words) = done(
        &web(),
        &[Operation::ForwardAdd {
            forward: forward("dns", "192.0.2.10:53", &["10.0.0.53:53"]),
            if_not_exists: false,
        }],
    );
    assert_eq!(words, ["forward dns created", "target dns/10.0.0.53:53 created"]);
    assert_eq!(one.revision, 8);

    let moved = forward("web", "192.0.2.10:8443", &["10.0.0.12:8443", "10.0.0.13:8443"]);
    let (two, words) = done(&one, &[Operation::ForwardSet { forward: moved }]);
    assert_eq!(
        words,
        ["forward web changed", "target web/10.0.0.11:8443 deleted", "target web/10.0.0.13:8443 created"]
    );
    assert_eq!(two.rules.forwards[0].name, "web", "a forward keeps its place");

    let (three, words) = done(&two, &[Operation::ForwardDelete { name: "mail".to_owned() }]);
    assert_eq!(words, ["forward mail deleted", "target mail/10.0.0.25:25 deleted"]);
    assert_eq!((three.revision, three.rules.forwards.len()), (10, 2));
}

#[test]
fn the_same_once_more_changes_nothing() {
    let web = web();
    let mut turned = web.rules.forwards[0].clone();
    turned.targets.reverse();
    for (operation, word) in [
        (Operation::ForwardSet { forward: turned }, "forward web unchanged"),
        (
            Operation::ForwardAdd { forward: forward("web", "192.0.2.99:1", &[]), if_not_exists: true },
            "forward web unchanged",
        ),
        (
            Operation::TargetSet { forward: "mail".to_owned(), target: target("10.0.0.25:25") },
            "target mail/10.0.0.25:25 unchanged",
        ),
    ] {
        let (after, words) = done(&web, &[operation]);
        assert_eq!(words, [word]);
        assert_eq!(after, web);
    }
    let (after, words) = done(&web, &[Operation::Apply { rules: web.rules.clone(), prune: true }]);
    assert_eq!(words, ["forward web unchanged", "forward mail unchanged"]);
    assert_eq!(after, web);
}

#[test]
fn what_exists_and_what_does_not() {
    let web = web();
    let add = Operation::ForwardAdd { forward: forward("web", "192.0.2.99:1", &[]), if_not_exists: false };
    refused(&web, &[add], ErrorCode::Conflict, "`forward set`");
    let delete = Operation::ForwardDelete { name: "wbe".to_owned() };
    refused(&web, &[delete], ErrorCode::NotFound, "did you mean \"web\"?");
    let delete = Operation::ForwardDelete { name: "quux".to_owned() };
    assert_eq!(apply(&web, &[delete]).unwrap_err().message, "there is no forward \"quux\"");
    let again = Operation::TargetAdd { forward: "web".to_owned(), target: target("10.0.0.11:8443") };
    refused(&web, &[again], ErrorCode::Conflict, "`target set`");
    let gone =
        Operation::TargetDelete { forward: "web".to_owned(), address: "10.0.0.11:8444".parse().unwrap() };
    refused(&web, &[gone], ErrorCode::NotFound, "did you mean \"10.0.0.11:8443\"?");
    let no_forward = Operation::TargetAdd { forward: "we".to_owned(), target: target("10.0.0.11:1") };
    refused(&web, &[no_forward], ErrorCode::NotFound, "did you mean \"web\"?");
    let taken = Operation::ForwardAdd { forward: forward("x", "192.0.2.10:443", &[]), if_not_exists: false };
    refused(&web, &[taken], ErrorCode::Rejected, "forward \"web\" (tcp 192.0.2.10:443)");
}

#[test]
fn all_or_nothing_and_only_the_result_must_be_valid() {
    let web = web();
    let swap = [
        Operation::ForwardSet { forward: forward("web", "192.0.2.10:25", &[]) },
        Operation::ForwardSet { forward: forward("mail", "192.0.2.10:443", &[]) },
    ];
    refused(&web, &swap[..1], ErrorCode::Rejected, "same port");
    let (after, _) = done(&web, &swap);
    assert_eq!(after.revision, web.revision + 1, "a change of two steps is one revision");
    let broken = [swap[0].clone(), swap[1].clone(), Operation::ForwardDelete { name: "nope".to_owned() }];
    refused(&web, &broken, ErrorCode::NotFound, "operation 3: ");
}

#[test]
fn targets_of_a_range_may_be_given_by_the_first_port() {
    let start = intent(rules(&[forward("games", "192.0.2.10:27000-27099", &["10.0.0.7:27000-27099"])]));
    let name = "games".to_owned();
    let (after, words) =
        done(&start, &[Operation::TargetSet { forward: name.clone(), target: target("10.0.0.7:27000") }]);
    assert_eq!(words, ["target games/10.0.0.7:27000-27099 unchanged"]);
    let (after, words) =
        done(&after, &[Operation::TargetAdd { forward: name.clone(), target: target("10.0.0.8:100") }]);
    assert_eq!(words, ["target games/10.0.0.8:100-199 created"]);
    let (_, words) =
        done(&after, &[Operation::TargetDelete { forward: name, address: "10.0.0.8:100".parse().unwrap() }]);
    assert_eq!(words, ["target games/10.0.0.8:100-199 deleted"]);
}

#[test]
fn echoes() {
    let start = intent(Rules::default());
    let add = |e, if_not_exists| Operation::EchoAdd { echo: e, if_not_exists };
    let (one, words) = done(&start, &[add(echo("192.0.2.1:7", &["10.1.2.3/8"]), false)]);
    assert_eq!(words, ["echo 192.0.2.1:7 created"]);
    assert_eq!(one.rules.echoes[0].allow, ["10.0.0.0/8".parse().unwrap()]);
    let same = echo("192.0.2.1:7", &["10.0.0.0/8"]);
    refused(&one, &[add(same.clone(), false)], ErrorCode::Conflict, "already");
    assert_eq!(done(&one, &[add(same, true)]).1, ["echo 192.0.2.1:7 unchanged"]);
    let other = echo("192.0.2.1:7", &["11.0.0.0/8"]);
    refused(&one, &[add(other.clone(), false)], ErrorCode::Conflict, "already");
    assert_eq!(done(&one, &[add(other.clone(), true)]).1, ["echo 192.0.2.1:7 unchanged"]);
    let apply = Operation::Apply { rules: Rules { echoes: vec![other], ..Rules::default() }, prune: false };
    assert_eq!(done(&one, &[apply]).1, ["echo 192.0.2.1:7 changed"]);
    let delete = |listen: &str| Operation::EchoDelete { listen: listen.parse().unwrap() };
    refused(&one, &[delete("192.0.2.1:8")], ErrorCode::NotFound, "did you mean \"192.0.2.1:7\"?");
    assert_eq!(done(&one, &[delete("192.0.2.1:7")]).1, ["echo 192.0.2.1:7 deleted"]);
}

#[test]
fn filter_rules_are_an_ordered_list() {
    let start = intent(filters(&["drop name=a proto=tcp", "drop proto=udp", "allow name=c proto=icmp"]));
    let order = |intent: &Intent| -> Vec<String> {
        intent.rules.filters.iter().map(|rule| crate::rules::diff::content(rule)).collect()
    };
    let add = |text: &str, position| Operation::FilterAdd { rule: filter(text), position };
    let (after, words) = done(&start, &[add("drop proto=47", Some(2))]);
    assert_eq!(words, ["filter 2 created"]);
    assert_eq!(order(&after), ["drop proto=tcp", "drop proto=47", "drop proto=udp", "allow proto=icmp"]);
    assert_eq!(done(&start, &[add("drop proto=47", None)]).1, ["filter 4 created"]);
    refused(&start, &[add("drop proto=47", Some(5))], ErrorCode::Usage, "1 to 4");
    refused(&start, &[add("drop proto=47", Some(0))], ErrorCode::Usage, "1 to 4");
    refused(&start, &[add("drop name=c", None)], ErrorCode::Conflict, "at position 3");

    let shift = |rule: &str, position| Operation::FilterMove { rule: rule.to_owned(), position };
    let (after, words) = done(&start, &[shift("c", 1)]);
    assert_eq!(words, ["filter c changed"]);
    assert_eq!(order(&after), ["allow proto=icmp", "drop proto=tcp", "drop proto=udp"]);
    assert_eq!(done(&start, &[shift("2", 2)]).1, ["filter 2 unchanged"]);
    refused(&start, &[shift("2", 4)], ErrorCode::Usage, "1 to 3");

    let delete = |rule: &str| Operation::FilterDelete { rule: rule.to_owned() };
    assert_eq!(done(&start, &[delete("2")]).1, ["filter 2 deleted"]);
    assert_eq!(done(&start, &[delete("a")]).1, ["filter a deleted"]);
    refused(&start, &[delete("4")], ErrorCode::NotFound, "positions are 1 to 3");
    refused(&start, &[delete("0")], ErrorCode::NotFound, "positions are 1 to 3");
    refused(&start, &[delete("aa")], ErrorCode::NotFound, "did you mean \"a\"?");
    refused(&start, &[delete("3"), delete("c")], ErrorCode::NotFound, "\"c\", at position 3, is deleted by");
    refused(&start, &[delete("3"), delete("c")], ErrorCode::NotFound, "name each rule once");
    refused(&start, &[delete("3"), delete("cc")], ErrorCode::NotFound, "there is no filter rule \"cc\"");
    let (empty, words) = done(&start, &[Operation::FilterFlush]);
    assert_eq!(words, ["filter a deleted", "filter 2 deleted", "filter c deleted"]);
    refused(&empty, &[delete("1")], ErrorCode::NotFound, "there are none");
    let replace = replacement(filters(&["drop proto=udp", "drop name=a proto=udp"]).filters, false);
    assert_eq!(done(&start, &[replace]).1, ["filter c deleted", "filter 1 unchanged", "filter a changed"]);
}

fn replacement(rules: FilterRules, append: bool) -> Operation {
    Operation::FilterReplace { rules, sets: Vec::new(), policies: Vec::new(), append }
}

#[test]
fn rules_are_put_behind_the_others() {
    let start = intent(filters(&["drop name=a", "drop proto=udp"]));
    let (after, words) = done(&start, &[replacement(filters(&["drop proto=udp", "allow"]).filters, true)]);
    assert_eq!(words, ["filter 3 created", "filter 4 created"]);
    assert!(Arc::ptr_eq(&start.rules.filters[0], &after.rules.filters[0]));
    // Equal rules stay the same ones, so that 100,000 of them are quickly compared with themselves.
    let (again, _) = done(&after, &[replacement(filters(&["drop name=a", "allow"]).filters, false)]);
    assert!(Arc::ptr_eq(&after.rules.filters[3], &again.rules.filters[1]));
}

#[test]
fn sets_and_policies() {
    let set = |name: &str, nets: &[&str]| AddressSet {
        name: name.to_owned(),
        addresses: nets.iter().map(|net| net.parse().unwrap()).collect(),
        comment: None,
    };
    let put = |name: &str, nets: &[&str]| Operation::SetPut { set: set(name, nets) };
    let add = |text: &str| Operation::FilterAdd { rule: filter(text), position: None };
    let start = intent(Rules::default());
    refused(&start, &[add("drop src=@bad")], ErrorCode::Rejected, "there is no set @bad");
    let (with, words) = done(&start, &[put("bad", &["10.0.0.0/8"]), add("drop src=@bad")]);
    assert_eq!(words, ["set bad created", "filter 1 created"]);
    assert_eq!(done(&with, &[put("bad", &["10.0.0.0/8"])]).1, ["set bad unchanged"]);
    assert_eq!(done(&with, &[put("bad", &["11.0.0.0/8"])]).1, ["set bad changed"]);
    let gone = Operation::SetDelete { name: "bad".to_owned() };
    refused(
        &with,
        std::slice::from_ref(&gone),
        ErrorCode::Rejected,
        "filter rule 1 (drop src=@bad) refers to set \"bad\"",
    );
    assert_eq!(done(&with, &[Operation::FilterFlush, gone]).1, ["set bad deleted", "filter 1 deleted"]);
    refused(&start, &[Operation::SetDelete { name: "x".to_owned() }], ErrorCode::NotFound, "no set");

    let policy =
        |filter| Operation::FilterPolicy { policy: InterfacePolicy { interface: "eth0".to_owned(), filter } };
    let (with, words) = done(&start, &[policy(FilterDefault::Drop)]);
    assert_eq!(words, ["policy eth0 created"]);
    assert_eq!(done(&with, &[policy(FilterDefault::Allow)]).1, ["policy eth0 deleted"]);
    assert_eq!(done(&start, &[policy(FilterDefault::Allow)]).1, Vec::<String>::new());
}

#[test]
fn very_many_changes_are_counted() {
    let rules: Vec<Arc<FilterRule>> =
        (0..1500).map(|n| Arc::new(filter(&format!("drop proto=tcp dport={n}")))).collect();
    let (many, words) = done(&intent(Rules::default()), &[replacement(rules.into(), false)]);
    assert_eq!(words, ["filter (1500 rules) created"]);
    let one = Operation::FilterDelete { rule: "700".to_owned() };
    assert_eq!(done(&many, &[one]).1, ["filter 700 deleted"]);
}

#[test]
fn apply_deletes_only_with_prune() {
    let mut start = web();
    start.rules.filters = filters(&["drop proto=udp"]).filters;
    let file = rules(&[forward("web", "192.0.2.10:443", &["10.0.0.11:8443"])]);
    let (after, words) = done(&start, &[Operation::Apply { rules: file.clone(), prune: false }]);
    assert_eq!(words, ["forward web unchanged", "target web/10.0.0.12:8443 deleted"]);
    assert_eq!((after.rules.forwards.len(), after.rules.filters.len()), (2, 1));
    let (after, words) = done(&start, &[Operation::Apply { rules: file.clone(), prune: true }]);
    assert_eq!(
        words,
        [
            "forward mail deleted",
            "forward web unchanged",
            "target web/10.0.0.12:8443 deleted",
            "target mail/10.0.0.25:25 deleted",
            "filter 1 deleted"
        ]
    );
    assert_eq!(after.rules, file);
    let twice = rules(&[forward("a", "192.0.2.10:1", &[]), forward("a", "192.0.2.10:2", &[])]);
    refused(&start, &[Operation::Apply { rules: twice, prune: false }], ErrorCode::Rejected, "two forwards");
}

#[test]
fn interfaces() {
    let start = intent(Rules::default());
    let attach =
        |name: &str, mode| Operation::Attach { attachment: Attachment { interface: name.to_owned(), mode } };
    let (one, words) = done(&start, &[attach("eth0", AttachMode::Native)]);
    assert_eq!(words, ["interface eth0 created"]);
    assert_eq!(done(&one, &[attach("eth0", AttachMode::Native)]).1, ["interface eth0 unchanged"]);
    assert_eq!(done(&one, &[attach("eth0", AttachMode::Generic)]).1, ["interface eth0 changed"]);
    refused(&start, &[attach("eth0/1", AttachMode::Native)], ErrorCode::Usage, "not the name");
    let detach = |name: &str| Operation::Detach { interface: name.to_owned() };
    refused(&one, &[detach("eht0")], ErrorCode::NotFound, "did you mean \"eth0\"?");
    assert_eq!(done(&one, &[detach("eth0")]).1, ["interface eth0 deleted"]);
    let many: Vec<_> = (0..65).map(|n| attach(&format!("eth{n}"), AttachMode::Native)).collect();
    refused(&start, &many, ErrorCode::Rejected, "at most 64");
}

#[test]
fn warnings_are_told_once() {
    let start = intent(filters(&["drop proto=tcp"]));
    let add = |text: &str| Operation::FilterAdd { rule: filter(text), position: None };
    let changed = apply(&start, &[add("drop proto=tcp dport=22")]).unwrap();
    assert_eq!(changed.warnings.len(), 1, "{:?}", changed.warnings);
    let changed = apply(&changed.intent, &[add("drop src=10.1.2.3/8")]).unwrap();
    assert_eq!(changed.warnings, ["filter rule \"drop src=10.1.2.3/8\": 10.1.2.3/8 is taken as 10.0.0.0/8"]);
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let name = || "[a-d]".prop_map(String::from);
    let rule = || prop_oneof!["[w-z]", "[0-5]"].prop_map(String::from);
    prop_oneof![
        (any_forward(), prop::bool::ANY)
            .prop_map(|(forward, if_not_exists)| Operation::ForwardAdd { forward, if_not_exists }),
        any_forward().prop_map(|forward| Operation::ForwardSet { forward }),
        name().prop_map(|name| Operation::ForwardDelete { name }),
        (name(), any_target()).prop_map(|(forward, target)| Operation::TargetAdd { forward, target }),
        (name(), any_target()).prop_map(|(forward, target)| Operation::TargetSet { forward, target }),
        (name(), any_target())
            .prop_map(|(forward, t)| Operation::TargetDelete { forward, address: t.address }),
        (any_echo(), prop::bool::ANY)
            .prop_map(|(echo, if_not_exists)| Operation::EchoAdd { echo, if_not_exists }),
        any_echo().prop_map(|e| Operation::EchoDelete { listen: e.listen }),
        (any_filter(), prop::option::of(0_usize..6))
            .prop_map(|(rule, position)| Operation::FilterAdd { rule, position }),
        (rule(), 0_usize..6).prop_map(|(rule, position)| Operation::FilterMove { rule, position }),
        rule().prop_map(|rule| Operation::FilterDelete { rule }),
        Just(Operation::FilterFlush),
        (prop::collection::vec(any_filter().prop_map(Arc::new), 0..5), prop::bool::ANY)
            .prop_map(|(rules, append)| replacement(rules.into(), append)),
        any_set().prop_map(|set| Operation::SetPut { set }),
        "[a-c]".prop_map(|name| Operation::SetDelete { name }),
        any_policy().prop_map(|policy| Operation::FilterPolicy { policy }),
        (any_rules(), prop::bool::ANY).prop_map(|(rules, prune)| Operation::Apply { rules, prune }),
    ]
}

proptest! {
    /// Whatever is asked for, what comes out is valid and normal, and says truly whether it is another.
    #[test]
    fn what_is_accepted_is_valid(
        rules in any_rules(), operations in prop::collection::vec(any_operation(), 1..6),
    ) {
        let before = intent(rules);
        let Ok(changed) = apply(&before, &operations) else { return Ok(()) };
        prop_assert_eq!(validate::validate(&changed.intent.rules), Ok(()));
        let mut normal = changed.intent.rules.clone();
        normalize(&mut normal);
        prop_assert_eq!(&normal, &changed.intent.rules);
        let differs = before.rules != changed.intent.rules;
        prop_assert_eq!(changed.intent.revision, before.revision + u64::from(differs));
        prop_assert_eq!(changed.is_changed(), differs, "{:?}", changed.changes);
    }

    /// Applying any rules with prune makes them the rules, and again changes nothing.
    #[test]
    fn apply_with_prune_is_idempotent(before in any_rules(), file in any_rules()) {
        let operation = [Operation::Apply { rules: file.clone(), prune: true }];
        let first = apply(&intent(before), &operation).unwrap().intent;
        let sorted = |mut rules: Rules| {
            rules.forwards.sort_by(|a, b| a.name.cmp(&b.name));
            rules.forwards.iter_mut().for_each(|f| f.targets.sort_by_key(|t| t.address));
            rules.echoes.sort_by_key(|e| e.listen);
            rules.sets.sort_by(|a, b| a.name.cmp(&b.name));
            rules.policies.sort_by(|a, b| a.interface.cmp(&b.interface));
            rules
        };
        prop_assert_eq!(sorted(first.rules.clone()), sorted(file));
        let second = apply(&first, &operation).unwrap();
        prop_assert_eq!(&second.intent, &first);
        prop_assert!(second.changes.iter().all(|c| c.action == ChangeAction::Unchanged));
    }
}
