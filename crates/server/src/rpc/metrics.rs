//! Request metrics and the log event of each request.

use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tonic::{Code, Status};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodCode {
    method: &'static str,
    code: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Method {
    method: &'static str,
}

/// Metrics of the gRPC services. Clones share them.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    requests: Family<MethodCode, Counter>,
    latency: Family<Method, Histogram>,
}

impl RpcMetrics {
    /// Registers the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            latency: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.000_1, 2.0, 20))),
        };
        registry.register(
            "requests",
            "Answered requests by method and gRPC code",
            metrics.requests.clone(),
        );
        let help = "From a request's arrival to its answer";
        registry.register_with_unit("request_duration", help, Unit::Seconds, metrics.latency.clone());
        metrics
    }

    /// Begins a call. It is counted and logged when it ends; if it is dropped before, as cancelled.
    pub fn begin(&self, method: &'static str, peer: &str) -> Observed<'_> {
        Observed {
            metrics: self,
            method,
            started: Instant::now(),
            ended: false,
            peer: peer.to_owned(),
            request_id: String::new(),
            head: String::new(),
        }
    }

    fn count(&self, method: &'static str, started: Instant, code: Code) {
        let code = format!("{code:?}");
        self.requests.get_or_create(&MethodCode { method, code }).inc();
        let latency = self.latency.get_or_create(&Method { method });
        latency.observe(started.elapsed().as_secs_f64());
    }
}

/// A call in progress, with the fields of its log event.
pub struct Observed<'a> {
    metrics: &'a RpcMetrics,
    method: &'static str,
    started: Instant,
    ended: bool,
    peer: String,
    /// The client's ID for the request, if it set one.
    pub request_id: String,
    /// The names of the requested heads, separated by commas.
    pub head: String,
}

impl Observed<'_> {
    /// Counts and logs the result, and returns it.
    pub fn end<T>(mut self, result: Result<T, Status>) -> Result<T, Status> {
        self.ended = true;
        match &result {
            Ok(_) => self.answered(),
            Err(status) => self.refused(status),
        }
        result
    }

    fn answered(&self) {
        self.metrics.count(self.method, self.started, Code::Ok);
        tracing::debug!(
            method = self.method,
            request_id = self.request_id,
            head = self.head,
            peer = self.peer,
            elapsed_us = self.started.elapsed().as_micros() as u64,
            "request answered"
        );
    }

    fn refused(&self, status: &Status) {
        self.metrics.count(self.method, self.started, status.code());
        tracing::info!(
            method = self.method,
            code = format!("{:?}", status.code()),
            reason = status.message(),
            request_id = self.request_id,
            head = self.head,
            peer = self.peer,
            elapsed_us = self.started.elapsed().as_micros() as u64,
            "request refused"
        );
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.count(self.method, self.started, Code::Cancelled);
            tracing::debug!(
                method = self.method,
                request_id = self.request_id,
                head = self.head,
                peer = self.peer,
                elapsed_us = self.started.elapsed().as_micros() as u64,
                "request cancelled"
            );
        }
    }
}
