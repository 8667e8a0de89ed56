//! What everybody may look at without asking the engine: the snapshot that it leaves behind after each change, and the
//! statistics made from it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use netfast_common::abi::ABI_VERSION;

use super::{claims::Claims, interfaces::Interfaces};
use crate::{
    api::types::{
        CacheMisses, CacheSets, CacheSummary, Count, FlowSummary, ForwardCount, Intent, InterfaceCount,
        MapFill, NamedCount, Rules, SCHEMA_VERSION, SnatCount, Stats, Status, TargetCount,
    },
    classifier,
    datapath::{Datapath, Direction, Tally},
    health::Checks,
    metrics::{Recorder, StatsSource},
    netlink::Netlink,
    rules::{diff, ids::Ids, images::Table, normal::target_key},
};

/// The engine's state at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Snapshot {
    /// What was asked for.
    pub(super) intent: Intent,
    /// Its identifiers.
    pub(super) ids: Ids,
    /// Revision that is published.
    pub(super) applied_revision: u64,
    /// Interfaces.
    pub(super) interfaces: Interfaces,
    /// What is not in place, apart from interfaces.
    pub(super) faults: Vec<String>,
    /// What the operator should know all the same.
    pub(super) notes: Vec<String>,
    /// The filter's matches as they are live.
    pub(super) filter: Arc<Vec<classifier::Rule>>,
    /// Look-up tables of the forwards.
    pub(super) tables: Vec<Arc<Table>>,
    /// Traffic of targets that are gone, by uid of their forward: so that a forward's counters never fall.
    pub(super) gone: HashMap<u32, [Count; 2]>,
}

/// The shared state.
pub(super) struct Shared {
    pub(super) datapath: Arc<Datapath>,
    pub(super) netlink: Netlink,
    pub(super) claims: Claims,
    pub(super) recorder: Recorder,
    pub(super) health: Checks,
    pub(super) snapshot: ArcSwap<Snapshot>,
    /// Something was done that takes memory for a moment.
    pub(super) worked: AtomicBool,
    /// Why the metrics' listener does not listen.
    pub(super) listener_problem: Mutex<Option<String>>,
    started: Instant,
}

/// Uids and names of forwards and source NAT rules.
fn named(ids: &Ids) -> impl Iterator<Item = (u32, &str)> {
    let forwards = ids.forwards().iter().map(|forward| (forward.uid, forward.name.as_str()));
    forwards.chain(ids.snats().iter().map(|snat| (snat.uid, snat.name.as_str())))
}

/// Health checks that begin so many milliseconds after their time are told.
const BEHIND: u64 = 1_000;

/// Fills in how many targets the forwards have, and how many of them may get new flows.
fn count_targets(rules: &Rules, targets: &[TargetCount], forwards: &mut [ForwardCount]) {
    let mut down: HashMap<&str, u64> = HashMap::new();
    for row in targets {
        if row.health.as_ref().is_some_and(|health| !health.state.is_healthy()) {
            *down.entry(&row.forward).or_default() += 1;
        }
    }
    let all: HashMap<&str, u64> =
        rules.forwards.iter().map(|forward| (forward.name.as_str(), forward.targets.len() as u64)).collect();
    for forward in forwards {
        forward.targets = all.get(forward.forward.as_str()).copied().unwrap_or_default();
        forward.healthy =
            forward.targets.saturating_sub(down.get(forward.forward.as_str()).copied().unwrap_or_default());
    }
}

fn plus(a: Count, b: Count) -> Count {
    Count { packets: a.packets + b.packets, bytes: a.bytes + b.bytes }
}

impl Shared {
    pub(super) fn new(datapath: Arc<Datapath>, netlink: Netlink, claims: Claims) -> Self {
        Self {
            datapath,
            netlink,
            claims,
            recorder: Recorder::default(),
            health: Checks::default(),
            snapshot: ArcSwap::default(),
            worked: AtomicBool::new(true),
            listener_problem: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Name of a forward by its uid, also of one whose flows are ending.
    pub(super) fn forward_names(&self) -> impl Fn(u32) -> Option<String> + use<> {
        let snapshot = self.snapshot.load();
        let names: HashMap<u32, String> =
            named(&snapshot.ids).map(|(uid, name)| (uid, name.to_owned())).collect();
        move |uid| names.get(&uid).cloned()
    }

    /// Targets whose next hop cannot be used now, a sentence each.
    fn unreachable(&self, snapshot: &Snapshot) -> Vec<String> {
        let live: BTreeMap<u16, String> = snapshot
            .ids
            .targets()
            .filter(|target| target.live)
            .map(|target| (target.target.index, diff::target_name(target.forward, &target.target.address)))
            .collect();
        let hops = self.datapath.target_hops(live.keys().copied());
        hops.into_iter()
            .filter(|(_, _, valid)| !valid)
            .filter_map(|(target, hop, _)| {
                let name = live.get(&target)?;
                Some(if hop == 0 {
                    format!("target {name} has no route: its packets are dropped until there is one")
                } else {
                    format!("target {name}: its next hop does not answer (ARP or neighbour discovery)")
                })
            })
            .collect()
    }

    /// Forwards with targets that are down, a sentence each.
    fn unhealthy(&self, snapshot: &Snapshot) -> Vec<String> {
        let forwards = snapshot.intent.rules.forwards.iter().filter(|forward| forward.health.is_some());
        let mut problems: Vec<String> = forwards
            .filter_map(|forward| {
                let targets = self.health.targets(&forward.name);
                let total = targets.len();
                let down = targets.into_iter().filter(|(_, health)| !health.state.is_healthy());
                let (first, count) =
                    down.fold((None, 0), |(first, count), next| (first.or(Some(next)), count + 1));
                let (_, health) = first?;
                let why = health.last_error.map(|error| format!(" ({error})")).unwrap_or_default();
                Some(format!("forward {}: {} of {total} targets healthy{why}", forward.name, total - count))
            })
            .collect();
        let summary = self.health.summary();
        if summary.delay_milliseconds > BEHIND {
            problems.push(format!(
                "health checks fall behind: some began {} ms after their time; use longer intervals or shorter timeouts",
                summary.delay_milliseconds
            ));
        }
        problems
    }

    fn targets(&self, snapshot: &Snapshot, tally: &Tally) -> (Vec<TargetCount>, HashMap<u32, [Count; 2]>) {
        let counters = self.datapath.counters();
        let mut rows: BTreeMap<(String, String), TargetCount> = BTreeMap::new();
        let mut sums = snapshot.gone.clone();
        let entries: HashMap<u16, u32> =
            snapshot.tables.iter().flat_map(|table| table.entries().iter().copied()).collect();
        let forwards: HashSet<u32> = snapshot.ids.forwards().iter().map(|forward| forward.uid).collect();
        for target in snapshot.ids.targets() {
            let index = target.target.index;
            let to_target = counters.target(index, Direction::ToTarget);
            let to_client = counters.target(index, Direction::ToClient);
            let sum = sums.entry(target.forward_uid).or_default();
            *sum = [plus(sum[0], to_target), plus(sum[1], to_client)];
            let flows = tally.targets.get(&index).copied().unwrap_or_default();
            // A target that was just removed has no flows in the last tally, which is older; it is listed until its index is
            // released, so that its counters do not come and go.
            if !target.live && flows == 0 && !forwards.contains(&target.forward_uid) {
                continue;
            }
            let (forward, address) = (target.forward.to_owned(), target.target.address.to_string());
            let row = rows.entry((forward.clone(), address.clone())).or_insert_with(|| TargetCount {
                forward,
                target: address,
                ..TargetCount::default()
            });
            row.to_target = plus(row.to_target, to_target);
            row.to_client = plus(row.to_client, to_client);
            row.flows += flows;
            row.entries += entries.get(&index).copied().unwrap_or_default();
            row.open += tally.open.get(&index).copied().unwrap_or_default();
        }
        for forward in &snapshot.intent.rules.forwards {
            let mut known: HashMap<_, _> = match forward.health {
                Some(_) => self.health.targets(&forward.name).into_iter().collect(),
                None => HashMap::new(),
            };
            for target in &forward.targets {
                if let Some(row) = rows.get_mut(&(forward.name.clone(), target.address.to_string())) {
                    row.draining = target.drain;
                    row.health = known.remove(&target_key(&target.address));
                }
            }
        }
        (rows.into_values().collect(), sums)
    }

    fn interfaces(&self) -> Vec<InterfaceCount> {
        let host = self.netlink.host();
        let mut rows = Vec::new();
        for (ifindex, row) in self.datapath.interface_rows() {
            let interface = host.name(ifindex);
            for (verdict, reason, count) in self.datapath.counters().interface(row) {
                rows.push(InterfaceCount {
                    interface: interface.clone(),
                    verdict: verdict.label().to_owned(),
                    reason: reason.label().to_owned(),
                    count,
                });
            }
        }
        rows
    }

    fn cache(&self) -> CacheSummary {
        let host = self.netlink.host();
        let misses = self.datapath.interface_rows().into_iter().map(|(ifindex, row)| CacheMisses {
            interface: host.name(ifindex),
            packets: self.datapath.counters().cache_misses(row),
        });
        let [ipv4, ipv6] = self.datapath.cache_sets().map(|(sets, max_sets)| CacheSets { sets, max_sets });
        CacheSummary { misses: misses.collect(), ipv4, ipv6 }
    }
}

impl StatsSource for Shared {
    fn stats(&self) -> Stats {
        self.worked.store(true, Ordering::Relaxed);
        let snapshot = self.snapshot.load();
        let tally = self.datapath.tally();
        let counters = self.datapath.counters();
        let (targets, sums) = self.targets(&snapshot, &tally);
        let (confirmed_max, half_open_max) = self.datapath.capacity();
        let sizes: HashMap<u32, u32> =
            snapshot.tables.iter().map(|table| (table.uid(), table.size())).collect();
        let mut forwards: Vec<ForwardCount> = snapshot
            .ids
            .forwards()
            .iter()
            .map(|forward| {
                let [to_target, to_client] = sums.get(&forward.uid).copied().unwrap_or_default();
                ForwardCount {
                    forward: forward.name.clone(),
                    to_target,
                    to_client,
                    flows: tally.forwards.get(&forward.uid).copied().unwrap_or_default(),
                    flows_total: counters.flows_made(forward.index),
                    targets: 0,
                    healthy: 0,
                    entries: sizes.get(&forward.uid).copied().unwrap_or_default(),
                    checks: self.health.forward(&forward.name),
                }
            })
            .collect();
        count_targets(&snapshot.intent.rules, &targets, &mut forwards);
        let snats = snapshot.ids.snats().iter().map(|snat| {
            let sum = |direction| {
                let counts = snat.targets.iter().map(|target| counters.target(target.index, direction));
                counts.fold(Count::default(), plus)
            };
            SnatCount {
                snat: snat.name.clone(),
                outward: sum(Direction::ToTarget),
                inward: sum(Direction::ToClient),
                flows: tally.forwards.get(&snat.uid).copied().unwrap_or_default(),
                flows_total: counters.flows_made(snat.index),
                ports: tally.mappings.get(&snat.uid).copied().unwrap_or_default(),
            }
        });
        let echoes = snapshot
            .ids
            .echoes()
            .iter()
            .map(|echo| NamedCount { name: echo.listen.to_string(), count: counters.echo(echo.index) })
            .collect();
        // Of named rules only: there may be 100,000 of the others. `GET /v1/filters` has all.
        let filters = snapshot.intent.rules.filters.iter().zip(snapshot.ids.filters());
        let filters = filters
            .filter_map(|(rule, id)| {
                Some(NamedCount { name: rule.name.clone()?, count: counters.filter(id.index) })
            })
            .collect();
        let fill = |map: &str, flows: u64, max: u64| MapFill {
            map: map.to_owned(),
            entries: flows * 2,
            max_entries: max * 2,
        };
        Stats {
            schema_version: SCHEMA_VERSION,
            interfaces: self.interfaces(),
            forwards,
            targets,
            snats: snats.collect(),
            echoes,
            filters,
            flows: FlowSummary {
                confirmed: tally.confirmed,
                half_open: tally.half_open,
                confirmed_max,
                half_open_max,
                generation: tally.generation,
            },
            cache: self.cache(),
            maps: vec![
                fill("FLOWS", tally.confirmed, confirmed_max),
                fill("HALF_OPEN", tally.half_open, half_open_max),
                MapFill {
                    map: "DIRECT".to_owned(),
                    entries: tally.direct,
                    max_entries: self.datapath.direct_capacity(),
                },
                fill("SNAT_MAPPINGS", tally.mappings.values().sum(), self.datapath.mapping_capacity()),
            ],
            events_lost: self.datapath.events_lost(),
            health: self.health.summary(),
            claims: self.claims.board().rows.clone(),
        }
    }

    fn status(&self) -> Status {
        let snapshot = self.snapshot.load();
        let interfaces = snapshot.interfaces.statuses(&self.netlink.host());
        let mut problems = snapshot.faults.clone();
        let claims = self.claims.board();
        problems.extend(claims.faults.iter().cloned());
        problems.extend(
            interfaces.iter().filter_map(|i| Some(format!("interface {}: {}", i.name, i.problem.as_ref()?))),
        );
        problems.extend(self.listener_problem.lock().unwrap_or_else(PoisonError::into_inner).clone());
        if snapshot.applied_revision != snapshot.intent.revision {
            problems.push(format!(
                "revision {} is not in the datapath yet, which runs {}",
                snapshot.intent.revision, snapshot.applied_revision
            ));
        }
        let generation = self.datapath.generation();
        let ready = problems.is_empty() && generation != 0;
        problems.extend(self.unreachable(&snapshot));
        problems.extend(self.unhealthy(&snapshot));
        problems.extend(claims.conflicts.iter().cloned());
        problems.extend(snapshot.notes.iter().cloned());
        let tally = self.datapath.tally();
        let (confirmed_max, half_open_max) = self.datapath.capacity();
        let rules = &snapshot.intent.rules;
        Status {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            abi_version: ABI_VERSION,
            revision: snapshot.intent.revision,
            applied_revision: snapshot.applied_revision,
            generation,
            ready,
            problems,
            interfaces,
            forwards: rules.forwards.len(),
            targets: rules.forwards.iter().map(|forward| forward.targets.len()).sum(),
            snats: rules.snats.len(),
            echoes: rules.echoes.len(),
            filters: rules.filters.len(),
            flows: tally.confirmed + tally.half_open + tally.direct + tally.direct_new,
            flows_max: confirmed_max + half_open_max + self.datapath.direct_capacity(),
        }
    }

    fn recorder(&self) -> &Recorder {
        &self.recorder
    }
}
