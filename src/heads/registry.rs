//! The one writer of the routing table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::error::{HeadError, PlaceError, shown};
use super::name::HeadName;
use super::store::{HeadStore, StoreError, StoredHead};
use super::table::RoutingTable;
use super::version::{HeadInfo, HeadVersion};
use super::weights::HeadWeights;

const ANNOTATIONS_MAX: usize = 64;
const ANNOTATION_KEY_BYTES_MAX: usize = 128;
const ANNOTATION_VALUE_BYTES_MAX: usize = 1024;

/// The number of the backbone's own last Linear.
const BACKBONE_VERSION: u64 = 1;

/// Puts weights on the device, trial forward pass included.
pub type Place<'a, R> = dyn Fn(&HeadWeights) -> Result<R, PlaceError> + 'a;

/// What bounds the registry.
#[derive(Clone, Copy, Debug)]
pub struct RegistryLimits {
    /// Heads at most (`--heads-max`).
    pub heads_max: usize,
    /// Versions of a head that can be asked for, the live one included (`--head-versions-kept`).
    pub versions_kept: usize,
    /// Bytes of all versions' tensors at most (`--heads-bytes-max`).
    pub bytes_max: u64,
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
pub struct Replaced<R> {
    /// The version that is live now, or would be.
    pub version: Arc<HeadVersion<R>>,
    /// The one before; 0 if the head is new.
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
    /// Held for the length of a swap: one at a time.
    store: Mutex<Box<dyn HeadStore>>,
}

impl<R> HeadRegistry<R> {
    /// Registers the backbone's own last Linear as version 1 of the default head, and the newest stored versions.
    ///
    /// A stored version that cannot be placed is left out, logged and kept; an older one takes its place. What is older
    /// than the versions kept is removed. Heads that were acknowledged are loaded even if the limits are lower now.
    ///
    /// # Errors
    /// If the store cannot be read or the backbone's own head cannot be placed.
    pub fn open(
        store: Box<dyn HeadStore>,
        limits: RegistryLimits,
        backbone_head: HeadWeights,
        place: &Place<'_, R>,
    ) -> Result<Self, HeadError> {
        let table = RoutingTable::default();
        let annotations = BTreeMap::from([("source".to_owned(), "backbone".to_owned())]);
        let default = HeadName::parse(HeadName::DEFAULT)?;
        let info = describe(default.clone(), BACKBONE_VERSION, &backbone_head, annotations);
        let resident = place(&backbone_head)?;
        table.publish(Arc::new(HeadVersion { info, resident }), limits.versions_kept);

        let mut stored: BTreeMap<HeadName, Vec<StoredHead>> = BTreeMap::new();
        for head in store.load_all()? {
            if head.info.name == default && head.info.version <= BACKBONE_VERSION {
                tracing::warn!(head = %default, "a stored version has the number of the backbone's own; skipped");
            } else {
                stored.entry(head.info.name.clone()).or_default().push(head);
            }
        }
        for versions in stored.into_values() {
            for version in newest(versions, limits.versions_kept.max(1), store.as_ref(), place) {
                table.publish(Arc::new(version), limits.versions_kept);
            }
        }
        Ok(Self {
            table,
            limits,
            store: Mutex::new(store),
        })
    }

    /// Who gets what.
    pub fn table(&self) -> &RoutingTable<R> {
        &self.table
    }

    /// Makes a new version live: placed and tried first, then durable, then published.
    ///
    /// # Errors
    /// [`HeadError`]; whatever was live stays live.
    pub fn replace(&self, replacement: Replacement, place: &Place<'_, R>) -> Result<Replaced<R>, HeadError> {
        let Replacement {
            name,
            weights,
            expected_version,
            dry_run,
            annotations,
        } = replacement;
        check_annotations(&annotations)?;
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let live = self.table.resolve(&name, 0).ok().map_or(0, |live| live.info.version);
        if let Some(expected) = expected_version.filter(|expected| *expected != live) {
            return Err(HeadError::VersionMismatch { live, expected });
        }
        self.check_room(live == 0, weights.bytes())?;

        let started = Instant::now();
        let resident = place(&weights)?;
        let placed = started.elapsed();
        // Above whatever was written before, damaged files included: a number never names two things.
        let highest = live.max(store.highest_version(&name)?);
        let number = highest.checked_add(1).ok_or_else(|| used_up(&name))?;
        let version = Arc::new(HeadVersion {
            info: describe(name, number, &weights, annotations),
            resident,
        });

        let mut stored = Duration::ZERO;
        if !dry_run {
            let started = Instant::now();
            store.save(&version.info, &weights)?;
            stored = started.elapsed();
            for old in self.table.publish(Arc::clone(&version), self.limits.versions_kept) {
                prune(store.as_ref(), &old.info);
            }
        }
        Ok(Replaced {
            version,
            previous_version: live,
            place: placed,
            store: stored,
        })
    }

    fn check_room(&self, is_new: bool, bytes: u64) -> Result<(), HeadError> {
        let limit = |setting, reason| Err(HeadError::LimitReached { setting, reason });
        let heads = self.table.list().len();
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

/// The newest `kept` versions that can be placed, oldest first; those older than them leave the store.
fn newest<R>(
    mut versions: Vec<StoredHead>,
    kept: usize,
    store: &dyn HeadStore,
    place: &Place<'_, R>,
) -> Vec<HeadVersion<R>> {
    let mut placed = Vec::new();
    versions.sort_by_key(|version| version.info.version);
    for StoredHead { info, weights } in versions.into_iter().rev() {
        if placed.len() == kept {
            prune(store, &info);
            continue;
        }
        match place(&weights) {
            Ok(resident) => placed.push(HeadVersion { info, resident }),
            Err(error) => tracing::warn!(head = %info.name, version = info.version, %error, "a stored head; skipped"),
        }
    }
    placed.reverse();
    placed
}

/// Forgets a version that nobody can ask for any more.
fn prune(store: &dyn HeadStore, old: &HeadInfo) {
    if let Err(error) = store.remove(&old.name, old.version) {
        tracing::warn!(head = %old.name, version = old.version, %error, "an old version stays in the store");
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
        labels: weights.labels.clone(),
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
