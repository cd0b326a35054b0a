//! Metrics of heads: live versions, tiers, loads, evictions, swaps, uploads.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::error::{HeadError, PlaceError};
use super::name::HeadName;
use super::residency::Tier;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TierLabel {
    tier: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HeadLabel {
    head: String,
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
    swaps: Counter,
    live_versions: Family<HeadLabel, Gauge>,
    uploads_in_flight: Gauge,
}

impl HeadMetrics {
    /// Registers every metric under its name.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            versions: Family::default(),
            bytes: Family::default(),
            loads: Family::default(),
            load_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 18)),
            evictions: Counter::default(),
            swaps: Counter::default(),
            live_versions: Family::default(),
            uploads_in_flight: Gauge::default(),
        };
        for tier in [Tier::Hot, Tier::Warm, Tier::Cold] {
            drop(metrics.versions.get_or_create(&label(tier)));
            drop(metrics.bytes.get_or_create(&label(tier)));
        }
        for result in RESULTS {
            drop(metrics.loads.get_or_create(&ResultLabel { result }));
        }
        let help = "Versions by tier: hot on the device, warm in host memory, cold in the store";
        registry.register("head_versions", help, metrics.versions.clone());
        let help = "Bytes of the versions' tensors by tier";
        registry.register("head_bytes", help, metrics.bytes.clone());
        registry.register("head_loads", "Loads by their result", metrics.loads.clone());
        let help = "Time to load one version onto the device";
        registry.register_with_unit("head_load", help, Unit::Seconds, metrics.load_seconds.clone());
        let help = "Versions evicted from the device to make space for others";
        registry.register("head_evictions", help, metrics.evictions.clone());
        let help = "Head versions made live by ReplaceHead and UploadHead";
        registry.register("swaps", help, metrics.swaps.clone());
        let help = "The live version of each head";
        registry.register("live_head_version", help, metrics.live_versions.clone());
        let help = "Uploads that have begun and are not live yet";
        registry.register("uploads_in_flight", help, metrics.uploads_in_flight.clone());
        metrics
    }

    /// Records that a version of `bytes` bytes was created (`from` is none), changed its tier, or was retired (`to` is
    /// none).
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
            Err(
                HeadError::NoRoom { .. }
                | HeadError::LimitReached { .. }
                | HeadError::Place(PlaceError::OutOfMemory(_)),
            ) => "no_room",
            Err(_) => "failed",
        };
        self.loads.get_or_create(&ResultLabel { result }).inc();
        self.load_seconds.observe(took.as_secs_f64());
    }

    /// The gauge of uploads that have begun and are not live yet.
    pub fn uploads_in_flight(&self) -> &Gauge {
        &self.uploads_in_flight
    }

    /// Counts a swap. The registry calls this under the writers' lock, so that the gauge never decreases.
    pub(super) fn published(&self, name: &HeadName, version: u64) {
        self.swaps.inc();
        self.live(name, version);
    }

    /// Records which version of a head is live.
    pub(super) fn live(&self, name: &HeadName, version: u64) {
        let head = name.to_string();
        self.live_versions
            .get_or_create(&HeadLabel { head })
            .set(version as i64);
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
