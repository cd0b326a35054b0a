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

    /// Begins a call that is counted and logged when it ends, as cancelled if it is dropped before.
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

/// A call under way, and what its log event says of it.
pub struct Observed<'a> {
    metrics: &'a RpcMetrics,
    method: &'static str,
    started: Instant,
    ended: bool,
    peer: String,
    /// The caller's name for the request, if it has one.
    pub request_id: String,
    /// The heads that are asked for, separated by commas.
    pub head: String,
}

impl Observed<'_> {
    /// Counts and logs the answer and returns it.
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
