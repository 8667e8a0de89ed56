use std::sync::Mutex;

use axum::{body::Body, http::Request};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::api::types::FlowSummary;

/// Answers with what it was asked, or refuses.
#[derive(Default)]
struct Fake {
    refuse: Option<ErrorCode>,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, what: impl std::fmt::Debug) {
        self.asked.lock().unwrap().push(format!("{what:?}"));
    }

    fn answer<T>(&self, value: T) -> Result<T, ErrorBody> {
        match self.refuse {
            Some(code) => {
                Err(ErrorBody { code, message: "no".to_owned(), field: Some("forward.web".to_owned()) })
            }
            None => Ok(value),
        }
    }
}

impl Service for Fake {
    fn status(&self) -> Status {
        unimplemented!("a panic of the agent's must become an answer")
    }

    fn intent(&self) -> Intent {
        Intent { revision: 7, ..Intent::default() }
    }

    fn stats(&self) -> Stats {
        Stats { flows: FlowSummary { confirmed: 3, ..FlowSummary::default() }, ..Stats::default() }
    }

    fn filters(&self, query: &FilterQuery) -> Result<FilterList, ErrorBody> {
        self.note(query);
        self.answer(FilterList { revision: 7, ..FilterList::default() })
    }

    fn explain(&self, request: &ExplainRequest) -> Result<ExplainReply, ErrorBody> {
        self.note(request);
        self.answer(ExplainReply {
            schema_version: SCHEMA_VERSION,
            revision: 7,
            verdict: crate::api::types::FilterAction::Allow,
            decided_by: None,
            policy: None,
            passes: Vec::new(),
            service: None,
        })
    }

    fn version(&self) -> VersionReply {
        VersionReply { schema_version: SCHEMA_VERSION, version: "1.2.3".to_owned(), abi_version: 1 }
    }

    async fn change(&self, request: ChangeRequest) -> Result<ChangeReply, ErrorBody> {
        self.note(&request);
        self.answer(ChangeReply {
            schema_version: SCHEMA_VERSION,
            revision: 8,
            dry_run: request.dry_run,
            changes: Vec::new(),
            warnings: Vec::new(),
        })
    }

    fn flows(&self, filter: &FlowFilter) -> Result<FlowList, ErrorBody> {
        self.note(filter);
        self.answer(FlowList { schema_version: SCHEMA_VERSION, count: 5, flows: Vec::new() })
    }

    async fn flush(&self, filter: FlowFilter) -> Result<u64, ErrorBody> {
        self.note(&filter);
        self.answer(4)
    }

    fn stop(&self, request: StopRequest) -> StopReply {
        StopReply { schema_version: SCHEMA_VERSION, pid: 1, detach: request.detach }
    }
}

async fn call(fake: &Arc<Fake>, method: &str, uri: &str, body: &str) -> (u16, serde_json::Value) {
    let request = Request::builder().method(method).uri(uri).body(Body::from(body.to_owned())).unwrap();
    let response = router(Arc::clone(fake)).oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_else(|_| panic!("not JSON: {bytes:?}")))
}

#[tokio::test]
async fn every_path_answers() {
    let fake = Arc::new(Fake::default());
    assert_eq!(7, call(&fake, "GET", "/v1/intent", "").await.1["revision"]);
    assert_eq!(3, call(&fake, "GET", "/v1/stats", "").await.1["flows"]["confirmed"]);
    assert_eq!("1.2.3", call(&fake, "GET", "/v1/version", "").await.1["version"]);
    assert_eq!(5, call(&fake, "GET", "/v1/flows", "").await.1["count"]);
    assert_eq!(5, call(&fake, "GET", "/v1/flows/count", "").await.1["count"]);
    assert_eq!(4, call(&fake, "DELETE", "/v1/flows?forward=web", "").await.1["count"]);
    assert_eq!(true, call(&fake, "POST", "/v1/stop", r#"{"detach":true}"#).await.1["detach"]);
    assert_eq!(8, call(&fake, "POST", "/v1/change", r#"{"operations":[]}"#).await.1["revision"]);
}

#[tokio::test]
async fn a_filter_comes_through_whole() {
    let fake = Arc::new(Fake::default());
    let query = "protocol=udp&client=198.51.100.9&client_port=4000&service=2001:db8::1&limit=3&state=two-way";
    call(&fake, "GET", &format!("/v1/flows?{query}"), "").await;
    let asked = fake.asked.lock().unwrap().join("");
    for part in ["Some(Udp)", "198.51.100.9", "Some(4000)", "2001:db8::1", "limit: Some(3)", "two-way"] {
        assert!(asked.contains(part), "{part} is not in {asked}");
    }
}

#[tokio::test]
async fn errors_have_their_status_and_form() {
    for (code, expected) in [
        (ErrorCode::Usage, 400),
        (ErrorCode::Rejected, 422),
        (ErrorCode::NotFound, 404),
        (ErrorCode::Conflict, 409),
        (ErrorCode::Unavailable, 503),
        (ErrorCode::Permission, 403),
        (ErrorCode::Internal, 500),
    ] {
        let fake = Arc::new(Fake { refuse: Some(code), ..Fake::default() });
        let (status, body) = call(&fake, "POST", "/v1/change", r#"{"operations":[]}"#).await;
        assert_eq!(expected, status);
        assert_eq!(code.as_str(), body["error"]["code"]);
        assert_eq!("forward.web", body["error"]["field"]);
    }
}

#[tokio::test]
async fn nonsense_is_told_as_such() {
    let fake = Arc::new(Fake::default());
    for (method, uri, body, status, word) in [
        ("POST", "/v1/change", "{", 400, "EOF"),
        ("POST", "/v1/change", r#"{"operations":[{"op":"fly"}]}"#, 400, "fly"),
        ("POST", "/v1/change", r#"{"operations":[],"dryrun":true}"#, 400, "dryrun"),
        ("GET", "/v1/flows?client=nobody", "", 400, "filter"),
        ("GET", "/v1/flows?colour=red", "", 400, "colour"),
        ("GET", "/v2/status", "", 404, "/v2/status"),
        ("POST", "/v1/status", "", 400, "POST"),
        ("GET", "/v1/status", "", 500, "failed to answer"),
    ] {
        let (got, answer) = call(&fake, method, uri, body).await;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(status, got, "{uri}: {answer}");
        assert!(message.contains(word), "{uri}: {message}");
    }
    assert!(fake.asked.lock().unwrap().is_empty(), "nothing of it reached the agent");
}

#[tokio::test]
async fn the_socket_is_for_root_and_the_group() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run/netfast.sock");
    drop(bind(&path, "no-such-group").unwrap());
    // One that an earlier agent left is in nobody's way.
    let _listener = bind(&path, "no-such-group").unwrap();
    assert_eq!(0o660, fs::metadata(&path).unwrap().permissions().mode() & 0o777);
    let file = folder.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(bind(&file, "root").is_err());
    assert_eq!("precious", fs::read_to_string(&file).unwrap());
}
