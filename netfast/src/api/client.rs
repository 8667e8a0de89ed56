//! The client of the agent's API: typed calls over HTTP on its Unix socket.

use std::{
    fmt::Display,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use super::types::{
    ChangeReply, ChangeRequest, ErrorBody, ErrorCode, ErrorReply, ExplainReply, ExplainRequest, FilterList,
    FilterQuery, FlowFilter, FlowList, Intent, Stats, Status, StopReply, StopRequest, VersionReply,
};

/// Where the agent listens unless agent.toml says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/netfast/netfast.sock";

/// How long an answer may take. A change waits for the disk and for routes, so this is generous.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Talks to the agent. Every call is a connection of its own, so a client may live as long as it likes.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the agent that listens at `socket`; nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET /v1/status`.
    ///
    /// # Errors
    /// Like every call here: what the agent answered, or why it could not be asked.
    pub async fn status(&self) -> Result<Status, ErrorBody> {
        self.get("/v1/status").await
    }

    /// `GET /v1/intent`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn intent(&self) -> Result<Intent, ErrorBody> {
        self.get("/v1/intent").await
    }

    /// `GET /v1/stats`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn stats(&self) -> Result<Stats, ErrorBody> {
        self.get("/v1/stats").await
    }

    /// `GET /v1/filters`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn filters(&self, query: &FilterQuery) -> Result<FilterList, ErrorBody> {
        let FilterQuery { from, limit, rule, unused, analysis } = query;
        let pairs = [
            ("from", from.map(|from| from.to_string())),
            ("limit", limit.map(|limit| limit.to_string())),
            ("rule", rule.clone()),
            ("unused", unused.then(|| "true".to_owned())),
            ("analysis", analysis.then(|| "true".to_owned())),
        ];
        self.get(&format!("/v1/filters{}", query_string(&pairs))).await
    }

    /// `POST /v1/explain`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn explain(&self, request: &ExplainRequest) -> Result<ExplainReply, ErrorBody> {
        self.post("/v1/explain", request).await
    }

    /// `GET /v1/version`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn version(&self) -> Result<VersionReply, ErrorBody> {
        self.get("/v1/version").await
    }

    /// `POST /v1/change`: all operations are done, or none.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn change(&self, change: &ChangeRequest) -> Result<ChangeReply, ErrorBody> {
        self.post("/v1/change", change).await
    }

    /// `POST /v1/stop`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn stop(&self, stop: StopRequest) -> Result<StopReply, ErrorBody> {
        self.post("/v1/stop", &stop).await
    }

    /// `GET /v1/flows`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn flows(&self, filter: &FlowFilter) -> Result<FlowList, ErrorBody> {
        self.get(&format!("/v1/flows{}", query(filter))).await
    }

    /// `GET /v1/flows/count`.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn flow_count(&self, filter: &FlowFilter) -> Result<FlowList, ErrorBody> {
        self.get(&format!("/v1/flows/count{}", query(filter))).await
    }

    /// `DELETE /v1/flows`: ends the flows that match.
    ///
    /// # Errors
    /// See [`Self::status`].
    pub async fn flush_flows(&self, filter: &FlowFilter) -> Result<FlowList, ErrorBody> {
        self.call(Method::DELETE, &format!("/v1/flows{}", query(filter)), Bytes::new()).await
    }

    async fn get<T: DeserializeOwned>(&self, uri: &str) -> Result<T, ErrorBody> {
        self.call(Method::GET, uri, Bytes::new()).await
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&self, uri: &str, body: &B) -> Result<T, ErrorBody> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(&error))?;
        self.call(Method::POST, uri, Bytes::from(body)).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
    ) -> Result<T, ErrorBody> {
        let answer = tokio::time::timeout(ANSWER_TIMEOUT, self.exchange(method, uri, body)).await;
        let (status, body) = answer.unwrap_or_else(|_| {
            Err(unavailable(format!(
                "the agent at {} did not answer within {} s; `journalctl -u netfast` may tell why",
                self.socket.display(),
                ANSWER_TIMEOUT.as_secs()
            )))
        })?;
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.broken(&error));
        }
        match serde_json::from_slice::<ErrorReply>(&body) {
            Ok(reply) => Err(reply.error),
            Err(_) => {
                let text = String::from_utf8_lossy(&body);
                let text = text.lines().next().unwrap_or_default();
                Err(self.broken(&format!("HTTP {status} to {uri}: {text}")))
            }
        }
    }

    async fn exchange(
        &self,
        method: Method,
        uri: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ErrorBody> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.no_connection(&error))?;
        let lost = |error: hyper::Error| {
            unavailable(format!(
                "the agent at {} broke off: {error}; `journalctl -u netfast` may tell why",
                self.socket.display()
            ))
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(header::HOST, "netfast")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(&error))?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(lost)?;
            let status = answer.status();
            Ok((status, answer.into_body().collect().await.map_err(lost)?.to_bytes()))
        };
        tokio::pin!(connection);
        tokio::pin!(answer);
        // The connection has to be driven for the answer to come; it may end first, the answer then being complete.
        tokio::select! {
            biased;
            answer = &mut answer => answer,
            _ = &mut connection => answer.await,
        }
    }

    fn no_connection(&self, error: &io::Error) -> ErrorBody {
        let socket = self.socket.display();
        let start = "start it by `netfast agent` or `systemctl start netfast`";
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                unavailable(format!("the agent is not running (no socket at {socket}): {start}"))
            }
            io::ErrorKind::ConnectionRefused => {
                unavailable(format!("the agent is not running (nobody listens at {socket}): {start}"))
            }
            io::ErrorKind::PermissionDenied => ErrorBody {
                code: ErrorCode::Permission,
                message: format!("no permission for {socket}: add yourself to group netfast or use sudo"),
                field: None,
            },
            _ => unavailable(format!("cannot connect to the agent at {socket}: {error}")),
        }
    }

    fn broken(&self, what: &dyn Display) -> ErrorBody {
        unavailable(format!(
            "what answers at {} does not speak this version's API ({what}); compare `netfast version`",
            self.socket.display()
        ))
    }
}

fn unavailable(message: String) -> ErrorBody {
    ErrorBody { code: ErrorCode::Unavailable, message, field: None }
}

/// The filter as a query string, with its `?`; empty if it has no field.
fn query(filter: &FlowFilter) -> String {
    // Taken apart so that a new field cannot be forgotten here.
    let FlowFilter { protocol, client, client_port, service, service_port, target, forward, state, limit } =
        filter;
    let mut pairs: Vec<(&str, Option<String>)> = Vec::new();
    let mut pair = |key, value: Option<String>| pairs.push((key, value));
    pair("protocol", protocol.map(|protocol| protocol.to_string()));
    pair("client", client.as_ref().map(IpAddr::to_string));
    pair("client_port", client_port.map(|port| port.to_string()));
    pair("service", service.as_ref().map(IpAddr::to_string));
    pair("service_port", service_port.map(|port| port.to_string()));
    pair("target", target.as_ref().map(IpAddr::to_string));
    pair("forward", forward.clone());
    pair("state", state.clone());
    pair("limit", limit.map(|limit| limit.to_string()));
    query_string(&pairs)
}

/// Pairs as a query string, with its `?`; empty if none has a value.
fn query_string(pairs: &[(&str, Option<String>)]) -> String {
    let mut text = String::new();
    for (key, value) in pairs {
        let Some(value) = value else { continue };
        text.push(if text.is_empty() { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        for byte in value.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => text.push(byte.into()),
                _ => text.push_str(&format!("%{byte:02X}")),
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::Transport;

    #[test]
    fn a_filter_becomes_a_query_string() {
        assert_eq!(query(&FlowFilter::default()), "");
        let filter = FlowFilter {
            protocol: Some(Transport::Tcp),
            client: "2001:db8::1".parse().ok(),
            forward: Some("a b&c".to_owned()),
            ..FlowFilter::default()
        };
        assert_eq!(query(&filter), "?protocol=tcp&client=2001%3Adb8%3A%3A1&forward=a%20b%26c");
    }
}
