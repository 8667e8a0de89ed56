//! The single owner of the intent: every change of rules goes through here, one after the other.
//!
//! A change is validated, its next hops are resolved, it is compiled, *stored*, published, and then acknowledged, in this
//! order. What fails before the publication changes nothing.

mod change;
mod claims;
mod drain;
mod health;
mod publish;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::MissedTickBehavior,
};

use super::{
    host_checks,
    interfaces::Interfaces,
    listeners, memory,
    optimiser::{Better, Optimiser},
    state::{Shared, Snapshot},
    wall_clock,
};
use crate::{
    api::types::{
        Attachment, ChangeReply, ChangeRequest, Count, ErrorBody, ErrorCode, FlowFilter, Intent, Operation,
        PortRange,
    },
    config::{agent::AgentConfig, rules as rules_file},
    netlink::{HostChange, ResolvedView},
    rules::{
        change as rules_change,
        ids::{Ids, Kind},
        images::{Images, TargetStates},
    },
    store::{Document, Store},
};

/// How often the engine looks whether something that is not in place can be now.
const RETRY: Duration = Duration::from_secs(5);
/// Local listeners are looked for once in so many retries: reading /proc/net/tcp of a busy host takes a while.
const LISTENERS_EVERY: u32 = 12;

enum Command {
    Change(ChangeRequest, oneshot::Sender<Result<ChangeReply, ErrorBody>>),
    Reload(oneshot::Sender<Result<(), ErrorBody>>),
    Flush(FlowFilter, oneshot::Sender<Result<u64, ErrorBody>>),
    Swept(Instant),
    Ping(oneshot::Sender<()>),
}

/// Handle to the engine.
#[derive(Clone)]
pub(super) struct Engine {
    commands: mpsc::Sender<Command>,
}

fn stopping() -> ErrorBody {
    ErrorBody { code: ErrorCode::Unavailable, message: "the agent is stopping".to_owned(), field: None }
}

impl Engine {
    async fn call<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, ErrorBody>>) -> Command,
    ) -> Result<T, ErrorBody> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())?
    }

    /// Does a change as a whole or not at all. It is done even if the caller goes away.
    pub(super) async fn change(&self, request: ChangeRequest) -> Result<ChangeReply, ErrorBody> {
        self.call(|reply| Command::Change(request, reply)).await
    }

    /// Reads the rules file again.
    pub(super) async fn reload(&self) -> Result<(), ErrorBody> {
        self.call(Command::Reload).await
    }

    /// Ends flows.
    pub(super) async fn flush(&self, filter: FlowFilter) -> Result<u64, ErrorBody> {
        self.call(|reply| Command::Flush(filter, reply)).await
    }

    /// A sweep that began at `started` has ended.
    pub(super) fn swept(&self, started: Instant) {
        // A full queue loses nothing: the next sweep says so again.
        let _ = self.commands.try_send(Command::Swept(started));
    }

    /// Returns when the engine has done what it was asked for before.
    pub(super) async fn ping(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Ping(reply)).await.is_ok() && answer.await.is_ok()
    }
}

/// What is compiled and waits to be stored and published.
struct Prepared {
    ids: Ids,
    images: Images,
    view: ResolvedView,
}

/// The engine's own state.
pub(super) struct Owner {
    shared: Arc<Shared>,
    store: Box<dyn Store>,
    rules_file: Option<PathBuf>,
    configured: Vec<Attachment>,
    nat_ports: PortRange,
    /// How long the flows of a removed target go on.
    drain_timeout: Duration,
    intent: Intent,
    ids: Ids,
    images: Images,
    /// Which targets are down.
    states: TargetStates,
    interfaces: Interfaces,
    applied_revision: u64,
    retired_since: HashMap<(Kind, u16), Instant>,
    gone: HashMap<u32, [Count; 2]>,
    seen: HostChange,
    reload_problem: Option<String>,
    host_problem: Option<String>,
    conflicts: Vec<String>,
    /// Of the host's settings: what the log has been told already.
    told: Vec<String>,
    /// Claims that are none.
    claim_notes: Vec<String>,
    retries: u32,
    sweep_now: Arc<Notify>,
    optimiser: Optimiser,
    better: mpsc::Receiver<Better>,
}

impl Owner {
    /// Loads what is stored, publishes it and attaches.
    ///
    /// # Errors
    ///
    /// If the store is damaged, the rules do not compile, or the rules file is wrong and nothing is stored.
    pub(super) async fn start(
        shared: Arc<Shared>,
        store: Box<dyn Store>,
        config: &AgentConfig,
        sweep_now: Arc<Notify>,
    ) -> Result<Self, ErrorBody> {
        let stored = store.load()?;
        let fresh = stored.is_none();
        let Document { intent, ids, .. } =
            stored.unwrap_or_else(|| Document::new(Intent::default(), Ids::default()));
        let configured = config
            .interfaces
            .iter()
            .map(|interface| Attachment { interface: interface.name.clone(), mode: interface.mode })
            .collect();
        let (optimiser, better) = Optimiser::start();
        let mut owner = Self {
            shared,
            store,
            rules_file: config.rules_file.clone(),
            configured,
            nat_ports: config.nat.ports,
            drain_timeout: config.flows.drain_timeout,
            intent,
            ids,
            images: Images::default(),
            states: TargetStates::default(),
            interfaces: Interfaces::default(),
            applied_revision: 0,
            retired_since: HashMap::new(),
            gone: HashMap::new(),
            seen: HostChange::default(),
            reload_problem: None,
            host_problem: None,
            conflicts: Vec::new(),
            told: Vec::new(),
            claim_notes: Vec::new(),
            retries: 0,
            sweep_now,
            optimiser,
            better,
        };
        owner.follow_host_tables();
        owner.inherit_health();
        owner.follow_clock();
        if owner.rules_file.is_some() {
            match owner.read_rules_file() {
                Ok(changed) => owner.intent = changed,
                Err(error) if fresh => return Err(error),
                Err(error) => {
                    tracing::error!("{}: going on with the rules that were live before", error.message);
                    owner.reload_problem = Some(error.message);
                }
            }
        }
        let prepared = owner.prepare(&owner.intent.clone(), None).await?;
        owner.save(&owner.intent.clone(), &prepared.ids)?;
        owner.publish(owner.intent.clone(), prepared);
        owner.reconcile().await;
        owner.snapshot();
        Ok(owner)
    }

    /// Starts the task.
    pub(super) fn spawn(self) -> (Engine, JoinHandle<()>) {
        let (commands, receiver) = mpsc::channel(64);
        (Engine { commands }, tokio::spawn(self.run(receiver)))
    }

    async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let mut changes = self.shared.netlink.changes();
        let mut health = self.shared.health.changes();
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.command(command).await,
                    None => return,
                },
                Ok(()) = changes.changed() => {
                    let change = *changes.borrow_and_update();
                    self.host_changed(change).await;
                }
                Ok(()) = health.changed() => self.follow_health(&mut health).await,
                Some(better) = self.better.recv() => self.optimised(better),
                _ = retry.tick() => self.retry().await,
            }
        }
    }

    async fn command(&mut self, command: Command) {
        // An answer that nobody waits for any more is no error.
        match command {
            Command::Change(request, reply) => {
                let started = Instant::now();
                let dry_run = request.dry_run;
                let result = self.change(request).await;
                match &result {
                    Ok(_) if dry_run => {}
                    Ok(_) => self.shared.recorder.applied(started.elapsed()),
                    Err(_) => self.shared.recorder.rejected(),
                }
                let _ = reply.send(result);
            }
            Command::Reload(reply) => {
                let _ = reply.send(self.reload().await);
            }
            Command::Flush(filter, reply) => {
                let _ = reply.send(self.flush(&filter));
            }
            Command::Swept(started) => self.release(started),
            Command::Ping(reply) => {
                let _ = reply.send(());
            }
        }
    }

    fn wanted(&self) -> Vec<Attachment> {
        self.configured.iter().chain(&self.intent.attachments).cloned().collect()
    }

    async fn reconcile(&mut self) -> bool {
        let wanted = self.wanted();
        let changed = self.interfaces.reconcile(&self.shared.datapath, &self.shared.netlink, &wanted).await;
        self.follow_claims();
        changed
    }

    /// Writes the tables of the host's VLANs and addresses.
    fn follow_host_tables(&self) {
        let host = self.shared.netlink.host();
        let vlans: Vec<_> = host.vlan_links().collect();
        let datapath = &self.shared.datapath;
        let written =
            datapath.set_vlans(&vlans).and_then(|()| datapath.set_answer_addresses(&host.answer_addresses()));
        if let Err(error) = written {
            tracing::error!(%error, "the program does not know all VLANs and addresses of the host");
        }
        self.follow_locals();
    }

    /// Tells the program what the host's clock is worth: a time daemon may have learned of it.
    fn follow_clock(&self) {
        let (offset, error) = wall_clock::read();
        self.shared.datapath.set_clock(offset, error);
    }

    async fn host_changed(&mut self, change: HostChange) {
        let before = std::mem::replace(&mut self.seen, change);
        if (change.links, change.addresses) != (before.links, before.addresses) {
            self.follow_host_tables();
            self.reconcile().await;
        }
        if (change.routes, change.targets) != (before.routes, before.targets) {
            self.republish().await;
        }
        self.snapshot();
    }

    async fn retry(&mut self) {
        if self.host_problem.is_some() || self.drains_are_over() {
            self.republish().await;
        }
        self.follow_clock();
        // Also finds programs that somebody else removed.
        self.reconcile().await;
        if self.shared.worked.swap(false, Ordering::Relaxed) {
            tokio::task::block_in_place(memory::give_back);
        }
        self.retries += 1;
        if self.retries.is_multiple_of(LISTENERS_EVERY) {
            self.conflicts = tokio::task::block_in_place(|| listeners::conflicts(&self.intent.rules));
        }
        self.snapshot();
    }

    fn read_rules_file(&self) -> Result<Intent, ErrorBody> {
        let Some(file) = &self.rules_file else { return Ok(self.intent.clone()) };
        let rules = rules_file::load(file)?;
        let operation = Operation::Apply { rules, prune: true };
        Ok(rules_change::apply(&self.intent, &[operation])?.intent)
    }

    async fn reload(&mut self) -> Result<(), ErrorBody> {
        let result = self.try_reload().await;
        self.reload_problem =
            result.as_ref().err().map(|error| format!("the rules file was refused: {}", error.message));
        self.snapshot();
        result
    }

    async fn try_reload(&mut self) -> Result<(), ErrorBody> {
        if self.rules_file.is_none() {
            return Ok(());
        }
        let intent = self.read_rules_file()?;
        if intent == self.intent {
            return Ok(());
        }
        let prepared = self.prepare(&intent, Some(&self.intent.rules)).await?;
        self.save(&intent, &prepared.ids)?;
        self.publish(intent, prepared);
        self.follow_claims();
        Ok(())
    }

    fn flush(&mut self, filter: &FlowFilter) -> Result<u64, ErrorBody> {
        let names = self.shared.forward_names();
        let datapath = &self.shared.datapath;
        tokio::task::block_in_place(|| {
            let count = datapath.flush_flows(filter, &names).map_err(|error| ErrorBody {
                code: ErrorCode::Internal,
                message: error.to_string(),
                field: None,
            })?;
            // A new generation voids the cached lines of the flows.
            datapath.publish(&self.images);
            Ok(count)
        })
    }

    fn snapshot(&mut self) {
        let mut notes: Vec<String> = self.conflicts.clone();
        let host = host_checks::notes(self.nat_ports, &self.intent.rules, &self.interfaces.attached());
        for note in host.iter().filter(|note| !self.told.contains(note)) {
            tracing::warn!("{note}");
        }
        notes.extend(host.iter().cloned());
        notes.extend(self.claim_notes.iter().cloned());
        self.told = host;
        // Routes are told from the tables, where they are of this moment.
        notes.extend(self.images.warnings.iter().filter(|text| !text.contains("has no route")).cloned());
        self.shared.snapshot.store(Arc::new(Snapshot {
            intent: self.intent.clone(),
            ids: self.ids.clone(),
            applied_revision: self.applied_revision,
            interfaces: self.interfaces.clone(),
            faults: self.reload_problem.iter().chain(&self.host_problem).cloned().collect(),
            notes,
            filter: Arc::clone(&self.images.filter.rules),
            tables: self.images.tables.clone(),
            gone: self.gone.clone(),
        }));
    }
}
