//! The registry of heads, the only writer of the routing table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headswap_checkpoint::{HeadReport, Throttle};

use super::annotations;
use super::commit::Commit;
use super::error::HeadError;
use super::metrics::HeadMetrics;
use super::name::HeadName;
use super::opening::{Opening, prune};
use super::per_head::PerHead;
use super::quota::{Quota, QuotaShare};
use super::residency::{Acquired, HeadPlacer, Residency, ResidencyLimits, Urgency, retired};
use super::store::{HeadStore, StoreError};
use super::table::RoutingTable;
use super::version::{HeadInfo, HeadVersion};
use super::weights::HeadWeights;

/// The version number of the backbone's own last Linear.
const BACKBONE_VERSION: u64 = 1;

/// Limits of the registry.
#[derive(Clone, Copy, Debug)]
pub struct RegistryLimits {
    /// Maximum number of heads (`--heads-max`).
    pub heads_max: usize,
    /// Versions of a head that requests may name, the live one included (`--head-versions-kept`).
    pub versions_kept: usize,
    /// Maximum bytes of all versions' tensors in the store (`--heads-bytes-max`).
    pub bytes_max: u64,
    /// True to load each head's newest version at start while the device has space (`--heads-load`).
    pub eager: bool,
    /// Limits of heads in memory.
    pub residency: ResidencyLimits,
}

/// What the registry is built from.
pub struct RegistryParts<R> {
    /// Where versions outlive the process.
    pub store: Arc<dyn HeadStore>,
    /// Places versions on the device.
    pub placer: Box<dyn HeadPlacer<R>>,
    /// Metrics of versions, loads and swaps.
    pub metrics: HeadMetrics,
}

/// A request to make a new version live.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// The head, which may be new.
    pub name: HeadName,
    /// The new version's weights.
    pub weights: HeadWeights,
    /// Replace only if this version is live; 0 means only if the head is new.
    pub expected_version: Option<u64>,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// The user's annotations.
    pub annotations: BTreeMap<String, String>,
}

/// The result of a swap, or of a dry run.
#[derive(Debug)]
pub struct Replaced {
    /// The version that is live now, or would be.
    pub info: HeadInfo,
    /// Its labels.
    pub labels: Arc<[String]>,
    /// What was found and decided when its file was read.
    pub report: Arc<HeadReport>,
    /// The version that was live before; 0 if the head is new.
    pub previous_version: u64,
    /// Time to place and try it on the device.
    pub place: Duration,
    /// Time to make it durable.
    pub store: Duration,
    /// The part of `store` spent in fsync.
    pub sync: Duration,
}

/// All heads of a server. `R` is what a version keeps on the device.
pub struct HeadRegistry<R> {
    table: RoutingTable<R>,
    limits: RegistryLimits,
    store: Arc<dyn HeadStore>,
    residency: Arc<Residency<R>>,
    metrics: HeadMetrics,
    quota: Quota,
    /// Each is held for a whole swap: a head has one swap at a time.
    swap_locks: PerHead<Mutex<()>>,
}

impl<R: Send + Sync> HeadRegistry<R> {
    /// Registers the first backbone's own last Linear, if it has one, as version 1 of the default head, and the newest stored
    /// versions.
    ///
    /// If a version is to be loaded at once and fails to, it is logged and kept in the store, and an older one takes its
    /// place. Versions beyond `versions_kept` are removed. Acknowledged heads are registered even if the limits are lower
    /// now.
    ///
    /// # Errors
    /// [`HeadError`] if the store cannot be read or the backbone's own head cannot be placed.
    pub fn open(
        parts: RegistryParts<R>,
        limits: RegistryLimits,
        backbone_head: Option<&HeadWeights>,
    ) -> Result<Self, HeadError> {
        let RegistryParts { store, placer, metrics } = parts;
        let residency = Residency::new(limits.residency, Arc::clone(&store), placer, metrics.clone());
        let default = HeadName::parse(HeadName::DEFAULT)?;
        let annotations = BTreeMap::from([("source".to_owned(), "backbone".to_owned())]);
        let mut pinned = None;
        if let Some(head) = backbone_head {
            let info = describe(default.clone(), BACKBONE_VERSION, head, annotations);
            pinned = Some(residency.pin(info, head)?);
        }

        let mut listed = store.list()?;
        let listed_count = listed.len();
        listed.retain(|info| info.name != default || info.version > BACKBONE_VERSION);
        if listed.len() < listed_count {
            tracing::warn!(head = %default, "a stored version has the number of the backbone's own head; skipped");
        }
        let opening = Opening {
            residency: &residency,
            store: store.as_ref(),
            versions_kept: limits.versions_kept,
            threads: if limits.eager {
                limits.residency.loads_max.max(1)
            } else {
                0
            },
        };
        let heads = opening.versions(listed).into_iter().flatten();
        let (table, surplus) = RoutingTable::new(pinned.into_iter().chain(heads), limits.versions_kept);
        for version in &surplus {
            residency.tiers.retire(version);
        }
        for version in table.list() {
            metrics.live(&version.info.name, version.info.version);
        }
        Ok(Self {
            table,
            limits,
            store,
            residency: Arc::new(residency),
            metrics,
            quota: Quota::new(limits.heads_max, limits.bytes_max),
            swap_locks: PerHead::default(),
        })
    }

    /// Which version a request gets.
    pub fn table(&self) -> &RoutingTable<R> {
        &self.table
    }

    /// Pins a version from the table: at once if it is on the device, otherwise once it is loaded.
    pub fn acquire(&self, version: &Arc<HeadVersion<R>>, urgency: Urgency) -> Acquired<R> {
        self.residency.acquire(version, urgency)
    }

    /// Returns a version's labels, from the store if they are not in memory.
    ///
    /// # Errors
    /// [`HeadError::Retired`] if no request may name the version any more, [`HeadError::Damaged`],
    /// [`HeadError::Unreadable`].
    pub fn labels(&self, version: &HeadVersion<R>) -> Result<Arc<[String]>, HeadError> {
        if let Some(labels) = version.slot.labels() {
            return Ok(labels);
        }
        match self.store.labels(&version.info) {
            Ok(labels) => Ok(labels.into()),
            // Versions are retired before their files are removed.
            Err(_) if version.tier().is_none() => Err(retired(&version.info)),
            Err(error) => Err(error),
        }
    }

    /// Makes a new version live. It is placed and tried first, then staged in the store; then, unless `commit` was
    /// abandoned, space is made for it, and it becomes durable and is published. Swaps of one head run one after another,
    /// swaps of different heads in parallel.
    ///
    /// # Errors
    /// [`HeadError`]. The live version stays live; a version is evicted from the device only if the commit's write failed.
    pub fn replace(
        &self,
        replacement: Replacement,
        commit: &Commit,
        throttle: &Throttle,
    ) -> Result<Replaced, HeadError> {
        annotations::check(&replacement.annotations)?;
        let lock = self.swap_locks.of(&replacement.name);
        let _guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        commit.check()?;
        // Only the holder of the lock changes the head: the version that is live now is live at the commit.
        let previous_version = self.check_expected(&replacement.name, replacement.expected_version)?;
        if replacement.dry_run {
            self.dry_run(replacement, previous_version)
        } else {
            self.swap(replacement, previous_version, commit, throttle)
        }
    }

    fn swap(
        &self,
        replacement: Replacement,
        live: u64,
        commit: &Commit,
        throttle: &Throttle,
    ) -> Result<Replaced, HeadError> {
        let Replacement { name, weights, .. } = replacement;
        let weights = self.residency.pooled(weights);
        let share = self.quota.reserve(&self.table, live == 0, weights.bytes())?;
        let number = self.next_number(&name, live)?;
        let info = describe(name, number, &weights, replacement.annotations);
        let started = Instant::now();
        let trial = self.residency.try_out(&info, &weights)?;
        let place = started.elapsed();
        commit.check()?;

        let started = Instant::now();
        let staged = self.store.stage(&info, &weights, throttle)?;
        commit.begin()?;
        let pinned = self.residency.keep_trial(&info, trial)?;
        let sync = staged.commit()?;
        let store = started.elapsed();
        let version = self.residency.insert(info.clone(), pinned, &weights);
        self.publish(version, share);
        Ok(Replaced {
            info,
            labels: weights.labels,
            report: weights.report,
            previous_version: live,
            place,
            store,
            sync,
        })
    }

    /// Runs the checks and the trial of a swap; changes nothing.
    fn dry_run(&self, replacement: Replacement, live: u64) -> Result<Replaced, HeadError> {
        let Replacement { name, weights, .. } = replacement;
        self.quota.check(&self.table, live == 0, weights.bytes())?;
        let number = self.next_number(&name, live)?;
        let info = describe(name, number, &weights, replacement.annotations);
        let started = Instant::now();
        drop(self.residency.try_out(&info, &weights)?);
        self.residency.tiers.check_space(&info)?;
        Ok(Replaced {
            info,
            labels: weights.labels,
            report: weights.report,
            previous_version: live,
            place: started.elapsed(),
            store: Duration::ZERO,
            sync: Duration::ZERO,
        })
    }

    /// Makes a version live, in one step with the gauge of live versions, and retires those beyond `versions_kept`.
    fn publish(&self, version: Arc<HeadVersion<R>>, share: QuotaShare<'_>) {
        let info = version.info.clone();
        let surplus = share.publish(|| {
            let surplus = self.table.publish(version, self.limits.versions_kept);
            self.metrics.published(&info.name, info.version);
            surplus
        });
        for old in surplus {
            self.residency.tiers.retire(&old);
            prune(self.store.as_ref(), &old.info);
        }
    }

    /// Returns a number above every stored one, damaged files included, so that a number is never used twice.
    fn next_number(&self, name: &HeadName, live: u64) -> Result<u64, HeadError> {
        let mut highest = live.max(self.store.highest_version(name)?);
        // The number of a backbone's own head, even if this server's first backbone has none.
        if name.as_str() == HeadName::DEFAULT {
            highest = highest.max(BACKBONE_VERSION);
        }
        Ok(highest.checked_add(1).ok_or_else(|| numbers_exhausted(name))?)
    }

    /// Returns the live version, 0 if there is none, after comparing it to the expected one.
    ///
    /// # Errors
    /// [`HeadError::VersionMismatch`].
    pub fn check_expected(&self, name: &HeadName, expected: Option<u64>) -> Result<u64, HeadError> {
        let live = self.table.resolve(name, 0).ok().map_or(0, |live| live.info.version);
        match expected.filter(|expected| *expected != live) {
            Some(expected) => Err(HeadError::VersionMismatch { live, expected }),
            None => Ok(live),
        }
    }
}

fn numbers_exhausted(name: &HeadName) -> StoreError {
    StoreError {
        action: "number a version of",
        path: name.as_str().into(),
        source: std::io::Error::other("its stored versions use the highest number"),
    }
}

fn describe(name: HeadName, version: u64, weights: &HeadWeights, annotations: BTreeMap<String, String>) -> HeadInfo {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    HeadInfo::of(weights, name, version, annotations, now.as_micros() as u64)
}
