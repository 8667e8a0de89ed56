//! HTTP/1.1.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Request, body::Body as _, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Fault;
use crate::api::types::{Health, HealthKind, Many, StatusRange};

/// So much of a body is looked at, in bytes.
const MOST_BODY: usize = 64 << 10;

/// Requests the path and judges the answer.
pub(super) async fn ask<S>(stream: S, check: &Health, to: SocketAddr) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(fault)?;
    let driver = async {
        // What goes wrong there is told to the request, too.
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        result = request(sender, check, to) => result,
        never = driver => match never {},
    }
}

fn fault(error: hyper::Error) -> Fault {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return std::io::Error::new(error.kind(), error.to_string()).into();
        }
        source = error.source();
    }
    if error.is_incomplete_message() {
        return Fault::target("connection closed before an answer");
    }
    Fault::target(format!("no HTTP: {error}"))
}

/// The header `Host` (RFC 9110 7.2): without the port that the scheme has anyway.
fn authority(check: &Health, to: SocketAddr) -> String {
    match (&check.host, check.kind, to.port()) {
        (Some(host), ..) => host.clone(),
        (None, HealthKind::Http, 80) | (None, HealthKind::Https, 443) => match to {
            SocketAddr::V4(to) => to.ip().to_string(),
            SocketAddr::V6(to) => format!("[{}]", to.ip()),
        },
        (None, ..) => to.to_string(),
    }
}

async fn request(
    mut sender: http1::SendRequest<Empty<Bytes>>,
    check: &Health,
    to: SocketAddr,
) -> Result<(), Fault> {
    let request = Request::get(check.path.as_deref().unwrap_or("/"))
        .header(header::HOST, authority(check, to))
        .header(header::USER_AGENT, concat!("netfast/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .header(header::CONNECTION, "close")
        .body(Empty::new())
        .map_err(|error| Fault::Local(format!("no request can be made of the check: {error}")))?;
    let answer = sender.send_request(request).await.map_err(fault)?;
    let code = answer.status().as_u16();
    let wanted = check.status.as_ref().map_or(&[StatusRange::DEFAULT][..], Many::as_slice);
    if !wanted.iter().any(|range| range.contains(code)) {
        let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
        return Err(Fault::target(format!("status {code}, wanted {}", wanted.join(", "))));
    }
    match &check.body {
        Some(text) => body(answer.into_body(), text).await,
        None => Ok(()),
    }
}

async fn body(mut body: hyper::body::Incoming, text: &str) -> Result<(), Fault> {
    let mut seen: Vec<u8> = Vec::new();
    while seen.len() < MOST_BODY && !body.is_end_stream() {
        let Some(frame) = body.frame().await else { break };
        let Ok(data) = frame.map_err(fault)?.into_data() else { continue };
        // What came before may hold the text's beginning.
        let from = seen.len().saturating_sub(text.len());
        seen.extend_from_slice(&data[..data.len().min(MOST_BODY - seen.len())]);
        if seen[from..].windows(text.len()).any(|window| window == text.as_bytes()) {
            return Ok(());
        }
    }
    Err(Fault::target(format!("the body has no {text:?}")))
}
