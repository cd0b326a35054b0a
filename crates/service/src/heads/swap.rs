//! From a file of weights to a live version.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use headswap_checkpoint::Throttle;
use headswap_heads::{Commit, HeadError, HeadName, HeadWeights, Replaced, Replacement, Tier};

use super::HeadAdmin;
use super::caller::Caller;
use super::description::HeadDescription;
use super::lane::Lane;
use super::source::{Source, WeightsFile};
use super::threads::Priority;
use crate::ServiceError;

/// What a caller asks for, but for the weights.
#[derive(Clone, Debug, Default)]
pub struct Swap {
    /// The head; empty is the default one.
    pub head: String,
    /// K labels; none means those in the file.
    pub labels: Vec<String>,
    /// Only if this version is live; 0 means only if the head is new.
    pub expected_version: Option<u64>,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// The caller's notes.
    pub annotations: BTreeMap<String, String>,
}

/// A swap that took place, or would have.
#[derive(Debug)]
pub struct Swapped {
    /// What is live now, or would be.
    pub head: HeadDescription,
    /// The version before; 0 if the head is new.
    pub previous_version: u64,
    /// Reading and checking the weights.
    pub validate: Duration,
    /// Placing them on the device, trial included.
    pub place: Duration,
    /// Making them durable.
    pub store: Duration,
    /// The part of that spent in fsync.
    pub sync: Duration,
}

/// One swap on its way through a lane.
pub(super) struct Job<K> {
    pub name: HeadName,
    pub swap: Swap,
    pub commit: Commit,
    pub priority: Priority,
    /// Kept until the swap's thread has ended.
    pub keep: K,
}

impl HeadAdmin {
    /// Makes a new version of a head live. If the caller gives up, by dropping this future or at its deadline, before the
    /// commit begins, nothing is changed; after that the swap is finished whether or not the caller waits.
    ///
    /// # Errors
    /// [`ServiceError`]; whatever was live stays live.
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
            keep: (),
        };
        caller.wait_for(self.swap(job, self.file(source))).await
    }

    /// A file whose length decides where its swap runs.
    async fn file(&self, source: Source) -> Result<WeightsFile, ServiceError> {
        match source {
            Source::Bytes(bytes) => Ok(WeightsFile::Memory(bytes)),
            Source::Uri(uri) => {
                let sources = Arc::clone(&self.sources);
                self.readers.run(move || sources.find(&uri)).await?
            }
        }
    }

    /// The swap in its head's turn. What has begun on a thread goes on if this is dropped, and stops before the commit.
    pub(super) async fn swap<K: Send + 'static>(
        &self,
        job: Job<K>,
        file: impl Future<Output = Result<WeightsFile, ServiceError>>,
    ) -> Result<Swapped, ServiceError> {
        let turn = self.turns.of(&job.name).lock_owned().await;
        let file = file.await?;
        let lane = self.lane(&file);
        let place = lane.threads.place().await?;
        let (limits, labels) = (Arc::clone(&self.limits), job.swap.labels);
        let reading = lane.threads.start(place, job.priority.clone(), move |throttle| {
            read(file, labels, &limits, throttle)
        })?;
        let (place, weights) = reading.await?;
        let (weights, validate) = weights?;

        let trial = lane.trial(weights.bytes()).await?;
        // A call whose cancellation has come is dropped here, however fast its file was read: before what it asks for begins.
        tokio::task::yield_now().await;
        let dry_run = job.swap.dry_run;
        let replacement = Replacement {
            name: job.name,
            weights,
            expected_version: job.swap.expected_version,
            dry_run,
            annotations: job.swap.annotations,
        };
        let (registry, commit, keep) = (Arc::clone(&self.registry), job.commit, job.keep);
        let replacing = lane.threads.start(place, job.priority, move |throttle| {
            let _until_the_end = (turn, trial, keep);
            registry
                .replace(replacement, &commit, throttle)
                .inspect(|replaced| log(replaced, dry_run))
        })?;
        let (_place, replaced) = replacing.await?;
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
            split_layer: self.split_layers.of_head(&replaced.info),
            info: replaced.info,
            labels: replaced.labels,
            live: !dry_run,
            tier: (!dry_run).then_some(Tier::Hot),
            requests: 0,
        };
        Swapped {
            head,
            previous_version: replaced.previous_version,
            validate,
            place: replaced.place,
            store: replaced.store,
            sync: replaced.sync,
        }
    }
}

/// Reads and checks the weights, and tells how long that took.
fn read(
    file: WeightsFile,
    labels: Vec<String>,
    limits: &headswap_heads::HeadLimits,
    throttle: &Throttle,
) -> Result<(HeadWeights, Duration), HeadError> {
    let started = Instant::now();
    let weights = file.read(labels, limits, throttle)?;
    Ok((weights, started.elapsed()))
}

/// On the swap's own thread: its caller may be gone.
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
    }
}
