//! The table of half-open flows as the agent sees it: the same memory that the programs work on, by the same code
//! (`netfast_common::half_open`).

use std::{
    collections::HashMap,
    io,
    mem::offset_of,
    os::fd::BorrowedFd,
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering, fence},
    },
};

use netfast_common::{
    abi::{Flow, FlowKey, HALF_OPEN_SLOTS, HalfOpen},
    half_open::{self, Set, WAYS},
};

use super::{lock, mapped::MappedArray};

/// The map `HALF_OPEN`.
pub(super) struct HalfOpenTable {
    slots: MappedArray<HalfOpen>,
    /// Slots that were being written when [`HalfOpenTable::heal`] was called last, and their words.
    busy: Mutex<HashMap<u32, u32>>,
}

/// A set as it is looked at for one key.
struct View<'a> {
    slots: &'a MappedArray<HalfOpen>,
    first: u32,
    key: FlowKey,
}

impl View<'_> {
    fn word(&self, way: u32) -> Option<&AtomicU32> {
        self.slots.word32(self.first, way as usize % HALF_OPEN_SLOTS as usize * 4)
    }

    /// The entry of a way, if it stays the same one while it is read.
    fn entry(&self, way: u32) -> Option<(FlowKey, Flow)> {
        let before = self.load(way);
        if !half_open::is_entry(before) {
            return None;
        }
        let slot = self.slots.get(self.first + way)?;
        fence(Ordering::Acquire);
        // It may have been used meanwhile, which changes the word's number.
        let after = self.load(way);
        (half_open::is_entry(after) && after >> 16 == before >> 16).then_some((slot.key, slot.flow))
    }
}

impl Set for View<'_> {
    fn load(&self, way: u32) -> u32 {
        self.word(way).map_or(0, |word| word.load(Ordering::SeqCst))
    }

    fn store(&self, way: u32, value: u32) {
        if let Some(word) = self.word(way) {
            word.store(value, Ordering::SeqCst);
        }
    }

    fn change(&self, way: u32, from: u32, to: u32) -> bool {
        self.word(way)
            .is_some_and(|word| word.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok())
    }

    fn is_key(&self, way: u32) -> bool {
        self.slots.get(self.first + way).is_some_and(|slot| slot.key == self.key)
    }
}

impl HalfOpenTable {
    pub(super) fn new(map: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { slots: MappedArray::new(map)?, busy: Mutex::default() })
    }

    /// Number of sets.
    pub(super) const fn sets(&self) -> u32 {
        self.slots.entries() / HALF_OPEN_SLOTS
    }

    /// Flows that fit, if all sets were filled evenly.
    pub(super) fn capacity(&self) -> u64 {
        u64::from(self.sets()) * u64::from(WAYS) / 2
    }

    fn set(&self, number: u32, key: FlowKey) -> View<'_> {
        View { slots: &self.slots, first: number * HALF_OPEN_SLOTS, key }
    }

    fn view(&self, key: &FlowKey, seed: u32) -> (View<'_>, u32) {
        let hash = half_open::hash_of(key, seed);
        (self.set(half_open::set_of(hash, self.sets()), *key), half_open::tag_of(hash))
    }

    /// The entry of a key. `seed`: [`netfast_common::abi::Config::seed`].
    pub(super) fn get(&self, key: &FlowKey, seed: u32) -> Option<Flow> {
        let (set, tag) = self.view(key, seed);
        let way = half_open::find(&set, tag);
        if way == 0 {
            return None;
        }
        set.entry(way).filter(|(found, _)| found == key).map(|(_, flow)| flow)
    }

    /// Gives a key's entry the times of `flow`, each by one store: the entry may become another flow's meanwhile, and then no more than its times are
    /// wrong. Tells whether there is one.
    pub(super) fn set_times(&self, key: &FlowKey, flow: &Flow, seed: u32) -> bool {
        let (set, tag) = self.view(key, seed);
        let way = half_open::find(&set, tag);
        if way == 0 {
            return false;
        }
        let place = offset_of!(HalfOpen, flow);
        self.slots.store32(set.first + way, place + offset_of!(Flow, last_seen), flow.last_seen);
        self.slots.store32(set.first + way, place + offset_of!(Flow, created), flow.created);
        true
    }

    /// Takes a key's entry out; tells whether there was one.
    pub(super) fn remove(&self, key: &FlowKey, seed: u32) -> bool {
        let (set, tag) = self.view(key, seed);
        let present = half_open::find(&set, tag) != 0;
        half_open::remove(&set, tag);
        present
    }

    /// Puts the entries of the sets from `number` on into `keys` and `flows`, `size` of them or a few more. Returns the number of the
    /// next set, `None` after the last one.
    pub(super) fn read(
        &self,
        number: u32,
        size: usize,
        keys: &mut Vec<FlowKey>,
        flows: &mut Vec<Flow>,
    ) -> Option<u32> {
        for number in number..self.sets() {
            if keys.len() >= size {
                return Some(number);
            }
            let set = self.set(number, FlowKey::default());
            for (key, flow) in (1..=WAYS).filter_map(|way| set.entry(way)) {
                keys.push(key);
                flows.push(flow);
            }
        }
        None
    }

    /// Frees the ways that were being written when this was called last and still are; tells how many. A program writes an
    /// entry in less than a microsecond and cannot be ended in between: there is none, unless something is wrong. To be called seconds
    /// apart.
    pub(super) fn heal(&self) -> u32 {
        let mut last = lock(&self.busy);
        let (mut busy, mut healed) = (HashMap::new(), 0);
        for number in 0..self.sets() {
            let set = self.set(number, FlowKey::default());
            for way in 1..=WAYS {
                let word = set.load(way);
                if !half_open::is_busy(word) {
                    continue;
                }
                let slot = set.first + way;
                if last.get(&slot) != Some(&word) {
                    busy.insert(slot, word);
                } else if set.change(way, word, half_open::empty(set.load(0))) {
                    healed += 1;
                }
            }
        }
        *last = busy;
        healed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        FlowKey { source_port: port.to_be_bytes(), protocol: 17, ..FlowKey::default() }
    }

    #[test]
    fn a_way_that_stays_busy_is_freed_at_the_second_look() {
        let table = HalfOpenTable { slots: MappedArray::anonymous(32).unwrap(), busy: Mutex::default() };
        let (set, tag) = table.view(&key(1), 7);
        let way = half_open::reserve(&set, tag, false);
        assert_ne!(0, way);
        assert_eq!(0, half_open::reserve(&set, tag, false), "somebody is at it");
        assert_eq!(0, table.heal());
        assert_eq!(1, table.heal());
        assert_eq!(0, table.heal());
        let again = half_open::reserve(&set, tag, false);
        assert_ne!(0, again);
        assert_eq!(0, table.heal());
        half_open::publish(&set, again);
        assert_eq!(0, table.heal(), "it was written meanwhile");
        assert!(half_open::is_entry(set.load(again)));
    }

    #[test]
    fn entries_are_found_changed_listed_and_taken_out() {
        let table = HalfOpenTable { slots: MappedArray::anonymous(64).unwrap(), busy: Mutex::default() };
        for port in 0..20u16 {
            let (set, tag) = table.view(&key(port), 7);
            let way = half_open::reserve(&set, tag, false);
            let flow = Flow { created: u32::from(port), ..Flow::default() };
            assert!(table.slots.set(set.first + way, HalfOpen { key: key(port), flow, pad: [0; 3] }));
            assert_eq!(None, table.get(&key(port), 7), "not yet shown");
            half_open::publish(&set, way);
        }
        let (mut keys, mut flows) = (Vec::new(), Vec::new());
        let mut next = Some(0);
        while let Some(number) = next {
            next = table.read(number, keys.len() + 1, &mut keys, &mut flows);
        }
        assert_eq!(20, keys.len());
        let flow = table.get(&key(9), 7).unwrap();
        assert_eq!(9, flow.created);
        assert!(table.set_times(&key(9), &Flow { last_seen: 5, ..flow }, 7));
        assert_eq!(Some(Flow { last_seen: 5, ..flow }), table.get(&key(9), 7));
        assert!(table.remove(&key(9), 7));
        assert!(!table.remove(&key(9), 7));
        assert_eq!(None, table.get(&key(9), 7));
        assert!(!table.set_times(&key(9), &flow, 7));
    }
}
