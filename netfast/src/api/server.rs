//! The API's server: HTTP + JSON over a Unix socket.
//!
//! The socket is the permission: whoever can connect (root, and the group that agent.toml names) may change the rules.

use std::{
    fs, future::Future, io, os::unix::fs::FileTypeExt, os::unix::fs::PermissionsExt, path::Path, sync::Arc,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    http::{Method, StatusCode, Uri},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use nix::unistd::{Group, chown};
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixListener, sync::watch};

use super::types::{
    ChangeReply, ChangeRequest, ErrorBody, ErrorCode, ErrorReply, ExplainReply, ExplainRequest, FilterList,
    FilterQuery, FlowFilter, FlowList, Intent, SCHEMA_VERSION, Stats, Status, StopReply, StopRequest,
    VersionReply,
};

/// Largest body of a request: rule files of some 100,000 rules fit.
const BODY_LIMIT: usize = 64 << 20;

/// What the server offers. Methods that are not `async` may block for a while; they are called where that is allowed.
pub trait Service: Send + Sync + 'static {
    /// `GET /v1/status`
    fn status(&self) -> Status;
    /// `GET /v1/intent`
    fn intent(&self) -> Intent;
    /// `GET /v1/stats`
    fn stats(&self) -> Stats;
    /// `GET /v1/filters`
    ///
    /// # Errors
    /// If the rule that is asked for does not exist.
    fn filters(&self, query: &FilterQuery) -> Result<FilterList, ErrorBody>;
    /// `POST /v1/explain`
    ///
    /// # Errors
    /// If no such packet can be.
    fn explain(&self, request: &ExplainRequest) -> Result<ExplainReply, ErrorBody>;
    /// `GET /v1/version`
    fn version(&self) -> VersionReply;
    /// `POST /v1/change`
    fn change(&self, request: ChangeRequest) -> impl Future<Output = Result<ChangeReply, ErrorBody>> + Send;
    /// `GET /v1/flows` and `GET /v1/flows/count`
    ///
    /// # Errors
    /// If the flow table cannot be read.
    fn flows(&self, filter: &FlowFilter) -> Result<FlowList, ErrorBody>;
    /// `DELETE /v1/flows`; returns the number of flows ended.
    fn flush(&self, filter: FlowFilter) -> impl Future<Output = Result<u64, ErrorBody>> + Send;
    /// `POST /v1/stop`
    fn stop(&self, request: StopRequest) -> StopReply;
}

/// Listens at `path`: mode 0660, for root and for `group` if there is one of that name. A socket that an earlier agent
/// left is replaced; the caller holds the agent's lock, so nobody uses it.
///
/// # Errors
///
/// If something else is at `path`, or its folder cannot be written.
pub fn bind(path: &Path, group: &str) -> io::Result<UnixListener> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(path)?,
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "a file that is not a socket is in its place",
            ));
        }
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
    match Group::from_name(group) {
        Ok(Some(group)) => chown(path, None, Some(group.gid))?,
        _ => tracing::info!("there is no group {group:?}: only root may use the socket"),
    }
    Ok(listener)
}

/// Serves until `stopped` holds something, and then until the answers under way are sent.
pub async fn serve<S: Service>(
    listener: UnixListener,
    service: Arc<S>,
    mut stopped: watch::Receiver<Option<bool>>,
) {
    let ended = axum::serve(listener, router(service)).with_graceful_shutdown(async move {
        let _ = stopped.wait_for(Option::is_some).await;
    });
    if let Err(error) = ended.await {
        tracing::error!(%error, "the API has ended");
    }
}

/// The routes.
pub fn router<S: Service>(service: Arc<S>) -> Router {
    Router::new()
        .route("/v1/status", get(status::<S>))
        .route("/v1/intent", get(intent::<S>))
        .route("/v1/stats", get(stats::<S>))
        .route("/v1/filters", get(filters::<S>))
        .route("/v1/explain", post(explain::<S>))
        .route("/v1/version", get(version::<S>))
        .route("/v1/change", post(change::<S>))
        .route("/v1/flows", get(flows::<S>).delete(flush::<S>))
        .route("/v1/flows/count", get(count::<S>))
        .route("/v1/stop", post(stop::<S>))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(service)
}

/// An [`ErrorBody`] as an answer.
struct Failure(ErrorBody);

impl From<ErrorBody> for Failure {
    fn from(body: ErrorBody) -> Self {
        Self(body)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match self.0.code {
            ErrorCode::Usage => StatusCode::BAD_REQUEST,
            ErrorCode::Rejected => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorCode::NotFound => StatusCode::NOT_FOUND,
            ErrorCode::Conflict => StatusCode::CONFLICT,
            ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            ErrorCode::Permission => StatusCode::FORBIDDEN,
            ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, Json(ErrorReply { error: self.0 })).into_response()
    }
}

type Answer<T> = Result<Json<T>, Failure>;

fn usage(message: String) -> Failure {
    Failure(ErrorBody { code: ErrorCode::Usage, message, field: None })
}

async fn unknown_path(uri: Uri) -> Failure {
    Failure(ErrorBody {
        code: ErrorCode::NotFound,
        message: format!("there is no {} in this agent's API; is the CLI of another version?", uri.path()),
        field: None,
    })
}

async fn unknown_method(method: Method, uri: Uri) -> Failure {
    usage(format!("{} cannot be called with {method}", uri.path()))
}

/// Runs what may block on a thread that may.
async fn blocking<T: Serialize + Send + 'static>(
    work: impl FnOnce() -> Result<T, ErrorBody> + Send + 'static,
) -> Answer<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(Json(result?)),
        Err(error) => Err(Failure(ErrorBody {
            code: ErrorCode::Internal,
            message: format!("the agent failed to answer: {error}"),
            field: None,
        })),
    }
}

fn body<T: DeserializeOwned>(bytes: Result<Bytes, BytesRejection>) -> Result<T, Failure> {
    let bytes = bytes.map_err(|rejection| usage(format!("the request cannot be read: {rejection}")))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| usage(format!("the request is not what it should be: {error}")))
}

fn filter(query: Result<Query<FlowFilter>, QueryRejection>) -> Result<FlowFilter, Failure> {
    query
        .map(|Query(filter)| filter)
        .map_err(|rejection| usage(format!("the filter is wrong: {}", rejection.body_text())))
}

async fn status<S: Service>(State(service): State<Arc<S>>) -> Answer<Status> {
    blocking(move || Ok(service.status())).await
}

async fn intent<S: Service>(State(service): State<Arc<S>>) -> Answer<Intent> {
    Ok(Json(service.intent()))
}

async fn stats<S: Service>(State(service): State<Arc<S>>) -> Answer<Stats> {
    blocking(move || Ok(service.stats())).await
}

async fn filters<S: Service>(
    State(service): State<Arc<S>>,
    query: Result<Query<FilterQuery>, QueryRejection>,
) -> Answer<FilterList> {
    let Query(query) =
        query.map_err(|rejection| usage(format!("the query is wrong: {}", rejection.body_text())))?;
    blocking(move || service.filters(&query)).await
}

async fn explain<S: Service>(
    State(service): State<Arc<S>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<ExplainReply> {
    let request = body(bytes)?;
    blocking(move || service.explain(&request)).await
}

async fn version<S: Service>(State(service): State<Arc<S>>) -> Answer<VersionReply> {
    Ok(Json(service.version()))
}

async fn change<S: Service>(
    State(service): State<Arc<S>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<ChangeReply> {
    Ok(Json(service.change(body(bytes)?).await?))
}

async fn flows<S: Service>(
    State(service): State<Arc<S>>,
    query: Result<Query<FlowFilter>, QueryRejection>,
) -> Answer<FlowList> {
    let filter = filter(query)?;
    blocking(move || service.flows(&filter)).await
}

async fn count<S: Service>(
    State(service): State<Arc<S>>,
    query: Result<Query<FlowFilter>, QueryRejection>,
) -> Answer<FlowList> {
    let filter = FlowFilter { limit: Some(0), ..filter(query)? };
    blocking(move || service.flows(&filter)).await
}

async fn flush<S: Service>(
    State(service): State<Arc<S>>,
    query: Result<Query<FlowFilter>, QueryRejection>,
) -> Answer<FlowList> {
    let count = service.flush(filter(query)?).await?;
    Ok(Json(FlowList { schema_version: SCHEMA_VERSION, count, flows: Vec::new() }))
}

async fn stop<S: Service>(
    State(service): State<Arc<S>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Answer<StopReply> {
    Ok(Json(service.stop(body(bytes)?)))
}

#[cfg(test)]
mod tests;
