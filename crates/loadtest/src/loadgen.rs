//! A closed-loop load: each client sends its next request when its last is answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use headswap_client::{Classifier, ClientError};
use headswap_proto::{ClassifyRequest, ClassifyResponse};
use tokio::task::JoinSet;
use tonic::Status;

use super::quantile::quantile;

/// Decides what is sent next and looks at what came back.
pub trait Workload: Send + Sync + 'static {
    /// Request number `index`, or none to stop this client.
    fn next(&self, index: u64) -> Option<ClassifyRequest>;
    /// Looks at an answer, and when its request was sent.
    fn check(&self, index: u64, sent: Instant, answer: Result<ClassifyResponse, Status>);
}

/// What a load measured.
#[derive(Clone, Debug, Default)]
pub struct LoadSummary {
    latencies: Vec<Duration>,
    /// From the first request to the last answer.
    pub elapsed: Duration,
}

impl LoadSummary {
    /// How many requests were answered, failures included.
    pub fn answers(&self) -> usize {
        self.latencies.len()
    }

    /// Answers a second.
    pub fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    /// The latency that this share of the requests stays below or at.
    pub fn quantile(&self, share: f64) -> Duration {
        quantile(&self.latencies, share)
    }
}

/// Runs one client per element of `clients` until the workload stops them all.
pub async fn run_load(clients: Vec<Classifier>, workload: Arc<impl Workload>) -> Result<LoadSummary, ClientError> {
    let (began, counter) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let mut running = JoinSet::new();
    for mut client in clients {
        let (workload, counter) = (Arc::clone(&workload), Arc::clone(&counter));
        running.spawn(async move {
            let mut latencies = Vec::new();
            loop {
                let index = counter.fetch_add(1, Ordering::Relaxed);
                let Some(request) = workload.next(index) else {
                    return latencies;
                };
                let sent = Instant::now();
                let answer = client.classify(request).await.map(tonic::Response::into_inner);
                latencies.push(sent.elapsed());
                workload.check(index, sent, answer);
            }
        });
    }
    let mut latencies = Vec::new();
    while let Some(client) = running.join_next().await {
        latencies.extend(client.map_err(|error| ClientError::Failed(format!("a client stopped: {error}")))?);
    }
    latencies.sort_unstable();
    Ok(LoadSummary {
        latencies,
        elapsed: began.elapsed(),
    })
}
