//! Requests by method and code.

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

/// Counters of the services; clones share them.
#[derive(Clone, Debug)]
pub struct RpcMetrics {
    requests: Family<MethodCode, Counter>,
    latency: Family<Method, Histogram>,
}

impl RpcMetrics {
    /// Registers everything under its name.
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

    /// Counts one answer and passes it on.
    pub fn observe<T>(&self, method: &'static str, started: Instant, result: Result<T, Status>) -> Result<T, Status> {
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        if let Err(status) = &result {
            tracing::info!(method, code = ?status.code(), message = status.message(), "request refused");
        }
        self.count(method, started, code);
        result
    }

    /// Begins a call that is counted when it ends, as cancelled if it is dropped before.
    pub fn begin(&self, method: &'static str) -> Observed<'_> {
        Observed {
            metrics: self,
            method,
            started: Instant::now(),
            ended: false,
        }
    }

    fn count(&self, method: &'static str, started: Instant, code: Code) {
        let code = format!("{code:?}");
        self.requests.get_or_create(&MethodCode { method, code }).inc();
        let latency = self.latency.get_or_create(&Method { method });
        latency.observe(started.elapsed().as_secs_f64());
    }
}

/// A call under way.
pub struct Observed<'a> {
    metrics: &'a RpcMetrics,
    method: &'static str,
    started: Instant,
    ended: bool,
}

impl Observed<'_> {
    /// Counts the answer and passes it on.
    pub fn end<T>(mut self, result: Result<T, Status>) -> Result<T, Status> {
        self.ended = true;
        self.metrics.observe(self.method, self.started, result)
    }
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.count(self.method, self.started, Code::Cancelled);
        }
    }
}
