//! The one writer of the routing table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::error::{HeadError, shown};
use super::metrics::HeadMetrics;
use super::name::HeadName;
use super::opening::{Opening, prune};
use super::residency::{Acquired, Place, Residency, ResidencyLimits};
use super::store::{HeadStore, StoreError};
use super::table::RoutingTable;
use super::version::{HeadInfo, HeadVersion};
use super::weights::HeadWeights;

const ANNOTATIONS_MAX: usize = 64;
const ANNOTATION_KEY_BYTES_MAX: usize = 128;
const ANNOTATION_VALUE_BYTES_MAX: usize = 1024;

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
    pub place: Box<Place<R>>,
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
}

/// All heads of one backbone. `R` is what a version keeps on the device.
pub struct HeadRegistry<R> {
    table: RoutingTable<R>,
    limits: RegistryLimits,
    store: Arc<dyn HeadStore>,
    residency: Arc<Residency<R>>,
    /// Held for the length of a swap: one at a time.
    swapping: Mutex<()>,
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
        let RegistryParts { store, place, metrics } = parts;
        let residency = Residency::new(limits.residency, Arc::clone(&store), place, metrics);
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
        surplus.iter().for_each(|version| residency.tiers.let_go(version));
        Ok(Self {
            table,
            limits,
            store,
            residency: Arc::new(residency),
            swapping: Mutex::new(()),
        })
    }

    /// Who gets what.
    pub fn table(&self) -> &RoutingTable<R> {
        &self.table
    }

    /// A version that the table gave, at once or as soon as it is on the device.
    pub fn acquire(&self, version: &Arc<HeadVersion<R>>) -> Acquired<R> {
        self.residency.acquire(version)
    }

    /// A version's labels, which may have to be read from the store.
    ///
    /// # Errors
    /// [`HeadError::Damaged`], [`HeadError::Store`].
    pub fn labels(&self, version: &HeadVersion<R>) -> Result<Arc<[String]>, HeadError> {
        let stored = || Ok(self.store.labels(&version.info)?.into());
        version.slot.labels().map_or_else(stored, Ok)
    }

    /// Makes a new version live: placed and tried first, then durable, then published.
    ///
    /// # Errors
    /// [`HeadError`]; whatever was live stays live.
    pub fn replace(&self, replacement: Replacement) -> Result<Replaced, HeadError> {
        let Replacement {
            name,
            weights,
            expected_version,
            dry_run,
            annotations,
        } = replacement;
        check_annotations(&annotations)?;
        let _swapping = self.swapping.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.check_expected(&name, expected_version)?;
        self.check_room(live == 0, weights.bytes())?;
        // Above whatever was written before, damaged files included: a number never names two things.
        let highest = live.max(self.store.highest_version(&name)?);
        let number = highest.checked_add(1).ok_or_else(|| used_up(&name))?;
        let info = describe(name, number, &weights, annotations);

        let started = Instant::now();
        let lease = self.residency.put(&weights, self.residency.tiers.reserve(&info)?)?;
        let place = started.elapsed();
        let mut store = Duration::ZERO;
        if !dry_run {
            let started = Instant::now();
            self.store.save(&info, &weights)?;
            store = started.elapsed();
            let version = self.residency.admit(info.clone(), lease, &weights);
            for old in self.table.publish(version, self.limits.versions_kept) {
                self.residency.tiers.let_go(&old);
                prune(self.store.as_ref(), &old.info);
            }
        }
        Ok(Replaced {
            info,
            labels: weights.labels,
            previous_version: live,
            place,
            store,
        })
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

    fn check_room(&self, is_new: bool, bytes: u64) -> Result<(), HeadError> {
        let limit = |setting, reason| Err(HeadError::LimitReached { setting, reason });
        let heads = self.table.count();
        if is_new && heads >= self.limits.heads_max {
            return limit(
                "--heads-max",
                format!("there are {heads} heads already, which is the most"),
            );
        }
        let resident = self.table.bytes();
        if resident + bytes > self.limits.bytes_max {
            let most = self.limits.bytes_max;
            let reason = format!("all heads have {resident} bytes and this one {bytes}, while {most} are the most");
            return limit("--heads-bytes-max", reason);
        }
        Ok(())
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

fn check_annotations(annotations: &BTreeMap<String, String>) -> Result<(), HeadError> {
    let refused = |reason| Err(HeadError::Annotations { reason });
    if annotations.len() > ANNOTATIONS_MAX {
        return refused(format!(
            "there are {}, {ANNOTATIONS_MAX} are the most",
            annotations.len()
        ));
    }
    for (key, value) in annotations {
        if key.len() > ANNOTATION_KEY_BYTES_MAX {
            return refused(format!(
                "the key `{}` has {} bytes; {ANNOTATION_KEY_BYTES_MAX} are the most",
                shown(key),
                key.len()
            ));
        }
        if value.len() > ANNOTATION_VALUE_BYTES_MAX {
            return refused(format!(
                "the value of `{}` has {} bytes; {ANNOTATION_VALUE_BYTES_MAX} are the most",
                shown(key),
                value.len()
            ));
        }
    }
    Ok(())
}
