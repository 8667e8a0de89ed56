use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::abi::TcpTimeouts;

const TIMEOUTS: Timeouts = Timeouts {
    udp: 300,
    udp_one_way: 120,
    icmp: 60,
    tcp: TcpTimeouts { opening: 240, established: 7440, half_closed: 7441, closing: 241, reset: 242 },
};
const EXTERNAL: [u8; 16] = addr::from_v4([192, 0, 2, 1]);

/// The table, as the kernel's maps are.
#[derive(Default)]
struct Memory {
    entries: HashMap<SnatKey, SnatMapping>,
    counts: HashMap<[u8; 16], u32>,
    /// Entries that fit.
    room: Option<usize>,
    /// What another CPU puts in between the look-up of the inside end and its insert.
    meanwhile: Option<(SnatKey, SnatMapping)>,
}

impl Memory {
    fn fits(&self) -> bool {
        self.room.is_none_or(|room| self.entries.len() < room)
    }
}

impl Table for Memory {
    fn read(&self, key: &SnatKey, value: &mut SnatMapping) -> bool {
        self.entries.get(key).map(|found| *value = *found).is_some()
    }

    fn insert_new(&mut self, key: &SnatKey, value: &SnatMapping) -> Insert {
        if key.side == INSIDE
            && let Some((key, value)) = self.meanwhile.take()
        {
            let end = outside(key.protocol, value.peer, value.peer_port);
            let mapping = SnatMapping { peer: key.address, peer_port: key.port, ..value };
            self.entries.extend([(end, mapping), (key, value)]);
        }
        if self.entries.contains_key(key) {
            return Insert::Taken;
        }
        if !self.fits() {
            return Insert::Full;
        }
        self.entries.insert(*key, *value);
        Insert::Done
    }

    fn insert(&mut self, key: &SnatKey, value: &SnatMapping) -> bool {
        let fits = self.entries.contains_key(key) || self.fits();
        if fits {
            self.entries.insert(*key, *value);
        }
        fits
    }

    fn remove(&mut self, key: &SnatKey) {
        self.entries.remove(key);
    }

    fn admit(&mut self, inside: &[u8; 16], limit: u32) -> bool {
        let count = self.counts.entry(*inside).or_default();
        let admitted = *count < limit;
        *count += u32::from(admitted);
        admitted
    }

    fn dismiss(&mut self, inside: &[u8; 16]) {
        *self.counts.get_mut(inside).expect("was admitted") -= 1;
    }
}

fn host(number: u8) -> [u8; 16] {
    addr::from_v4([10, 0, 0, number])
}

fn rule(per_source: u32) -> SnatRule {
    SnatRule { uid: 7, per_source, version: 4, ..SnatRule::default() }
}

/// Asks for the mapping of an inside endpoint at `now`; it is to live for `life`. The external end.
fn map(
    table: &mut Memory,
    rule: &SnatRule,
    ports: [u16; 2],
    (protocol, address, port): (u8, [u8; 16], u16),
    (now, life): (u32, u32),
) -> Result<SnatKey, Refusal> {
    let outside = SnatMapping {
        uid: rule.uid,
        created: now,
        expires: now.wrapping_add(life),
        ..SnatMapping::default()
    };
    let inside_key = inside(protocol, address, port.to_be_bytes());
    let mut work = Work { inside_key, outside, ..Work::default() };
    find_or_make(table, &mut work, rule, ports, &EXTERNAL, 0x5eed, now)?;
    Ok(work.outside_key)
}

#[test]
fn a_mapping_is_found_again_until_it_is_dead() {
    let (mut table, rule, ports) = (Memory::default(), rule(8), [1024, 65_535]);
    let end = (UDP, host(1), 4000);
    let first = map(&mut table, &rule, ports, end, (100, 300)).expect("free");
    assert_eq!((EXTERNAL, 4000u16.to_be_bytes(), OUTSIDE), (first.address, first.port, first.side));
    assert_eq!(Ok(first), map(&mut table, &rule, ports, end, (400, 300)), "at its last moment");
    assert_eq!(2, table.entries.len());
    let second = map(&mut table, &rule, ports, end, (401, 300)).expect("another");
    assert_ne!(first, second, "a dead one is nobody's, and its port is taken until the agent takes it away");
    assert_eq!(3, table.entries.len());
    assert_eq!(Ok(second), map(&mut table, &rule, ports, end, (402, 300)));
}

#[test]
fn another_rule_gets_another_mapping() {
    let (mut table, ports) = (Memory::default(), [1024, 65_535]);
    let (old, end) = (rule(8), (UDP, host(1), 4000));
    let first = map(&mut table, &old, ports, end, (0, 300)).expect("free");
    let new = SnatRule { uid: 8, ..old };
    assert_ne!(first, map(&mut table, &new, ports, end, (1, 300)).expect("free"));
}

#[test]
fn protocols_and_hosts_have_ports_of_their_own() {
    let (mut table, rule, ports) = (Memory::default(), rule(8), [4000, 4001]);
    let ask = |table: &mut Memory, protocol, number| {
        map(table, &rule, ports, (protocol, host(number), 4000), (0, 300))
            .map(|key| u16::from_be_bytes(key.port))
    };
    assert_eq!(Ok(4000), ask(&mut table, UDP, 1));
    assert_eq!(Ok(4000), ask(&mut table, TCP, 1));
    assert_eq!(Ok(4001), ask(&mut table, UDP, 2));
    assert_eq!(Err(Refusal::Exhausted), ask(&mut table, UDP, 3));
    assert_eq!(
        None,
        table.counts.get(&host(3)).filter(|count| **count > 0),
        "what is refused is not counted"
    );
}

#[test]
fn what_is_refused_leaves_nothing() {
    let ports = [1024, 65_535];
    let mut table = Memory::default();
    for port in [1, 2] {
        map(&mut table, &rule(2), ports, (UDP, host(1), port), (0, 300)).expect("two may");
    }
    assert_eq!(Err(Refusal::Quota), map(&mut table, &rule(2), ports, (UDP, host(1), 3), (0, 300)));
    assert_eq!((4, 2), (table.entries.len(), table.counts[&host(1)]));
    // Room for neither end, and for the external one alone.
    for room in [4, 5] {
        table.room = Some(room);
        assert_eq!(Err(Refusal::Full), map(&mut table, &rule(2), ports, (UDP, host(2), 3), (0, 300)));
        assert_eq!((4, 0), (table.entries.len(), table.counts[&host(2)]));
    }
}

#[test]
fn two_cpus_make_one_mapping() {
    let (mut table, rule, ports) = (Memory::default(), rule(8), [1024, 65_535]);
    let inside_key = inside(UDP, host(1), 4000u16.to_be_bytes());
    let others = SnatMapping {
        peer: EXTERNAL,
        peer_port: 5000u16.to_be_bytes(),
        uid: rule.uid,
        expires: 300,
        ..SnatMapping::default()
    };
    table.meanwhile = Some((inside_key, others));
    let end = map(&mut table, &rule, ports, (UDP, host(1), 4000), (0, 300)).expect("the other's");
    assert_eq!(5000, u16::from_be_bytes(end.port));
    assert_eq!(
        (2, 0),
        (table.entries.len(), table.counts[&host(1)]),
        "the slower one has taken its own back"
    );
}

#[test]
fn candidates_prefer_the_inside_port_and_stay_in_range() {
    assert_eq!(4000, candidate(4000, 99, 0, [1024, 65_535]));
    assert_eq!(1024, candidate(1024, 99, 0, [1024, 2000]));
    assert_eq!(2000, candidate(2000, 99, 0, [1024, 2000]));
    for (port, range) in [(80, [1024, 65_535]), (2001, [1024, 2000]), (9, [7, 7]), (1, [65_535, 65_535])] {
        for attempt in 0..PORT_TRIES {
            let port = candidate(port, 0xdead_beef, attempt, range);
            assert!((range[0]..=range[1]).contains(&port), "{port} of {range:?}");
        }
    }
}

#[test]
fn an_interface_matters_only_to_who_names_it() {
    let (lan, wan) = (3, 5);
    let any = rule(1);
    let named = SnatRule { in_ifindex: lan, in_mask: !0, out_ifindex: wan, out_mask: !0, ..any };
    let host = Subject::new(&host(1), 4);
    assert!(matches(&named, &host), "not known yet: it may");
    for (from, to, expected) in [(lan, wan, true), (wan, wan, false), (lan, lan, false), (wan, lan, false)] {
        assert_eq!(expected, matches(&named, &host.from(from).to(to)), "{from} {to}");
        assert!(matches(&any, &host.from(from).to(to)));
    }
    assert!(!matches(&any, &Subject::new(&[0; 16], 6)), "another IP version");
}

#[test]
fn addresses_that_are_routed() {
    let (v4, v6) = (
        |a: [u8; 4]| is_routable(&addr::from_v4(a), 4),
        |a: [u16; 8]| {
            let mut bytes = [0; 16];
            for (to, from) in bytes.chunks_exact_mut(2).zip(a) {
                to.copy_from_slice(&from.to_be_bytes());
            }
            is_routable(&bytes, 6)
        },
    );
    for yes in [[10, 0, 0, 1], [198, 51, 100, 1], [169, 253, 0, 1], [223, 255, 255, 255]] {
        assert!(v4(yes), "{yes:?}");
    }
    for no in [[0, 0, 0, 0], [127, 0, 0, 1], [169, 254, 1, 1], [224, 0, 0, 1], [255, 255, 255, 255]] {
        assert!(!v4(no), "{no:?}");
    }
    for yes in
        [[0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], [0xfd00, 0, 0, 0, 0, 0, 0, 1], [0xfec0, 0, 0, 0, 0, 0, 0, 1]]
    {
        assert!(v6(yes), "{yes:x?}");
    }
    for no in [[0; 8], [0, 0, 0, 0, 0, 0, 0, 1], [0xfe80, 0, 0, 0, 0, 0, 0, 1], [0xff02, 0, 0, 0, 0, 0, 0, 1]]
    {
        assert!(!v6(no), "{no:x?}");
    }
}

/// RFC 4787 REQ-5, RFC 5382 REQ-5, RFC 5508 REQ-2.
#[test]
fn mappings_live_as_long_as_the_rfcs_ask() {
    for state in [State::OneWay, State::TwoWay] {
        assert_eq!(300, lifetime(UDP, state, &TIMEOUTS));
    }
    assert_eq!(240, lifetime(TCP, State::SynSent, &TIMEOUTS));
    assert_eq!(7440, lifetime(TCP, State::Established, &TIMEOUTS));
    assert!(lifetime(1, State::TwoWay, &TIMEOUTS) >= 60);
}

#[test]
fn who_alone_has_held_a_port_gives_it_back() {
    let made = SnatMapping { expires: 240, ..SnatMapping::default() };
    let one = holder(&host(9), [0, 80]);
    let other = holder(&host(8), [0, 80]);
    let after = |mapping: SnatMapping, flow, state, now| {
        let (expires, holder) = touched(&mapping, TCP, flow, state, now, &TIMEOUTS);
        SnatMapping { expires, holder, ..mapping }
    };
    let open = after(made, one, State::Established, 10);
    assert_eq!((7450, one), (open.expires, open.holder));
    let closed = after(open, one, State::BothClosed, 20);
    assert_eq!((20 + 241, 0), (closed.expires, closed.holder));
    // Where two have held it, neither of them may.
    let both = after(open, other, State::Established, 15);
    assert_eq!(7455, both.expires);
    assert_eq!(7455, after(both, one, State::Reset, 20).expires);
    // A connection that another one's SYN goes beside keeps its time.
    assert_eq!(7450, after(open, other, State::SynSent, 30).expires);
}

#[test]
fn ways() {
    let (inside, external, peer) = (host(1), EXTERNAL, addr::from_v4([198, 51, 100, 1]));
    let key = |source, source_port: u16, destination, destination_port: u16| FlowKey {
        source,
        destination,
        source_port: source_port.to_be_bytes(),
        destination_port: destination_port.to_be_bytes(),
        ..FlowKey::default()
    };
    assert_eq!(Way::Outward, way(&key(inside, 1, peer, 2), &key(external, 3, peer, 2)));
    assert_eq!(Way::Inward, way(&key(peer, 2, external, 3), &key(peer, 2, inside, 1)));
    assert_eq!(Way::Hairpin, way(&key(inside, 1, external, 4), &key(external, 3, host(2), 5)));
}

/// One step of somebody.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A packet of host, port and protocol.
    Packet(u8, u16, bool),
    /// Time goes by.
    Wait(u32),
    /// The agent takes away what is dead.
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..6u8, 4000..4012u16, any::<bool>()).prop_map(|(host, port, tcp)| Step::Packet(host, port, tcp)),
        1 => (0..200u32).prop_map(Step::Wait),
        1 => Just(Step::Sweep),
    ]
}

proptest! {
    /// A prefix matches as comparison bit by bit does.
    #[test]
    fn prefixes_match_their_addresses(prefix: u128, flips: u128, length in 0..=128u32, version in 0..2u8) {
        let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
        let rule = SnatRule {
            prefix: (prefix & mask).to_be_bytes(), mask: mask.to_be_bytes(), version: 4 + 2 * version, ..SnatRule::default()
        };
        for difference in [0, flips, flips & !mask, 1u128.checked_shl(128 - length).unwrap_or(0), flips & mask] {
            let address = prefix ^ difference;
            let same = (0..length).all(|bit| (address ^ prefix) >> (127 - bit) & 1 == 0);
            prop_assert_eq!(same, matches(&rule, &Subject::new(&address.to_be_bytes(), rule.version)));
        }
    }

    #[test]
    fn a_host_has_one_pool_address(inside: [u8; 16], count in 0..=16u16) {
        let index = pool_index(&inside, count);
        prop_assert!(index < count.max(1));
        prop_assert_eq!(index, pool_index(&inside, count));
    }

    #[test]
    fn candidates_are_of_the_range(port: u16, hash: u32, attempt in 0..PORT_TRIES, a in 1..=u16::MAX, b in 1..=u16::MAX) {
        let range = [a.min(b), a.max(b)];
        let chosen = candidate(port, hash, attempt, range);
        prop_assert!((range[0]..=range[1]).contains(&chosen));
    }

    /// RFC 4787 REQ-1 and REQ-3: while its mapping is alive an inside endpoint has one external one, and it shares it with
    /// nobody; however few ports there are, however time goes and whenever it wraps.
    #[test]
    fn nobody_shares_and_nobody_moves(
        steps in prop::collection::vec(step(), 1..200),
        begin: u32,
        ports in 1..40u16,
        per_source in 1..16u32,
    ) {
        let (mut table, rule) = (Memory::default(), rule(per_source));
        let (range, life) = ([3990, 3989 + ports], 300);
        let mut now = begin;
        // What each inside endpoint was given, and since when it is dead.
        let mut given: HashMap<(u8, [u8; 16], u16), (SnatKey, u32)> = HashMap::new();
        for step in steps {
            match step {
                Step::Wait(time) => now = now.wrapping_add(time),
                Step::Sweep => {
                    let dead: Vec<_> = table.entries.iter()
                        .filter(|(key, mapping)| key.side == OUTSIDE && is_dead(mapping, now))
                        .map(|(key, mapping)| (*key, *mapping)).collect();
                    for (key, mapping) in dead {
                        table.remove(&key);
                        table.dismiss(&mapping.peer);
                        let end = inside(key.protocol, mapping.peer, mapping.peer_port);
                        if table.entries.get(&end).is_some_and(|other| is_of(other, &key.address, key.port)) {
                            table.remove(&end);
                        }
                    }
                }
                Step::Packet(number, port, tcp) => {
                    let end = (if tcp { TCP } else { UDP }, host(number), port);
                    let alive = given.get(&end).filter(|(_, until)| (now.wrapping_sub(*until) as i32) <= 0).copied();
                    match map(&mut table, &rule, range, end, (now, life)) {
                        Ok(key) => {
                            prop_assert!((range[0]..=range[1]).contains(&u16::from_be_bytes(key.port)));
                            prop_assert_eq!((OUTSIDE, end.0), (key.side, key.protocol));
                            match alive {
                                Some((before, _)) => prop_assert_eq!(before, key, "it has moved"),
                                None => { given.insert(end, (key, now.wrapping_add(life))); }
                            }
                        }
                        Err(refusal) => prop_assert!(alive.is_none(), "{refusal:?} to one who has a mapping"),
                    }
                    let live: Vec<_> = given.values()
                        .filter(|(_, until)| (now.wrapping_sub(*until) as i32) <= 0).map(|(key, _)| *key).collect();
                    prop_assert_eq!(live.len(), live.iter().collect::<HashSet<_>>().len(), "two share a port");
                    for (host, count) in &table.counts {
                        let own = table.entries.iter()
                            .filter(|(key, mapping)| key.side == OUTSIDE && mapping.peer == *host).count();
                        prop_assert_eq!(own, *count as usize);
                        prop_assert!(*count <= per_source);
                    }
                }
            }
        }
    }
}
