use std::{
    collections::{HashMap, HashSet},
    sync::{
        Barrier,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
};

use proptest::prelude::*;

use super::*;

/// A set in ordinary memory: an entry is its key.
#[derive(Default)]
struct Memory {
    words: [AtomicU32; HALF_OPEN_SLOTS as usize],
    keys: [AtomicU64; HALF_OPEN_SLOTS as usize],
}

struct View<'a>(&'a Memory, u64);

impl Set for View<'_> {
    fn load(&self, way: u32) -> u32 {
        self.0.words[way as usize].load(SeqCst)
    }

    fn store(&self, way: u32, word: u32) {
        self.0.words[way as usize].store(word, SeqCst);
    }

    fn change(&self, way: u32, from: u32, to: u32) -> bool {
        self.0.words[way as usize].compare_exchange(from, to, SeqCst, SeqCst).is_ok()
    }

    fn is_key(&self, way: u32) -> bool {
        self.0.keys[way as usize].load(SeqCst) == self.1
    }
}

impl Memory {
    /// All keys of a set have few tags, so that they meet often.
    fn tag(key: u64) -> u32 {
        key as u32 % 3 + 1
    }

    fn insert(&self, key: u64, replace: bool) -> bool {
        let set = View(self, key);
        let way = reserve(&set, Self::tag(key), replace);
        if way != 0 {
            self.keys[way as usize].store(key, SeqCst);
            publish(&set, way);
        }
        way != 0
    }

    fn remove(&self, key: u64) {
        remove(&View(self, key), Self::tag(key));
    }

    fn has(&self, key: u64) -> bool {
        find(&View(self, key), Self::tag(key)) != 0
    }

    fn touch(&self, key: u64) {
        let set = View(self, key);
        let way = find(&set, Self::tag(key));
        if way != 0 {
            touch(&set, Self::tag(key), way);
        }
    }

    fn keys(&self) -> Vec<u64> {
        let set = View(self, 0);
        let ways = (1..=WAYS).filter(|way| is_entry(set.load(*way)));
        ways.map(|way| self.keys[way as usize].load(SeqCst)).collect()
    }
}

#[test]
fn a_key_is_there_once_and_until_it_is_taken_out() {
    let set = Memory::default();
    assert!(!set.has(7));
    assert!(set.insert(7, false));
    assert!(set.has(7));
    assert!(!set.insert(7, false), "somebody has it");
    assert!(set.insert(7, true));
    assert_eq!(vec![7], set.keys());
    // Another key of the same tag.
    assert!(set.insert(10, false));
    set.remove(7);
    assert!(!set.has(7) && set.has(10));
    assert!(set.insert(7, false));
}

#[test]
fn an_entry_is_not_seen_before_it_is_shown() {
    let (set, key) = (Memory::default(), 5);
    let view = View(&set, key);
    let way = reserve(&view, Memory::tag(key), false);
    set.keys[way as usize].store(key, SeqCst);
    assert!(!set.has(key));
    assert!(!set.insert(key, false) && !set.insert(key, true), "somebody is at it");
    release(&view, way);
    assert!(!set.has(key));
    assert!(set.insert(key, false));
    // What is not busy is not given back.
    let way = find(&view, Memory::tag(key));
    release(&view, way);
    assert!(set.has(key));
}

#[test]
fn the_oldest_goes_first_and_those_in_use_stay() {
    let set = Memory::default();
    for key in 0..u64::from(WAYS) {
        assert!(set.insert(key, false));
    }
    assert_eq!(WAYS as usize, set.keys().len(), "empty ways before the oldest");
    for key in 100..105 {
        assert!(set.insert(key, false));
        assert!(!set.has(key - 100), "{key}");
        assert!(set.has(key - 99));
    }
    // A place that became free is taken before anybody has to go.
    set.remove(103);
    assert!(set.insert(200, false));
    assert_eq!(WAYS as usize, set.keys().len());
    assert!(set.has(5) && set.has(104) && set.has(200));
    // One flow that goes on while others come.
    for key in 1000..2000 {
        set.touch(200);
        assert!(set.insert(key, false));
        assert!(set.has(200), "{key}");
        assert!(set.has(key) && (key < 1005 || set.has(key - 5)), "those just made survive: {key}");
    }
    assert!(!set.has(104));
}

#[test]
fn the_counter_may_wrap() {
    for start in [0u32, 0x7ff8, 0xffff, u32::MAX - 20] {
        let set = Memory::default();
        let view = View(&set, 0);
        view.store(0, start);
        (1..=WAYS).for_each(|way| view.store(way, empty(start)));
        for key in 0..100 {
            assert!(set.insert(key, false));
            let oldest = key.saturating_sub(u64::from(WAYS) - 1);
            assert_eq!(
                (oldest..=key).collect::<HashSet<_>>(),
                set.keys().into_iter().collect(),
                "from {start:#x}"
            );
        }
    }
}

#[test]
fn empty_ways_are_used_however_long_they_were_not() {
    // Flows that are confirmed at once: each time one way is in use, and the counter goes around more than once.
    let set = Memory::default();
    for key in 0..150_000 {
        assert!(set.insert(key, false));
        if key % 5000 == 0 {
            let more = 1_000_000 + key * 100..1_000_000 + key * 100 + u64::from(WAYS) - 1;
            more.clone().for_each(|key| assert!(set.insert(key, false)));
            assert_eq!(WAYS as usize, set.keys().len(), "after {key}");
            more.for_each(|key| set.remove(key));
        }
        set.remove(key);
        assert!(set.keys().is_empty());
    }
}

#[test]
fn busy_ways_are_never_taken() {
    let set = Memory::default();
    let ways: HashSet<u32> =
        (0..u64::from(WAYS)).map(|n| reserve(&View(&set, n), n as u32 + 10, false)).collect();
    assert_eq!((1..=WAYS).collect::<HashSet<_>>(), ways);
    assert_eq!(0, reserve(&View(&set, 99), 99, false));
    release(&View(&set, 0), 4);
    assert_eq!(4, reserve(&View(&set, 99), 99, false));
}

#[test]
fn sets_hold_the_flows_that_were_asked_for() {
    let sets = sets(65_536);
    assert_eq!(10_923, sets);
    assert_eq!(2_796_203, super::sets(1 << 24));
    let lost = |flows: u32, seed: u32| {
        let mut filled = HashMap::new();
        let mut lost = 0;
        for n in 0..flows * 2 {
            let port = (n as u16).to_be_bytes();
            let mut key =
                FlowKey { source_port: port, destination_port: [0, 80], protocol: 6, ..FlowKey::default() };
            key.source[12..].copy_from_slice(&(0x0a00_0000 + (n >> 16)).to_be_bytes());
            let set = set_of(hash_of(&key, seed), sets);
            assert!(set < sets);
            let entries = filled.entry(set).or_insert(0);
            *entries += 1;
            lost += u32::from(*entries > WAYS);
        }
        f64::from(lost) / f64::from(flows * 2)
    };
    for seed in [1, 7, 0xdead_beef] {
        assert!(lost(65_536, seed) < 0.04, "{}", lost(65_536, seed));
        assert!(lost(32_768, seed) < 0.0004, "{}", lost(32_768, seed));
    }
}

#[test]
fn the_seed_moves_keys_apart() {
    // Keys that one seed puts into one set are strewn by another.
    let key = |n: u32| {
        let mut key = FlowKey { protocol: 17, ..FlowKey::default() };
        key.source[12..].copy_from_slice(&n.to_be_bytes());
        key
    };
    let crowd: Vec<_> = (0..400_000).map(key).filter(|key| set_of(hash_of(key, 1), 1024) == 5).collect();
    assert!(crowd.len() > 300);
    let others: HashSet<u32> = crowd.iter().map(|key| set_of(hash_of(key, 2), 1024)).collect();
    assert!(others.len() > crowd.len() / 2, "{} of {}", others.len(), crowd.len());
}

proptest! {
    /// Whatever is done, by one CPU: a set has what was put in last, each key once.
    #[test]
    fn a_set_is_a_small_map(steps in prop::collection::vec((0..4u8, 0..40u64), 0..300)) {
        let set = Memory::default();
        let mut present = HashSet::new();
        for (what, key) in steps {
            match what {
                0 => prop_assert_eq!(!present.contains(&key), set.insert(key, false)),
                1 => prop_assert!(set.insert(key, true)),
                2 => set.remove(key),
                _ => set.touch(key),
            }
            match what {
                0 | 1 => { present.insert(key); }
                2 => { present.remove(&key); }
                _ => {}
            }
            let keys = set.keys();
            let found: HashSet<u64> = keys.iter().copied().collect();
            prop_assert_eq!(keys.len(), found.len(), "twice");
            prop_assert!(found.is_subset(&present));
            // Only where the set is full something may have been pushed out.
            let gone = present.len() - found.len();
            prop_assert!(gone == 0 || found.len() == WAYS as usize);
            if what < 2 {
                prop_assert!(found.contains(&key));
            }
            present = found;
        }
    }
}

/// CPUs that insert the same keys at once: no key is ever there twice, and whoever is told that it has a key has it alone.
#[test]
fn no_key_has_two_entries() {
    // More than there are, so that some are held up between a look and what they do after it.
    const CPUS: u64 = 12;
    const ROUNDS: u64 = 4_000;
    const KEYS: u64 = 4;
    let set = Memory::default();
    let barrier = Barrier::new(CPUS as usize);
    let owners: Vec<AtomicU32> = (0..KEYS * ROUNDS).map(|_| AtomicU32::new(0)).collect();
    let wrong = std::sync::Mutex::new(Vec::new());
    // Not an assertion inside: who ends would leave the others waiting.
    let look = &|round: u64| {
        let keys = set.keys();
        let distinct: HashSet<_> = keys.iter().collect();
        for key in round * KEYS..(round + 1) * KEYS {
            let owners = owners[key as usize].load(SeqCst);
            if owners > 1 || (owners == 1) != set.has(key) || keys.len() != distinct.len() {
                wrong.lock().unwrap().push((round, key, owners, keys.clone()));
            }
        }
        (round * KEYS..(round + 1) * KEYS).for_each(|key| set.remove(key));
    };
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let (set, barrier, owners) = (&set, &barrier, &owners);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    barrier.wait();
                    // Fewer keys than a set holds, so that none is pushed out, in another order on each CPU.
                    for n in 0..KEYS {
                        let key = round * KEYS + (n + cpu) % KEYS;
                        if set.insert(key, false) {
                            owners[key as usize].fetch_add(1, SeqCst);
                        }
                    }
                    if barrier.wait().is_leader() {
                        look(round);
                    }
                }
            });
        }
    });
    assert!(wrong.lock().unwrap().is_empty(), "{:?}", wrong.lock().unwrap().first());
    let taken = owners.iter().filter(|owners| owners.load(SeqCst) == 1).count() as u64;
    assert!(taken > ROUNDS, "somebody gets a key: {taken}");
    let busy = (1..=WAYS).filter(|way| is_busy(View(&set, 0).load(*way))).count();
    assert_eq!(0, busy, "ways that nobody gave back");
}

/// The same with more keys than fit, with uses and removals: what is found is whole.
#[test]
fn a_crowded_set_stays_whole() {
    const CPUS: u64 = 4;
    let set = Memory::default();
    std::thread::scope(|scope| {
        for cpu in 0..CPUS {
            let set = &set;
            scope.spawn(move || {
                for step in 0..30_000u64 {
                    let key = (step * 7 + cpu * 13) % 40;
                    match step % 5 {
                        0..=2 => {
                            set.insert(key, step % 2 == 0);
                        }
                        3 => set.touch(key),
                        _ => set.remove(key),
                    }
                }
            });
        }
    });
    let keys = set.keys();
    let distinct: HashSet<_> = keys.iter().collect();
    assert_eq!(keys.len(), distinct.len(), "{keys:?}");
    assert_eq!(0, (1..=WAYS).filter(|way| is_busy(View(&set, 0).load(*way))).count());
    for key in keys {
        assert!(set.has(key), "{key} stands under another key's tag");
    }
}
