//! The engine's handle: a row and heads in, logits out.

use std::io;
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tower::Service;

use super::batcher::Batcher;
use super::error::EngineError;
use super::metrics::{Counted, EngineMetrics};
use super::policy::{BatchLimits, OUTSTANDING_MAX};
use super::request::{Answer, Entry, Request, Row};
use super::worker::Worker;
use crate::model::Network;

/// Cheap to clone; the engine ends when the last clone is gone and everything accepted is answered.
#[derive(Clone, Debug)]
pub struct Engine {
    entries: mpsc::Sender<Entry>,
    queue_length: Gauge,
}

/// The engine's task and thread.
#[derive(Debug)]
pub struct EngineThreads {
    batcher: tokio::task::JoinHandle<()>,
    worker: JoinHandle<()>,
}

/// Starts the batcher on the current runtime and the device thread; at most `queue_max` entries wait.
///
/// # Errors
/// If the operating system gives no thread.
pub fn start(
    network: Box<dyn Network>,
    limits: BatchLimits,
    queue_max: usize,
    metrics: EngineMetrics,
) -> io::Result<(Engine, EngineThreads)> {
    let (entries_in, entries) = mpsc::channel(queue_max);
    let (batches_in, batches) = mpsc::channel(OUTSTANDING_MAX);
    let (finished_in, finished) = mpsc::channel(OUTSTANDING_MAX);
    let engine = Engine {
        entries: entries_in,
        queue_length: metrics.queue_length.clone(),
    };
    let worker = Worker {
        steps: network.steps(),
        network,
        batches,
        finished: finished_in,
        metrics: metrics.clone(),
    };
    let worker = std::thread::Builder::new()
        .name("device".into())
        .spawn(move || worker.run())?;
    let batcher = Batcher {
        limits,
        entries,
        batches: batches_in,
        finished,
        metrics,
    };
    let batcher = tokio::spawn(batcher.run());
    Ok((engine, EngineThreads { batcher, worker }))
}

impl EngineThreads {
    /// Waits until everything accepted is answered and the device is free; every [`Engine`] must have been dropped.
    pub async fn join(self) {
        let _ = self.batcher.await;
        let _ = tokio::task::spawn_blocking(move || self.worker.join()).await;
    }
}

impl Service<Request<Row>> for Engine {
    type Response = Answer;
    type Error = EngineError;
    type Future = BoxFuture<'static, Result<Answer, EngineError>>;

    /// Always ready: the future waits for a place in the queue, and layers above bound how many futures there are.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), EngineError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Row>) -> Self::Future {
        let entries = self.entries.clone();
        let in_queue = Some(Counted::new(&self.queue_length));
        Box::pin(async move {
            let (answer, receiver) = oneshot::channel();
            let entry = Entry {
                request,
                queued_at: Instant::now(),
                in_queue,
                answer,
            };
            entries.send(entry).await.map_err(|_| EngineError::Stopped)?;
            // Gone, so that a shutdown need not wait for callers that only wait for their answers.
            drop(entries);
            receiver.await.unwrap_or(Err(EngineError::Stopped))
        })
    }
}
