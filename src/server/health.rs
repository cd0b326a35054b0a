//! `grpc.health.v1` and readiness: one truth for both.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};

/// The names under which probes may ask; the empty one is the server as a whole.
const SERVICES: [&str; 3] = ["", "headswap.v1.ClassifierService", "headswap.v1.HeadAdminService"];

/// Whether the server is ready, for anyone who asks over HTTP.
#[derive(Clone, Debug, Default)]
pub(super) struct Readiness(Arc<AtomicBool>);

impl Readiness {
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
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
    pub fn service(&self) -> HealthServer<HealthService> {
        HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()))
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

    async fn set(&self, status: ServingStatus) {
        self.readiness
            .0
            .store(status == ServingStatus::Serving, Ordering::Release);
        for service in SERVICES {
            self.reporter.set_service_status(service, status).await;
        }
    }
}
