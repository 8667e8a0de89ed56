//! Rule sets that are replaced while packets flow.

use std::sync::atomic::{AtomicBool, Ordering};

use netfast::{
    classifier::{Action, Addresses, Ports, Rule, compile},
    rules::images::Images,
};
use netfast_common::{Reason, Verdict, abi::FILTER_PAGE};

use crate::{
    bed::{self, Bed, CLIENT_SIDE},
    frames::udp,
};

/// Full replacements of the rules.
const SWAPS: usize = 1000;

#[test]
fn every_packet_gets_the_verdict_of_one_set_or_the_other() {
    bed::run(swaps);
}

/// A few hundred rules on ports of a network, so that trees have blocks and take pages, and what the set says of two hosts.
fn set(number: u32, first: Action, second: Action) -> Images {
    let host = |last: u8| {
        let address = u32::from_be_bytes([198, 51, 100, last]);
        Addresses::V4 { first: address, last: address }
    };
    let many = (0..600).map(|at| Rule {
        number: number + at,
        version: 4,
        protocol: Some(17),
        ports: Ports::Ports { source: [0, u16::MAX], destination: [20_000 + 3 * at as u16; 2] },
        ..Rule::default()
    });
    let own = |number: u32, last: u8, action| Rule { number, source: host(last), action, ..Rule::default() };
    let mut rules: Vec<Rule> = many.collect();
    rules.push(own(number + 600, 1, first));
    rules.push(own(number + 601, 2, second));
    // Both sets say the same of the third host, by rules of different numbers at different places.
    rules.insert(number as usize % 500, own(number + 602, 3, Action::Drop));
    Images { filter: compile(&rules, &netfast::classifier::Limits::default()).unwrap(), ..Images::default() }
}

fn swaps(bed: &mut Bed) {
    bed.rules("");
    let sets = [set(0, Action::Drop, Action::Allow), set(1000, Action::Allow, Action::Drop)];
    let cells: usize = sets[0].filter.trees.iter().flatten().map(|tree| tree.cells.len()).sum();
    assert!(cells > FILTER_PAGE as usize / 4, "{cells} cells: large enough to be torn");
    let frame =
        |last: u8, port: u16| udp(&format!("198.51.100.{last}:7"), &format!("192.0.2.10:{port}")).bytes();
    let (first, second, third, blocked, open) =
        (frame(1, 9), frame(2, 9), frame(3, 9), frame(9, 20_300), frame(9, 9));
    let datapath = bed.sandbox.datapath();
    datapath.publish(&sets[0]);
    let done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        scope.spawn(|| {
            for at in 0..SWAPS {
                datapath.publish(&sets[(at + 1) % 2]);
            }
            done.store(true, Ordering::Release);
        });
        let drops = |what: &str, frame: &[u8]| {
            let ran = bed.sandbox.run(CLIENT_SIDE.0, frame).unwrap();
            match ran.counted[..] {
                [(Verdict::Drop, Reason::FilterDrop)] => true,
                [(Verdict::Pass, Reason::NoService)] => false,
                _ => panic!("{what}: {:?}", ran.counted),
            }
        };
        let mut seen = [0u64; 4];
        while !done.load(Ordering::Acquire) {
            seen[usize::from(drops("the first host", &first))] += 1;
            seen[2 + usize::from(drops("the second host", &second))] += 1;
            assert!(drops("the third host", &third), "dropped by both sets");
            assert!(drops("a port", &blocked), "dropped by both sets");
            assert!(!drops("another port", &open), "allowed by both sets");
        }
        seen
    });
    assert!(seen.iter().all(|count| *count > 0), "packets met both sets: {seen:?}");
    let last = bed.sandbox.run(CLIENT_SIDE.0, &first).unwrap();
    assert_eq!([(Verdict::Drop, Reason::FilterDrop)], last.counted[..], "an even number of swaps");
}
