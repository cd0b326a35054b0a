//! The tokio task that forms batches.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::error::EngineError;
use super::metrics::EngineMetrics;
use super::policy::{BatchLimits, Decision, decide};
use super::request::Entry;

/// Entries that run together.
pub(super) type Batch = Vec<Entry>;

pub(super) struct Batcher {
    pub limits: BatchLimits,
    pub entries: mpsc::Receiver<Entry>,
    /// At least one.
    pub devices: Vec<Device>,
    /// A device's index each time that it has finished a batch.
    pub finished: mpsc::Receiver<usize>,
    pub metrics: EngineMetrics,
}

/// A device as the batcher knows it.
pub(super) struct Device {
    batches: mpsc::Sender<Batch>,
    /// Batches that it has been given and has not finished.
    outstanding: usize,
}

impl Device {
    pub fn new(batches: mpsc::Sender<Batch>) -> Self {
        Self {
            batches,
            outstanding: 0,
        }
    }
}

impl Batcher {
    /// Runs until every sender of entries is gone and every entry has been handed on.
    pub async fn run(mut self) {
        let mut waiting: VecDeque<Entry> = VecDeque::with_capacity(self.limits.max_batch);
        let mut open = true;
        while open || !waiting.is_empty() {
            self.drop_dead(&mut waiting);
            let oldest_wait = waiting
                .front()
                .map_or(Duration::ZERO, |entry| entry.queued_at.elapsed());
            // Nobody can come any more: company need not be waited for.
            let wait_max = if open { self.limits.wait_max } else { Duration::ZERO };
            let Some(device) = self.devices.iter_mut().min_by_key(|device| device.outstanding) else {
                return;
            };
            let decision = decide(
                waiting.len(),
                device.outstanding,
                oldest_wait,
                BatchLimits {
                    wait_max,
                    ..self.limits
                },
            );
            if let Decision::Dispatch(count) = decision {
                if device.batches.send(waiting.drain(..count).collect()).await.is_err() {
                    return; // The device threads have gone; the entries' callers see their oneshot close.
                }
                device.outstanding += 1;
                continue;
            }

            let timeout = async {
                match decision {
                    Decision::WaitFor(rest) => tokio::time::sleep(rest).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has ended is counted first: a free device beats a fuller batch.
                biased;
                finished = self.finished.recv() => match finished {
                    Some(device) => self.devices[device].outstanding -= 1,
                    None => return,
                },
                entry = self.entries.recv(), if open && waiting.len() < self.limits.max_batch => match entry {
                    Some(entry) => self.take(entry, &mut waiting),
                    None => open = false,
                },
                () = timeout => {}
            }
        }
    }

    /// Takes this entry and those that came with it, up to a full batch.
    fn take(&mut self, entry: Entry, waiting: &mut VecDeque<Entry>) {
        waiting.push_back(entry);
        while waiting.len() < self.limits.max_batch {
            match self.entries.try_recv() {
                Ok(entry) => waiting.push_back(entry),
                Err(_) => break,
            }
        }
    }

    fn drop_dead(&self, waiting: &mut VecDeque<Entry>) {
        let now = Instant::now();
        if waiting
            .iter()
            .any(|entry| entry.cancelled() || entry.request.expired(now))
        {
            *waiting = waiting
                .drain(..)
                .filter_map(|entry| self.metrics.alive(entry, now))
                .collect();
        }
    }
}

impl EngineMetrics {
    /// The entry if somebody still waits for it in time; an expired one is told so.
    pub(super) fn alive(&self, entry: Entry, now: Instant) -> Option<Entry> {
        if entry.cancelled() {
            self.cancelled.inc();
            None
        } else if entry.request.expired(now) {
            self.expired.inc();
            entry.answer(Err(EngineError::Expired));
            None
        } else {
            Some(entry)
        }
    }
}
