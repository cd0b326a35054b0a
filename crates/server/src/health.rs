//! The server's health, for `grpc.health.v1` and the HTTP probes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{self, BoxStream, StreamExt as _};
use futures::{FutureExt as _, future};
use headswap_service::Lifecycle;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpc, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

use crate::edge::deadline;
use crate::edge::services::{ADMINISTRATION, CLASSIFICATION, PortServices};

/// The health service's name for the whole server. Every port reports it, besides its own services.
const SERVER: &str = "";

/// The state behind `/readyz` and `/healthz`. Clones share it.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    ready: AtomicBool,
    /// Set when the device no longer computes.
    dead: AtomicBool,
}

impl Readiness {
    /// Returns true while requests are served.
    pub fn is_ready(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Returns false if the process must be restarted.
    pub fn is_alive(&self) -> bool {
        !self.0.dead.load(Ordering::Acquire)
    }
}

/// The health service of a port. Its watches end with a drain, which would otherwise wait for them without end.
pub(super) struct DrainingHealth {
    statuses: HealthService,
    lifecycle: Lifecycle,
}

#[tonic::async_trait]
impl HealthRpc for DrainingHealth {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.statuses.check(request).await
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = deadline::from_request(&request);
        let statuses = self.statuses.watch(request).await?.into_inner();
        // The end of the watch may overtake the last change, so the last change is sent again.
        let last = HealthCheckResponse {
            status: ServingStatus::NotServing as i32,
        };
        let draining = self.lifecycle.draining().map(move |()| Ok(last));
        let passed = expired(deadline).map(Err);
        let end = future::select(Box::pin(draining), Box::pin(passed)).map(|ended| ended.factor_first().0);
        // The stream stops at `end`, whose value is the last item.
        let end = end.shared();
        let statuses = statuses.take_until(end.clone()).chain(stream::once(end));
        Ok(Response::new(statuses.boxed()))
    }
}

/// Returns the watch's error once its deadline has passed.
async fn expired(deadline: Option<Instant>) -> Status {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => future::pending().await,
    }
    Status::deadline_exceeded("the deadline passed during the watch")
}

/// The health of one gRPC port's services.
#[derive(Clone, Debug)]
pub(super) struct PortHealth {
    reporter: HealthReporter,
    names: &'static [&'static str],
}

impl PortHealth {
    fn new(port: PortServices) -> Self {
        Self {
            reporter: HealthReporter::new(),
            names: port.names,
        }
    }

    /// Returns the port's health service.
    pub fn service(&self, lifecycle: &Lifecycle) -> HealthServer<DrainingHealth> {
        let statuses = HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(DrainingHealth {
            statuses,
            lifecycle: lifecycle.clone(),
        })
    }

    async fn set(&self, status: ServingStatus) {
        for name in [SERVER].iter().chain(self.names) {
            self.reporter.set_service_status(name, status).await;
        }
    }
}

/// The health of the whole server: every service changes its status together.
pub(super) struct Health {
    pub classification: PortHealth,
    pub administration: PortHealth,
    readiness: Readiness,
}

impl Health {
    /// Starts as NOT_SERVING.
    pub async fn new() -> Self {
        let health = Self {
            classification: PortHealth::new(CLASSIFICATION),
            administration: PortHealth::new(ADMINISTRATION),
            readiness: Readiness::default(),
        };
        health.not_serving().await;
        health
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// Reports SERVING. Readiness over HTTP changes last here and first in [`Self::not_serving`], so that it is never ahead of
    /// the gRPC health.
    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
        self.readiness.0.ready.store(true, Ordering::Release);
    }

    /// Reports NOT_SERVING.
    pub async fn not_serving(&self) {
        self.readiness.0.ready.store(false, Ordering::Release);
        self.set(ServingStatus::NotServing).await;
    }

    /// Reports that the process must be restarted.
    pub fn not_alive(&self) {
        self.readiness.0.dead.store(true, Ordering::Release);
    }

    async fn set(&self, status: ServingStatus) {
        self.classification.set(status).await;
        self.administration.set(status).await;
    }
}
