//! What ReplaceHead and UploadHead have in common: from checked weights to a live version.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tonic::Status;

use super::head_info::Describer;
use super::metrics::RpcMetrics;
use super::pb::{HeadInfo, HeadTier, ReplaceHeadResponse, UploadHeadResponse};
use super::status;
use crate::heads::{HeadError, HeadName, HeadWeights, Replacement, Upload};
use crate::service::Serving;

/// What a client asks for, but for the weights.
pub(super) struct Swap {
    pub head: String,
    pub labels: Vec<String>,
    pub expected_version: Option<u64>,
    pub dry_run: bool,
    pub annotations: HashMap<String, String>,
}

/// Where the weights lie.
pub(super) enum Source {
    /// A file in memory.
    Bytes(bytes::Bytes),
    /// A file on the disk.
    Path(PathBuf),
    /// One that came for this swap, and goes once it is read.
    Upload(Upload),
}

/// A swap that took place, or would have.
pub(super) struct Swapped {
    head: HeadInfo,
    previous_version: u64,
    validate: Duration,
    place: Duration,
    store: Duration,
}

impl Swap {
    /// The whole swap; blocking.
    pub fn run(self, source: Source, serving: &Serving, metrics: &RpcMetrics) -> Result<Swapped, Status> {
        let swapped = self.swap(source, serving).map_err(status::of_head)?;
        let head = &swapped.head;
        if head.live {
            metrics.swapped(&head.head, head.version);
            tracing::info!(
                head = head.head,
                version = head.version,
                digest = head.digest,
                classes = head.classes,
                previous_version = swapped.previous_version,
                "head replaced"
            );
        }
        Ok(swapped)
    }

    fn swap(self, source: Source, serving: &Serving) -> Result<Swapped, HeadError> {
        let (started, name) = (Instant::now(), HeadName::parse(&self.head)?);
        let weights = match source {
            Source::Bytes(bytes) => HeadWeights::from_bytes(bytes, self.labels, &serving.head_limits)?,
            Source::Upload(mut upload) => HeadWeights::from_file(upload.whole()?, self.labels, &serving.head_limits)?,
            Source::Path(path) => HeadWeights::from_file(&path, self.labels, &serving.head_limits)?,
        };
        let validate = started.elapsed();
        let replaced = serving.registry.replace(Replacement {
            name,
            weights,
            expected_version: self.expected_version,
            dry_run: self.dry_run,
            annotations: self.annotations.into_iter().collect(),
        })?;
        let tier = if self.dry_run {
            HeadTier::Unspecified
        } else {
            HeadTier::Hot
        };
        let head = HeadInfo {
            labels: replaced.labels.to_vec(),
            live: !self.dry_run,
            tier: tier.into(),
            ..Describer::new(serving).info(&replaced.info)
        };
        Ok(Swapped {
            head,
            previous_version: replaced.previous_version,
            validate,
            place: replaced.place,
            store: replaced.store,
        })
    }

    /// The swap on the blocking pool. Detached: once begun, it ends, whether or not its caller still waits.
    pub async fn detached(work: impl FnOnce() -> Result<Swapped, Status> + Send + 'static) -> Result<Swapped, Status> {
        tokio::task::spawn_blocking(work).await.map_err(panicked)?
    }
}

/// A swap's thread that ended early, or could not be had.
pub(super) fn panicked(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("the swap failed ({error}); the live head is unchanged"))
}

impl From<Swapped> for ReplaceHeadResponse {
    fn from(swapped: Swapped) -> Self {
        Self {
            head: Some(swapped.head),
            previous_version: swapped.previous_version,
            validate_us: swapped.validate.as_micros() as u64,
            place_us: swapped.place.as_micros() as u64,
            store_us: swapped.store.as_micros() as u64,
        }
    }
}

impl From<Swapped> for UploadHeadResponse {
    fn from(swapped: Swapped) -> Self {
        let ReplaceHeadResponse {
            head,
            previous_version,
            validate_us,
            place_us,
            store_us,
        } = swapped.into();
        Self {
            head,
            previous_version,
            validate_us,
            place_us,
            store_us,
        }
    }
}
