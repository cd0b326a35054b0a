//! `grpc.health.v1` and readiness: one truth for both.

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

/// The name of the server as a whole; every port answers for it, and for its own services by their names.
const SERVER: &str = "";

/// Whether the server is ready and alive, for anyone who asks over HTTP.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness(Arc<Flags>);

#[derive(Debug, Default)]
struct Flags {
    ready: AtomicBool,
    /// Set when the device no longer computes.
    dead: AtomicBool,
}

impl Readiness {
    /// Whether requests are answered.
    pub fn get(&self) -> bool {
        self.0.ready.load(Ordering::Acquire)
    }

    /// Whether the process need not be started anew.
    pub fn is_alive(&self) -> bool {
        !self.0.dead.load(Ordering::Acquire)
    }
}

/// Health whose watches end with a drain, which would otherwise wait for them for ever.
pub(super) struct EndingWatch {
    statuses: HealthService,
    lifecycle: Lifecycle,
}

#[tonic::async_trait]
impl HealthRpc for EndingWatch {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.statuses.check(request).await
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let deadline = deadline::of(&request);
        let statuses = self.statuses.watch(request).await?.into_inner();
        // The end may overtake the last change, so that is told again.
        let last = HealthCheckResponse {
            status: ServingStatus::NotServing as i32,
        };
        let draining = self.lifecycle.draining().map(move |()| Ok(last));
        let passed = expired(deadline).map(Err);
        let end = future::select(Box::pin(draining), Box::pin(passed)).map(|ended| ended.factor_first().0);
        // The end's own value is the last item.
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
    Status::deadline_exceeded("the deadline passed while the health was watched")
}

/// The health of one gRPC port's services.
#[derive(Clone, Debug)]
pub(super) struct PortHealth {
    reporter: HealthReporter,
    names: &'static [&'static str],
}

impl PortHealth {
    fn of(port: PortServices) -> Self {
        Self {
            reporter: HealthReporter::new(),
            names: port.names,
        }
    }

    /// The health service of the port.
    pub fn service(&self, lifecycle: &Lifecycle) -> HealthServer<EndingWatch> {
        let statuses = HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(EndingWatch {
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

/// Sets the status of every service at once.
pub(super) struct Health {
    pub classification: PortHealth,
    pub administration: PortHealth,
    readiness: Readiness,
}

impl Health {
    /// NOT_SERVING until told otherwise.
    pub async fn new() -> Self {
        let health = Self {
            classification: PortHealth::of(CLASSIFICATION),
            administration: PortHealth::of(ADMINISTRATION),
            readiness: Readiness::default(),
        };
        health.not_serving().await;
        health
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    /// The HTTP probe is the last to say so and, in [`Self::not_serving`], the first to deny it.
    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
        self.readiness.0.ready.store(true, Ordering::Release);
    }

    pub async fn not_serving(&self) {
        self.readiness.0.ready.store(false, Ordering::Release);
        self.set(ServingStatus::NotServing).await;
    }

    /// The process is to be started anew.
    pub fn not_alive(&self) {
        self.readiness.0.dead.store(true, Ordering::Release);
    }

    async fn set(&self, status: ServingStatus) {
        self.classification.set(status).await;
        self.administration.set(status).await;
    }
}
