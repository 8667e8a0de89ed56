//! The task that follows the kernel and owns the mirror of its state.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use futures::StreamExt;
use netfast_common::abi;
use tokio::sync::{mpsc, oneshot, watch};

use super::follow::{Messages, subscribe};
use super::hops::{Ask, HopStatus, HopTable};
use super::host::HostState;
use super::keeper::{HopKeeper, World};
use super::neighbours::Neighbours;
use super::requests::Requests;
use super::view::{Answer, Path, ResolvedView, Unreachable};
use super::{HostChange, NetlinkError};
use crate::rules::images::TargetRoute;

/// Everything is dumped anew this often: notifications can be lost in ways that nobody reports.
const RESYNC: Duration = Duration::from_secs(30);
/// Changes within this time are told together ...
const COALESCE: Duration = Duration::from_millis(20);
/// ... and at most this often, should they never end.
const PACE: Duration = Duration::from_millis(200);
/// An error that comes again and again is logged this often.
const COMPLAIN: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(250);

type Routes = HashMap<IpAddr, Result<TargetRoute, Unreachable>>;

/// What is asked of the task.
pub(crate) enum Command {
    Want { answers: Vec<(IpAddr, Answer)>, reply: oneshot::Sender<ResolvedView> },
    Answered(Vec<(IpAddr, Answer)>),
    Learned { index: u16, key: abi::HopKey },
    Adopt { entries: Vec<(abi::HopKey, u32)>, reply: oneshot::Sender<()> },
    Gc(HashSet<u16>),
    Hops(oneshot::Sender<Vec<HopStatus>>),
    Release(oneshot::Sender<()>),
}

enum AskOrSync {
    Ask(Ask),
    Sync(oneshot::Sender<()>),
}

struct Waiter {
    routes: Routes,
    indexes: HashSet<u16>,
    reply: oneshot::Sender<ResolvedView>,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Dirty {
    pub(super) links: bool,
    pub(super) addresses: bool,
    pub(super) routes: bool,
    /// The targets are to be asked for again, although nothing has told of a change.
    pub(super) check: bool,
    pub(super) hops: bool,
}

pub(crate) struct Watcher {
    pub(super) host: HostState,
    pub(super) neighbours: Neighbours,
    pub(super) keeper: HopKeeper,
    table: Arc<dyn HopTable>,
    pub(super) requests: Arc<Requests>,
    asks: mpsc::UnboundedSender<AskOrSync>,
    pub(super) published: Arc<ArcSwap<HostState>>,
    pub(super) changes: watch::Sender<HostChange>,
    pub(super) own: mpsc::WeakUnboundedSender<Command>,
    pub(super) messages: Messages,
    waiters: Vec<Waiter>,
    /// The last answers about all targets.
    pub(super) answers: Vec<(IpAddr, Answer)>,
    /// They are being asked for again ...
    pub(super) answering: bool,
    /// ... because of a change.
    pub(super) routes_changed: bool,
    pub(super) dirty: Dirty,
    pub(super) told: Option<Instant>,
}

impl Watcher {
    pub async fn start(
        table: Arc<dyn HopTable>,
        requests: Arc<Requests>,
        published: Arc<ArcSwap<HostState>>,
        changes: watch::Sender<HostChange>,
        own: mpsc::WeakUnboundedSender<Command>,
    ) -> Result<Self, NetlinkError> {
        // Subscribed first, dumped then: nothing that happens in between is missed.
        let messages = subscribe()?;
        let (asks, asks_rx) = mpsc::unbounded_channel();
        tokio::spawn(carry_out(asks_rx, Arc::clone(&requests)));
        let mut watcher = Self {
            host: HostState::default(),
            neighbours: Neighbours::default(),
            keeper: HopKeeper::new(Arc::clone(&table)),
            table,
            requests,
            asks,
            published,
            changes,
            own,
            messages,
            waiters: Vec::new(),
            answers: Vec::new(),
            answering: false,
            routes_changed: false,
            dirty: Dirty::default(),
            told: None,
        };
        let dump = watcher.requests.dump().await?;
        watcher.take_over(dump);
        watcher.publish();
        watcher.dirty = Dirty::default();
        Ok(watcher)
    }

    pub async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<Command>,
        mut unresolved: mpsc::Receiver<u16>,
    ) {
        let mut resync = tokio::time::interval(RESYNC);
        resync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        resync.reset();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tell: Option<Instant> = None;
        loop {
            let wake = self.next_wake(tell);
            tokio::select! {
                message = self.messages.next() => match message {
                    Some((message, _)) => {
                        if !self.message(message) {
                            self.changes.send_modify(|counts| counts.lost += 1);
                            self.resync().await;
                        }
                    }
                    None => self.reconnect().await,
                },
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => return,
                },
                Some(index) = unresolved.recv() => {
                    let (keeper, world) = self.world();
                    keeper.unresolved(index, world);
                }
                _ = tick.tick() => {
                    let (keeper, world) = self.world();
                    keeper.tick(world);
                }
                _ = resync.tick() => {
                    self.resync().await;
                    self.look_for_unwatched();
                }
                () = sleep_until(wake) => {}
            }
            for ask in self.keeper.take_asks() {
                // The receiver lives as long as this task.
                let _ = self.asks.send(AskOrSync::Ask(ask));
            }
            self.answer_waiters();
            self.tell_when_due(&mut tell);
        }
    }

    pub(super) fn world(&mut self) -> (&mut HopKeeper, World<'_>) {
        let world = World { host: &self.host, neighbours: &self.neighbours, now: Instant::now() };
        (&mut self.keeper, world)
    }

    fn next_wake(&self, tell: Option<Instant>) -> Option<Instant> {
        let now = Instant::now();
        let waiting = self.waiters.iter().filter_map(|waiter| self.keeper.waiting(&waiter.indexes, now));
        waiting.chain(tell).min()
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Want { answers, reply } => {
                let routes = self.want(&answers);
                self.answers = answers;
                let indexes =
                    routes.values().filter_map(|route| Some(route.as_ref().ok()?.next_hop)).collect();
                self.waiters.push(Waiter { routes, indexes, reply });
            }
            Command::Answered(answers) => self.answered(answers),
            Command::Learned { index, key } => {
                let (keeper, world) = self.world();
                keeper.learned(index, key, world);
            }
            Command::Adopt { entries, reply } => {
                let (keeper, world) = self.world();
                keeper.adopt(entries, world);
                let _ = reply.send(());
            }
            Command::Gc(in_use) => {
                let (keeper, world) = self.world();
                keeper.gc(&in_use, world);
            }
            Command::Hops(reply) => {
                let _ = reply.send(self.keeper.list());
            }
            Command::Release(reply) => {
                let (keeper, world) = self.world();
                keeper.release_all(world);
                for ask in self.keeper.take_asks() {
                    let _ = self.asks.send(AskOrSync::Ask(ask));
                }
                let _ = self.asks.send(AskOrSync::Sync(reply));
            }
        }
    }

    /// Gives every target its next hop.
    fn want(&mut self, answers: &[(IpAddr, Answer)]) -> Routes {
        let mut routes = Routes::new();
        let mut sources: Vec<(IpAddr, IpAddr)> = Vec::new();
        let mut paths: Vec<Path> = Vec::new();
        for (target, answer) in answers {
            match self.suitable(*target, answer) {
                Ok((path, source)) => {
                    sources.push((*target, source));
                    paths.push(path);
                }
                Err(error) => {
                    routes.insert(*target, Err(error));
                }
            }
        }
        let (keeper, world) = self.world();
        let indexes = keeper.want(&paths, world);
        for ((target, source), index) in sources.into_iter().zip(indexes) {
            let route = index
                .map(|next_hop| TargetRoute { source, next_hop })
                .ok_or(Unreachable::TooManyHops(target));
            routes.insert(target, route);
        }
        routes
    }

    fn suitable(&self, target: IpAddr, answer: &Answer) -> Result<(Path, IpAddr), Unreachable> {
        let path = answer.clone()?;
        let source = path
            .source
            .ok_or_else(|| Unreachable::NoSource { target, interface: self.host.name(path.ifindex) })?;
        match self.host.egress(path.ifindex) {
            // A link that is not known yet is one that has just come.
            Ok(_) | Err(super::EgressError::NoLink(_)) => Ok((path, source)),
            Err(reason) => Err(Unreachable::Egress { target, reason }),
        }
    }

    fn answer_waiters(&mut self) {
        let now = Instant::now();
        let (done, open): (Vec<_>, Vec<_>) =
            self.waiters.drain(..).partition(|waiter| self.keeper.waiting(&waiter.indexes, now).is_none());
        self.waiters = open;
        for waiter in done {
            let unresolved = waiter
                .routes
                .iter()
                .filter(|(_, route)| route.as_ref().is_ok_and(|route| !self.keeper.is_valid(route.next_hop)))
                .map(|(target, _)| *target)
                .collect();
            let view = ResolvedView::new(Arc::new(self.host.clone()), waiter.routes, unresolved);
            // Nobody waits any more: the request was given up.
            let _ = waiter.reply.send(view);
        }
    }

    /// The kernel has been asked for all targets again, because ways may have changed.
    fn answered(&mut self, answers: Vec<(IpAddr, Answer)>) {
        self.answering = false;
        // An answer that the kernel did not give says nothing.
        let failed = answers.iter().any(|(_, answer)| matches!(answer, Err(Unreachable::Query { .. })));
        // Another set of targets has been asked for meanwhile.
        let same = answers.len() == self.answers.len()
            && answers.iter().zip(&self.answers).all(|(new, old)| new.0 == old.0);
        let differs = same && !failed && answers != self.answers;
        if differs {
            // Next hops are looked for now, so that they are there when the agent resolves and compiles again. Those in
            // use until now must not be given up: the agent goes on with them for a moment.
            let mut both = answers.clone();
            both.extend(self.answers.iter().cloned());
            self.want(&both);
            self.answers = answers;
        }
        if differs || self.routes_changed {
            self.routes_changed = false;
            self.changes.send_modify(|counts| {
                counts.routes += 1;
                counts.targets += u64::from(differs);
            });
        }
    }

    pub(super) fn publish(&self) {
        self.published.store(Arc::new(self.host.clone()));
    }

    /// Tells of changes when they have come to rest for a moment.
    fn tell_when_due(&mut self, tell: &mut Option<Instant>) {
        let dirty = self.dirty;
        if !(dirty.links || dirty.addresses || dirty.routes || dirty.check || dirty.hops) {
            return;
        }
        let now = Instant::now();
        let due = *tell.get_or_insert_with(|| {
            let paced = self.told.map(|told| told + PACE);
            paced.unwrap_or(now).max(now + COALESCE)
        });
        if due > now {
            return;
        }
        *tell = None;
        self.told = Some(now);
        // While answers are on the way, changes of routes wait for them.
        let wait = self.answering;
        self.dirty = Dirty { routes: dirty.routes && wait, check: dirty.check && wait, ..Dirty::default() };
        if dirty.links || dirty.addresses {
            self.publish();
        }
        if dirty.links || dirty.addresses || dirty.hops {
            self.changes.send_modify(|counts| {
                counts.links += u64::from(dirty.links);
                counts.addresses += u64::from(dirty.addresses);
                counts.hops += u64::from(dirty.hops);
            });
        }
        if (dirty.routes || dirty.check) && !wait {
            self.routes_changed |= dirty.routes;
            self.ask_again();
        }
    }

    /// Reads the keys of all next hops, in a thread of its own: there may be tens of thousands.
    fn look_for_unwatched(&self) {
        let table = Arc::clone(&self.table);
        let own = self.own.clone();
        tokio::task::spawn_blocking(move || {
            let entries = table.entries();
            if let Some(own) = own.upgrade() {
                let _ = own.send(Command::Adopt { entries, reply: oneshot::channel().0 });
            }
        });
    }

    fn ask_again(&mut self) {
        self.answering = true;
        let targets: Vec<IpAddr> = self.answers.iter().map(|(target, _)| *target).collect();
        let requests = Arc::clone(&self.requests);
        let own = self.own.clone();
        tokio::spawn(async move {
            let answers = requests.answers_anew(&targets).await;
            if let Some(own) = own.upgrade() {
                let _ = own.send(Command::Answered(answers));
            }
        });
    }
}

/// Asks the kernel, one after the other, so that the last word about a neighbour is the last.
async fn carry_out(mut asks: mpsc::UnboundedReceiver<AskOrSync>, requests: Arc<Requests>) {
    let mut complained: Option<Instant> = None;
    while let Some(ask) = asks.recv().await {
        let ask = match ask {
            AskOrSync::Ask(ask) => ask,
            AskOrSync::Sync(done) => {
                let _ = done.send(());
                continue;
            }
        };
        let Err(error) = requests.ask(ask).await else { continue };
        let (ifindex, address) = ask.neighbour;
        tracing::debug!(%error, %address, ifindex, "the kernel did not take a neighbour");
        let advice = match error.os_error() {
            Some(libc::ENOBUFS) => {
                "its neighbour table is full: raise net.ipv4.neigh.default.gc_thresh3 (and net.ipv6...)"
            }
            Some(libc::EPERM | libc::EACCES) => "the agent needs CAP_NET_ADMIN",
            // The interface went away in the meantime, and the like.
            _ => continue,
        };
        if complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
            complained = Some(Instant::now());
            tracing::error!(%error, %address, "next hops cannot be kept resolved; {advice}");
        }
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}
