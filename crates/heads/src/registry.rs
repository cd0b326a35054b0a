//! The one writer of the routing table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use headswap_checkpoint::Throttle;

use super::annotations;
use super::commit::Commit;
use super::error::HeadError;
use super::metrics::HeadMetrics;
use super::name::HeadName;
use super::opening::{Opening, prune};
use super::per_head::PerHead;
use super::quota::{Promise, Quota};
use super::residency::{Acquired, HeadPlacer, Residency, ResidencyLimits, Urgency, retired};
use super::store::{HeadStore, StoreError};
use super::table::RoutingTable;
use super::version::{HeadInfo, HeadVersion};
use super::weights::HeadWeights;

/// The number of the backbone's own last Linear.
const BACKBONE_VERSION: u64 = 1;

/// What bounds the registry.
#[derive(Clone, Copy, Debug)]
pub struct RegistryLimits {
    /// Heads at most (`--heads-max`).
    pub heads_max: usize,
    /// Versions of a head that can be asked for, the live one included (`--head-versions-kept`).
    pub versions_kept: usize,
    /// Bytes of all versions' tensors in the store at most (`--heads-bytes-max`).
    pub bytes_max: u64,
    /// Whether the newest versions are brought to the device at once, as far as there is room (`--heads-load`).
    pub eager: bool,
    /// What bounds heads in memory.
    pub residency: ResidencyLimits,
}

/// What the registry works with.
pub struct RegistryParts<R> {
    /// Where versions outlive the process.
    pub store: Arc<dyn HeadStore>,
    /// Puts them on the device.
    pub placer: Box<dyn HeadPlacer<R>>,
    /// Counts them.
    pub metrics: HeadMetrics,
}

/// A new version to make live.
#[derive(Clone, Debug)]
pub struct Replacement {
    /// Of this head, which may be new.
    pub name: HeadName,
    /// With these weights.
    pub weights: HeadWeights,
    /// Only if this version is live; 0 means only if the head is new.
    pub expected_version: Option<u64>,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// The user's notes.
    pub annotations: BTreeMap<String, String>,
}

/// A swap that took place, or would have.
#[derive(Debug)]
pub struct Replaced {
    /// The version that is live now, or would be.
    pub info: HeadInfo,
    /// Its labels.
    pub labels: Arc<[String]>,
    /// The version before; 0 if the head is new.
    pub previous_version: u64,
    /// Placing on the device.
    pub place: Duration,
    /// Making it durable.
    pub store: Duration,
    /// The part of that spent in fsync.
    pub sync: Duration,
}

/// All heads of one backbone. `R` is what a version keeps on the device.
pub struct HeadRegistry<R> {
    table: RoutingTable<R>,
    limits: RegistryLimits,
    store: Arc<dyn HeadStore>,
    residency: Arc<Residency<R>>,
    metrics: HeadMetrics,
    quota: Quota,
    /// Held for the length of a swap: one of each head at a time.
    turns: PerHead<Mutex<()>>,
}

impl<R: Send + Sync> HeadRegistry<R> {
    /// Registers the backbone's own last Linear as version 1 of the default head, and the newest stored versions.
    ///
    /// Of a version that is brought to the device at once and cannot be, an older one takes the place; it is logged and
    /// kept in the store. What is older than the versions kept is removed. Heads that were acknowledged are registered
    /// even if the limits are lower now.
    ///
    /// # Errors
    /// If the store cannot be read or the backbone's own head cannot be placed.
    pub fn open(
        parts: RegistryParts<R>,
        limits: RegistryLimits,
        backbone_head: &HeadWeights,
    ) -> Result<Self, HeadError> {
        let RegistryParts { store, placer, metrics } = parts;
        let residency = Residency::new(limits.residency, Arc::clone(&store), placer, metrics.clone());
        let default = HeadName::parse(HeadName::DEFAULT)?;
        let annotations = BTreeMap::from([("source".to_owned(), "backbone".to_owned())]);
        let info = describe(default.clone(), BACKBONE_VERSION, backbone_head, annotations);
        let backbone_head = residency.pin(info, backbone_head)?;

        let mut listed = store.list()?;
        let reserved = |info: &HeadInfo| info.name == default && info.version <= BACKBONE_VERSION;
        if listed.iter().any(reserved) {
            tracing::warn!(head = %default, "a stored version has the number of the backbone's own; skipped");
        }
        listed.retain(|info| !reserved(info));
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
        let (table, surplus) = RoutingTable::new(std::iter::once(backbone_head).chain(heads), limits.versions_kept);
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
            turns: PerHead::default(),
        })
    }

    /// Who gets what.
    pub fn table(&self) -> &RoutingTable<R> {
        &self.table
    }

    /// A version that the table gave, at once or as soon as it is on the device.
    pub fn acquire(&self, version: &Arc<HeadVersion<R>>, urgency: Urgency) -> Acquired<R> {
        self.residency.acquire(version, urgency)
    }

    /// A version's labels, which may have to be read from the store.
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
            // Versions are let go before their files are removed.
            Err(_) if version.tier().is_none() => Err(retired(&version.info)),
            Err(error) => Err(error),
        }
    }

    /// Makes a new version live: placed and tried first, then staged in the store; then, unless `commit` was abandoned,
    /// room is made for it, and it becomes durable and is published. Swaps of one head take turns; others run beside them.
    ///
    /// # Errors
    /// [`HeadError`]; whatever was live stays live, and nothing has left the device unless the disk failed in the commit.
    pub fn replace(
        &self,
        replacement: Replacement,
        commit: &Commit,
        throttle: &Throttle,
    ) -> Result<Replaced, HeadError> {
        annotations::check(&replacement.annotations)?;
        let turn = self.turns.of(&replacement.name);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        commit.check()?;
        // Nothing else changes the head before the turn ends: what is live now is live at the commit.
        let previous_version = self.check_expected(&replacement.name, replacement.expected_version)?;
        if replacement.dry_run {
            self.try_out(replacement, previous_version)
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
        let promise = self.quota.promise(&self.table, live == 0, weights.bytes())?;
        let number = self.next_number(&name, live)?;
        let info = describe(name, number, &weights, replacement.annotations);
        let started = Instant::now();
        let trial = self.residency.try_out(&info, &weights)?;
        let place = started.elapsed();
        commit.check()?;

        let started = Instant::now();
        let staged = self.store.stage(&info, &weights, throttle)?;
        commit.begin()?;
        let pinned = self.residency.settle(&info, trial)?;
        let sync = staged.commit()?;
        let store = started.elapsed();
        let version = self.residency.admit(info.clone(), pinned, &weights);
        self.publish(version, promise);
        Ok(Replaced {
            info,
            labels: weights.labels,
            previous_version: live,
            place,
            store,
            sync,
        })
    }

    /// All of a swap but what changes anything.
    fn try_out(&self, replacement: Replacement, live: u64) -> Result<Replaced, HeadError> {
        let Replacement { name, weights, .. } = replacement;
        self.quota.check(&self.table, live == 0, weights.bytes())?;
        let number = self.next_number(&name, live)?;
        let info = describe(name, number, &weights, replacement.annotations);
        let started = Instant::now();
        drop(self.residency.try_out(&info, &weights)?);
        self.residency.tiers.check_room(&info)?;
        Ok(Replaced {
            info,
            labels: weights.labels,
            previous_version: live,
            place: started.elapsed(),
            store: Duration::ZERO,
            sync: Duration::ZERO,
        })
    }

    /// Makes a version live, in one step with the gauge that tells so, and forgets those that it leaves no place.
    fn publish(&self, version: Arc<HeadVersion<R>>, promise: Promise<'_>) {
        let info = version.info.clone();
        let surplus = promise.redeem(|| {
            let surplus = self.table.publish(version, self.limits.versions_kept);
            self.metrics.published(&info.name, info.version);
            surplus
        });
        for old in surplus {
            self.residency.tiers.retire(&old);
            prune(self.store.as_ref(), &old.info);
        }
    }

    /// Above whatever was written before, damaged files included: a number never names two things.
    fn next_number(&self, name: &HeadName, live: u64) -> Result<u64, HeadError> {
        let highest = live.max(self.store.highest_version(name)?);
        Ok(highest.checked_add(1).ok_or_else(|| used_up(name))?)
    }

    /// The live version, 0 if there is none, if it is the one that a caller expects.
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

fn used_up(name: &HeadName) -> StoreError {
    StoreError {
        action: "number a version of",
        path: name.as_str().into(),
        source: std::io::Error::other("its stored versions use the highest number"),
    }
}

fn describe(name: HeadName, version: u64, weights: &HeadWeights, annotations: BTreeMap<String, String>) -> HeadInfo {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    HeadInfo {
        name,
        version,
        digest: weights.digest,
        classes: weights.classes,
        annotations,
        created_unix_us: now.as_micros() as u64,
        parameters: weights.parameters.keys().cloned().collect(),
        resident_bytes: weights.bytes(),
    }
}
