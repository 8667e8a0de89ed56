//! The agent: the process that owns the datapath's maps and keeps them in line with the intent and with the host.
//!
//! [`run`] puts the parts together: the [`engine`] owns the intent, [`sweeper`] ages flows, [`crate::api::server`] listens,
//! [`crate::netlink`] watches the host. Ending the agent, however it ends, leaves traffic running; only a stop with
//! `detach` takes everything away.

mod claims;
mod engine;
mod explain;
mod filters;
mod host_checks;
mod host_names;
mod interfaces;
mod listeners;
mod lock;
mod logging;
mod memory;
mod notify;
mod optimiser;
mod state;
mod sweeper;
mod wall_clock;

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use netfast_common::abi::{EventKind, PolicyClass};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{Notify, watch},
};

use crate::{
    api::{
        server::{self, Service},
        types::{
            ChangeReply, ChangeRequest, ErrorBody, ErrorCode, ExplainReply, ExplainRequest, FilterList,
            FilterQuery, FlowFilter, FlowList, Intent, SCHEMA_VERSION, Stats, Status, StopReply, StopRequest,
            VersionReply,
        },
    },
    config::agent::AgentConfig,
    datapath::{Datapath, DatapathError, Idle, Options as DatapathOptions, Settings, TableSizes},
    metrics::{Exporter, StatsSource},
    netlink::{Netlink, NetlinkError},
    store::file::FileStore,
};
use claims::Claims;
use engine::{Engine, Owner};
use state::Shared;

/// How many times as long as a sweep of the flow tables the agent rests after it.
pub const SWEEP_PAUSE: u32 = sweeper::PAUSE;

/// How the agent runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Every stop detaches and removes everything, also one by signal: for tests and demonstrations.
    pub detach: bool,
}

/// Why the agent cannot start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent runs with the same run directory.
    #[error("already running (pid {0})")]
    Running(String),
    /// A file of the agent's own.
    #[error("cannot {what} {}: {error}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The error.
        error: io::Error,
    },
    /// The kernel side.
    #[error(transparent)]
    Datapath(#[from] DatapathError),
    /// The host's state.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The stored rules, or those of the rules file.
    #[error(transparent)]
    Rules(#[from] ErrorBody),
    /// The runtime.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
}

impl AgentError {
    /// Its kind, which decides the exit code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Running(_) => ErrorCode::Conflict,
            Self::Datapath(DatapathError::Pin { .. }) => ErrorCode::Conflict,
            Self::Datapath(DatapathError::Permission(_)) => ErrorCode::Permission,
            Self::Io { error, .. } if error.kind() == io::ErrorKind::PermissionDenied => {
                ErrorCode::Permission
            }
            Self::Rules(body) => body.code,
            Self::Io { .. } | Self::Datapath(_) | Self::Netlink(_) | Self::Runtime(_) => {
                ErrorCode::Unavailable
            }
        }
    }
}

/// Runs the agent until it is stopped by a signal or by the API.
///
/// # Errors
///
/// If it cannot start. What it found in the kernel is left as it was then.
pub fn run(config: &AgentConfig, options: Options) -> Result<(), AgentError> {
    memory::share();
    logging::start(&config.log.level);
    // The engine blocks a thread while it publishes; another one must be there for the API.
    let threads = std::thread::available_parallelism().map_or(2, |threads| threads.get().clamp(2, 4));
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(AgentError::Runtime)?
        .block_on(run_async(config, options))
}

async fn run_async(config: &AgentConfig, options: Options) -> Result<(), AgentError> {
    let signals = Signals::new().map_err(AgentError::Runtime)?;
    let _lock = lock::Lock::take(&config.agent.run_dir)?;
    let (datapath, warnings) = tokio::task::block_in_place(|| Datapath::open(&datapath_options(config)))?;
    for warning in warnings.into_iter().chain(config.warnings()) {
        tracing::warn!("{warning}");
    }
    let datapath = Arc::new(datapath);
    datapath.configure(&settings(config));
    if let Err(error) = datapath.spawn_log() {
        tracing::warn!(%error, "the program's log cannot be read");
    }
    let mut events = datapath.spawn_events()?;

    let netlink = Netlink::start(Arc::clone(&datapath) as Arc<dyn crate::netlink::HopTable>).await?;
    netlink.adopt(datapath.hop_entries()).await?;
    let claims = Claims::start(Arc::clone(&datapath), netlink.clone());
    let shared = Arc::new(Shared::new(Arc::clone(&datapath), netlink.clone(), claims.clone()));
    let resolver = netlink.clone();
    tokio::spawn(async move {
        while let Some(event) = events.recv().await {
            if event.kind == EventKind::ClaimSeen as u32 {
                claims.seen(event);
            } else {
                resolver.event(&event);
            }
        }
    });

    let sweep_now = Arc::new(Notify::new());
    let store = Box::new(FileStore::new(&config.agent.state_dir));
    let owner = Owner::start(Arc::clone(&shared), store, config, Arc::clone(&sweep_now)).await?;
    let (engine, engine_task) = owner.spawn();
    let health_task = shared.health.spawn();
    let sweeper_task = tokio::spawn(sweeper::run(Arc::clone(&shared), engine.clone(), sweep_now));

    let (stop, stopped) = watch::channel(None);
    let listener = server::bind(&config.agent.socket(), &config.agent.socket_group)
        .map_err(|error| AgentError::Io { what: "listen on", path: config.agent.socket(), error })?;
    let api = Api { shared: Arc::clone(&shared), engine: engine.clone(), options, stop: stop.clone() };
    let server_task = tokio::spawn(server::serve(listener, Arc::new(api), stopped.clone()));
    if config.metrics.enabled {
        tokio::spawn(serve_metrics(Arc::clone(&shared), config.metrics.clone()));
    }

    if let Some(interval) = notify::watchdog() {
        tokio::spawn(watchdog(engine.clone(), interval));
    }
    let status = shared.status();
    tracing::info!(
        adopted = datapath.adopted(),
        revision = status.revision,
        generation = status.generation,
        "the agent is ready"
    );
    notify::ready();
    notify::status(&format!("{} forwards, {} interfaces", status.forwards, status.interfaces.len()));

    let asked = signals.wait(&engine, stopped).await;
    let detach = asked || options.detach;
    notify::stopping();
    let _ = stop.send(Some(detach));
    // Answers under way are sent; nobody waits for one that takes longer.
    let _ = tokio::time::timeout(Duration::from_secs(2), server_task).await;
    for task in [health_task, engine_task, sweeper_task] {
        task.abort();
        let _ = task.await;
    }
    let _ = fs::remove_file(config.agent.socket());
    if detach {
        datapath.remove()?;
        netlink.release_all().await?;
        tracing::info!("stopped; detached from all interfaces, programs and maps removed");
    } else {
        tracing::info!(
            "stopped; the kernel goes on forwarding (`netfast stop --detach` would have ended it)"
        );
    }
    Ok(())
}

fn datapath_options(config: &AgentConfig) -> DatapathOptions {
    let tables = &config.tables;
    DatapathOptions {
        pin_dir: config.agent.pin_dir(),
        tables: TableSizes {
            flows: tables.flows,
            half_open: tables.half_open,
            direct: tables.direct,
            mappings: tables.mappings,
            cache4_sets: tables.cache4_sets,
            cache6_sets: tables.cache6_sets,
            filter_rules: tables.filter_rules,
        },
    }
}

/// What of the configuration concerns the program.
pub(crate) fn settings(config: &AgentConfig) -> Settings {
    let timeouts = &config.timeouts;
    Settings {
        nat_ports: config.nat.ports.low..=config.nat.ports.high,
        idle: Idle {
            udp: timeouts.udp,
            udp_one_way: timeouts.udp_one_way,
            icmp: timeouts.icmp,
            tcp_opening: timeouts.tcp_opening,
            tcp_established: timeouts.tcp_established,
            tcp_half_closed: timeouts.tcp_half_closed,
            tcp_closing: timeouts.tcp_closing,
            tcp_reset: timeouts.tcp_reset,
        },
        policies: PolicyClass::TABLE.map(|(class, _, _, _)| config.policy.get(class)),
        log_rate: config.log.datapath_rate,
        error_rate: config.limits.errors_per_second,
        flow_quota: (config.limits.new_flows_per_source, config.limits.new_flows_burst),
    }
}

/// The listener of the metrics: tried again and again, since a port that is taken now is free later.
async fn serve_metrics(shared: Arc<Shared>, config: crate::config::agent::Metrics) {
    let set = |problem: Option<String>| {
        *shared.listener_problem.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = problem;
    };
    let exporter = match Exporter::new(Arc::clone(&shared) as Arc<dyn StatsSource>, config.max_series) {
        Ok(exporter) => exporter,
        Err(error) => {
            tracing::error!(%error, "no metrics");
            return set(Some(format!("no metrics: {error}")));
        }
    };
    let mut told = false;
    let listener = loop {
        match tokio::net::TcpListener::bind(config.listen).await {
            Ok(listener) => break listener,
            Err(error) => {
                let problem = format!(
                    "metrics: cannot listen on {}: {error} ([metrics] listen in agent.toml)",
                    config.listen
                );
                if !told {
                    tracing::error!("{problem}; trying again");
                    told = true;
                }
                set(Some(problem));
            }
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    };
    set(None);
    tracing::info!(listen = %config.listen, "metrics");
    if let Err(error) = axum::serve(listener, exporter.router()).await {
        tracing::error!(%error, "the metrics' listener has ended");
    }
}

async fn watchdog(engine: Engine, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if tokio::time::timeout(interval, engine.ping()).await == Ok(true) {
            notify::alive();
        }
    }
}

/// The signals that the agent knows.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the agent is to stop, and whether it is to detach.
    async fn wait(mut self, engine: &Engine, mut stopped: watch::Receiver<Option<bool>>) -> bool {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return false,
                _ = self.interrupt.recv() => return false,
                _ = self.hangup.recv() => {
                    notify::reloading();
                    match engine.reload().await {
                        Ok(()) => tracing::info!("rules file read"),
                        Err(error) => tracing::error!("rules file refused, the old rules are live: {}", error.message),
                    }
                    notify::ready();
                }
                changed = stopped.wait_for(Option::is_some) => {
                    return changed.ok().and_then(|detach| *detach).unwrap_or_default();
                }
            }
        }
    }
}

/// What the API offers.
struct Api {
    shared: Arc<Shared>,
    engine: Engine,
    options: Options,
    stop: watch::Sender<Option<bool>>,
}

fn internal(error: &DatapathError) -> ErrorBody {
    ErrorBody { code: ErrorCode::Internal, message: error.to_string(), field: None }
}

impl Service for Api {
    fn status(&self) -> Status {
        self.shared.status()
    }

    fn intent(&self) -> Intent {
        self.shared.snapshot.load().intent.clone()
    }

    fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn filters(&self, query: &FilterQuery) -> Result<FilterList, ErrorBody> {
        self.shared.filters(query)
    }

    fn explain(&self, request: &ExplainRequest) -> Result<ExplainReply, ErrorBody> {
        self.shared.explain(request)
    }

    fn version(&self) -> VersionReply {
        VersionReply {
            schema_version: SCHEMA_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi_version: netfast_common::abi::ABI_VERSION,
        }
    }

    async fn change(&self, request: ChangeRequest) -> Result<ChangeReply, ErrorBody> {
        self.engine.change(request).await
    }

    fn flows(&self, filter: &FlowFilter) -> Result<FlowList, ErrorBody> {
        let names = self.shared.forward_names();
        let (count, flows) =
            self.shared.datapath.list_flows(filter, &names).map_err(|error| internal(&error))?;
        Ok(FlowList { schema_version: SCHEMA_VERSION, count, flows })
    }

    async fn flush(&self, filter: FlowFilter) -> Result<u64, ErrorBody> {
        self.engine.flush(filter).await
    }

    fn stop(&self, request: StopRequest) -> StopReply {
        // The answer is sent before the server ends.
        let detach = request.detach || self.options.detach;
        let _ = self.stop.send(Some(detach));
        StopReply { schema_version: SCHEMA_VERSION, pid: std::process::id(), detach }
    }
}
