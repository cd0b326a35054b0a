//! Swaps: from a file of weights to a live version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headswap_checkpoint::{HeadReport, Throttle};
use headswap_heads::{Commit, HeadError, HeadName, HeadRequest, HeadWeights, Replaced, Replacement, Tier};

use super::HeadAdmin;
use super::caller::Caller;
use super::description::HeadDescription;
use super::lane::Lane;
use super::source::{Source, WeightsFile};
use super::threads::Priority;
use crate::ServiceError;

/// A request to replace a head, without the weights.
#[derive(Clone, Debug, Default)]
pub struct Swap {
    /// The head; empty is the default one.
    pub head: String,
    /// What comes with the weights.
    pub request: HeadRequest,
    /// Replace only if this version is live; 0 means only if the head is new.
    pub expected_version: Option<u64>,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// The caller's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The result of a swap, or of a dry run.
#[derive(Debug)]
pub struct Swapped {
    /// The version that is live now, or would be.
    pub head: HeadDescription,
    /// What was found and decided when the file was read.
    pub report: Arc<HeadReport>,
    /// The version that was live before; 0 if the head is new.
    pub previous_version: u64,
    /// Time to read and check the weights.
    pub validate: Duration,
    /// Time to place and try them on the device.
    pub place: Duration,
    /// Time to make them durable.
    pub store: Duration,
    /// The part of `store` spent in fsync.
    pub sync: Duration,
}

/// One swap and its context.
pub(super) struct Job<G> {
    pub name: HeadName,
    pub swap: Swap,
    pub commit: Commit,
    pub priority: Priority,
    /// Held until the swap's thread has ended.
    pub guards: G,
}

impl HeadAdmin {
    /// Makes a new version of a head live. If the caller gives up before the commit begins, by dropping this future or at
    /// its deadline, nothing is changed; after that the swap finishes even if the caller does not wait.
    ///
    /// # Errors
    /// [`ServiceError`]; the live version stays live.
    pub async fn replace(
        &self,
        swap: Swap,
        source: Source,
        deadline: Option<tokio::time::Instant>,
    ) -> Result<Swapped, ServiceError> {
        let caller = Caller::new(deadline);
        let job = Job {
            name: HeadName::parse(&swap.head)?,
            swap,
            commit: caller.commit.clone(),
            priority: Priority::Normal,
            guards: (),
        };
        caller.wait_for(self.swap(job, self.file(source))).await
    }

    /// Finds the source's file, whose length decides the swap's lane.
    async fn file(&self, source: Source) -> Result<WeightsFile, ServiceError> {
        match source {
            Source::Bytes(bytes) => Ok(WeightsFile::Memory(bytes)),
            Source::Uri(uri) => {
                let sources = Arc::clone(&self.sources);
                self.readers.run(move || sources.find(&uri)).await?
            }
        }
    }

    /// Swaps a head once no other swap of it runs. If the future is dropped, work that has begun on a thread goes on and
    /// stops before the commit.
    pub(super) async fn swap<G: Send + 'static>(
        &self,
        job: Job<G>,
        file: impl Future<Output = Result<WeightsFile, ServiceError>>,
    ) -> Result<Swapped, ServiceError> {
        let swap_lock = self.swap_locks.of(&job.name).lock_owned().await;
        let file = file.await?;
        let lane = self.lane(&file);
        let permit = lane.threads.permit().await?;
        let (limits, request) = (Arc::clone(&self.limits), job.swap.request);
        let reading = lane.threads.start(permit, job.priority.clone(), move |throttle| {
            read(file, &request, &limits, throttle)
        })?;
        let (permit, weights) = reading.await?;
        let (weights, validate) = weights?;

        let trial = lane.trial(weights.bytes()).await?;
        // Even if every await was ready at once, this lets a call that was cancelled be dropped before the swap begins.
        tokio::task::yield_now().await;
        let dry_run = job.swap.dry_run;
        let replacement = Replacement {
            name: job.name,
            weights,
            expected_version: job.swap.expected_version,
            dry_run,
            annotations: job.swap.annotations,
        };
        let (registry, commit, guards) = (Arc::clone(&self.registry), job.commit, job.guards);
        let replacing = lane.threads.start(permit, job.priority, move |throttle| {
            let _held_to_the_end = (swap_lock, trial, guards);
            registry
                .replace(replacement, &commit, throttle)
                .inspect(|replaced| log(replaced, dry_run))
        })?;
        let (_permit, replaced) = replacing.await?;
        Ok(self.swapped(replaced?, validate, dry_run))
    }

    fn lane(&self, file: &WeightsFile) -> &Lane {
        match file {
            WeightsFile::Upload(_) => &self.large,
            file if file.bytes() > super::SMALL_FILE_BYTES_MAX => &self.large,
            _ => &self.small,
        }
    }

    fn swapped(&self, replaced: Replaced, validate: Duration, dry_run: bool) -> Swapped {
        let head = HeadDescription {
            split_layer: self.describer.split_layer(&replaced.info),
            backbone: self.describer.backbone(&replaced.info),
            info: replaced.info,
            labels: replaced.labels,
            live: !dry_run,
            tier: (!dry_run).then_some(Tier::Hot),
            requests: 0,
        };
        Swapped {
            head,
            report: replaced.report,
            previous_version: replaced.previous_version,
            validate,
            place: replaced.place,
            store: replaced.store,
            sync: replaced.sync,
        }
    }
}

/// Reads and checks the weights. Also returns the time that this took.
fn read(
    file: WeightsFile,
    request: &HeadRequest,
    limits: &headswap_heads::HeadLimits,
    throttle: &Throttle,
) -> Result<(HeadWeights, Duration), HeadError> {
    let started = Instant::now();
    let weights = file.read(request, limits, throttle)?;
    Ok((weights, started.elapsed()))
}

/// Logs a swap; called on the swap's thread, as its caller may have given up.
fn log(replaced: &Replaced, dry_run: bool) {
    let info = &replaced.info;
    if !dry_run {
        tracing::info!(
            head = %info.name,
            version = info.version,
            digest = %info.digest,
            classes = info.classes,
            previous_version = replaced.previous_version,
            "head replaced"
        );
        if !info.assumed.is_empty() {
            tracing::warn!(
                head = %info.name,
                version = info.version,
                assumed = info.assumed.join("; "),
                "a head's file and spec leave something open"
            );
        }
    }
}
