//! Indexes and uids.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{any_rules, echo, filters, forward, rules, target};
use crate::{
    api::types::{ForwardMode, Rules, Transport},
    rules::{
        diff,
        ids::{Ids, Kind},
    },
};

fn assigned(mut ids: Ids, rules: &Rules) -> Ids {
    ids.assign(rules).unwrap();
    ids
}

fn indexes(ids: &Ids, forward: &str) -> Vec<u16> {
    ids.forward(forward).unwrap().targets.iter().map(|t| t.index).collect()
}

#[test]
fn objects_keep_their_indexes_for_life() {
    let mut both = rules(&[
        forward("web", "192.0.2.1:443", &["10.0.0.1:1", "10.0.0.2:1"]),
        forward("mail", "192.0.2.1:25", &["10.0.0.3:1"]),
    ]);
    let first = assigned(Ids::default(), &both);
    assert_eq!((indexes(&first, "web"), indexes(&first, "mail")), (vec![0, 1], vec![2]));
    assert_eq!(first.forward("mail").unwrap().index, 1);

    both.forwards[0].targets[1].weight = 9;
    both.forwards[0].comment = Some("other words".to_owned());
    both.forwards[0].targets.reverse();
    both.forwards.reverse();
    both.forwards.insert(0, forward("new", "192.0.2.1:1", &["10.0.0.1:1"]));
    let second = assigned(first.clone(), &both);
    assert_eq!((indexes(&second, "web"), indexes(&second, "mail")), (vec![1, 0], vec![2]));
    assert_eq!(first.forward("web").unwrap().uid, second.forward("web").unwrap().uid);
    assert_eq!((second.forward("new").unwrap().index, indexes(&second, "new")), (2, vec![3]));
    assert_eq!(second.retired(), []);
    assert_eq!(assigned(second.clone(), &both), second);
}

#[test]
fn another_service_by_the_same_name_is_another_forward() {
    let start = rules(&[forward("web", "192.0.2.1:443", &["10.0.0.1:1"])]);
    let first = assigned(Ids::default(), &start);
    for change in 0..4 {
        let mut other = start.clone();
        let web = &mut other.forwards[0];
        match change {
            0 => web.listen = "192.0.2.1:444".parse().unwrap(),
            1 => web.protocol = Transport::Udp,
            2 => web.mode = ForwardMode::Dnat,
            _ => web.listen = "192.0.2.1:443-444".parse().unwrap(),
        }
        let second = assigned(first.clone(), &other);
        let (old, new) = (first.forward("web").unwrap(), second.forward("web").unwrap());
        assert_ne!(old.uid, new.uid);
        assert_ne!(old.index, new.index, "flows refer to the old index still");
        assert_ne!(old.targets[0].index, new.targets[0].index);
        assert_eq!(second.retired().len(), 2, "the forward and its target");
    }
}

#[test]
fn a_retired_index_waits_for_its_release() {
    let two = rules(&[forward("web", "192.0.2.1:443", &["10.0.0.1:1", "10.0.0.2:1"])]);
    let one = rules(&[forward("web", "192.0.2.1:443", &["10.0.0.2:1"])]);
    let other = rules(&[forward("web", "192.0.2.1:443", &["10.0.0.2:1", "10.0.0.3:1"])]);
    let ids = assigned(assigned(Ids::default(), &two), &one);
    assert_eq!(ids.retired().len(), 1);
    let retired = &ids.retired()[0];
    assert_eq!((retired.kind, retired.index, retired.name.as_str()), (Kind::Target, 0, "web"));
    let listed: Vec<_> = ids.targets().map(|t| (t.target.address.to_string(), t.live)).collect();
    assert_eq!(listed, [("10.0.0.2:1".to_owned(), true), ("10.0.0.1:1".to_owned(), false)]);

    assert_eq!(indexes(&assigned(ids.clone(), &other), "web"), [1, 2]);
    let mut released = ids.clone();
    assert!(released.release(Kind::Target, 0));
    assert!(!released.release(Kind::Target, 0));
    assert!(!released.release(Kind::Target, 1), "an index in use is not to be released");
    let after = assigned(released, &other);
    assert_eq!(indexes(&after, "web"), [1, 0]);
    let uids: BTreeSet<u32> = after.targets().map(|t| t.target.uid).chain([retired.uid]).collect();
    assert_eq!(uids.len(), 3, "uids are never used again");
}

#[test]
fn a_target_that_comes_back_is_the_one_it_was() {
    let two = rules(&[forward("web", "192.0.2.1:443", &["10.0.0.1:1", "10.0.0.2:1"])]);
    let one = rules(&[forward("web", "192.0.2.1:443", &["10.0.0.2:1"])]);
    let first = assigned(Ids::default(), &two);
    let back = assigned(assigned(first.clone(), &one), &two);
    assert_eq!(back, first);
    let mut again = assigned(assigned(first.clone(), &Rules::default()), &two);
    assert_ne!(again.forward("web").unwrap().uid, first.forward("web").unwrap().uid);
    assert_eq!(indexes(&again, "web"), [2, 3], "the forward's flows have ended: nothing comes back");
    assert!(again.release(Kind::Forward, 0));
}

#[test]
fn a_new_source_address_makes_another_target() {
    let web = rules(&[forward("web", "192.0.2.1:443", &["10.0.0.1:1"])]);
    let mut ids = assigned(Ids::default(), &web);
    let set = |ids: &mut Ids, source: Option<&str>| {
        ids.set_sources(&[vec![source.map(|s| s.parse().unwrap())]]).unwrap();
        let target = &ids.forward("web").unwrap().targets[0];
        (target.index, target.source.map(|s| s.to_string()).unwrap_or_default())
    };
    assert_eq!(set(&mut ids, None), (0, String::new()));
    assert_eq!(set(&mut ids, Some("10.0.0.9")), (0, "10.0.0.9".to_owned()));
    assert_eq!(set(&mut ids, None), (0, "10.0.0.9".to_owned()), "a lost route changes nothing");
    assert_eq!(set(&mut ids, Some("10.0.0.8")), (1, "10.0.0.8".to_owned()));
    assert_eq!(ids.retired().len(), 1);
    assert_eq!(set(&mut ids, Some("10.0.0.9")), (0, "10.0.0.9".to_owned()), "back to the first");
    assert_eq!(ids.retired().len(), 1);
    ids.assign(&web).unwrap();
    assert_eq!(set(&mut ids, Some("10.0.0.9")).0, 0);
}

#[test]
fn filter_counters_follow_names_and_contents() {
    let of = |ids: &Ids| ids.filters().iter().map(|f| f.index).collect::<Vec<_>>();
    let first = assigned(Ids::default(), &filters(&["drop name=a", "drop proto=tcp", "drop proto=tcp"]));
    assert_eq!(of(&first), [0, 1, 2]);
    let second = assigned(first, &filters(&["drop proto=tcp", "allow name=a proto=udp", "drop proto=udp"]));
    assert_eq!(of(&second), [1, 0, 3]);
    assert!(second.retired().is_empty(), "nothing but the live rules refers to a counter");
    // All rules of a full list can be replaced at once.
    let list = |from: u32| Rules {
        filters: (from..from + 512)
            .map(|n| super::filter(&format!("drop src=10.0.{}.{}/32", n / 256, n % 256)).into())
            .collect(),
        ..Rules::default()
    };
    let ids = assigned(assigned(assigned(Ids::default(), &list(0)), &list(512)), &list(0));
    assert_eq!(ids.filters().len(), 512);
    // Also where few counters are left: then those of what goes are taken over, and begin anew.
    let by = |ids: &Ids, rules: &Rules, counters| {
        let mut ids = ids.clone();
        let taken_over = ids.assign_by(rules, &diff::filter_keys(&rules.filters), counters);
        taken_over.map(|taken_over| (ids, taken_over))
    };
    let first = assigned(Ids::default(), &list(0));
    let (second, taken_over) = by(&first, &list(512), 600).unwrap();
    assert_eq!((0..600 - 512).len(), second.filters().iter().filter(|filter| filter.index >= 512).count());
    assert_eq!(2 * 512 - 600, taken_over.len());
    let indexes: BTreeSet<u32> = second.filters().iter().map(|filter| filter.index).collect();
    assert!(indexes.len() == 512 && indexes.iter().all(|index| *index < 600));
    assert!(taken_over.iter().all(|index| first.filters()[*index as usize].index == *index));
    assert_eq!(by(&second, &list(512), 600).unwrap(), (second.clone(), Vec::new()), "nothing is new");
    // Tables that are smaller than they were: what is beyond them gets another counter.
    let (third, taken_over) = by(&second, &list(512), 512).unwrap();
    assert!(third.filters().iter().all(|filter| filter.index < 512) && taken_over.is_empty());
    let error = by(&second, &list(512), 511).unwrap_err();
    assert!(error.message.contains("filter rule 512 is beyond the limit of 511"), "{}", error.message);
    assert_eq!(Some("filter[512]"), error.field.as_deref());
}

#[test]
fn echoes_are_told_by_their_address() {
    let with = |e| Rules { echoes: vec![e], ..Rules::default() };
    let first = assigned(Ids::default(), &with(echo("192.0.2.1:7", &["10.0.0.0/8"])));
    let second = assigned(first.clone(), &with(echo("192.0.2.1:7", &["11.0.0.0/8"])));
    assert_eq!(first, second);
    let third = assigned(second, &with(echo("192.0.2.1:8", &["11.0.0.0/8"])));
    assert_eq!((third.echoes()[0].index, third.retired()[0].index), (1, 0));
}

#[test]
fn no_index_left_says_what_to_do() {
    let mut big = forward("big", "192.0.2.1:443", &[]);
    big.targets = (0..65_536_u32).map(|n| target(&format!("10.{}.{}.1:1", n / 256, n % 256))).collect();
    let ids = assigned(Ids::default(), &rules(&[big.clone()]));
    big.targets[0] = target("11.0.0.1:1");
    let error = ids.clone().assign(&rules(&[big.clone()])).unwrap_err();
    assert!(error.message.contains("65536 indexes of targets"), "{}", error.message);
    assert!(error.message.contains("netfast flows flush"), "{}", error.message);
}

proptest! {
    /// Over any history of rules and releases: no two objects share an index, live or retired; no uid comes twice for
    /// different objects; and the identifiers survive being stored.
    #[test]
    fn indexes_are_never_shared(history in prop::collection::vec((any_rules(), any::<u8>()), 1..12)) {
        let mut ids = Ids::default();
        let mut owners: BTreeMap<u32, String> = BTreeMap::new();
        for (rules, release) in history {
            ids.assign(&rules).unwrap();
            let mut seen = BTreeSet::new();
            let mut claim = |kind: Kind, index: u32, uid: u32, owner: String| {
                assert!(seen.insert((kind, index)), "{kind:?} {index} is there twice");
                if uid != 0 {
                    assert_eq!(owners.entry(uid).or_insert_with(|| owner.clone()), &owner, "uid {uid}");
                }
            };
            for (id, forward) in ids.forwards().iter().zip(&rules.forwards) {
                prop_assert_eq!(&id.name, &forward.name);
                claim(Kind::Forward, id.index.into(), id.uid, format!("{} {} {} {}", id.name, id.protocol, id.listen, id.mode));
                for (id, target) in id.targets.iter().zip(&forward.targets) {
                    prop_assert_eq!(id.address, target.address);
                    claim(Kind::Target, id.index.into(), id.uid, format!("{} {}", forward.name, id.address));
                }
            }
            ids.echoes().iter().for_each(|e| claim(Kind::Echo, e.index.into(), e.uid, e.listen.to_string()));
            ids.filters().iter().for_each(|f| claim(Kind::Filter, f.index, 0, f.key.to_string()));
            for r in ids.retired() {
                prop_assert!(seen.insert((r.kind, r.index.into())), "{:?} {} is retired and in use", r.kind, r.index);
            }
            prop_assert_eq!(ids.forwards().len(), rules.forwards.len());
            prop_assert_eq!(ids.filters().len(), rules.filters.len() + rules.policies.len());
            let text = serde_json::to_string(&ids).unwrap();
            prop_assert_eq!(&serde_json::from_str::<Ids>(&text).unwrap(), &ids);
            if release % 3 == 0 {
                for r in ids.retired().to_vec().iter().take(usize::from(release) / 16) {
                    prop_assert!(ids.release(r.kind, r.index));
                }
            }
        }
    }
}
