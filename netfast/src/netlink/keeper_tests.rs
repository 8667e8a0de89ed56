use std::net::IpAddr;
use std::sync::Mutex;

use rtnetlink::packet_route::neighbour::NeighbourState;

use super::*;
use crate::netlink::hops::HopTableError;
use crate::netlink::host::{Link, VlanOf};
use crate::netlink::neighbours::Neighbour;

/// The maps, as the standard library would hold them.
#[derive(Default)]
struct Maps {
    entries: Mutex<BTreeMap<u16, abi::NextHop>>,
    keys: Mutex<HashMap<abi::HopKey, u32>>,
    freed: Mutex<Vec<u16>>,
    writes: Mutex<Vec<(u16, abi::NextHop)>>,
}

impl HopTable for Maps {
    fn read(&self, index: u16) -> Option<abi::NextHop> {
        self.entries.lock().unwrap().get(&index).copied()
    }
    fn write(&self, index: u16, hop: &abi::NextHop) {
        self.entries.lock().unwrap().insert(index, *hop);
        self.writes.lock().unwrap().push((index, *hop));
    }
    fn insert_key(&self, key: &abi::HopKey, index: u32) -> Result<u32, HopTableError> {
        Ok(*self.keys.lock().unwrap().entry(*key).or_insert(index))
    }
    fn remove_key(&self, key: &abi::HopKey) {
        self.keys.lock().unwrap().remove(key);
    }
    fn free(&self, index: u16) {
        self.freed.lock().unwrap().push(index);
    }
}

impl Maps {
    fn entry(&self, index: u16) -> abi::NextHop {
        self.read(index).unwrap_or_default()
    }
    fn valid(&self, index: u16) -> bool {
        self.entry(index).is_valid()
    }
}

const A: Mac = [2, 0, 0, 0, 0, 0xa];
const B: Mac = [2, 0, 0, 0, 0, 0xb];
const OWN: Mac = [2, 0, 0, 0, 0, 2];
const LEARNED: u16 = abi::FIRST_LEARNED_HOP as u16 + 5;

struct Bench {
    maps: Arc<Maps>,
    keeper: HopKeeper,
    host: HostState,
    neighbours: Neighbours,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let maps = Arc::new(Maps::default());
        let eth0 = Link {
            index: 2,
            name: "eth0".into(),
            mac: Some(OWN),
            mtu: 1500,
            up: true,
            carrier: true,
            ethernet: true,
            ..Link::default()
        };
        let vlan = Link {
            index: 3,
            name: "eth0.7".into(),
            vlan: Some(VlanOf { parent: 2, id: 7, dot1q: true }),
            ..eth0.clone()
        };
        Self {
            keeper: HopKeeper::new(maps.clone()),
            maps,
            host: HostState { links: [(2, eth0), (3, vlan)].into(), ..HostState::default() },
            neighbours: Neighbours::default(),
            now: Instant::now(),
        }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut HopKeeper, World<'_>) -> T) -> T {
        let world = World { host: &self.host, neighbours: &self.neighbours, now: self.now };
        act(&mut self.keeper, world)
    }

    fn later(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn want(&mut self, paths: &[Path]) -> Vec<u16> {
        self.with(|keeper, world| keeper.want(paths, world)).into_iter().map(Option::unwrap).collect()
    }

    fn neighbour(&mut self, key: NeighbourKey, state: NeighbourState, mac: Option<Mac>) {
        let entry = Neighbour { mac, state, managed: true, learned: false };
        let moved = self.neighbours.set(key, entry);
        self.with(|keeper, world| keeper.neighbour_changed(&key, world));
        if let Some(moved) = moved {
            self.with(|keeper, world| keeper.moved(moved, world));
        }
    }

    fn gc(&mut self, in_use: &[u16]) {
        let in_use = in_use.iter().copied().collect();
        self.with(|keeper, world| keeper.gc(&in_use, world));
    }
}

fn path(ifindex: u32, last: u8) -> Path {
    Path { ifindex, neighbour: IpAddr::from([10, 0, 0, last]), source: None, mtu: u32::MAX }
}

fn key(ifindex: u32, last: u8) -> NeighbourKey {
    (ifindex, IpAddr::from([10, 0, 0, last]))
}

fn hop_key(ifindex: u32, last: u8) -> abi::HopKey {
    address_key(&path(ifindex, last))
}

#[test]
fn a_hop_is_asked_for_and_valid_only_while_its_neighbour_is() {
    let mut bench = Bench::new();
    let [index] = bench.want(&[path(2, 1)])[..] else { panic!() };
    assert_eq!(bench.keeper.take_asks(), [Ask { neighbour: key(2, 1), keep: true, learned: false }]);
    assert!(!bench.maps.valid(index));
    assert_eq!(bench.maps.keys.lock().unwrap()[&hop_key(2, 1)], u32::from(index));

    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(A));
    let valid = abi::NextHop { destination: A, vlan: 0, source: OWN, mtu: 1500, ifindex: 2, longest: 1500 };
    assert_eq!(bench.maps.entry(index), valid);

    bench.neighbour(key(2, 1), NeighbourState::Stale, Some(B));
    assert_eq!(bench.maps.entry(index), abi::NextHop { destination: B, ..valid });

    bench.neighbour(key(2, 1), NeighbourState::Failed, None);
    assert!(!bench.maps.valid(index));
    assert_eq!(bench.maps.entry(index).destination, [0; 6], "no stale address is left in the entry");
}

#[test]
fn targets_with_one_gateway_share_a_hop_and_the_smallest_route_mtu() {
    let mut bench = Bench::new();
    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(A));
    let indexes = bench.want(&[path(2, 1), Path { mtu: 1400, ..path(2, 1) }, path(2, 2)]);
    assert_eq!(indexes[0], indexes[1]);
    assert_ne!(indexes[0], indexes[2]);
    assert_eq!(bench.maps.entry(indexes[0]).mtu, 1400);
    bench.want(&[path(2, 1)]);
    assert_eq!(bench.maps.entry(indexes[0]).mtu, 1500, "the route that set the MTU is gone");
}

#[test]
fn a_link_that_goes_down_or_changes_is_followed() {
    let mut bench = Bench::new();
    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(A));
    let index = bench.want(&[path(2, 1)])[0];
    bench.host.links.get_mut(&2).unwrap().mtu = 9000;
    bench.host.links.get_mut(&2).unwrap().mac = Some(B);
    bench.with(|keeper, world| keeper.refresh_all(world));
    assert_eq!((bench.maps.entry(index).mtu, bench.maps.entry(index).source), (9000, B));

    bench.host.links.get_mut(&2).unwrap().carrier = false;
    bench.with(|keeper, world| keeper.refresh_all(world));
    assert!(!bench.maps.valid(index));

    bench.host.links.remove(&2);
    bench.with(|keeper, world| keeper.refresh_all(world));
    assert!(!bench.maps.valid(index));
}

#[test]
fn a_vlan_interface_sends_tagged_from_the_one_below() {
    let mut bench = Bench::new();
    bench.neighbour(key(3, 1), NeighbourState::Reachable, Some(A));
    let index = bench.want(&[path(3, 1)])[0];
    let entry = bench.maps.entry(index);
    assert_eq!((entry.ifindex, entry.vlan, entry.is_valid()), (2, 7, true));
}

#[test]
fn an_entry_is_invalid_before_its_interface_changes() {
    let mut bench = Bench::new();
    bench.neighbour(key(3, 1), NeighbourState::Reachable, Some(A));
    let index = bench.want(&[path(3, 1)])[0];
    let mut other = bench.host.links[&2].clone();
    other.index = 9;
    bench.host.links.insert(9, other);
    bench.host.links.get_mut(&3).unwrap().vlan = Some(VlanOf { parent: 9, id: 7, dot1q: true });
    bench.maps.writes.lock().unwrap().clear();
    bench.with(|keeper, world| keeper.refresh_all(world));
    let writes = bench.maps.writes.lock().unwrap().clone();
    let short: Vec<_> = writes.iter().map(|(i, hop)| (*i, hop.ifindex, hop.is_valid())).collect();
    assert_eq!(short, [(index, 2, false), (index, 9, true)]);
}

#[test]
fn the_kernel_is_not_asked_without_end() {
    let mut bench = Bench::new();
    let index = bench.want(&[path(2, 1)])[0];
    bench.keeper.take_asks();
    bench.with(|keeper, world| keeper.unresolved(index, world));
    assert!(bench.keeper.take_asks().is_empty(), "asked a moment ago");
    bench.now += ASK_INTERVAL;
    bench.with(|keeper, world| keeper.unresolved(index, world));
    assert_eq!(bench.keeper.take_asks().len(), 1);

    bench.neighbour(key(2, 1), NeighbourState::Failed, None);
    bench.now += ASK_INTERVAL;
    bench.with(|keeper, world| keeper.tick(world));
    assert!(bench.keeper.take_asks().is_empty(), "the kernel asks by itself");
    bench.with(|keeper, world| keeper.unresolved(index, world));
    assert_eq!(bench.keeper.take_asks().len(), 1, "a packet wants it now");

    bench.neighbours.remove(&key(2, 1));
    bench.now += ASK_INTERVAL;
    bench.with(|keeper, world| keeper.neighbour_changed(&key(2, 1), world));
    assert_eq!(bench.keeper.take_asks().len(), 1, "a deleted neighbour is asked for at once");
}

#[test]
fn an_entry_put_there_by_hand_is_left_alone() {
    let mut bench = Bench::new();
    let entry = Neighbour { mac: Some(A), state: NeighbourState::Permanent, managed: false, learned: false };
    bench.neighbours.set(key(2, 1), entry);
    let index = bench.want(&[path(2, 1)])[0];
    assert!(bench.maps.valid(index));
    bench.later(60);
    bench.with(|keeper, world| keeper.tick(world));
    bench.with(|keeper, world| keeper.release_all(world));
    assert!(bench.keeper.take_asks().is_empty());
}

#[test]
fn an_index_comes_free_in_two_steps() {
    let mut bench = Bench::new();
    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(A));
    let index = bench.want(&[path(2, 1)])[0];
    bench.want(&[]);
    bench.gc(&[]);
    assert!(bench.maps.keys.lock().unwrap().contains_key(&hop_key(2, 1)));
    bench.later(61);
    bench.gc(&[index]);
    bench.gc(&[]);
    assert!(bench.maps.keys.lock().unwrap().contains_key(&hop_key(2, 1)), "a flow had it");

    bench.later(61);
    bench.gc(&[]);
    assert!(bench.maps.keys.lock().unwrap().is_empty());
    assert!(bench.maps.valid(index), "a packet may be on its way to it");
    assert_ne!(bench.want(&[path(2, 7)])[0], index);

    bench.later(61);
    bench.gc(&[]);
    assert!(!bench.maps.valid(index));
    let asks = bench.keeper.take_asks();
    assert!(asks.contains(&Ask { neighbour: key(2, 1), keep: false, learned: false }), "{asks:?}");
}

#[test]
fn a_retiring_index_is_taken_back_by_a_target_or_a_flow() {
    let mut bench = Bench::new();
    let index = bench.want(&[path(2, 1)])[0];
    bench.want(&[]);
    bench.later(61);
    bench.gc(&[]);
    assert_eq!(bench.want(&[path(2, 1)]), [index]);
    assert_eq!(bench.maps.keys.lock().unwrap()[&hop_key(2, 1)], u32::from(index));

    bench.want(&[]);
    bench.later(61);
    bench.gc(&[]);
    assert!(bench.maps.keys.lock().unwrap().is_empty());
    bench.gc(&[index]);
    assert_eq!(bench.maps.keys.lock().unwrap()[&hop_key(2, 1)], u32::from(index));
}

#[test]
fn learned_hops_are_kept_adopted_and_freed() {
    let mut bench = Bench::new();
    let standing =
        abi::NextHop { destination: A, source: OWN, mtu: 1500, ifindex: 2, longest: 1500, vlan: 0 };
    bench.maps.write(LEARNED, &standing);
    bench.maps.insert_key(&hop_key(2, 1), u32::from(LEARNED)).unwrap();
    bench.with(|keeper, world| keeper.adopt(vec![(hop_key(2, 1), u32::from(LEARNED))], world));
    assert!(bench.maps.valid(LEARNED), "left alone until the kernel has had time to answer");
    assert_eq!(bench.keeper.take_asks().len(), 1);
    assert_eq!(bench.want(&[path(2, 1)]), [LEARNED], "a target takes the same one");

    bench.later(2);
    bench.with(|keeper, world| keeper.tick(world));
    assert!(!bench.maps.valid(LEARNED), "the kernel does not know it");
    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(B));
    assert_eq!(bench.maps.entry(LEARNED).destination, B);

    bench.want(&[]);
    for _ in 0..2 {
        bench.later(61);
        bench.gc(&[]);
    }
    assert_eq!(*bench.maps.freed.lock().unwrap(), [LEARNED]);
}

#[test]
fn a_hop_that_the_program_learned_first_wins() {
    let mut bench = Bench::new();
    bench.maps.insert_key(&hop_key(2, 1), u32::from(LEARNED)).unwrap();
    assert_eq!(bench.want(&[path(2, 1)]), [LEARNED]);
    bench.with(|keeper, world| keeper.learned(LEARNED, hop_key(2, 1), world));
    assert_eq!(bench.keeper.list().len(), 1);
    let asks = bench.keeper.take_asks();
    assert!(asks.last().is_some_and(|ask| ask.keep), "{asks:?}");
}

#[test]
fn own_indexes_of_an_earlier_agent_are_not_given_out_again() {
    let mut bench = Bench::new();
    bench.with(|keeper, world| keeper.adopt(vec![(hop_key(2, 1), 1), (hop_key(2, 2), 3)], world));
    assert_eq!(bench.want(&[path(2, 2), path(2, 8), path(2, 9), path(2, 1)]), [3, 2, 4, 1]);
}

#[test]
fn a_hop_known_by_mac_follows_its_addresses() {
    let mut bench = Bench::new();
    let mut address = [0; 16];
    address[..6].copy_from_slice(&A);
    address[6..8].copy_from_slice(&7u16.to_be_bytes());
    let mac_key = abi::HopKey { ifindex: 2, kind: HopKeyKind::Mac as u32, address };
    bench.with(|keeper, world| keeper.learned(LEARNED, mac_key, world));
    let entry = bench.maps.entry(LEARNED);
    assert_eq!((entry.destination, entry.vlan, entry.ifindex, entry.is_valid()), (A, 7, 2, true));

    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(A));
    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(B));
    assert_eq!(bench.maps.entry(LEARNED).destination, A, "that was without a tag");
    bench.neighbour(key(3, 1), NeighbourState::Reachable, Some(A));
    bench.neighbour(key(3, 1), NeighbourState::Failed, None);
    bench.neighbour(key(3, 1), NeighbourState::Reachable, Some(B));
    assert_eq!(bench.maps.entry(LEARNED).destination, B);

    bench.host.links.get_mut(&2).unwrap().up = false;
    bench.with(|keeper, world| keeper.refresh_all(world));
    assert!(!bench.maps.valid(LEARNED));
    assert!(bench.keeper.take_asks().is_empty());
}

#[test]
fn waiting_ends_when_all_is_resolved_or_time_is_up() {
    let mut bench = Bench::new();
    let indexes: HashSet<u16> = bench.want(&[path(2, 1), path(2, 2)]).into_iter().collect();
    assert_eq!(bench.keeper.waiting(&indexes, bench.now), Some(bench.now + PATIENCE));
    bench.neighbour(key(2, 1), NeighbourState::Reachable, Some(A));
    assert!(bench.keeper.waiting(&indexes, bench.now).is_some());
    bench.neighbour(key(2, 2), NeighbourState::Reachable, Some(B));
    assert_eq!(bench.keeper.waiting(&indexes, bench.now), None);

    let dead: HashSet<u16> = bench.want(&[path(2, 3)]).into_iter().collect();
    bench.now += PATIENCE;
    assert_eq!(bench.keeper.waiting(&dead, bench.now), None);
    bench.want(&[path(2, 3)]);
    assert_eq!(bench.keeper.waiting(&dead, bench.now), None, "nobody waits for a dead one twice");
}
