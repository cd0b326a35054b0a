//! The engine's metrics.

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
    /// Bytes of memory reserved for the pictures being decoded.
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

/// The stage that a request was in.
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
    /// Registers every metric under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            in_flight: Gauge::default(),
            queue_length: Gauge::default(),
            queue_wait: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            decode: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            decode_reserved: Gauge::default(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            compute: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            cancelled: Counter::default(),
            expired: Counter::default(),
            expired_executed: Counter::default(),
            failed_batches: Counter::default(),
            deadline_exceeded: Family::default(),
            step_passes: Family::default(),
            step_rows: Family::default(),
        };
        // Every label exists from the start, so that a rate includes the first increment.
        for stage in Stage::ALL {
            let labels = StageLabels { stage: stage.word() };
            drop(metrics.deadline_exceeded.get_or_create(&labels));
        }
        metrics.register_requests(registry);
        metrics.register_batches(registry);
        metrics
    }

    fn register_requests(&self, registry: &mut Registry) {
        let help = "Requests admitted and not yet answered";
        registry.register("in_flight", help, self.in_flight.clone());
        let help = "Memory reserved for the pictures being decoded";
        registry.register_with_unit("decode_reserved", help, Unit::Bytes, self.decode_reserved.clone());
        let help = "Decoding, resizing and cropping one picture";
        registry.register_with_unit("decode", help, Unit::Seconds, self.decode.clone());
        let help = "Requests whose deadline passed, by stage: waiting, loading, decoding or computing";
        registry.register("deadline_exceeded", help, self.deadline_exceeded.clone());
        let help = "Admitted requests that wait for their forward pass";
        registry.register("queue_length", help, self.queue_length.clone());
        let help = "From a request's admission to its forward pass, without decoding";
        registry.register_with_unit("queue_wait", help, Unit::Seconds, self.queue_wait.clone());
        let help = "Requests dropped because their caller gave up";
        registry.register("cancelled", help, self.cancelled.clone());
        let help = "Requests dropped because their deadline had passed";
        registry.register("expired", help, self.expired.clone());
        let help = "Requests that were given to the device after their deadline; stays 0";
        registry.register("expired_executed", help, self.expired_executed.clone());
    }

    fn register_batches(&self, registry: &mut Registry) {
        registry.register("batch_size", "Pictures in a forward pass", self.batch_size.clone());
        let help = "One forward pass of a batch";
        registry.register_with_unit("compute", help, Unit::Seconds, self.compute.clone());
        let help = "Forward passes that failed";
        registry.register("failed_batches", help, self.failed_batches.clone());
        let help = "Passes through a layer with distinct parameters: one per batch until its heads' parameters differ";
        registry.register("layer_passes", help, self.step_passes.clone());
        let help = "Rows that went through a layer";
        registry.register("layer_rows", help, self.step_rows.clone());
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

    /// Counts an entry that was dropped because its deadline passed, or else because its caller gave up.
    pub(super) fn count_dropped(&self, expired: bool) {
        if expired {
            self.expired.inc();
        } else {
            self.cancelled.inc();
        }
    }

    /// Returns the entry unless its caller gave up or its deadline has passed; expired entries get
    /// [`EngineError::Expired`].
    pub(super) fn alive(&self, entry: Entry, now: Instant) -> Option<Entry> {
        if entry.is_alive(now) {
            return Some(entry);
        }
        self.count_dropped(entry.expired(now));
        let stage = entry.progress.stage();
        entry.answer(Err(EngineError::Expired(stage)));
        None
    }

    /// Counts a passed deadline by the request's stage.
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

/// Counts one in a gauge until it is dropped.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    /// Adds one to `gauge`.
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
