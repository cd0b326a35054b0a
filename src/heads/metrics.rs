//! What is known of heads in memory.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::error::HeadError;
use super::slot::Tier;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

const RESULTS: [&str; 4] = ["ok", "damaged", "no_room", "failed"];

/// Counters and gauges; clones share them.
#[derive(Clone, Debug)]
pub struct HeadMetrics {
    versions: Family<TierLabel, Gauge>,
    bytes: Family<TierLabel, Gauge>,
    loads: Family<ResultLabel, Counter>,
    load_seconds: Histogram,
    evictions: Counter,
}

impl HeadMetrics {
    /// Registers everything under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            versions: Family::default(),
            bytes: Family::default(),
            loads: Family::default(),
            load_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            evictions: Counter::default(),
        };
        for tier in [Tier::Hot, Tier::Warm, Tier::Cold] {
            drop(metrics.versions.get_or_create(&label(tier)));
            drop(metrics.bytes.get_or_create(&label(tier)));
        }
        for result in RESULTS {
            drop(metrics.loads.get_or_create(&ResultLabel { result }));
        }
        let help = "Versions by where they are: hot on the device, warm in host memory, cold in the store";
        registry.register("head_versions", help, metrics.versions.clone());
        let help = "Bytes of those versions' tensors";
        registry.register("head_bytes", help, metrics.bytes.clone());
        registry.register("head_loads", "Loads by their result", metrics.loads.clone());
        let help = "Bringing one version to the device";
        registry.register_with_unit("head_load", help, Unit::Seconds, metrics.load_seconds.clone());
        let help = "Versions that left the device for others";
        registry.register("head_evictions", help, metrics.evictions.clone());
        metrics
    }

    /// A version of so many bytes came, went from one tier to another, or left.
    pub(super) fn moved(&self, from: Option<Tier>, to: Option<Tier>, bytes: u64) {
        if from == to {
            return;
        }
        if let Some(tier) = from {
            self.versions.get_or_create(&label(tier)).dec();
            self.bytes.get_or_create(&label(tier)).dec_by(bytes as i64);
        }
        if let Some(tier) = to {
            self.versions.get_or_create(&label(tier)).inc();
            self.bytes.get_or_create(&label(tier)).inc_by(bytes as i64);
        }
    }

    pub(super) fn loaded<T>(&self, result: &Result<T, HeadError>, took: Duration) {
        let result = match result {
            Ok(_) => "ok",
            Err(HeadError::Damaged { .. }) => "damaged",
            Err(HeadError::NoRoom { .. } | HeadError::LimitReached { .. }) => "no_room",
            Err(_) => "failed",
        };
        self.loads.get_or_create(&ResultLabel { result }).inc();
        self.load_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn evicted(&self) {
        self.evictions.inc();
    }
}

fn label(tier: Tier) -> TierLabel {
    let tier = match tier {
        Tier::Hot => "hot",
        Tier::Warm => "warm",
        Tier::Cold => "cold",
    };
    TierLabel { tier }
}
