//! The single owner of the intent: every change of rules goes through here, one after the other.
//!
//! A change is validated, its next hops are resolved, it is compiled, *stored*, published, and then acknowledged, in this
//! order. What fails before the publication changes nothing.

use std::{
    collections::HashMap,
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
    time::MissedTickBehavior,
};

use super::{
    interfaces::Interfaces,
    listeners,
    state::{Shared, Snapshot},
};
use crate::{
    api::types::{
        Attachment, ChangeAction, ChangeReply, ChangeRequest, Count, ErrorBody, ErrorCode, FlowFilter,
        Intent, ObjectChange, Operation, PortRange, Rules, SCHEMA_VERSION,
    },
    config::{agent::AgentConfig, rules as rules_file},
    datapath::Direction,
    netlink::{HostChange, HostState, ResolvedView},
    rules::{
        change, compile,
        ids::{Ids, Kind},
        images::{HostView, Images, TargetRoute},
    },
    store::{Document, Store},
};

/// How often the engine looks whether something that is not in place can be now.
const RETRY: Duration = Duration::from_secs(5);

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

/// The host without its routes: a change that is only tried has no next hops resolved.
struct HostNames(Arc<HostState>);

impl HostView for HostNames {
    fn ifindex(&self, name: &str) -> Option<u32> {
        self.0.ifindex(name)
    }

    fn route(&self, _target: IpAddr) -> Option<TargetRoute> {
        None
    }
}

/// The engine's own state.
pub(super) struct Owner {
    shared: Arc<Shared>,
    store: Box<dyn Store>,
    rules_file: Option<PathBuf>,
    configured: Vec<Attachment>,
    nat_ports: PortRange,
    intent: Intent,
    ids: Ids,
    images: Images,
    interfaces: Interfaces,
    applied_revision: u64,
    retired_since: HashMap<(Kind, u16), Instant>,
    gone: HashMap<u32, [Count; 2]>,
    seen: HostChange,
    reload_problem: Option<String>,
    host_problem: Option<String>,
    conflicts: Vec<String>,
    sweep_now: Arc<Notify>,
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
        let mut owner = Self {
            shared,
            store,
            rules_file: config.rules_file.clone(),
            configured,
            nat_ports: config.nat.ports,
            intent,
            ids,
            images: Images::default(),
            interfaces: Interfaces::default(),
            applied_revision: 0,
            retired_since: HashMap::new(),
            gone: HashMap::new(),
            seen: HostChange::default(),
            reload_problem: None,
            host_problem: None,
            conflicts: Vec::new(),
            sweep_now,
        };
        owner.follow_host_tables();
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

    async fn change(&mut self, mut request: ChangeRequest) -> Result<ChangeReply, ErrorBody> {
        if let Some(file) = &self.rules_file
            && request
                .operations
                .iter()
                .any(|op| !matches!(op, Operation::Attach { .. } | Operation::Detach { .. }))
        {
            let file = file.display();
            return Err(rejected(format!(
                "the rules are those of {file} (rules_file in agent.toml): change them there, then `systemctl reload \
                 netfast` or send the agent SIGHUP"
            )));
        }
        if let Some(wanted) = request.if_revision
            && wanted != self.intent.revision
        {
            return Err(ErrorBody {
                code: ErrorCode::Conflict,
                message: format!(
                    "the revision is {}, not {wanted}: somebody changed the rules meanwhile",
                    self.intent.revision
                ),
                field: Some("if_revision".to_owned()),
            });
        }
        let settled = self.configured_attachments(&mut request.operations)?;
        let mut changed = change::apply(&self.intent, &request.operations)?;
        changed.changes.extend(settled);
        let mut reply = ChangeReply {
            schema_version: SCHEMA_VERSION,
            revision: self.intent.revision,
            dry_run: request.dry_run,
            changes: changed.changes,
            warnings: changed.warnings,
        };
        let rules_changed = changed.intent.rules != self.intent.rules;
        if request.dry_run {
            if rules_changed {
                compile::require_interfaces(&self.intent.rules, &changed.intent.rules, &self.host_names())?;
                compile::compile(&changed.intent, &mut self.ids.clone(), &self.host_names())?;
                reply.warnings.extend(listeners::conflicts(&changed.intent.rules));
            }
            return Ok(reply);
        }
        let prepared = if rules_changed {
            Some(self.prepare(&changed.intent, Some(&self.intent.rules.clone())).await?)
        } else {
            None
        };

        // Attaching comes before storing, since only the kernel can say whether it works; it is undone if storing fails.
        let attached = self.attach_new(&changed.intent).await?;
        if changed.intent != self.intent {
            let ids = prepared.as_ref().map_or(&self.ids, |prepared| &prepared.ids);
            if let Err(error) = self.save(&changed.intent, ids) {
                for name in attached {
                    self.interfaces.detach(&self.shared.datapath, &name);
                }
                self.reconcile().await;
                self.snapshot();
                return Err(error);
            }
        }
        if let Some(prepared) = prepared {
            let known = std::mem::take(&mut self.images.warnings);
            let conflicts = std::mem::take(&mut self.conflicts);
            self.publish(changed.intent, prepared);
            reply.warnings.extend(self.images.warnings.iter().filter(|text| !known.contains(text)).cloned());
            reply.warnings.extend(self.conflicts.iter().filter(|text| !conflicts.contains(text)).cloned());
        } else {
            self.intent = changed.intent;
            self.applied_revision = self.intent.revision;
        }
        self.reconcile().await;
        self.snapshot();
        reply.revision = self.intent.revision;
        Ok(reply)
    }

    /// Takes out of `operations` what agent.toml settles already.
    fn configured_attachments(
        &self,
        operations: &mut Vec<Operation>,
    ) -> Result<Vec<ObjectChange>, ErrorBody> {
        let mut settled = Vec::new();
        let mut problem = None;
        let configured = |name: &str| self.configured.iter().find(|attachment| attachment.interface == name);
        operations.retain(|operation| match operation {
            Operation::Attach { attachment } => match configured(&attachment.interface) {
                Some(present) if present.mode == attachment.mode => {
                    settled.push(ObjectChange {
                        kind: "interface".to_owned(),
                        name: attachment.interface.clone(),
                        action: ChangeAction::Unchanged,
                    });
                    false
                }
                Some(present) => {
                    problem = Some(format!(
                        "agent.toml attaches {} in {} mode: change the mode there and restart the agent",
                        present.interface, present.mode
                    ));
                    true
                }
                None => true,
            },
            Operation::Detach { interface } if configured(interface).is_some() => {
                problem = Some(format!(
                    "agent.toml attaches {interface}: take its [[interface]] out there and restart the agent"
                ));
                true
            }
            _ => true,
        });
        problem.map_or(Ok(settled), |message| Err(rejected(message)))
    }

    /// Attaches what `intent` has and the present one has not, all or none; gives the names.
    async fn attach_new(&mut self, intent: &Intent) -> Result<Vec<String>, ErrorBody> {
        let mut attached = Vec::new();
        for attachment in &intent.attachments {
            if self.intent.attachments.contains(attachment) && !self.interfaces.incomplete() {
                continue;
            }
            let new = !self.intent.attachments.iter().any(|old| old.interface == attachment.interface);
            match self.interfaces.attach(&self.shared.datapath, &self.shared.netlink, attachment).await {
                Ok(()) if new => attached.push(attachment.interface.clone()),
                Ok(()) => {}
                Err(error) if !self.intent.attachments.contains(attachment) => {
                    for name in attached {
                        self.interfaces.detach(&self.shared.datapath, &name);
                    }
                    self.reconcile().await;
                    return Err(error);
                }
                // Wanted before and not there then either: the status says so.
                Err(_) => {}
            }
        }
        Ok(attached)
    }

    fn host_names(&self) -> HostNames {
        HostNames(self.shared.netlink.host())
    }

    /// Resolves the next hops of all targets and compiles. `before`: the rules that `intent` comes from, if a person
    /// asked for the change.
    async fn prepare(&self, intent: &Intent, before: Option<&Rules>) -> Result<Prepared, ErrorBody> {
        let mut targets: Vec<IpAddr> = intent
            .rules
            .forwards
            .iter()
            .flat_map(|forward| forward.targets.iter().map(|target| target.address.address))
            .collect();
        targets.sort_unstable();
        targets.dedup();
        let view = self.shared.netlink.resolve_targets(&targets).await.map_err(|error| ErrorBody {
            code: ErrorCode::Internal,
            message: error.to_string(),
            field: None,
        })?;
        if let Some(before) = before {
            compile::require_interfaces(before, &intent.rules, &view)?;
        }
        let mut ids = self.ids.clone();
        let images = compile::compile(intent, &mut ids, &view)?;
        Ok(Prepared { ids, images, view })
    }

    fn save(&self, intent: &Intent, ids: &Ids) -> Result<(), ErrorBody> {
        let document = Document::new(intent.clone(), ids.clone());
        let saved = tokio::task::block_in_place(|| self.store.save(&document));
        self.shared.recorder.store_up(saved.is_ok());
        Ok(saved?)
    }

    fn publish(&mut self, intent: Intent, prepared: Prepared) {
        let Prepared { ids, images, view } = prepared;
        let datapath = &self.shared.datapath;
        let generation = tokio::task::block_in_place(|| datapath.publish(&images));
        let removed =
            self.ids.forwards().iter().any(|old| ids.forwards().iter().all(|new| new.uid != old.uid));
        let now = Instant::now();
        for retired in ids.retired() {
            self.retired_since.entry((retired.kind, retired.index)).or_insert(now);
        }
        for (target, problem) in view.problems() {
            tracing::debug!(%target, %problem, "target without a way");
        }
        if intent.revision != self.applied_revision {
            self.conflicts = listeners::conflicts(&intent.rules);
            tracing::info!(revision = intent.revision, generation, "rules are live");
        }
        self.applied_revision = intent.revision;
        (self.intent, self.ids, self.images) = (intent, ids, images);
        if removed {
            self.sweep_now.notify_one();
        }
    }

    fn wanted(&self) -> Vec<Attachment> {
        self.configured.iter().chain(&self.intent.attachments).cloned().collect()
    }

    async fn reconcile(&mut self) -> bool {
        let wanted = self.wanted();
        self.interfaces.reconcile(&self.shared.datapath, &self.shared.netlink, &wanted).await
    }

    /// Writes the tables of the host's VLANs and addresses.
    fn follow_host_tables(&self) {
        let host = self.shared.netlink.host();
        let vlans: Vec<_> = host.vlan_links().collect();
        let addresses: Vec<_> = host.addresses.iter().map(|own| own.address).collect();
        let datapath = &self.shared.datapath;
        if let Err(error) = datapath.set_vlans(&vlans).and_then(|()| datapath.set_locals(&addresses)) {
            tracing::error!(%error, "the program does not know all VLANs and addresses of the host");
        }
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

    /// Publishes the same rules again, because the ways to their targets may be others now.
    async fn republish(&mut self) {
        let result = match self.prepare(&self.intent, None).await {
            // Identifiers are stored before a packet can meet them.
            Ok(prepared) if prepared.ids != self.ids => {
                self.save(&self.intent, &prepared.ids).map(|()| prepared)
            }
            prepared => prepared,
        };
        match result {
            Ok(prepared) => {
                self.publish(self.intent.clone(), prepared);
                self.host_problem = None;
            }
            Err(error) => {
                tracing::error!("cannot follow a change of the host's routes: {}", error.message);
                self.host_problem = Some(format!("routes are not followed: {}", error.message));
            }
        }
    }

    async fn retry(&mut self) {
        if self.host_problem.is_some() {
            self.republish().await;
        }
        // Also finds programs that somebody else removed.
        self.reconcile().await;
        self.snapshot();
    }

    fn read_rules_file(&self) -> Result<Intent, ErrorBody> {
        let Some(file) = &self.rules_file else { return Ok(self.intent.clone()) };
        let rules = rules_file::load(file)?;
        let operation = Operation::Apply { rules, prune: true };
        Ok(change::apply(&self.intent, &[operation])?.intent)
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

    /// Frees indexes that nothing has referred to since before the sweep that began at `started`.
    fn release(&mut self, started: Instant) {
        let tally = self.shared.datapath.tally();
        let retired: Vec<_> = self.ids.retired().to_vec();
        let mut released = false;
        for retired in retired {
            let key = (retired.kind, retired.index);
            // After a restart nobody knows since when: from now on.
            if *self.retired_since.entry(key).or_insert_with(Instant::now) >= started {
                continue;
            }
            let used = match retired.kind {
                Kind::Target => tally.targets.contains_key(&retired.index),
                Kind::Forward => tally.forwards.contains_key(&retired.uid),
                Kind::Echo | Kind::Filter => false,
            };
            if used {
                continue;
            }
            if retired.kind == Kind::Target {
                self.keep_counts(retired.index, retired.forward_uid);
                self.shared.datapath.clear_target(retired.index);
            }
            self.retired_since.remove(&key);
            released |= self.ids.release(retired.kind, retired.index);
        }
        if released {
            // Not stored: an agent that starts with the older document releases them again.
            self.snapshot();
        }
    }

    fn keep_counts(&mut self, target: u16, forward_uid: u32) {
        if self.ids.forwards().iter().all(|forward| forward.uid != forward_uid) {
            self.gone.remove(&forward_uid);
            return;
        }
        let counters = self.shared.datapath.counters();
        let sums = self.gone.entry(forward_uid).or_default();
        for (sum, direction) in sums.iter_mut().zip([Direction::ToTarget, Direction::ToClient]) {
            let count = counters.target(target, direction);
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
    }

    fn snapshot(&self) {
        let mut notes: Vec<String> = self.conflicts.clone();
        notes.extend(listeners::port_overlap(self.nat_ports));
        // Routes are told from the tables, where they are of this moment.
        notes.extend(self.images.warnings.iter().filter(|text| !text.contains("has no route")).cloned());
        self.shared.snapshot.store(Arc::new(Snapshot {
            intent: self.intent.clone(),
            ids: self.ids.clone(),
            applied_revision: self.applied_revision,
            interfaces: self.interfaces.clone(),
            faults: self.reload_problem.iter().chain(&self.host_problem).cloned().collect(),
            notes,
            gone: self.gone.clone(),
        }));
    }
}

fn rejected(message: String) -> ErrorBody {
    ErrorBody { code: ErrorCode::Rejected, message, field: None }
}
