//! `grpc.health.v1` and readiness: one truth for both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::stream::{self, BoxStream, StreamExt as _};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health as HealthRpc, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

use crate::service::Gate;

/// The names under which probes may ask; the empty one is the server as a whole.
const SERVICES: [&str; 3] = ["", "headswap.v1.ClassifierService", "headswap.v1.HeadAdminService"];

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
    gate: Gate,
}

#[tonic::async_trait]
impl HealthRpc for EndingWatch {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        self.statuses.check(request).await
    }

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let statuses = self.statuses.watch(request).await?.into_inner();
        // The end may overtake the last change, so that is told again.
        let last = HealthCheckResponse {
            status: ServingStatus::NotServing as i32,
        };
        let statuses = statuses
            .take_until(self.gate.draining())
            .chain(stream::iter([Ok(last)]));
        Ok(Response::new(statuses.boxed()))
    }
}

/// Sets the status of every service at once.
pub(super) struct Health {
    reporter: HealthReporter,
    readiness: Readiness,
}

impl Health {
    /// NOT_SERVING until told otherwise.
    pub async fn new() -> Self {
        let health = Self {
            reporter: HealthReporter::new(),
            readiness: Readiness::default(),
        };
        health.not_serving().await;
        health
    }

    /// The service for one listener; all share the statuses.
    pub fn service(&self, gate: &Gate) -> HealthServer<EndingWatch> {
        let statuses = HealthService::from_health_reporter(self.reporter.clone());
        HealthServer::new(EndingWatch {
            statuses,
            gate: gate.clone(),
        })
    }

    pub fn readiness(&self) -> Readiness {
        self.readiness.clone()
    }

    pub async fn serving(&self) {
        self.set(ServingStatus::Serving).await;
    }

    pub async fn not_serving(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    /// The process is to be started anew.
    pub fn not_alive(&self) {
        self.readiness.0.dead.store(true, Ordering::Release);
    }

    async fn set(&self, status: ServingStatus) {
        self.readiness
            .0
            .ready
            .store(status == ServingStatus::Serving, Ordering::Release);
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
