//! Checks and limits around every gRPC request before its service: HTTP method and content type, path, deadline, shutdown.
//! In responses, one status for every message that is too large.

pub(crate) mod activity;
pub(crate) mod arrival;
pub(crate) mod deadline;
mod framing;
mod message_body;
mod reset_budget;
pub(crate) mod services;

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::Service as _;

use crate::edge::activity::{Activity, ResponseBody};
use crate::edge::arrival::{Arrival, Peer};
use crate::edge::message_body::{Arrived, BodyRules, MessageBody};
use crate::edge::services::Services;
use crate::stage::{Stage, Stages};
use crate::status;

/// State that the requests of one gRPC port share.
#[derive(Debug)]
pub(crate) struct Edge {
    pub router: Router,
    pub services: Services,
    /// The setting that limits a message's bytes.
    pub message_setting: &'static str,
    /// How long a request's body may pause inside a message.
    pub stream_idle_max: Duration,
    /// Requests that the shutdown refused; the ports share the counter.
    pub refused: RefusedRequests,
}

/// Counts the requests whose messages had not arrived at the end of the shutdown's grace period.
#[derive(Clone, Debug, Default)]
pub(crate) struct RefusedRequests(Arc<AtomicUsize>);

impl RefusedRequests {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts a refused request and returns its status.
    fn refuse(&self) -> Status {
        self.0.fetch_add(1, Ordering::Relaxed);
        status::unavailable(
            "the server is shutting down and the request's message has not arrived; send it to another replica",
        )
    }
}

/// State that the requests of one connection share.
#[derive(Debug)]
pub(crate) struct Connection {
    pub peer: Peer,
    pub activity: Activity,
    pub stages: Stages,
}

impl Edge {
    /// Serves one request, whose headers have just arrived.
    pub fn handle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + Send + use<> {
        let arrival = Arrival(Instant::now());
        let (edge, connection) = (Arc::clone(self), Arc::clone(connection));
        let open = connection.activity.begin();
        async move {
            yield_once().await;
            let response = match edge.check(&request) {
                Ok(streaming) => edge.serve(&connection, arrival, streaming, request).await,
                Err(refusal) => refusal.response(&request),
            };
            Ok(response.map(|body| open.respond(body)))
        }
    }

    /// Returns true if the request's method is client-streaming, or why the request is not a call of this port's services.
    fn check(&self, request: &Request<Incoming>) -> Result<bool, Refusal> {
        if request.method() != Method::POST {
            return Err(Refusal::Method);
        }
        if !is_grpc(request.headers().get(CONTENT_TYPE)) {
            return Err(Refusal::ContentType);
        }
        let method = self.services.method(request.uri().path());
        method.map(|method| method.client_streaming).map_err(Refusal::Path)
    }

    /// Returns the service's response, unless the deadline passes first, or the shutdown's grace period ends before the
    /// message has arrived.
    async fn serve(
        &self,
        connection: &Connection,
        arrival: Arrival,
        streaming: bool,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let deadline = deadline_of(request.headers(), arrival);
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(arrival);
        parts.extensions.insert(connection.peer.clone());
        let arrived = Arrived::default();
        let rules = BodyRules {
            streaming,
            idle_max: self.stream_idle_max,
        };
        let body = MessageBody::new(body, rules, arrived.clone());
        // Timers fire up to a millisecond late, and a fast handler would answer within it.
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return expired(&arrived).into_http();
        }
        let answer = self.router.clone().call(Request::from_parts(parts, body));
        tokio::select! {
            // Handlers that watch the deadline return a more precise status, so they are polled first.
            biased;
            Ok(response) = answer => self.with_size_status(response),
            () = sleep_until(deadline) => expired(&arrived).into_http(),
            () = closed(&connection.stages, &arrived) => self.refused.refuse().into_http(),
        }
    }

    /// Replaces tonic's statuses for a message that is too large by the one of [`status::too_large`].
    fn with_size_status(&self, response: Response<Body>) -> Response<Body> {
        // A response without a message has its status in the headers.
        let status = Status::from_header_map(response.headers());
        match status.and_then(|status| status::too_large(&status, self.message_setting)) {
            Some(status) => status.into_http(),
            None => response,
        }
    }
}

/// Lets hyper look for a reset of the stream, so that a request that is cancelled at once costs no work.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

fn deadline_of(headers: &HeaderMap, arrival: Arrival) -> Option<Instant> {
    arrival.0.checked_add(deadline::timeout(headers)?)
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}

/// Returns once the shutdown refuses requests whose message has not arrived; never returns if this one's has.
async fn closed(stages: &Stages, arrived: &Arrived) {
    stages.reached(Stage::Closed).await;
    if arrived.get() {
        pending().await
    }
}

fn expired(arrived: &Arrived) -> Status {
    Status::new(
        Code::DeadlineExceeded,
        if arrived.get() {
            "the deadline passed while the request was being answered"
        } else {
            "the deadline passed while the request's message was arriving"
        },
    )
}

/// Why a request is not a call of the port's services. Requests that are not gRPC get a plain HTTP response.
enum Refusal {
    Method,
    ContentType,
    Path(Status),
}

impl Refusal {
    fn response(self, request: &Request<Incoming>) -> Response<Body> {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = match self {
            Self::Path(status) => return status.into_http(),
            Self::Method => {
                response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                StatusCode::METHOD_NOT_ALLOWED
            }
            Self::ContentType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        };
        if request.method() != Method::HEAD {
            *response.body_mut() = Body::from("this port serves gRPC: POST with content-type application/grpc\n");
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(CONTENT_TYPE, text);
        }
        response
    }
}

/// Returns true for the content types of gRPC with protobuf messages, the only encoding served
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#requests>).
fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
    let Some(text) = content_type.and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let essence = text.split(';').next().unwrap_or_default().trim();
    ["application/grpc", "application/grpc+proto"]
        .iter()
        .any(|grpc| essence.eq_ignore_ascii_case(grpc))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &'static str, expected: bool) {
        assert_eq!(is_grpc(Some(&HeaderValue::from_static(text))), expected, "{text}");
    }

    #[test]
    fn content_types_of_grpc_with_protobuf_are_accepted() {
        check("application/grpc", true);
        check("application/grpc+proto", true);
        check("application/grpc;charset=utf-8", true);
        check("Application/gRPC+proto ; a=b", true);
        check("application/grpc+json", false);
        check("application/grpc-web+proto", false);
        check("application/grpcx", false);
        check("application/json", false);
        check("", false);
        assert!(!is_grpc(None));
    }
}
