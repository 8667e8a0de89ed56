//! The keeper of next hops: which index stands for which neighbour, and what the program reads there.
//!
//! Pure but for the [`HopTable`]: it is told what changed and what time it is, writes entries, and leaves behind what
//! the kernel is to be asked for ([`Ask`]). Its rules:
//!
//! * An entry is valid only while the kernel's own neighbour table would send to that MAC address and the link is up.
//! * An index is given back in two steps: out of `HOP_INDEX` first, so that nobody new finds it, and free only when no
//!   flow has referred to it for another [`IDLE`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use netfast_common::abi::{self, HopKeyKind};
use netfast_common::addr;

use super::hops::{Ask, HopStatus, HopTable, IDLE, PATIENCE};
use super::host::{Egress, EgressError, HostState, Mac};
use super::indexes::Indexes;
use super::neighbours::{Moved, NeighbourKey, Neighbours};
use super::parse::mac_key;
use super::view::Path;

/// The kernel is asked for one neighbour at most this often.
const ASK_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is asked again while it does not keep the neighbour resolved by itself (before Linux 5.16), or has failed.
const REASK_INTERVAL: Duration = Duration::from_secs(5);

/// What is known of the host.
#[derive(Clone, Copy)]
pub(crate) struct World<'a> {
    pub host: &'a HostState,
    pub neighbours: &'a Neighbours,
    pub now: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Neighbour(NeighbourKey),
    Mac { ifindex: u32, vlan: u16, mac: Mac },
}

#[derive(Debug)]
struct Hop {
    key: abi::HopKey,
    way: Way,
    route_mtu: u32,
    /// What stands in the table; `None` if that is not known.
    written: Option<abi::NextHop>,
    since: Instant,
    /// Until then an entry that someone else wrote is left alone while its neighbour is not known.
    grace: Option<Instant>,
    asked: Option<Instant>,
    used: Instant,
    wanted: bool,
    retiring: bool,
}

/// What an entry should be.
enum Verdict {
    Valid(Egress, Mac),
    /// The neighbour is being looked for.
    Pending(Egress),
    /// It cannot be sent to.
    Invalid(Option<Egress>),
}

/// The keeper.
pub(crate) struct HopKeeper {
    table: Arc<dyn HopTable>,
    hops: BTreeMap<u16, Hop>,
    by_key: HashMap<abi::HopKey, u16>,
    by_neighbour: HashMap<NeighbourKey, Vec<u16>>,
    indexes: Indexes,
    asks: Vec<Ask>,
    /// When a tick last looked at all entries.
    full: Option<Instant>,
}

impl HopKeeper {
    pub fn new(table: Arc<dyn HopTable>) -> Self {
        Self {
            table,
            hops: BTreeMap::new(),
            by_key: HashMap::new(),
            by_neighbour: HashMap::new(),
            indexes: Indexes::new(1, abi::FIRST_LEARNED_HOP as u16),
            asks: Vec::new(),
            full: None,
        }
    }

    /// What the kernel is to be asked for since the last call.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// The next hops of all targets: those given now are kept until the next call. `None` where indexes are used up.
    pub fn want(&mut self, paths: &[Path], world: World<'_>) -> Vec<Option<u16>> {
        let mut mtus: HashMap<abi::HopKey, u32> = HashMap::new();
        for path in paths {
            let mtu = mtus.entry(address_key(path)).or_insert(u32::MAX);
            *mtu = path.mtu.min(*mtu);
        }
        for hop in self.hops.values_mut() {
            hop.wanted = false;
        }
        paths
            .iter()
            .map(|path| {
                let key = address_key(path);
                let mtu = mtus.get(&key).copied().unwrap_or(u32::MAX);
                let index = self.index_of(key, mtu, world)?;
                if let Some(hop) = self.hops.get_mut(&index) {
                    let changed = hop.route_mtu != mtu;
                    (hop.wanted, hop.used, hop.route_mtu) = (true, world.now, mtu);
                    if changed {
                        self.refresh(index, world);
                    }
                }
                Some(index)
            })
            .collect()
    }

    fn index_of(&mut self, key: abi::HopKey, mtu: u32, world: World<'_>) -> Option<u16> {
        if let Some(index) = self.by_key.get(&key) {
            return Some(*index);
        }
        let neighbour = (key.ifindex, addr::to_ip(&key.address));
        let same = self.by_neighbour.get(&neighbour);
        let retired = same.and_then(|indexes| indexes.first().copied());
        let index = match retired {
            Some(index) => index,
            None => {
                let index = self.indexes.take()?;
                self.insert(index, key, None, world);
                index
            }
        };
        if let Some(hop) = self.hops.get_mut(&index) {
            hop.route_mtu = mtu;
        }
        // The entry is written before it can be found.
        self.refresh(index, world);
        Some(self.announce(index, key, world))
    }

    /// Makes the entry known to the program; returns the index that is known in the end.
    fn announce(&mut self, index: u16, key: abi::HopKey, world: World<'_>) -> u16 {
        match self.table.insert_key(&key, u32::from(index)) {
            Ok(standing) if standing != u32::from(index) => match u16::try_from(standing) {
                Ok(standing) if standing != 0 => {
                    // The program has just learned it by itself; its event is on the way. Flows may still refer to
                    // an index that was in use before.
                    if self.hops.get(&index).is_some_and(|hop| !hop.retiring) {
                        self.remove(index, world);
                    }
                    self.learned(standing, key, world);
                    return standing;
                }
                _ => tracing::warn!(standing, "HOP_INDEX holds an index out of range"),
            },
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "the program cannot find a next hop by its key"),
        }
        if let Some(hop) = self.hops.get_mut(&index) {
            (hop.retiring, hop.used) = (false, world.now);
        }
        self.by_key.insert(key, index);
        index
    }

    /// Takes over entries of an agent that ran before; those already known are left alone.
    pub fn adopt(&mut self, entries: Vec<(abi::HopKey, u32)>, world: World<'_>) {
        for (key, index) in entries {
            match u16::try_from(index) {
                Ok(index) if index != 0 => self.learned(index, key, world),
                _ => tracing::warn!(index, "a next hop's index is out of range: ignored"),
            }
        }
    }

    /// The program has learned a next hop: from now on it is followed.
    pub fn learned(&mut self, index: u16, key: abi::HopKey, world: World<'_>) {
        if self.hops.contains_key(&index) {
            return;
        }
        self.indexes.reserve(index);
        let standing = self.table.read(index);
        self.insert(index, key, standing, world);
        if let Some(hop) = self.hops.get_mut(&index) {
            hop.grace = Some(world.now + PATIENCE);
        }
        self.by_key.insert(key, index);
        self.refresh(index, world);
    }

    fn insert(&mut self, index: u16, key: abi::HopKey, standing: Option<abi::NextHop>, world: World<'_>) {
        let way = if key.kind == HopKeyKind::Mac as u32 {
            let (mac, vlan) = mac_key(&key.address);
            // The entry may have followed its neighbour to another MAC address before.
            let mac = standing.map(|hop| hop.destination).filter(|mac| *mac != [0; 6]).unwrap_or(mac);
            Way::Mac { ifindex: key.ifindex, vlan, mac }
        } else {
            let neighbour = (key.ifindex, addr::to_ip(&key.address));
            self.by_neighbour.entry(neighbour).or_default().push(index);
            Way::Neighbour(neighbour)
        };
        let hop = Hop {
            key,
            way,
            route_mtu: u32::MAX,
            written: standing,
            since: world.now,
            grace: None,
            asked: None,
            used: world.now,
            wanted: false,
            retiring: false,
        };
        self.hops.insert(index, hop);
    }

    /// A packet needed an entry that is not valid.
    pub fn unresolved(&mut self, index: u16, world: World<'_>) {
        self.refresh(index, world);
        self.ask(index, ASK_INTERVAL, world);
    }

    /// A neighbour's entry has changed. Returns whether an entry was written.
    pub fn neighbour_changed(&mut self, key: &NeighbourKey, world: World<'_>) -> bool {
        let Some(indexes) = self.by_neighbour.get(key).cloned() else { return false };
        indexes.into_iter().fold(false, |written, index| self.refresh(index, world) | written)
    }

    /// The last address at a MAC address has moved to another one: next hops known by MAC address follow.
    pub fn moved(&mut self, moved: Moved, world: World<'_>) -> bool {
        let mut written = false;
        for index in self.hops.keys().copied().collect::<Vec<_>>() {
            let Some(hop) = self.hops.get_mut(&index) else { continue };
            let Way::Mac { ifindex, vlan, mac } = &mut hop.way else { continue };
            if *mac == moved.from && mac_link(world.host, *ifindex, *vlan) == Some(moved.ifindex) {
                *mac = moved.to;
                written |= self.refresh(index, world);
            }
        }
        written
    }

    /// Links or everything may have changed.
    pub fn refresh_all(&mut self, world: World<'_>) -> bool {
        let indexes: Vec<u16> = self.hops.keys().copied().collect();
        indexes.into_iter().fold(false, |written, index| self.refresh(index, world) | written)
    }

    /// To be called a few times a second: ends periods of grace, asks again where that is due.
    pub fn tick(&mut self, world: World<'_>) {
        let full = self.full.is_none_or(|last| world.now.duration_since(last) >= REASK_INTERVAL);
        if full {
            self.full = Some(world.now);
        }
        let due: Vec<u16> = self
            .hops
            .iter()
            .filter(|(_, hop)| full || hop.grace.is_some() || !hop.valid())
            .map(|(index, _)| *index)
            .collect();
        for index in due {
            self.refresh(index, world);
        }
    }

    /// Frees what nobody refers to: neither `in_use` (flows, targets that stand in the map) nor the last
    /// [`Self::want`].
    pub fn gc(&mut self, in_use: &HashSet<u16>, world: World<'_>) {
        for index in self.hops.keys().copied().collect::<Vec<_>>() {
            let Some(hop) = self.hops.get_mut(&index) else { continue };
            if hop.wanted || in_use.contains(&index) {
                hop.used = world.now;
                if hop.retiring && !self.by_key.contains_key(&hop.key) {
                    let key = hop.key;
                    self.reinstate(index, key);
                }
                continue;
            }
            if world.now.duration_since(hop.used) < IDLE {
                continue;
            }
            if hop.retiring {
                self.remove(index, world);
            } else {
                (hop.retiring, hop.used) = (true, world.now);
                let key = hop.key;
                if self.by_key.get(&key) == Some(&index) {
                    self.by_key.remove(&key);
                    self.table.remove_key(&key);
                }
            }
        }
    }

    fn reinstate(&mut self, index: u16, key: abi::HopKey) {
        if matches!(self.table.insert_key(&key, u32::from(index)), Ok(standing) if standing == u32::from(index))
        {
            self.by_key.insert(key, index);
            if let Some(hop) = self.hops.get_mut(&index) {
                hop.retiring = false;
            }
        }
    }

    fn remove(&mut self, index: u16, world: World<'_>) {
        let Some(hop) = self.hops.remove(&index) else { return };
        self.table.write(index, &abi::NextHop::default());
        if let Way::Neighbour(key) = hop.way
            && let Some(others) = self.by_neighbour.get_mut(&key)
        {
            others.retain(|other| *other != index);
            if others.is_empty() {
                self.by_neighbour.remove(&key);
                self.asks.extend(release(key, world));
            }
        }
        if u32::from(index) < abi::FIRST_LEARNED_HOP {
            self.indexes.give_back(index);
        } else {
            self.table.free(index);
        }
    }

    /// The kernel need not keep any neighbour any more: netfast goes away for good.
    pub fn release_all(&mut self, world: World<'_>) {
        self.asks.extend(self.by_neighbour.keys().filter_map(|key| release(*key, world)));
    }

    /// Until when it is worth waiting for these to be resolved; `None` if it is not.
    pub fn waiting(&self, indexes: &HashSet<u16>, now: Instant) -> Option<Instant> {
        let open = indexes.iter().filter_map(|index| self.hops.get(index));
        open.filter(|hop| !hop.valid()).map(|hop| hop.since + PATIENCE).filter(|end| *end > now).max()
    }

    /// Whether the program reads an entry as valid.
    pub fn is_valid(&self, index: u16) -> bool {
        self.hops.get(&index).is_some_and(Hop::valid)
    }

    /// All entries, by index.
    pub fn list(&self) -> Vec<HopStatus> {
        self.hops
            .iter()
            .map(|(index, hop)| HopStatus {
                index: *index,
                ifindex: hop.key.ifindex,
                address: match hop.way {
                    Way::Neighbour((_, address)) => Some(address),
                    Way::Mac { .. } => None,
                },
                entry: hop.written.unwrap_or_default(),
                valid: hop.valid(),
                retiring: hop.retiring,
            })
            .collect()
    }

    /// Brings the entry in line with the world, asks the kernel where that is needed. Returns whether it was written.
    fn refresh(&mut self, index: u16, world: World<'_>) -> bool {
        let Some(hop) = self.hops.get_mut(&index) else { return false };
        let verdict = hop.verdict(world);
        if hop.grace.is_some_and(|end| end <= world.now) || !matches!(verdict, Verdict::Pending(_)) {
            hop.grace = None;
        }
        let before = hop.written.unwrap_or_default();
        let (egress, mac) = match verdict {
            Verdict::Valid(egress, mac) => (Some(egress), Some(mac)),
            Verdict::Pending(egress) => (Some(egress), None),
            Verdict::Invalid(egress) => (egress, None),
        };
        let mut entry = match egress {
            Some(egress) => abi::NextHop {
                destination: mac.unwrap_or_default(),
                vlan: egress.vlan,
                source: egress.source,
                mtu: u16::try_from(egress.mtu.min(hop.route_mtu)).unwrap_or(u16::MAX),
                ifindex: egress.ifindex,
                longest: 0,
            },
            None => before,
        };
        entry = if mac.is_some() { entry.opened() } else { entry.closed() };
        let write = hop.grace.is_none() && hop.written != Some(entry);
        if write {
            // An entry that turns up is waited for anew only when it was valid before.
            if hop.valid() {
                hop.since = world.now;
            }
            if hop.valid() && before.ifindex != entry.ifindex {
                self.table.write(index, &before.closed());
            }
            self.table.write(index, &entry);
            hop.written = Some(entry);
        }
        self.ask(index, REASK_INTERVAL, world);
        write
    }

    /// Asks the kernel to resolve the neighbour of an entry and to keep it, unless it does so or was asked just now.
    fn ask(&mut self, index: u16, interval: Duration, world: World<'_>) {
        let Some(hop) = self.hops.get_mut(&index) else { return };
        let Way::Neighbour(neighbour) = hop.way else { return };
        if !world.host.egress(neighbour.0).is_ok_and(|egress| egress.usable) {
            return;
        }
        let entry = world.neighbours.get(&neighbour);
        let interval = match entry {
            Some(entry) if entry.fixed() => return,
            Some(entry) if entry.mac.is_some() && entry.managed => return,
            Some(_) => interval,
            None => ASK_INTERVAL,
        };
        if hop.asked.is_some_and(|asked| world.now.duration_since(asked) < interval) {
            return;
        }
        hop.asked = Some(world.now);
        let learned = entry.is_some_and(|entry| entry.learned);
        self.asks.push(Ask { neighbour, keep: true, learned });
    }
}

impl Hop {
    fn valid(&self) -> bool {
        self.written.is_some_and(|entry| entry.is_valid())
    }

    fn verdict(&self, world: World<'_>) -> Verdict {
        let egress = match self.way {
            Way::Neighbour((ifindex, _)) => world.host.egress(ifindex),
            Way::Mac { ifindex, vlan, .. } => mac_egress(world.host, ifindex, vlan),
        };
        let Ok(egress) = egress else { return Verdict::Invalid(None) };
        if !egress.usable {
            return Verdict::Invalid(Some(egress));
        }
        match self.way {
            Way::Mac { mac, .. } => Verdict::Valid(egress, mac),
            Way::Neighbour(key) => match world.neighbours.get(&key) {
                Some(entry) => match entry.mac {
                    Some(mac) => Verdict::Valid(egress, mac),
                    None if entry.looking() => Verdict::Pending(egress),
                    None => Verdict::Invalid(Some(egress)),
                },
                None => Verdict::Pending(egress),
            },
        }
    }
}

/// Asks the kernel no longer to keep a neighbour. An entry put there by hand is never touched.
fn release(neighbour: NeighbourKey, world: World<'_>) -> Option<Ask> {
    let entry = world.neighbours.get(&neighbour).filter(|entry| !entry.fixed())?;
    Some(Ask { neighbour, keep: false, learned: entry.learned })
}

/// The way out to a MAC address: by the VLAN interface where the kernel has one, else by the tag alone.
fn mac_egress(host: &HostState, ifindex: u32, vlan: u16) -> Result<Egress, EgressError> {
    match mac_link(host, ifindex, vlan) {
        Some(link) => host.egress(link),
        None => host.egress(ifindex).map(|egress| Egress { vlan, ..egress }),
    }
}

/// The interface that the kernel takes frames of this tag for; `None` if it has no VLAN interface for it. The key's
/// interface may be the VLAN interface itself.
fn mac_link(host: &HostState, ifindex: u32, vlan: u16) -> Option<u32> {
    match host.links.get(&ifindex)?.vlan {
        Some(_) => Some(ifindex),
        None => host.tagged(ifindex, vlan),
    }
}

fn address_key(path: &Path) -> abi::HopKey {
    abi::HopKey {
        ifindex: path.ifindex,
        kind: HopKeyKind::Address as u32,
        address: addr::from_ip(path.neighbour),
    }
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
