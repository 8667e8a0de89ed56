//! An agent made of canned answers, on a Unix socket of its own. It records what it is asked.

use std::{
    path::PathBuf,
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use assert_cmd::cargo::CommandCargoExt;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use http_body_util::BodyExt;
use netfast::api::types::{
    AttachMode, Attachment, CacheMisses, CacheSummary, ChangeReply, ChangeRequest, Count, Decider, Echo,
    ErrorBody, ErrorCode, ErrorReply, ExplainReply, FilterAction, FilterList, FilterRow, FilterRule,
    FlowList, FlowRecord, FlowSummary, Forward, ForwardCount, ForwardMode, HealthSummary, Intent,
    InterfaceCount, InterfaceStatus, MapFill, NamedCount, Protocol, Rules, SCHEMA_VERSION, Stats, Status,
    StopReply, Target, TargetCount, TargetHealth, TargetState, Transport, VersionReply,
};
use serde_json::Value;

/// What it knows, for a test to alter before it asks.
pub struct World {
    pub intent: Intent,
    pub status: Status,
    pub stats: Stats,
    pub flows: Vec<FlowRecord>,
    pub warnings: Vec<String>,
    pub error: Option<(StatusCode, ErrorBody)>,
    /// Sent instead of everything else.
    pub raw: Option<String>,
    /// Method and path with query, and body.
    pub asked: Vec<(String, Value)>,
}

pub struct Mock {
    pub world: Arc<Mutex<World>>,
    pub dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Mock {
    /// A mock with rules, traffic and flows.
    pub fn new() -> Self {
        Self::with(world())
    }

    /// A mock of an agent that was just installed.
    pub fn empty() -> Self {
        let mut world = world();
        world.intent = Intent::default();
        world.stats = Stats { schema_version: SCHEMA_VERSION, ..Stats::default() };
        world.flows.clear();
        world.status.interfaces.clear();
        Self::with(world)
    }

    pub fn with(world: World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Arc::new(Mutex::new(world));
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime
            .block_on(async { tokio::net::UnixListener::bind(dir.path().join("netfast.sock")).unwrap() });
        let router = Router::new().fallback(answer).with_state(Arc::clone(&world));
        runtime.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { world, dir, _runtime: runtime }
    }

    /// A mock whose every answer is this error.
    pub fn failing(status: u16, code: ErrorCode, message: &str, field: Option<&str>) -> Self {
        let mock = Self::new();
        let error = ErrorBody { code, message: message.to_owned(), field: field.map(str::to_owned) };
        mock.world.lock().unwrap().error = Some((StatusCode::from_u16(status).unwrap(), error));
        mock
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("netfast.sock")
    }

    /// Runs `netfast` with these arguments, split at spaces.
    pub fn run(&self, line: &str) -> Ran {
        self.run_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    pub fn run_words(&self, words: &[&str]) -> Ran {
        Ran::of(netfast().env("NETFAST_SOCKET", self.socket()).args(words))
    }

    /// A file in the mock's directory.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    /// The operations of the last change, as JSON.
    pub fn last_change(&self) -> Value {
        let world = self.world.lock().unwrap();
        let (call, body) = world.asked.iter().rev().find(|(call, _)| call.starts_with("POST")).unwrap();
        assert_eq!(call, "POST /v1/change");
        body.clone()
    }

    /// The last call: method and path with query.
    pub fn last_call(&self) -> String {
        self.world.lock().unwrap().asked.last().unwrap().0.clone()
    }
}

/// The program, with an environment that says nothing to it.
pub fn netfast() -> Command {
    let mut command = Command::cargo_bin("netfast").unwrap();
    command.env_remove("NETFAST_SOCKET").env_remove("NO_COLOR");
    command
}

/// What a run left.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// Its stdout, after it ended well and said nothing on stderr.
    #[track_caller]
    pub fn good(self) -> String {
        assert_eq!((self.code, self.err.as_str()), (0, ""), "{self:?}");
        self.out
    }

    /// Its stdout as JSON, after it ended well.
    #[track_caller]
    pub fn json(self) -> Value {
        let value: Value = serde_json::from_str(&self.good()).unwrap();
        assert_eq!(value["schema_version"], SCHEMA_VERSION);
        value
    }

    /// Its stderr, after it ended with this code and printed nothing.
    #[track_caller]
    pub fn bad(self, code: i32) -> String {
        assert_eq!((self.code, self.out.as_str()), (code, ""), "{self:?}");
        self.err
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

async fn answer(State(world): State<Arc<Mutex<World>>>, request: Request) -> Response {
    let method = request.method().to_string();
    let uri = request.uri().to_string();
    let body: Bytes = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let mut world = world.lock().unwrap();
    world.asked.push((format!("{method} {uri}"), body.clone()));
    if let Some(raw) = &world.raw {
        return raw.clone().into_response();
    }
    if let Some((status, error)) = &world.error {
        return (*status, Json(ErrorReply { error: error.clone() })).into_response();
    }
    let path = uri.split('?').next().unwrap();
    match (method.as_str(), path) {
        ("GET", "/v1/status") => Json(&world.status).into_response(),
        ("GET", "/v1/intent") => Json(&world.intent).into_response(),
        ("GET", "/v1/stats") => {
            let answer = Json(&world.stats).into_response();
            for row in &mut world.stats.interfaces {
                row.count.packets += 1000;
                row.count.bytes += 100_000;
            }
            answer
        }
        ("GET", "/v1/filters") => Json(filters(&world)).into_response(),
        ("GET", "/v1/version") => Json(VersionReply {
            schema_version: SCHEMA_VERSION,
            version: world.status.version.clone(),
            abi_version: 1,
        })
        .into_response(),
        ("POST", "/v1/explain") => {
            let decided_by = world.intent.rules.filters.first();
            let decided_by = decided_by.map(|rule| Decider { position: 1, rule: rule.clone() });
            Json(ExplainReply {
                schema_version: SCHEMA_VERSION,
                revision: world.intent.revision,
                verdict: decided_by.as_ref().map_or(FilterAction::Allow, |decider| decider.rule.action),
                decided_by,
                policy: None,
                passes: Vec::new(),
                service: Some("forward web".to_owned()),
            })
            .into_response()
        }
        ("POST", "/v1/stop") => Json(StopReply {
            schema_version: SCHEMA_VERSION,
            // No process can have this one.
            pid: 4_194_305,
            detach: body["detach"].as_bool().unwrap(),
        })
        .into_response(),
        ("POST", "/v1/change") => match change(&mut world, serde_json::from_value(body).unwrap()) {
            Ok(reply) => Json(reply).into_response(),
            Err(error) => (StatusCode::CONFLICT, Json(ErrorReply { error })).into_response(),
        },
        ("GET", "/v1/flows") => Json(FlowList {
            schema_version: SCHEMA_VERSION,
            count: world.flows.len() as u64,
            flows: world.flows.clone(),
        })
        .into_response(),
        ("GET", "/v1/flows/count") | ("DELETE", "/v1/flows") => Json(FlowList {
            schema_version: SCHEMA_VERSION,
            count: world.flows.len() as u64,
            flows: Vec::new(),
        })
        .into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn filters(world: &World) -> FilterList {
    let rules = &world.intent.rules;
    let counts = world.stats.filters.iter().map(|row| row.count).chain(std::iter::repeat(Count::default()));
    FilterList {
        schema_version: SCHEMA_VERSION,
        revision: world.intent.revision,
        total: rules.filters.len(),
        filters: (1..)
            .zip(rules.filters.iter().zip(counts))
            .map(|(position, (rule, count))| FilterRow { position, rule: rule.clone(), count, hidden: None })
            .collect(),
        ..FilterList::default()
    }
}

/// What the agent does with a change, but for compiling, storing and publishing.
fn change(world: &mut World, request: ChangeRequest) -> Result<ChangeReply, ErrorBody> {
    let revision = world.intent.revision;
    if let Some(expected) = request.if_revision.filter(|expected| *expected != revision) {
        let message = format!("the revision is {revision}, not {expected}");
        return Err(ErrorBody { code: ErrorCode::Conflict, message, field: Some("if_revision".to_owned()) });
    }
    let changed = netfast::rules::change::apply(&world.intent, &request.operations)?;
    if changed.is_changed() && !request.dry_run {
        world.intent = changed.intent;
        world.intent.revision = revision + 1;
    }
    Ok(ChangeReply {
        schema_version: SCHEMA_VERSION,
        revision: world.intent.revision,
        dry_run: request.dry_run,
        changes: changed.changes,
        warnings: world.warnings.iter().cloned().chain(changed.warnings).collect(),
    })
}

fn count(packets: u64, bytes: u64) -> Count {
    Count { packets, bytes }
}

/// A busy little host.
pub fn world() -> World {
    let target = |address: &str, weight| Target { weight, ..Target::new(address.parse().unwrap()) };
    let forwards = vec![
        Forward {
            targets: vec![
                target("10.0.0.11:8443", 1),
                target("10.0.0.12:8443", 2),
                target("10.0.0.13:8443", 1),
            ],
            comment: Some("the shop".to_owned()),
            ..Forward::new("web".to_owned(), Transport::Tcp, "192.0.2.10:443".parse().unwrap())
        },
        Forward {
            mode: ForwardMode::Dnat,
            ..Forward::new("dns".to_owned(), Transport::Udp, "[2001:db8::10]:53".parse().unwrap())
        },
    ];
    let filters = vec![
        FilterRule {
            name: Some("scanner".to_owned()),
            src: "203.0.113.0/24".parse().ok(),
            proto: Some(Protocol(6).into()),
            dport: "22".parse().ok(),
            comment: Some("since May".to_owned()),
            ..FilterRule::default()
        },
        FilterRule { interface: Some("eth1".to_owned()), version: Some(6), ..FilterRule::default() },
    ];
    let allow = vec!["198.51.100.0/24".parse().unwrap()];
    let echoes = vec![Echo::new("192.0.2.10:7".parse().unwrap(), allow)];
    let intent = Intent {
        revision: 12,
        attachments: vec![Attachment { interface: "eth0".to_owned(), mode: AttachMode::Native }],
        rules: Rules {
            forwards,
            echoes,
            filters: filters.into_iter().map(Arc::new).collect(),
            ..Rules::default()
        },
    };
    let status = Status {
        schema_version: SCHEMA_VERSION,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: 4242,
        uptime_seconds: 273_600,
        abi_version: 1,
        revision: 12,
        applied_revision: 12,
        generation: 57,
        ready: true,
        problems: Vec::new(),
        interfaces: vec![InterfaceStatus {
            name: "eth0".to_owned(),
            ifindex: 2,
            driver: "ixgbe".to_owned(),
            mode: AttachMode::Auto,
            attached: Some(AttachMode::Native),
            up: true,
            mtu: 1500,
            problem: None,
        }],
        forwards: 2,
        targets: 3,
        snats: 0,
        echoes: 1,
        filters: 2,
        flows: 1234,
        flows_max: 262_144,
    };
    let interface = |verdict: &str, reason: &str, packets, bytes| InterfaceCount {
        interface: "eth0".to_owned(),
        verdict: verdict.to_owned(),
        reason: reason.to_owned(),
        count: count(packets, bytes),
    };
    let stats = Stats {
        schema_version: SCHEMA_VERSION,
        interfaces: vec![
            interface("redirect", "forwarded", 1_234_567, 987_654_321),
            interface("drop", "filter_drop", 815, 48_900),
            interface("pass", "no_service", 99, 7_000),
        ],
        forwards: vec![ForwardCount {
            forward: "web".to_owned(),
            to_target: count(1_000_000, 90_000_000),
            to_client: count(2_000_000, 3_000_000_000),
            flows: 1234,
            flows_total: 55_555,
            targets: 3,
            healthy: 2,
            entries: 1000,
            ..ForwardCount::default()
        }],
        targets: vec![TargetCount {
            forward: "web".to_owned(),
            target: "10.0.0.11:8443".to_owned(),
            to_target: count(1_000_000, 90_000_000),
            to_client: count(2_000_000, 3_000_000_000),
            flows: 1234,
            open: 1200,
            draining: false,
            entries: 250,
            health: Some(TargetHealth {
                state: TargetState::Down,
                since: 1,
                last_error: Some("status 503, wanted 200-399".to_owned()),
                ..TargetHealth::default()
            }),
        }],
        snats: Vec::new(),
        claims: Vec::new(),
        echoes: vec![NamedCount { name: "192.0.2.10:7".to_owned(), count: count(7, 700) }],
        filters: vec![
            NamedCount { name: "scanner".to_owned(), count: count(815, 48_900) },
            NamedCount { name: "2".to_owned(), count: count(0, 0) },
        ],
        cache: CacheSummary {
            misses: vec![CacheMisses { interface: "eth0".to_owned(), packets: 34_000 }],
            ..CacheSummary::default()
        },
        maps: vec![MapFill { map: "FLOWS".to_owned(), entries: 2468, max_entries: 524_288 }],
        events_lost: 0,
        health: HealthSummary::default(),
        flows: FlowSummary {
            confirmed: 1234,
            half_open: 5,
            confirmed_max: 262_144,
            half_open_max: 65_536,
            generation: 7,
        },
    };
    let flows = vec![
        FlowRecord {
            protocol: Protocol(6),
            client: "198.51.100.7:40312".to_owned(),
            service: "192.0.2.10:443".to_owned(),
            source: "10.0.0.1:20001".to_owned(),
            target: "10.0.0.11:8443".to_owned(),
            forward: "web".to_owned(),
            state: "established".to_owned(),
            age_seconds: 4000,
            idle_seconds: 3,
            expires_seconds: 7437,
        },
        FlowRecord {
            protocol: Protocol(17),
            client: "[2001:db8::7]:5353".to_owned(),
            service: "[2001:db8::10]:53".to_owned(),
            source: "[2001:db8::7]:5353".to_owned(),
            target: "[2001:db8:1::53]:53".to_owned(),
            forward: String::new(),
            state: "one-way".to_owned(),
            age_seconds: 2,
            idle_seconds: 2,
            expires_seconds: 28,
        },
    ];
    World { intent, status, stats, flows, warnings: Vec::new(), error: None, raw: None, asked: Vec::new() }
}
