//! Streams that are read as fast as their answers come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use headswap_client::Classifier;
use headswap_loadtest::ServerProcess;
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyStreamRequest};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;

use crate::commands::error::CliError;

/// Streams under way. Dropped, they are cancelled.
pub(super) struct BulkStreams {
    shared: Arc<Shared>,
    streams: JoinSet<Result<(), CliError>>,
}

/// What the streams have done in all.
#[derive(Clone, Copy, Debug)]
pub(super) struct Totals {
    pub sent: u64,
    pub answered: u64,
    /// Of those answered, with an error.
    pub failed: u64,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    sent: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    compute_us_max: AtomicU64,
}

impl BulkStreams {
    /// `streams` streams on a connection each, which keep `in_flight` requests unanswered.
    pub async fn start(
        server: &ServerProcess,
        streams: usize,
        in_flight: usize,
        pictures: &[Input],
    ) -> Result<Self, CliError> {
        let shared = Arc::new(Shared::default());
        let mut running = JoinSet::new();
        for _ in 0..streams {
            let stream = Stream {
                client: server.classifier().await?,
                pictures: pictures.to_vec(),
                in_flight: in_flight.max(1),
                shared: Arc::clone(&shared),
            };
            running.spawn(stream.run());
        }
        Ok(Self {
            shared,
            streams: running,
        })
    }

    /// Answers so far.
    pub fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// The longest forward pass of any answer's batch so far.
    pub fn longest(&self) -> Duration {
        Duration::from_micros(self.shared.compute_us_max.load(Ordering::Relaxed))
    }

    /// Sends no more and waits until everything sent is answered.
    pub async fn stop(mut self) -> Result<Totals, CliError> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(stream) = self.streams.join_next().await {
            stream.map_err(|error| CliError::Failed(format!("a stream stopped: {error}")))??;
        }
        Ok(Totals {
            sent: self.shared.sent.load(Ordering::Relaxed),
            answered: self.answered(),
            failed: self.shared.failed.load(Ordering::Relaxed),
        })
    }
}

/// One stream.
struct Stream {
    client: Classifier,
    pictures: Vec<Input>,
    in_flight: usize,
    shared: Arc<Shared>,
}

impl Stream {
    async fn run(mut self) -> Result<(), CliError> {
        let (requests, receiver) = mpsc::channel(self.in_flight);
        let mut requests = Some(requests);
        for index in 0..self.in_flight {
            self.send(&requests, index).await;
        }
        let answers = self.client.classify_stream(ReceiverStream::new(receiver)).await?;
        let (mut answers, mut index) = (answers.into_inner(), self.in_flight);
        while let Some(answer) = answers.message().await? {
            let answer = answer.response.unwrap_or_default();
            let compute_us = answer.timing.map_or(0, |timing| timing.compute_us);
            self.shared.compute_us_max.fetch_max(compute_us, Ordering::Relaxed);
            if answer.results.iter().any(|result| result.error.is_some()) {
                self.shared.failed.fetch_add(1, Ordering::Relaxed);
            }
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
            if self.shared.stop.load(Ordering::Relaxed) {
                // Its end is what tells the server that there are no more.
                requests = None;
            }
            self.send(&requests, index).await;
            index += 1;
        }
        Ok(())
    }

    async fn send(&self, requests: &Option<mpsc::Sender<ClassifyStreamRequest>>, index: usize) {
        let Some(requests) = requests else { return };
        let request = ClassifyRequest {
            input: Some(self.pictures[index % self.pictures.len()].clone()),
            request_id: index.to_string(),
            ..ClassifyRequest::default()
        };
        let request = ClassifyStreamRequest { request: Some(request) };
        if requests.send(request).await.is_ok() {
            self.shared.sent.fetch_add(1, Ordering::Relaxed);
        }
    }
}
