//! Publishes rule sets: images into the slot that is not live, then one store.

use std::{
    mem::{offset_of, size_of},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use netfast_common::{
    abi::{self, Config, Target},
    rewrite,
};

use super::{Counters, Maps, filter, mapped::MappedArray, quic, settings, sys};
use crate::rules::images::Images;

/// Offset of the field whose store publishes.
pub(super) const GENERATION: usize = offset_of!(Config, generation);

/// A cached line knows the low 16 bits of its generation. As long as fewer than half of 2^16 generations fit into the
/// life of a line, no line can meet a later generation of the same 16 bits.
const GENERATIONS_PER_LINE: u32 = 30_000;

/// The writer of the double-buffered maps.
pub(super) struct Publisher {
    generation: u32,
    window: Instant,
    in_window: u32,
    filter: filter::Placement,
    quic: quic::Table,
    /// Waits for the grace period that began behind the last publication, so that the next one hardly ever has to.
    grace: Option<JoinHandle<()>>,
}

impl Publisher {
    /// Goes on from what is live.
    pub(super) fn new(maps: &Maps) -> Self {
        let generation = maps.config.load32(0, GENERATION);
        let filter = filter::Placement::adopt(maps, generation & 1);
        let quic = quic::Table::adopt(&maps.quic_ids);
        Self { generation, window: Instant::now(), in_window: 0, filter, quic, grace: None }
    }

    /// See [`super::Datapath::publish`].
    pub(super) fn publish(&mut self, maps: &Maps, counters: &Counters, images: &Images) -> u32 {
        self.hold_back(maps);
        // Programs that started before the last publication may still read the slot that is written now.
        if self.grace.take().is_none_or(|grace| grace.join().is_err()) {
            sys::grace_period();
        }
        // What is live, not what was published last: `settings::write` goes on by two.
        let generation = next(maps.config.load32(0, GENERATION));
        let slot = generation & 1;

        write_part(&maps.services, slot, abi::MAX_SERVICES, &images.services);
        write_part(&maps.filter_rates, slot, abi::MAX_FILTER_LIMITS, &images.filter_rates);
        write_part(&maps.echo_allow, slot, abi::MAX_ALLOW, &images.echo_allow);
        let filter_flags = self.filter.write(maps, slot, &images.filter);
        write_part(&maps.snat, slot, abi::MAX_SNAT, &images.snats);
        write_part(&maps.maglev, slot, abi::MAX_MAGLEV_CELLS, &images.maglev);
        write_indexed(&maps.forwards, slot, abi::MAX_FORWARDS, &images.forwards);
        write_indexed(&maps.echoes, slot, abi::MAX_ECHOES, &images.echoes);
        write_echo_ports(&maps.echo_ports, slot, &images.services);
        let rule_set = abi::RuleSet {
            services: images.services.len().min(abi::MAX_SERVICES as usize) as u32,
            filter_flags: filter_flags | verdict_flags(images),
            snats: images.snats.len().min(abi::MAX_SNAT as usize) as u32,
            pad: 0,
        };
        maps.rule_sets.set(slot, rule_set);
        if let Err(error) = self.quic.write(&maps.quic_ids, slot, &images.quic) {
            tracing::error!(%error, "not all QUIC server IDs lead to their targets");
        }
        self.clear_counters(maps, counters, images);
        for (index, target) in &images.targets {
            write_target(&maps.targets, u32::from(*index), target);
        }
        for leaving in &images.leaving {
            let index = u32::from(leaving.index);
            if maps.targets.get(index).is_some_and(|present| present.uid == leaving.uid) {
                maps.targets.store16(index, offset_of!(Target, next_hop), leaving.next_hop);
                maps.targets.store8(index, offset_of!(Target, state), leaving.state);
            }
        }
        // Sequentially consistent: all of the above is there for whoever sees it.
        maps.config.store32(0, GENERATION, generation);
        self.generation = generation;
        let grace = std::thread::Builder::new().name("grace-period".to_owned());
        self.grace = grace.spawn(sys::grace_period).ok();
        generation
    }

    /// An index that goes to a new object takes its counter to zero; what an object has counted stays with it over
    /// publications and restarts of the agent.
    fn clear_counters(&self, maps: &Maps, counters: &Counters, images: &Images) {
        let live = self.generation & 1;
        for (index, target) in &images.targets {
            if maps.targets.get(u32::from(*index)).is_some_and(|present| present.uid != target.uid) {
                counters.clear_target(*index);
                // What was told of the way to another target.
                maps.path_mtu.set(u32::from(*index), 0);
            }
        }
        for (index, forward) in &images.forwards {
            let present = maps.forwards.get(live * abi::MAX_FORWARDS + u32::from(*index));
            if present.is_some_and(|present| present.uid != forward.uid) {
                counters.clear_flows_made(*index);
            }
        }
        for (index, echo) in &images.echoes {
            let present = maps.echoes.get(live * abi::MAX_ECHOES + u32::from(*index));
            if present.is_some_and(|present| present.uid != echo.uid) {
                counters.clear_echo(*index);
            }
        }
        for (number, _) in images.filter.entries() {
            let present = maps.filter_rules.get(2 * number + live);
            if present.is_some_and(|present| present.in_use == 0) {
                counters.clear_filter(number);
            }
        }
        images.filter_counters_anew.iter().for_each(|number| counters.clear_filter(*number));
    }

    fn hold_back(&mut self, maps: &Maps) {
        let seconds = maps.config.get(0).map_or(0, |config| settings::line_seconds(&config));
        let window = Duration::from_secs(seconds);
        if self.window.elapsed() >= window {
            self.window = Instant::now();
            self.in_window = 0;
        } else if self.in_window >= GENERATIONS_PER_LINE {
            std::thread::sleep(window.saturating_sub(self.window.elapsed()));
            self.window = Instant::now();
            self.in_window = 0;
        }
        self.in_window += 1;
    }
}

/// What the program may keep of its verdicts on packets of no flow: a line for such a packet must not swallow the answer to
/// a flow that is made later. To forwards in mode `nat` they come to known ports; of the other kinds any packet may be one.
fn verdict_flags(images: &Images) -> u32 {
    let answers_anywhere = [abi::Mode::Dnat, abi::Mode::Snat].map(|mode| mode as u8);
    let mut modes = images.forwards.iter().map(|(_, forward)| forward.mode);
    if !images.snats.is_empty() || modes.clone().any(|mode| answers_anywhere.contains(&mode)) {
        return 0;
    }
    let nat = modes.any(|mode| mode == abi::Mode::Nat as u8);
    abi::FILTER_VERDICTS | if nat { abi::FILTER_NAT } else { 0 }
}

/// The generation after `generation`: the other slot's, never 0.
const fn next(generation: u32) -> u32 {
    // 0 and 2 are of the same slot.
    if generation == u32::MAX { 2 } else { generation + 1 }
}

fn write_part<T: aya::Pod>(map: &MappedArray<T>, slot: u32, part: u32, values: &[T]) {
    for (index, value) in (0..part).zip(values) {
        map.set(slot * part + index, *value);
    }
}

/// Writes a part whose elements keep their index; the others become zero (a uid of 0: nobody).
fn write_indexed<T: aya::Pod + Default>(map: &MappedArray<T>, slot: u32, part: u32, values: &[(u16, T)]) {
    let mut all = vec![T::default(); part as usize];
    for (index, value) in values {
        if let Some(place) = all.get_mut(usize::from(*index)) {
            *place = *value;
        }
    }
    write_part(map, slot, part, &all);
}

/// The ports on which any echo reflector listens, a bit each: an answer to one of them could be answered again.
fn write_echo_ports(map: &MappedArray<u64>, slot: u32, services: &[abi::Service]) {
    let mut words = [0u64; abi::ECHO_PORT_WORDS as usize];
    let answers = [abi::ServiceKind::Echo as u8, abi::ServiceKind::Stamp as u8];
    for service in services.iter().filter(|service| answers.contains(&service.kind)) {
        for port in service.port_low..=service.port_high {
            words[usize::from(port) / 64] |= 1 << (port % 64);
        }
    }
    write_part(map, slot, abi::ECHO_PORT_WORDS, &words);
}

/// Targets are not double-buffered: a flow may refer to the element. What can change while flows do are the next hop
/// and the state, by one store each; an element that is another target's, or out of use, has no flows.
fn write_target(map: &MappedArray<Target>, index: u32, target: &Target) {
    let Some(present) = map.get(index) else { return };
    let target = &Target { sum: rewrite::target_sum(target), ..*target };
    if present == *target {
        return;
    }
    let constant = |target: &Target| Target { next_hop: 0, state: 0, ..*target };
    if constant(&present) == constant(target) {
        map.store16(index, offset_of!(Target, next_hop), target.next_hop);
        map.store8(index, offset_of!(Target, state), target.state);
        return;
    }
    map.set(index, Target { in_use: 0, ..*target });
    map.set(index, *target);
    const { assert!(size_of::<Target>() == 64, "one cache line: the program reads it whole") };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_generation_is_the_other_slots_and_never_zero() {
        for generation in [0, 1, 2, 3, u32::MAX - 1, u32::MAX] {
            let after = next(generation);
            assert_ne!(0, after);
            assert_ne!(generation & 1, after & 1);
        }
        assert_eq!(2, next(u32::MAX), "slot 0, as 0 would be");
        assert_eq!(1, next(0));
    }
}
