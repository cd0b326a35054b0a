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
        self.requests
            .get_or_create(&MethodCode {
                method,
                code: format!("{code:?}"),
            })
            .inc();
        self.latency
            .get_or_create(&Method { method })
            .observe(started.elapsed().as_secs_f64());
        result
    }
}
