//! What the engine counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::model::StepCount;

/// Counters and histograms; clones share them.
#[derive(Clone, Debug)]
pub struct EngineMetrics {
    pub(super) queue_length: Gauge,
    pub(super) queue_wait: Histogram,
    pub(super) batch_size: Histogram,
    pub(super) compute: Histogram,
    pub(super) cancelled: Counter,
    pub(super) expired: Counter,
    pub(super) expired_executed: Counter,
    pub(super) failed_batches: Counter,
    step_passes: Family<StepLabels, Counter>,
    step_rows: Family<StepLabels, Counter>,
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
        let metrics = Self {
            queue_length: Gauge::default(),
            queue_wait: seconds(),
            batch_size: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            compute: seconds(),
            cancelled: Counter::default(),
            expired: Counter::default(),
            expired_executed: Counter::default(),
            failed_batches: Counter::default(),
            step_passes: Family::default(),
            step_rows: Family::default(),
        };
        let unit = || Unit::Seconds;
        registry.register(
            "queue_length",
            "Decoded pictures that wait for their forward pass",
            metrics.queue_length.clone(),
        );
        registry.register_with_unit(
            "queue_wait",
            "From the queue's entrance to the forward pass",
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
            "Entries computed after their deadline; stays 0",
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
