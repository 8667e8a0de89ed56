//! Ageing: takes flows out of the tables that are dead for the program already, and counts the others.

use std::{
    collections::HashMap,
    io,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use netfast_common::{
    abi::{Config, Flow, FlowKey, MAX_FORWARDS, Timeouts, line_end},
    flow::{ORIGINAL, State, elapsed, is_expired, reverse},
};

use super::{Datapath, DatapathError, lock, settings, sys, tables::Table};

/// Entries read by one system call.
pub(super) const BATCH: usize = 4096;
/// Dead flows that are deleted together: few, so that what was seen of them is still true.
const TOGETHER: usize = 64;
/// After so many batches the thread sleeps a little, so that a sweep of a large table leaves the CPU to others.
const BATCHES_IN_A_ROW: usize = 16;
/// One reply entry in so many is checked in each sweep for having an original.
const ORPHAN_SHARE: u32 = 12;
/// The program inserts the two entries of a flow one after the other; longer than that takes.
const ORPHAN_GRACE: Duration = Duration::from_millis(100);

/// A set of 16-bit indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<u64>);

impl Indexes {
    /// Adds one.
    pub fn insert(&mut self, index: u16) {
        if self.0.is_empty() {
            self.0.resize(1024, 0);
        }
        self.0[usize::from(index) / 64] |= 1 << (index % 64);
    }

    /// Whether it is there.
    pub fn contains(&self, index: u16) -> bool {
        self.0.get(usize::from(index) / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..=u16::MAX).filter(|index| self.contains(*index))
    }
}

/// What a sweep found alive.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Confirmed flows.
    pub confirmed: u64,
    /// Flows that are not confirmed.
    pub half_open: u64,
    /// Flows to targets of the modes `dsr` and `ipip` whose client has sent more than once.
    pub direct: u64,
    /// Such flows of which one packet was seen.
    pub direct_new: u64,
    /// Flows by uid of their forward.
    pub forwards: HashMap<u32, u64>,
    /// Flows by index of their target.
    pub targets: HashMap<u16, u64>,
    /// Of these, the ones that are not over ([`State::is_open`]).
    pub open: HashMap<u16, u64>,
    /// Generation that was live when the sweep began: a flow made under an older one is counted, if it lives.
    pub generation: u32,
    /// External ports in use, by uid of their source NAT rule.
    pub mappings: HashMap<u32, u64>,
    /// Next hops that flows refer to.
    pub hops: Indexes,
    /// Flows that had packets lately: IPv4, IPv6.
    active: [u64; 2],
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Flows ended because their idle time was over.
    pub expired: u64,
    /// Flows ended because their forward is gone.
    pub removed: u64,
    /// Reply entries without an original.
    pub orphans: u64,
    /// Mappings of source NAT that were taken away.
    pub mappings: u64,
    /// How long it took.
    pub took: Duration,
}

/// What becomes of an entry of the original direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lives,
    Expired,
    ForwardGone,
}

/// `crowded`: where room is short, jiffies after which no cached line acts that was made before: connections that both ends have closed
/// do not stay for longer.
fn judge(flow: &Flow, now: u32, timeouts: &Timeouts, forwards: &[u32], crowded: Option<u32>) -> Fate {
    let closed = flow.state == State::BothClosed as u8;
    if forwards.get(usize::from(flow.forward)) != Some(&flow.forward_uid) {
        Fate::ForwardGone
    } else if is_expired(flow, now, timeouts)
        || crowded.is_some_and(|lines| closed && elapsed(now, flow.last_seen) > lines)
    {
        Fate::Expired
    } else {
        Fate::Lives
    }
}

impl Datapath {
    /// Deletes both entries of a flow, the original first: a packet in between finds no flow or a reply entry that
    /// leads nowhere, and both mean that there is none.
    ///
    /// The program may have replaced a dead flow by a new one since `flow` was read: that one stays.
    pub(super) fn delete_flow(&self, table: Table, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        let present = self.entry(table, key)?;
        if present
            .is_none_or(|present| (present.created, present.translated) != (flow.created, flow.translated))
        {
            return Ok(());
        }
        self.delete_entry(table, key)?;
        if !table.has_replies() {
            return Ok(());
        }
        let reply = reverse(&flow.translated);
        // Only the flow's own: another one may have the tuple by now.
        if self.entry(table, &reply)?.is_some_and(|entry| reverse(&entry.translated) == *key) {
            self.delete_entry(table, &reply)?;
        }
        Ok(())
    }

    /// Deletes both entries of dead confirmed flows, the originals first, as [`Self::delete_flow`] does for one. Each
    /// is looked at again just before, since the program may have replaced it, opened it again, or given its source port to another one.
    fn delete_flows(&self, flows: &[(FlowKey, Flow)]) -> io::Result<()> {
        let map = self.maps.flows.as_fd();
        for flows in flows.chunks(TOGETHER) {
            let mut originals = Vec::with_capacity(TOGETHER);
            for (key, flow) in flows {
                let seen = |flow: &Flow| (flow.created, flow.last_seen, flow.translated);
                if sys::lookup::<FlowKey, Flow>(map, key)?.is_some_and(|present| seen(&present) == seen(flow))
                {
                    originals.push((*key, reverse(&flow.translated)));
                }
            }
            sys::delete_batch(map, &originals.iter().map(|(key, _)| *key).collect::<Vec<_>>())?;
            let mut replies = Vec::with_capacity(TOGETHER);
            for (key, reply) in &originals {
                let present = sys::lookup::<FlowKey, Flow>(map, reply)?;
                if present.is_some_and(|present| reverse(&present.translated) == *key) {
                    replies.push(*reply);
                }
            }
            sys::delete_batch(map, &replies)?;
        }
        Ok(())
    }

    /// Ends a living flow. Cached lines of it may still act: therefore its reply entry stays, and with it the source port,
    /// until they cannot; then a sweep takes it as an orphan.
    pub(super) fn end_flow(&self, table: Table, key: &FlowKey, flow: &Flow) -> io::Result<()> {
        let reply = reverse(&flow.translated);
        if !table.has_replies() {
            return self.delete_entry(table, key).map(drop);
        }
        let now = self.clock.now().map_err(io::Error::other)?;
        if let Some(entry) = self.entry(table, &reply)?
            && reverse(&entry.translated) == *key
        {
            self.set_times(table, &reply, &Flow { last_seen: now, ..entry })?;
        }
        self.delete_entry(table, key).map(drop)
    }

    /// Uids of the live rule set's forwards, by index.
    fn live_forwards(&self) -> Vec<u32> {
        let base = (self.generation() & 1) * MAX_FORWARDS;
        (0..MAX_FORWARDS)
            .map(|index| self.maps.forwards.get(base + index).map_or(0, |forward| forward.uid))
            .collect()
    }

    /// Takes dead flows out of both tables and fits the flow cache to the living. Blocks: at a million flows for about
    /// a second. `round` counts sweeps. Where more than half of the table of confirmed flows was in use at the last sweep,
    /// connections that both ends have closed count as dead as soon as no cached line of them can act.
    ///
    /// # Errors
    ///
    /// If a table cannot be read; what was done until then stays done.
    pub fn sweep(&self, round: u32) -> Result<SweepReport, DatapathError> {
        let started = Instant::now();
        let config: Config = self.maps.config.get(0).unwrap_or_default();
        let recently =
            u32::try_from(settings::line_seconds(&config) * 2).unwrap_or(60).saturating_mul(config.hz);
        let lines = line_end(config.line_lifetime);
        let fills_up = lock(&self.tally).confirmed > self.capacity().0 / 2;
        let forwards = self.live_forwards();
        let mut tally = Tally { generation: self.generation(), ..Tally::default() };
        // By index while counting: a hash map's look-up for each flow would take as long as the kernel's part.
        let mut by_forward = vec![0u64; forwards.len()];
        let mut by_target = vec![0u64; 1 << 16];
        let mut open = vec![0u64; 1 << 16];
        let mut report = SweepReport::default();
        let mut suspects = Vec::new();
        for table in Table::ALL {
            let crowded = (fills_up && matches!(table, Table::Confirmed)).then_some(lines);
            let failed = |error| DatapathError::Kernel { call: "sweep of the flow tables", error };
            let mut batches = self.walk(table, BATCH);
            let mut dead = Vec::new();
            let mut read = 0;
            while let Some((keys, flows)) = batches.next().map_err(failed)? {
                // Read before the flows would make a flow seen later look old by the difference; `elapsed` takes a
                // flow from the future as just seen.
                let now = self.clock.now()?;
                for (key, flow) in keys.iter().zip(flows) {
                    if flow.direction != ORIGINAL {
                        tally.hops.insert(flow.next_hop);
                        // A reply entry without an original holds its source port until no cached line of it can act.
                        let void = elapsed(now, flow.last_seen) > lines;
                        if void && spread(key) % ORPHAN_SHARE == round % ORPHAN_SHARE {
                            suspects.push((table, *key));
                        }
                        continue;
                    }
                    match judge(flow, now, &config.timeouts, &forwards, crowded) {
                        Fate::Lives => {
                            by_forward[usize::from(flow.forward)] += 1;
                            by_target[usize::from(flow.target)] += 1;
                            open[usize::from(flow.target)] +=
                                u64::from(State::from_number(flow.state).is_open());
                            tally.add(table, key, flow, elapsed(now, flow.last_seen) < recently);
                        }
                        Fate::Expired => {
                            report.expired += 1;
                            dead.push((*key, *flow));
                        }
                        Fate::ForwardGone => {
                            report.removed += 1;
                            dead.push((*key, *flow));
                        }
                    }
                }
                match table {
                    Table::Confirmed => self.delete_flows(&dead).map_err(failed)?,
                    Table::HalfOpen | Table::Direct | Table::DirectNew => {
                        for (key, flow) in &dead {
                            self.delete_flow(table, key, flow).map_err(failed)?;
                        }
                    }
                }
                dead.clear();
                read += 1;
                if read % BATCHES_IN_A_ROW == 0 {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
            report.orphans += self.delete_orphans(&mut suspects).map_err(failed)?;
        }
        let healed = self.maps.half_open.heal();
        if healed > 0 {
            tracing::warn!(
                entries = healed,
                "half-open flows that were never written to their end; please report this"
            );
        }
        tally.forwards = forwards.iter().copied().zip(by_forward).filter(|(_, flows)| *flows > 0).collect();
        tally.targets = (0..=u16::MAX).zip(by_target).filter(|(_, flows)| *flows > 0).collect();
        tally.open = (0..=u16::MAX).zip(open).filter(|(_, flows)| *flows > 0).collect();
        (report.mappings, tally.mappings) = self.sweep_mappings(&config)?;
        settings::fit_caches(self, tally.active[0], tally.active[1]);
        *lock(&self.tally) = tally;
        report.took = started.elapsed();
        Ok(report)
    }

    /// What the last sweep found alive.
    pub fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    fn is_orphan(&self, table: Table, key: &FlowKey) -> io::Result<bool> {
        let Some(entry) = self.entry(table, key)? else { return Ok(false) };
        let original = reverse(&entry.translated);
        for table in [Table::Confirmed, Table::HalfOpen] {
            let found = self.entry(table, &original)?;
            // The original tuple may have become another flow, with another source port.
            if found.is_some_and(|found| reverse(&found.translated) == *key) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn delete_orphans(&self, suspects: &mut Vec<(Table, FlowKey)>) -> io::Result<u64> {
        let mut orphans = Vec::new();
        for (table, key) in suspects.drain(..) {
            if self.is_orphan(table, &key)? {
                orphans.push((table, key));
            }
        }
        if orphans.is_empty() {
            return Ok(0);
        }
        std::thread::sleep(ORPHAN_GRACE);
        let mut deleted = 0;
        for (table, key) in orphans {
            if self.is_orphan(table, &key)? && self.delete_entry(table, &key)? {
                deleted += 1;
            }
        }
        Ok(deleted)
    }
}

impl Tally {
    fn add(&mut self, table: Table, key: &FlowKey, flow: &Flow, active: bool) {
        match table {
            Table::Confirmed => self.confirmed += 1,
            Table::HalfOpen => self.half_open += 1,
            Table::Direct => self.direct += 1,
            Table::DirectNew => self.direct_new += 1,
        }
        self.hops.insert(flow.next_hop);
        if active {
            let version6 = netfast_common::addr::to_ip(&key.source).is_ipv6();
            self.active[usize::from(version6)] += 1;
        }
    }
}

/// Spreads reply entries over sweeps.
fn spread(key: &FlowKey) -> u32 {
    let ports = u32::from_be_bytes([
        key.source_port[0],
        key.source_port[1],
        key.destination_port[0],
        key.destination_port[1],
    ]);
    ports.wrapping_mul(0x9e37_79b9) >> 16
}

#[cfg(test)]
mod tests {
    use netfast_common::abi::TcpTimeouts;

    use super::*;

    #[test]
    fn a_flow_lives_until_its_time_is_over_or_its_forward_is_gone() {
        let timeouts = Timeouts { udp: 300, udp_one_way: 30, ..Timeouts::default() };
        let flow = Flow {
            last_seen: u32::MAX - 10,
            forward: 2,
            forward_uid: 77,
            state: State::TwoWay as u8,
            ..Flow::default()
        };
        let forwards = [0, 0, 77];
        let at = |after: u32| flow.last_seen.wrapping_add(after);
        for crowded in [None, Some(16)] {
            let fate = |flow: &Flow, now, forwards: &[u32]| judge(flow, now, &timeouts, forwards, crowded);
            assert_eq!(Fate::Lives, fate(&flow, at(300), &forwards));
            assert_eq!(Fate::Expired, fate(&flow, at(301), &forwards));
            assert_eq!(Fate::Lives, fate(&flow, at(0).wrapping_sub(5), &forwards), "another CPU's clock");
            assert_eq!(Fate::ForwardGone, fate(&flow, at(1), &[0, 0, 78]), "the index is another's");
            assert_eq!(Fate::ForwardGone, fate(&flow, at(1), &[0]));
            let one_way = Flow { state: State::OneWay as u8, ..flow };
            assert_eq!(Fate::Expired, fate(&one_way, at(31), &forwards));
        }
    }

    #[test]
    fn closed_connections_stay_while_there_is_room() {
        let timeouts = Timeouts {
            tcp: TcpTimeouts { closing: 240, reset: 240, ..TcpTimeouts::default() },
            ..Timeouts::default()
        };
        let fate = |state: State, idle: u32, crowded| {
            let flow = Flow { state: state as u8, last_seen: 7, ..Flow::default() };
            judge(&flow, 7 + idle, &timeouts, &[0], crowded)
        };
        assert_eq!(Fate::Lives, fate(State::BothClosed, 240, None));
        assert_eq!(Fate::Lives, fate(State::BothClosed, 17, Some(17)), "a cached line may act");
        assert_eq!(Fate::Expired, fate(State::BothClosed, 18, Some(17)));
        assert_eq!(Fate::Lives, fate(State::Reset, 240, Some(17)), "the RST may be forged");
    }

    #[test]
    fn sets_of_indexes() {
        let mut set = Indexes::default();
        assert!(!set.contains(5));
        for index in [0, 5, 64, u16::MAX] {
            set.insert(index);
        }
        assert_eq!(vec![0, 5, 64, u16::MAX], set.iter().collect::<Vec<_>>());
    }

    #[test]
    fn every_reply_is_checked_once_in_so_many_sweeps() {
        let mut shares = [0; ORPHAN_SHARE as usize];
        for port in 1..=60_000u16 {
            let key =
                FlowKey { source_port: port.to_be_bytes(), destination_port: [0, 80], ..FlowKey::default() };
            shares[(spread(&key) % ORPHAN_SHARE) as usize] += 1;
        }
        assert!(shares.iter().all(|share| (2_500..10_000).contains(share)), "{shares:?}");
    }

    /// The time that a sweep takes: `cargo test --release -p netfast --lib -- --ignored --nocapture sweep`. Needs root.
    #[test]
    #[ignore = "a measurement"]
    fn a_million_flows_are_swept() {
        use super::super::{Options, TableSizes};
        use netfast_common::addr;

        const FLOWS: u32 = 1_000_000;
        let folder = tempfile::tempdir().unwrap();
        let bpffs = folder.path();
        nix::mount::mount(Some("bpf"), bpffs, Some("bpf"), nix::mount::MsFlags::empty(), None::<&str>)
            .unwrap();
        let tables = TableSizes {
            flows: FLOWS + 1000,
            half_open: 1024,
            direct: 1024,
            mappings: 1024,
            cache4_sets: 16_384,
            cache6_sets: 4096,
            filter_rules: 1024,
        };
        let (datapath, _) = Datapath::open(&Options { pin_dir: bpffs.join("netfast"), tables }).unwrap();
        let key = |number: u32| FlowKey {
            source: addr::from_v4((0x0b00_0000 + number).to_be_bytes()),
            destination: addr::from_v4([192, 0, 2, 10]),
            source_port: [200, 1],
            destination_port: [0, 80],
            protocol: 6,
            pad: [0; 3],
        };
        let now = datapath.clock.now().unwrap();
        let fill = |state: State| {
            for number in 0..FLOWS {
                let original = key(number);
                let translated = FlowKey { destination: addr::from_v4([10, 0, 0, 1]), ..original };
                let flow =
                    Flow { translated, last_seen: now, created: now, state: state as u8, ..Flow::default() };
                let reply = Flow { translated: reverse(&original), direction: 1, ..flow };
                let map = datapath.maps.flows.as_fd();
                sys::update(map, &original, &flow, sys::Existing::Replace).unwrap();
                sys::update(map, &reverse(&translated), &reply, sys::Existing::Replace).unwrap();
            }
        };
        let mut config: Config = Config { hz: 250, ..Config::default() };
        config.timeouts.tcp.established = 1 << 30;
        datapath.maps.config.set(0, config);
        fill(State::Established);
        for round in 0..3 {
            let report = datapath.sweep(round).unwrap();
            println!("{FLOWS} living flows: {report:?}");
            assert_eq!((0, 0, 0), (report.expired, report.removed, report.orphans));
            assert_eq!(u64::from(FLOWS), datapath.tally().confirmed);
        }
        config.timeouts.tcp.established = 0;
        datapath.maps.config.set(0, config);
        std::thread::sleep(Duration::from_millis(20));
        let report = datapath.sweep(9).unwrap();
        println!("{FLOWS} dead flows: {report:?}");
        assert_eq!(u64::from(FLOWS), report.expired);
        assert!(sys::keys::<FlowKey>(datapath.maps.flows.as_fd()).unwrap().is_empty());
        datapath.remove().unwrap();
        nix::mount::umount(bpffs).unwrap();
    }
}
