//! What the engine counts.

use std::time::Duration;

use headswap_model::StepCount;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use super::error::{EngineError, Stage};
use super::request::Entry;

/// Counters and histograms; clones share them.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    /// Requests admitted and not yet answered.
    pub(super) in_flight: Gauge,
    pub(super) queue_length: Gauge,
    pub(super) queue_wait: Histogram,
    pub(super) decode: Histogram,
    /// Bytes of memory that the pictures which are being decoded may take.
    pub(super) decode_reserved: Gauge,
    pub(super) batch_size: Histogram,
    pub(super) compute: Histogram,
    pub(super) cancelled: Counter,
    pub(super) expired: Counter,
    pub(super) expired_executed: Counter,
    pub(super) failed_batches: Counter,
    deadline_exceeded: Family<StageLabels, Counter>,
    step_passes: Family<StepLabels, Counter>,
    step_rows: Family<StepLabels, Counter>,
}

/// What a request was doing.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    stage: &'static str,
}

/// A step by the name of its layer.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    layer: String,
}

impl EngineMetrics {
    /// Registers everything under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let seconds = || Histogram::new(exponential_buckets(0.000_1, 2.0, 18));
        let unit = || Unit::Seconds;
        let metrics = Self {
            in_flight: Gauge::default(),
            queue_length: Gauge::default(),
            queue_wait: seconds(),
            decode: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            decode_reserved: Gauge::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            compute: seconds(),
            cancelled: Counter::default(),
            expired: Counter::default(),
            expired_executed: Counter::default(),
            failed_batches: Counter::default(),
            deadline_exceeded: Family::default(),
            step_passes: Family::default(),
            step_rows: Family::default(),
        };
        registry.register(
            "in_flight",
            "Requests admitted and not yet answered",
            metrics.in_flight.clone(),
        );
        // Shown from the start, so that a rate can be taken of the first.
        for stage in Stage::ALL {
            let labels = StageLabels { stage: stage.word() };
            drop(metrics.deadline_exceeded.get_or_create(&labels));
        }
        let help = "Memory set aside for the pictures that are being decoded";
        registry.register_with_unit("decode_reserved", help, Unit::Bytes, metrics.decode_reserved.clone());
        let help = "Decoding, resizing and cropping one picture";
        registry.register_with_unit("decode", help, unit(), metrics.decode.clone());
        registry.register(
            "deadline_exceeded",
            "Requests whose deadline passed, by what they were doing: waiting, loading, decoding or computing",
            metrics.deadline_exceeded.clone(),
        );
        registry.register(
            "queue_length",
            "Admitted requests that wait for their forward pass",
            metrics.queue_length.clone(),
        );
        registry.register_with_unit(
            "queue_wait",
            "From a request's admission to its forward pass, less decoding",
            unit(),
            metrics.queue_wait.clone(),
        );
        registry.register("batch_size", "Pictures in a forward pass", metrics.batch_size.clone());
        registry.register_with_unit(
            "compute",
            "One forward pass of a batch",
            unit(),
            metrics.compute.clone(),
        );
        registry.register(
            "cancelled",
            "Entries dropped because the caller had gone",
            metrics.cancelled.clone(),
        );
        registry.register(
            "expired",
            "Entries dropped because their deadline had passed",
            metrics.expired.clone(),
        );
        let name = "expired_executed";
        registry.register(
            name,
            "Requests that were given to the device after their deadline; stays 0",
            metrics.expired_executed.clone(),
        );
        registry.register(
            "failed_batches",
            "Forward passes that failed",
            metrics.failed_batches.clone(),
        );
        registry.register(
            "layer_passes",
            "Different paths of parameters on which batches went through a layer: one for each batch while its rows are \
             together",
            metrics.step_passes.clone(),
        );
        registry.register(
            "layer_rows",
            "Rows that went through a layer",
            metrics.step_rows.clone(),
        );
        metrics
    }

    pub(super) fn observe_batch(&self, batch_size: usize, compute: Duration) {
        self.batch_size.observe(batch_size as f64);
        self.compute.observe(compute.as_secs_f64());
    }

    pub(super) fn observe_steps(&self, names: &[String], counts: &[StepCount]) {
        for (name, count) in names.iter().zip(counts) {
            let labels = StepLabels { layer: name.clone() };
            self.step_passes.get_or_create(&labels).inc_by(count.passes as u64);
            self.step_rows.get_or_create(&labels).inc_by(count.rows as u64);
        }
    }

    /// Counts an entry that left because its caller is gone or its deadline has passed.
    pub(super) fn count_dead(&self, expired: bool) {
        if expired {
            self.expired.inc();
        } else {
            self.cancelled.inc();
        }
    }

    /// Returns the entry unless its caller is gone or its deadline has passed; expired entries get
    /// [`EngineError::Expired`].
    pub(super) fn alive(&self, entry: Entry, now: Instant) -> Option<Entry> {
        let expired = entry.expired(now);
        if !expired && !entry.cancelled() {
            return Some(entry);
        }
        self.count_dead(expired);
        let stage = entry.progress.stage();
        entry.answer(Err(EngineError::Expired(stage)));
        None
    }

    /// Counts a deadline that passed, by what the request was doing.
    pub(super) fn observe_error(&self, error: &EngineError) {
        if let EngineError::Expired(stage) = error {
            let labels = StageLabels { stage: stage.word() };
            self.deadline_exceeded.get_or_create(&labels).inc();
        }
    }

    pub(super) fn observe_queue(&self, queue: Duration) {
        self.queue_wait.observe(queue.as_secs_f64());
    }
}

/// Counted in a gauge for as long as it lives.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    /// One more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
