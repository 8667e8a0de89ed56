//! `GET /metrics` and `GET /healthz`. What is exported stands in [`catalog`]; [`collect`] turns the one source of
//! statistics, which the CLI reads too, into it at scrape time.

pub mod catalog;
mod collect;
mod recorder;

use std::sync::Arc;

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus::{Registry, TEXT_FORMAT, TextEncoder};

pub use self::recorder::Recorder;
use crate::api::types::{Stats, Status};

/// What the exporter reads, each time it is scraped. Called from a thread that may block.
pub trait StatsSource: Send + Sync {
    /// The datapath's statistics.
    fn stats(&self) -> Stats;
    /// The agent's state.
    fn status(&self) -> Status;
    /// What the agent has recorded about itself.
    fn recorder(&self) -> &Recorder;
}

/// Default of the number of series in a scrape.
pub const DEFAULT_MAX_SERIES: usize = 10_000;

/// The exporter.
pub struct Exporter {
    source: Arc<dyn StatsSource>,
    registry: Registry,
}

impl Exporter {
    /// An exporter of at most `max_series` series.
    ///
    /// # Errors
    /// Only if the catalog is at fault.
    pub fn new(source: Arc<dyn StatsSource>, max_series: usize) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        registry.register(Box::new(collect::Agent::new(Arc::clone(&source), max_series)?))?;
        Ok(Self { source, registry })
    }

    /// A scrape in the text format.
    ///
    /// # Errors
    /// If it cannot be encoded.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }

    /// The routes `/metrics` and `/healthz`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/metrics", get(metrics))
            .route("/healthz", get(healthz))
            .with_state(Arc::new(self))
    }
}

async fn metrics(State(exporter): State<Arc<Exporter>>) -> Response {
    match tokio::task::spawn_blocking(move || exporter.text()).await {
        Ok(Ok(text)) => ([(header::CONTENT_TYPE, TEXT_FORMAT)], text).into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn healthz(State(exporter): State<Arc<Exporter>>) -> Response {
    match tokio::task::spawn_blocking(move || exporter.source.status()).await {
        Ok(status) if status.ready => "ready\n".into_response(),
        Ok(status) if status.problems.is_empty() => {
            (StatusCode::SERVICE_UNAVAILABLE, "not ready yet\n").into_response()
        }
        Ok(status) => {
            let lines: String = status.problems.iter().map(|problem| format!("{problem}\n")).collect();
            (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
