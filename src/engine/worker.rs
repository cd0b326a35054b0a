//! The OS thread that drives the network, or one of its lanes.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::batch::Grouping;
use super::batcher::Batch;
use super::metrics::EngineMetrics;
use super::request::{Answer, Row, Timing};
use super::together::Member;
use crate::image::Pixels;
use crate::model::{Network, NetworkError, Outputs};

pub(super) struct Worker {
    pub network: Box<dyn Network>,
    /// The names of the network's steps.
    pub steps: Vec<String>,
    /// The device's workers take its batches in turn.
    pub batches: Arc<Mutex<mpsc::Receiver<Batch>>>,
    pub finished: mpsc::Sender<usize>,
    /// The index of the lane's device.
    pub device: usize,
    pub metrics: EngineMetrics,
}

impl Worker {
    /// Prepares the network, proves that it computes and says so, then runs until the batcher has gone and every batch is
    /// answered.
    pub fn run(
        mut self,
        max_batch: usize,
        stop: &AtomicBool,
        ready: oneshot::Sender<Result<(), NetworkError>>,
        own: Member,
    ) {
        let grey = [127; Pixels::BYTES];
        let prepared = self.guarded(1, |network| {
            network.prepare(max_batch, stop)?;
            network.forward(&[&grey], &[], &[0]).map(drop)
        });
        let works = prepared.is_ok();
        let _ = ready.send(prepared);
        while works && let Some(batch) = self.next() {
            // What has its features needs little, and does not wait for the pictures of its batch.
            let (known, pictures): (Batch, Batch) = batch
                .into_iter()
                .partition(|entry| matches!(entry.request.input, Row::Features(_)));
            self.answer_features(known);
            self.answer_pictures(pictures);
            // The channel has room for every batch the batcher may have out; if the batcher has gone, nobody counts.
            let _ = self.finished.try_send(self.device);
        }
        own.end();
    }

    fn next(&self) -> Option<Batch> {
        let mut batches = self.batches.lock().unwrap_or_else(PoisonError::into_inner);
        batches.blocking_recv()
    }

    fn answer_pictures(&mut self, batch: Batch) {
        let batch = self.prepare(batch);
        if batch.is_empty() {
            return;
        }
        let asked: Vec<usize> = (0..batch.len()).filter(|&row| batch[row].request.features).collect();
        let pixels: Vec<_> = batch.iter().filter_map(|entry| entry.request.input.pixels()).collect();
        self.answer(batch, asked, |network, grouping, asked| {
            let pictures: Vec<&[u8]> = pixels.iter().map(Pixels::as_bytes).collect();
            network.forward(&pictures, &grouping.heads(), asked)
        });
    }

    fn answer_features(&mut self, batch: Batch) {
        let batch = self.prepare(batch);
        if batch.is_empty() {
            return;
        }
        let features: Vec<_> = batch
            .iter()
            .filter_map(|entry| entry.request.input.features())
            .collect();
        self.answer(batch, Vec::new(), |network, grouping, _| {
            let rows: Vec<&[f32]> = features.iter().map(|row| &row[..]).collect();
            Ok(Outputs {
                logits: network.logits(&rows, &grouping.heads())?,
                ..Outputs::default()
            })
        });
    }

    /// Computes a batch, of which the rows `asked` want their features, and answers it.
    fn answer(
        &mut self,
        batch: Batch,
        asked: Vec<usize>,
        compute: impl FnOnce(&mut dyn Network, &Grouping, &[usize]) -> Result<Outputs, NetworkError>,
    ) {
        let grouping = Grouping::new(batch.iter().map(|entry| entry.request.heads.as_slice()));
        let started = Instant::now();
        let late = batch.iter().filter(|entry| entry.request.expired(started)).count();
        self.metrics.expired_executed.inc_by(late as u64);
        let outputs = self.guarded(batch.len(), |network| compute(network, &grouping, &asked));
        let compute = started.elapsed();
        self.metrics.observe_batch(batch.len(), compute);
        if let Ok(outputs) = &outputs {
            self.metrics.observe_steps(&self.steps, &outputs.steps);
        }

        let batch_size = batch.len();
        for (row, entry) in batch.into_iter().enumerate() {
            let queue = started - entry.queued_at;
            self.metrics.observe_queue(queue);
            let timing = Timing {
                queue,
                compute,
                batch_size,
                ..Timing::default()
            };
            let answer = outputs
                .as_ref()
                .map_err(|error| error.clone().into())
                .map(|outputs| Answer {
                    logits: grouping.logits(row, outputs),
                    features: features_of(row, &asked, outputs),
                    timing,
                });
            entry.answer(answer);
        }
    }

    /// Leaves out whoever has gone or run out of time, up to the moment before the forward pass.
    fn prepare(&self, batch: Batch) -> Batch {
        let now = Instant::now();
        let alive = |entry| self.metrics.alive(entry, now);
        let mut batch: Batch = batch.into_iter().filter_map(alive).collect();
        batch.iter_mut().for_each(|entry| entry.in_queue = None);
        batch
    }

    /// A panic in the network costs its batch an error, not the server its life.
    fn guarded<T>(
        &mut self,
        batch_size: usize,
        compute: impl FnOnce(&mut dyn Network) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        let compute = AssertUnwindSafe(|| compute(self.network.as_mut()));
        let outputs =
            catch_unwind(compute).unwrap_or_else(|_| Err(NetworkError::Device("the forward pass panicked".into())));
        if let Err(error) = &outputs {
            self.metrics.failed_batches.inc();
            tracing::error!(%error, batch_size, "a forward pass failed");
        }
        outputs
    }
}

/// A row's features, if it is one of those that asked for them.
fn features_of(row: usize, asked: &[usize], outputs: &Outputs) -> Option<Vec<f32>> {
    let position = asked.binary_search(&row).ok()?;
    let width = outputs.features.len() / asked.len();
    Some(outputs.features[position * width..(position + 1) * width].to_vec())
}
