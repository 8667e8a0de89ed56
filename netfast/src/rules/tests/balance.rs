//! Targets that drain or are down: who gets new flows, and what is told to the datapath.

use netfast_common::abi::{FORWARD_BY_SOURCE, FORWARD_REJECTS, TARGET_ENDS, TARGET_LEAVES};

use super::{Host, forward, intent, rules};
use crate::{
    api::types::{
        Affinity, Endpoint, ErrorCode, Forward, OnDown, OnDrain, OnNoTarget, Operation, Target, Transport,
    },
    classifier::Limits,
    config::rules::{parse, render},
    rules::{
        change::apply,
        compile::{compile, compile_beside},
        ids::Ids,
        images::{Images, TargetStates},
        normal::target_key,
        validate::validate,
    },
};

const BOTH: u8 = TARGET_LEAVES | TARGET_ENDS;

fn web() -> Forward {
    forward("web", "192.0.2.1:80", &["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"])
}

/// States of the targets, and which of them get new flows.
fn compiled(forward: &Forward, down: &[&str]) -> (Vec<u8>, Vec<bool>) {
    let mut states = TargetStates::default();
    for target in down {
        states.set(&forward.name, target_key(&target.parse::<Endpoint>().unwrap()), true);
    }
    let intent = intent(rules(std::slice::from_ref(forward)));
    let (mut ids, host) = (Ids::default(), Host::default());
    let images =
        compile_beside(&intent, &mut ids, &host, &Images::default(), &Limits::default(), &states).unwrap();
    let size = images.forwards[0].1.maglev_size as usize;
    let entries: Vec<u16> = images.maglev.iter().flat_map(|cell| cell.targets).take(size).collect();
    let gets = images.targets.iter().map(|(index, _)| entries.contains(index)).collect();
    (images.targets.iter().map(|(_, target)| target.state).collect(), gets)
}

#[test]
fn a_target_that_leaves_gets_no_new_flows() {
    let mut web = web();
    assert_eq!((vec![0, 0, 0], vec![true; 3]), compiled(&web, &[]));
    web.targets[1].drain = true;
    assert_eq!((vec![0, TARGET_LEAVES, 0], vec![true, false, true]), compiled(&web, &[]));
    web.targets[0].drain = true;
    web.targets[2].drain = true;
    assert_eq!((vec![TARGET_LEAVES; 3], vec![false; 3]), compiled(&web, &[]));
}

#[test]
fn what_ends_is_as_the_forward_says() {
    let mut web = web();
    web.health = Some("tcp".parse().unwrap());
    web.targets[2].drain = true;
    for (protocol, on_down, on_drain, expected) in [
        (Transport::Tcp, None, OnDrain::Keep, [TARGET_LEAVES, 0, TARGET_LEAVES]),
        (Transport::Tcp, Some(OnDown::Keep), OnDrain::Keep, [TARGET_LEAVES, 0, TARGET_LEAVES]),
        (Transport::Tcp, Some(OnDown::End), OnDrain::Keep, [BOTH, 0, TARGET_LEAVES]),
        (Transport::Udp, None, OnDrain::Keep, [BOTH, 0, TARGET_LEAVES]),
        (Transport::Udp, Some(OnDown::Keep), OnDrain::Move, [TARGET_LEAVES, 0, BOTH]),
        (Transport::Udp, Some(OnDown::End), OnDrain::Move, [BOTH, 0, BOTH]),
    ] {
        let web = Forward { protocol, on_down, on_drain, ..web.clone() };
        let (states, gets) = compiled(&web, &["10.0.0.1:80"]);
        assert_eq!((expected.to_vec(), vec![false, true, false]), (states, gets), "{web:?}");
    }
}

#[test]
fn flags_reach_the_program() {
    for (affinity, on_no_target, flags) in [
        (Affinity::Connection, OnNoTarget::Drop, 0),
        (Affinity::Source, OnNoTarget::Drop, FORWARD_BY_SOURCE),
        (Affinity::Connection, OnNoTarget::Reject, FORWARD_REJECTS),
        (Affinity::Source, OnNoTarget::Reject, FORWARD_BY_SOURCE | FORWARD_REJECTS),
    ] {
        let web = Forward { affinity, on_no_target, ..web() };
        let images = compile(&intent(rules(&[web])), &mut Ids::default(), &Host::default()).unwrap();
        assert_eq!(flags, images.forwards[0].1.flags);
    }
}

#[test]
fn a_connection_cannot_move() {
    let web = Forward { on_drain: OnDrain::Move, ..web() };
    let error = validate(&rules(std::slice::from_ref(&web))).unwrap_err();
    assert_eq!(Some("forward.web.on_drain"), error.field.as_deref());
    assert!(error.message.contains("cannot move"), "{}", error.message);
    validate(&rules(&[Forward { protocol: Transport::Udp, ..web }])).unwrap();
}

#[test]
fn draining_is_part_of_the_rules() {
    let before = intent(rules(&[web()]));
    let address: Endpoint = "10.0.0.2:80".parse().unwrap();
    let drain = |drain| Operation::TargetDrain { forward: "web".to_owned(), address, drain };
    let after = apply(&before, &[drain(true)]).unwrap();
    assert_eq!((1, "target", "web/10.0.0.2:80"), {
        let change = &after.changes[0];
        (after.changes.len(), change.kind.as_str(), change.name.as_str())
    });
    let text = render(&after.intent.rules);
    assert!(text.contains("drain = true"), "{text}");
    assert_eq!(after.intent.rules, parse("rules.toml", &text).unwrap());

    let weight = Target { weight: 7, ..Target::new(address) };
    let heavier = Operation::TargetSet { forward: "web".to_owned(), target: weight };
    let heavier = apply(&after.intent, &[heavier]).unwrap().intent;
    let target = &heavier.rules.forwards[0].targets[1];
    assert_eq!((7, true), (target.weight, target.drain), "another weight is no reason to come back");

    // Nor is a forward that is written anew: the command line has no word for it.
    let forward = Forward { comment: Some("anew".to_owned()), ..web() };
    let anew =
        apply(&after.intent, &[Operation::ForwardSet { forward }]).unwrap().intent.rules.forwards.remove(0);
    assert_eq!((Some("anew"), 1), (anew.comment.as_deref(), anew.targets.iter().filter(|t| t.drain).count()));
    let back = apply(&after.intent, &[drain(false)]).unwrap();
    assert_eq!(before.rules, back.intent.rules);
    let address = "10.0.0.9:80".parse().unwrap();
    let unknown = Operation::TargetDrain { forward: "web".to_owned(), address, drain: true };
    assert_eq!(ErrorCode::NotFound, apply(&before, &[unknown]).unwrap_err().code);
}

#[test]
fn a_removed_target_is_told_from_one_with_another_source() {
    let (mut ids, host) = (Ids::default(), Host::default());
    compile(&intent(rules(&[web()])), &mut ids, &host).unwrap();
    let fewer = Forward { targets: web().targets.split_off(1), ..web() };
    let images = compile(&intent(rules(&[fewer])), &mut ids, &host).unwrap();
    let leaving: Vec<_> =
        images.leaving.iter().map(|leaving| (leaving.removed.as_deref(), leaving.state)).collect();
    assert_eq!([(Some("web/10.0.0.1:80"), TARGET_LEAVES)], leaving[..]);
    let images = compile(&intent(rules(&[web()])), &mut ids, &host).unwrap();
    assert_eq!((0, 0), (images.leaving.len(), images.targets[0].1.state), "it is back");
}

#[test]
fn server_ids_that_cannot_be_are_refused_with_the_key() {
    let with = |protocol, quic, ids: [Option<&str>; 2]| {
        let mut web =
            Forward { protocol, quic, ..forward("web", "192.0.2.1:443", &["10.0.0.1:1", "10.0.0.2:1"]) };
        for (target, id) in web.targets.iter_mut().zip(ids) {
            target.id = id.map(|id| id.parse().unwrap());
        }
        validate(&rules(&[web]))
    };
    with(Transport::Udp, Some(2), [Some("0a01"), Some("0a02")]).unwrap();
    with(Transport::Udp, Some(2), [None, Some("0a02")]).unwrap();
    for (protocol, quic, ids, field, words) in [
        (Transport::Tcp, Some(2), [None, None], "forward.web.quic", "protocol udp"),
        (Transport::Udp, Some(0), [None, None], "forward.web.quic", "not in 1 to 15"),
        (Transport::Udp, Some(16), [None, None], "forward.web.quic", "not in 1 to 15"),
        (Transport::Udp, None, [Some("0a01"), None], "forward.web.target[1].id", "say quic = 2"),
        (Transport::Udp, Some(3), [None, Some("0a01")], "forward.web.target[2].id", "has 2 bytes"),
        (Transport::Udp, Some(1), [Some("0A"), Some("0a")], "forward.web.target[2].id", "already"),
    ] {
        let error = with(protocol, quic, ids).unwrap_err();
        assert_eq!(Some(field), error.field.as_deref());
        assert!(error.message.contains(words), "{}", error.message);
    }
    for bad in ["", "0", "0a0", "xx", "0x0a", &"00".repeat(16)] {
        assert!(bad.parse::<crate::api::types::ServerId>().is_err(), "{bad}");
    }
}

#[test]
fn another_weight_leaves_the_server_id() {
    let id = |text: &str| Some(text.parse().unwrap());
    let mut video = Forward { protocol: Transport::Udp, quic: Some(1), ..web() };
    video.targets.iter_mut().zip(["0a", "0b", "0c"]).for_each(|(target, text)| target.id = id(text));
    let (forward, target) = (video.name.clone(), Target { weight: 5, id: None, ..video.targets[0].clone() });
    let before = intent(rules(&[video]));
    for (given, expected) in [(None, "0a"), (Some("0d"), "0d")] {
        let target = Target { id: given.and_then(id), ..target.clone() };
        let set = Operation::TargetSet { forward: forward.clone(), target };
        let after = apply(&before, &[set]).unwrap().intent.rules.forwards.remove(0);
        assert_eq!((5, id(expected)), (after.targets[0].weight, after.targets[0].id.clone()));
    }
}
