//! The live settings (`CONFIG`), and how large a part of the flow cache is used.

use std::{mem::offset_of, ops::RangeInclusive, time::Duration};

use netfast_common::abi::{Config, Policy, PolicyClass, TcpTimeouts, Timeouts, line_end};

use super::Datapath;

/// Idle times after which a flow is dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    /// UDP, both ways.
    pub udp: Duration,
    /// UDP, one way.
    pub udp_one_way: Duration,
    /// ICMP query.
    pub icmp: Duration,
    /// TCP handshake.
    pub tcp_opening: Duration,
    /// TCP established.
    pub tcp_established: Duration,
    /// TCP after a FIN of one side.
    pub tcp_half_closed: Duration,
    /// TCP after a FIN of both.
    pub tcp_closing: Duration,
    /// TCP after a RST.
    pub tcp_reset: Duration,
}

/// What of the configuration concerns the program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Source ports that `nat` gives out.
    pub nat_ports: RangeInclusive<u16>,
    /// Idle times.
    pub idle: Idle,
    /// What is done with frames that cannot be classified, by [`PolicyClass`].
    pub policies: [Policy; PolicyClass::COUNT],
    /// Log lines a second and CPU of the slow path.
    pub log_rate: u32,
    /// ICMP errors and TCP resets a second and CPU.
    pub error_rate: u32,
    /// New flows that one source may open in a second (0: any number), and at once.
    pub flow_quota: (u32, u32),
}

/// Shortest idle time of a confirmed flow: a cached line lives for a second at least.
const SHORTEST: Duration = Duration::from_secs(4);
/// Longest life of a cached line, in seconds.
const LONGEST_LINE: u32 = 16;

/// Right shift that makes units of about a second out of jiffies.
fn stamp_shift(hz: u32) -> u32 {
    // 100 -> 7 (1.28 s), 250 -> 8 (1.02 s), 300 -> 8 (0.85 s), 1000 -> 10 (1.02 s)
    let floor = hz.max(1).ilog2();
    if f64::from(hz) / f64::from(1u32 << floor) > 1.414 { floor + 1 } else { floor }
}

fn jiffies(time: Duration, hz: u32) -> u32 {
    // Half the counter's range is the longest time that a difference of two jiffies can tell.
    u32::try_from(time.as_millis() * u128::from(hz) / 1000)
        .map_or(i32::MAX as u32, |j| j.clamp(1, i32::MAX as u32))
}

/// Idle times in jiffies, and the life of a cached line.
fn times(idle: &Idle, hz: u32) -> (Timeouts, u32) {
    let confirmed = |time: Duration| time.max(SHORTEST);
    let idle = Idle {
        udp: confirmed(idle.udp),
        udp_one_way: idle.udp_one_way,
        icmp: confirmed(idle.icmp),
        // A flow that is opened anew may have cached lines.
        tcp_opening: confirmed(idle.tcp_opening),
        tcp_established: confirmed(idle.tcp_established),
        tcp_half_closed: confirmed(idle.tcp_half_closed),
        tcp_closing: confirmed(idle.tcp_closing),
        tcp_reset: confirmed(idle.tcp_reset),
    };
    let timeouts = Timeouts {
        udp: jiffies(idle.udp, hz),
        udp_one_way: jiffies(idle.udp_one_way, hz),
        icmp: jiffies(idle.icmp, hz),
        tcp: TcpTimeouts {
            opening: jiffies(idle.tcp_opening, hz),
            established: jiffies(idle.tcp_established, hz),
            half_closed: jiffies(idle.tcp_half_closed, hz),
            closing: jiffies(idle.tcp_closing, hz),
            reset: jiffies(idle.tcp_reset, hz),
        },
    };
    let TcpTimeouts { opening, established, half_closed, closing, reset } = timeouts.tcp;
    let shortest = timeouts.udp.min(established).min(half_closed).min(closing);
    // A flow that was reset, or that is opened anew, gets no lines: those it had need only be void before it expires.
    let lifetime = (shortest / 4).min(reset / 2).min(opening / 2);
    (timeouts, lifetime.clamp(hz, LONGEST_LINE * hz))
}

/// Seconds that a cached line may live, rounded up.
pub(super) fn line_seconds(config: &Config) -> u64 {
    u64::from(line_end(config.line_lifetime).div_ceil(config.hz.max(1)))
}

/// The generation that means the same rules as `generation`, but no line of it: the next one of its slot, never 0.
const fn anew(generation: u32) -> u32 {
    match generation.wrapping_add(2) {
        0 => 2,
        next => next,
    }
}

/// Stores what lines of the flow cache are made and judged by. The order matters: see each step.
fn store_terms(
    load: impl Fn(usize) -> u32,
    mut store: impl FnMut(usize, u32),
    ports: [u32; 2],
    hz: u32,
    line_lifetime: u32,
) {
    let generation = load(offset_of!(Config, generation));
    let places = [offset_of!(Config, nat_port_low), offset_of!(Config, nat_port_high)];
    let other_ports = ports != places.map(&load);
    let longer = line_lifetime > load(offset_of!(Config, line_lifetime));
    // Before the generation: who sees that one must not make a line for packets that could be no answers by the old ports.
    places.into_iter().zip(ports).for_each(|(offset, port)| store(offset, port));
    if generation != 0 && (longer || other_ports) {
        // A line that has been void must not act again: another flow may have its source port. Nor may a line for packets that
        // could be no answers before the ports changed.
        store(offset_of!(Config, generation), anew(generation));
    }
    store(offset_of!(Config, hz), hz);
    store(offset_of!(Config, stamp_shift), stamp_shift(hz));
    // After the generation: a line that is void by the shorter life is of the old one.
    store(offset_of!(Config, line_lifetime), line_lifetime);
}

/// Writes all settings, each by one store. The seed stays with the pins, since cache lines are found by it.
pub(super) fn write(datapath: &Datapath, settings: &Settings) {
    let config = &datapath.maps.config;
    let store = |offset: usize, value: u32| config.store32(0, offset, value);
    let hz = datapath.clock.hz();
    let (timeouts, line_lifetime) = times(&settings.idle, hz);

    let ports = [*settings.nat_ports.start(), *settings.nat_ports.end()].map(u32::from);
    store_terms(|offset| config.load32(0, offset), store, ports, hz, line_lifetime);
    if config.load32(0, offset_of!(Config, seed)) == 0 {
        store(offset_of!(Config, seed), random());
    }
    let base = offset_of!(Config, timeouts);
    store(base + offset_of!(Timeouts, udp), timeouts.udp);
    store(base + offset_of!(Timeouts, udp_one_way), timeouts.udp_one_way);
    store(base + offset_of!(Timeouts, icmp), timeouts.icmp);
    let tcp = base + offset_of!(Timeouts, tcp);
    store(tcp + offset_of!(TcpTimeouts, opening), timeouts.tcp.opening);
    store(tcp + offset_of!(TcpTimeouts, established), timeouts.tcp.established);
    store(tcp + offset_of!(TcpTimeouts, half_closed), timeouts.tcp.half_closed);
    store(tcp + offset_of!(TcpTimeouts, closing), timeouts.tcp.closing);
    store(tcp + offset_of!(TcpTimeouts, reset), timeouts.tcp.reset);
    for (class, policy) in settings.policies.iter().enumerate() {
        store(offset_of!(Config, policies) + class * 4, *policy as u32);
    }
    store(offset_of!(Config, log_rate), settings.log_rate);
    store(offset_of!(Config, error_rate), settings.error_rate);
    let (rate, burst) = settings.flow_quota;
    store(offset_of!(Config, flow_burst), burst);
    store(offset_of!(Config, flow_rate), rate);

    // Masks before strides would let a CPU read its neighbour's part; both are only changed while no rule set is live.
    if datapath.generation() == 0 {
        let [stride4, stride6] = datapath.cache_strides;
        store(offset_of!(Config, cache4_stride), stride4);
        store(offset_of!(Config, cache6_stride), stride6);
        fit_caches(datapath, 0, 0);
    }
}

/// Sets that the flow cache should use for so many active flows, as a mask. `present` is the mask in use.
///
/// A flow has two lines, one per direction, and a set two ways. With eight times as many sets as flows an eighth of the ways is in
/// use: one line in ten is the second one of its set and one in a hundred stands in its second set, and each of these
/// is a branch that the CPU mispredicts. That is done while the cache stays small beside the CPU's own second level; beyond, lines scattered over twice as many
/// pages would cost more than that, and a quarter of the ways is in use (two lines in ten, three in a hundred). With half of the ways in use nearly one
/// flow in a hundred finds no free way, drives others out by turns, and each of these misses costs ten times
/// what a hit costs. A prefix in use is only halved when it is four times as large as needed, because each change moves
/// lines and so costs a pass by the flow table for each.
pub const fn fit(flows: u64, present: u32, stride: u32) -> u32 {
    /// Sets used at least: 256 KiB of the IPv4 cache. Verdicts on packets of no flow have their lines there, too, and nobody counts
    /// those; and few flows touch no more memory than their own lines, however many sets there are.
    const LEAST: u64 = 4096;
    /// Sets that are too few to be worth saving: 1 MiB of the IPv4 cache.
    const SMALL: u64 = 16_384;
    let flows = if flows > u32::MAX as u64 / 8 { u32::MAX as u64 / 8 } else { flows };
    let wanted = if flows * 8 < SMALL {
        flows * 8
    } else if flows * 4 < SMALL {
        SMALL
    } else {
        flows * 4
    };
    let mut sets = if wanted < LEAST { LEAST } else { wanted.next_power_of_two() };
    let in_use = present as u64 + 1;
    if sets < in_use && sets * 4 > in_use {
        sets = in_use;
    }
    if sets > stride as u64 {
        sets = stride as u64;
    }
    if sets == 0 { 0 } else { (sets - 1) as u32 }
}

/// Sets in use and sets there are, for each CPU: of the IPv4 cache and of the IPv6 cache.
pub(super) fn cache_sets(datapath: &Datapath) -> [(u32, u32); 2] {
    let masks = [offset_of!(Config, cache4_mask), offset_of!(Config, cache6_mask)];
    let strides = datapath.cache_strides;
    [0, 1].map(|part| (datapath.maps.config.load32(0, masks[part]) + 1, strides[part]))
}

/// Fits both caches to the numbers of active IPv4 and IPv6 flows.
pub(super) fn fit_caches(datapath: &Datapath, flows4: u64, flows6: u64) {
    let config = &datapath.maps.config;
    let caches = [
        (offset_of!(Config, cache4_mask), flows4, datapath.cache_strides[0]),
        (offset_of!(Config, cache6_mask), flows6, datapath.cache_strides[1]),
    ];
    for (offset, flows, stride) in caches {
        let present = config.load32(0, offset);
        let mask = fit(flows, present, stride);
        if mask != present {
            config.store32(0, offset, mask);
        }
    }
}

/// A random number that is not 0.
fn random() -> u32 {
    let mut bytes = [0u8; 4];
    // SAFETY: writes at most `bytes.len()` bytes into `bytes`.
    let _ = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u32::from_ne_bytes(bytes).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Idle = Idle {
        udp: Duration::from_secs(300),
        udp_one_way: Duration::from_secs(120),
        icmp: Duration::from_secs(60),
        tcp_opening: Duration::from_secs(240),
        tcp_established: Duration::from_secs(7440),
        tcp_half_closed: Duration::from_secs(7440),
        tcp_closing: Duration::from_secs(240),
        tcp_reset: Duration::from_secs(240),
    };

    #[test]
    fn a_stamp_is_about_a_second() {
        for hz in [100, 250, 300, 1000] {
            let seconds = f64::from(1u32 << stamp_shift(hz)) / f64::from(hz);
            assert!((0.7..1.42).contains(&seconds), "{hz} Hz: {seconds} s");
        }
    }

    #[test]
    fn a_line_is_void_long_before_the_shortest_flow_expires() {
        for hz in [100, 250, 300, 1000] {
            for reset in [1, 4, 10, 60, 240, 249] {
                let idle = Idle {
                    tcp_reset: Duration::from_secs(reset),
                    tcp_opening: Duration::from_secs(250 - reset),
                    ..IDLE
                };
                let (timeouts, lifetime) = times(&idle, hz);
                assert!((hz..=LONGEST_LINE * hz).contains(&lifetime));
                for time in [timeouts.tcp.reset, timeouts.tcp.opening] {
                    let worst = line_end(lifetime);
                    assert!(worst < time, "{hz} Hz, {reset} s: {worst} of {time}");
                }
            }
        }
    }

    #[test]
    fn the_same_rules_anew_stay_in_their_slot() {
        for generation in [1, 2, 3, u32::MAX - 1, u32::MAX] {
            let after = anew(generation);
            assert!(
                after != 0 && after != generation && after & 1 == generation & 1,
                "{generation}: {after}"
            );
        }
    }

    /// The stores that take live settings (generation 6, ports 40000 to 50000, lines of 8 units) to others, in their order.
    fn terms(ports: [u32; 2], line_lifetime: u32) -> Vec<(usize, u32)> {
        let live = |offset| match offset {
            _ if offset == offset_of!(Config, generation) => 6,
            _ if offset == offset_of!(Config, nat_port_low) => 40_000,
            _ if offset == offset_of!(Config, nat_port_high) => 50_000,
            _ if offset == offset_of!(Config, line_lifetime) => 8,
            _ => 0,
        };
        let mut stores = Vec::new();
        store_terms(live, |offset, value| stores.push((offset, value)), ports, 250, line_lifetime);
        stores
    }

    #[test]
    fn ports_are_stored_before_the_generation_that_they_are_of() {
        let (generation, high) = (offset_of!(Config, generation), offset_of!(Config, nat_port_high));
        let at = |stores: &[(usize, u32)], offset| stores.iter().position(|store| store.0 == offset);
        for ports in [[40_000, 60_000], [30_000, 50_000], [1024, 2048]] {
            let stores = terms(ports, 8);
            let first = at(&stores, generation).unwrap();
            assert_eq!(stores[first].1, 8, "the next one of the slot");
            for (offset, port) in [(offset_of!(Config, nat_port_low), ports[0]), (high, ports[1])] {
                let place = at(&stores, offset).unwrap();
                assert!(place < first && stores[place].1 == port, "{ports:?}: {stores:?}");
            }
        }
        assert_eq!(at(&terms([40_000, 50_000], 8), generation), None, "nothing is different");
        assert_eq!(at(&terms([40_000, 50_000], 7), generation), None, "lines are void earlier");
    }

    #[test]
    fn a_longer_life_of_lines_comes_after_its_generation() {
        let stores = terms([40_000, 50_000], 9);
        let at = |offset| stores.iter().position(|store| store.0 == offset).unwrap();
        assert!(at(offset_of!(Config, generation)) < at(offset_of!(Config, line_lifetime)), "{stores:?}");
    }

    #[test]
    fn long_times_do_not_overflow_jiffies() {
        assert_eq!(i32::MAX as u32, jiffies(Duration::from_secs(u64::from(u32::MAX)), 1000));
        assert_eq!(1, jiffies(Duration::from_micros(1), 100));
        assert_eq!(75_000, jiffies(Duration::from_secs(300), 250));
    }

    #[test]
    fn the_cache_follows_the_flows_with_hysteresis() {
        assert_eq!(4095, fit(0, 0, 16_384));
        assert_eq!(8191, fit(1000, 255, 16_384));
        assert_eq!(8191, fit(600, 8191, 16_384), "needs 8192");
        assert_eq!(8191, fit(400, 8191, 16_384), "needs 4096: not worth a change");
        assert_eq!(8191, fit(200, 8191, 16_384), "so does this");
        assert_eq!(4095, fit(200, 16_383, 16_384), "worth it");
        assert_eq!(16_383, fit(2000, 255, 65_536), "an eighth of the ways");
        assert_eq!(16_383, fit(4096, 255, 65_536), "a quarter: no longer small");
        assert_eq!(32_767, fit(4097, 255, 65_536));
        assert_eq!(16_383, fit(1_000_000, 2047, 16_384), "the operator's limit");
        assert_eq!(16_383, fit(u64::MAX, 2047, 16_384));
        assert_eq!(127, fit(u64::MAX, 0, 128));
    }
}
