//! The engine's handle: a row and heads in, logits out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::thread::JoinHandle;

use futures::future::BoxFuture;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tower::Service;

use super::batcher::{Batch, Batcher, Device};
use super::error::{EngineError, StartError};
use super::metrics::{Counted, EngineMetrics};
use super::policy::{BatchLimits, OUTSTANDING_MAX};
use super::request::{Answer, Entry, Request, Row};
use super::together::Together;
use super::worker::Worker;
use crate::model::Network;

/// Cheap to clone; the engine ends when the last clone is gone and everything accepted is answered.
#[derive(Clone, Debug)]
pub struct Engine {
    entries: mpsc::Sender<Entry>,
    queue_length: Gauge,
}

/// The engine's task and threads.
#[derive(Debug)]
pub struct EngineThreads {
    batcher: tokio::task::JoinHandle<()>,
    workers: Vec<JoinHandle<()>>,
}

/// Starts a thread for each of the network's lanes, and when all of them are prepared the batcher on the current runtime;
/// at most `queue_max` entries wait.
///
/// # Errors
/// If the operating system gives no thread, or [`Network::prepare`] failed.
pub async fn start(
    network: Box<dyn Network>,
    limits: BatchLimits,
    queue_max: usize,
    metrics: EngineMetrics,
) -> Result<(Engine, EngineThreads), StartError> {
    let (entries_in, entries) = mpsc::channel(queue_max);
    let engine = Engine {
        entries: entries_in,
        queue_length: metrics.queue_length.clone(),
    };

    let steps = network.steps();
    let devices = network.into_lanes();
    let (finished_in, finished) = mpsc::channel(devices.len() * OUTSTANDING_MAX);
    let together = Together::default();
    let (mut starting, mut prepared) = (Starting::default(), Vec::new());
    for (device, lanes) in devices.into_iter().enumerate() {
        let (sender, batches) = mpsc::channel(OUTSTANDING_MAX);
        starting.batches.push(sender);
        let batches = Arc::new(Mutex::new(batches));
        for network in lanes {
            let worker = Worker {
                steps: steps.clone(),
                network,
                batches: Arc::clone(&batches),
                finished: finished_in.clone(),
                device,
                metrics: metrics.clone(),
            };
            let (ready, when_ready) = oneshot::channel();
            let (own, stop) = (together.join(), Arc::clone(&starting.stop));
            let thread = std::thread::Builder::new().name(format!("device-{device}"));
            let run = move || worker.run(limits.max_batch, &stop, ready, own);
            starting.workers.push(thread.spawn(run)?);
            prepared.push(when_ready);
        }
    }
    for ready in prepared {
        ready.await.map_err(|_| StartError::Ended)??;
    }

    let batcher = Batcher {
        limits,
        entries,
        devices: starting.batches.drain(..).map(Device::new).collect(),
        finished,
        metrics,
    };
    let batcher = tokio::spawn(batcher.run());
    let workers = std::mem::take(&mut starting.workers);
    Ok((engine, EngineThreads { batcher, workers }))
}

/// Threads that prepare their networks. Dropped, which is when one failed or the server is told to end, it stops them and
/// waits: the process must not end while they use a device.
#[derive(Default)]
struct Starting {
    batches: Vec<mpsc::Sender<Batch>>,
    workers: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.batches.clear();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

impl EngineThreads {
    /// Waits until everything accepted is answered and the devices are free; every [`Engine`] must have been dropped.
    pub async fn join(self) {
        let _ = self.batcher.await;
        let join = move || {
            for worker in self.workers {
                let _ = worker.join();
            }
        };
        let _ = tokio::task::spawn_blocking(join).await;
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
