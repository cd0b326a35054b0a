//! The HTTP/1 port: `/metrics`, `/healthz` and `/readyz`.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service as _;

use crate::edge::arrival::Peer;
use crate::health::Readiness;
use crate::protocol::{Ended, Protocol};
use crate::stage::{Stage, Stages};

/// The content type of the OpenMetrics text format.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How long the headers of a request may take to arrive, from the connection's start or the end of the previous request.
const HEADERS_MAX: Duration = Duration::from_secs(30);
/// At the end of the shutdown, the time to finish writing a response.
const FLUSH_MAX: Duration = Duration::from_millis(100);

/// HTTP/1 on a port. It serves until [`Stage::Cut`], so that probes and metrics cover the whole shutdown.
#[derive(Clone, Debug)]
pub(crate) struct Http(pub Router);

impl Protocol for Http {
    async fn serve<IO>(self, io: IO, peer: Peer, stages: Stages) -> Ended
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(|request| self.0.clone().call(request));
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(HEADERS_MAX);
        let mut http = pin!(builder.serve_connection(TokioIo::new(io), service));
        let result = tokio::select! {
            result = &mut http => result,
            () = stages.reached(Stage::Cut) => {
                http.as_mut().graceful_shutdown();
                match tokio::time::timeout(FLUSH_MAX, http).await {
                    Ok(result) => result,
                    Err(_) => return Ended::Cut { open: 0 },
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(peer = peer.address, %error, "a connection ended");
        }
        Ended::Closed
    }
}

/// Returns the pages of the port.
pub(crate) fn routes(registry: Registry, readiness: Readiness) -> Router {
    let registry = Arc::new(registry);
    let liveness = readiness.clone();
    Router::new()
        .route("/metrics", get(move || async move { metrics(&registry) }))
        .route("/healthz", get(move || async move { alive(&liveness) }))
        .route("/readyz", get(move || async move { ready(&readiness) }))
}

fn metrics(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn alive(readiness: &Readiness) -> (StatusCode, &'static str) {
    if readiness.is_alive() {
        (StatusCode::OK, "alive\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the device no longer computes\n")
    }
}

fn ready(readiness: &Readiness) -> (StatusCode, &'static str) {
    if readiness.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}
