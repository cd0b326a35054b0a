//! From what the store lists to the versions that requests may name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::HeadError;
use super::name::HeadName;
use super::residency::Residency;
use super::store::HeadStore;
use super::version::{HeadInfo, HeadVersion};

/// Versions of one head, oldest first.
type Versions<R> = Vec<Arc<HeadVersion<R>>>;

/// How a store is opened.
pub(super) struct Opening<'a, R> {
    pub residency: &'a Residency<R>,
    pub store: &'a dyn HeadStore,
    pub versions_kept: usize,
    /// How many threads bring the newest versions to the device, as far as there is room; none leaves all in the store.
    pub threads: usize,
}

impl<R: Send + Sync> Opening<'_, R> {
    /// The versions of every head. Those older than the versions kept leave the store.
    ///
    /// What is brought to the device is read in whole, and a newest version that is damaged gives way to an older one;
    /// what is not is known by its header until somebody asks for it.
    pub fn versions(&self, listed: Vec<HeadInfo>) -> Vec<Versions<R>> {
        let mut heads: BTreeMap<HeadName, Vec<HeadInfo>> = BTreeMap::new();
        for info in listed {
            heads.entry(info.name.clone()).or_default().push(info);
        }
        let mut heads: Vec<Vec<HeadInfo>> = heads.into_values().collect();
        for versions in &mut heads {
            versions.sort_by_key(|info| info.version);
        }
        // If there is no room for all, the newest are the likeliest to be asked for.
        heads.sort_by_key(|versions| versions.last().map(|info| info.created_unix_us));
        if self.threads <= 1 {
            return heads.into_iter().rev().map(|versions| self.kept(versions)).collect();
        }
        let (heads, opened) = (Mutex::new(heads), Mutex::new(Vec::new()));
        let next = || heads.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let open = || {
            while let Some(versions) = next() {
                let kept = self.kept(versions);
                opened.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
            }
        };
        std::thread::scope(|scope| (0..self.threads).for_each(|_| drop(scope.spawn(open))));
        opened.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest versions of a head, given and returned oldest first.
    fn kept(&self, mut versions: Vec<HeadInfo>) -> Versions<R> {
        let mut kept = Versions::new();
        while let Some(info) = versions.pop() {
            if kept.len() == self.versions_kept.max(1) {
                prune(self.store, &info);
                continue;
            }
            let version = self.residency.tiers.version(info, None);
            match self.bring(&version, kept.is_empty()) {
                Ok(()) => kept.push(version),
                Err(error @ HeadError::Unreadable { .. }) => {
                    // Not known to be damaged: read again when it is asked for.
                    let info = &version.info;
                    tracing::warn!(head = %info.name, version = info.version, %error, "a stored head; not loaded yet");
                    kept.push(version);
                }
                Err(error) => {
                    let info = &version.info;
                    tracing::warn!(head = %info.name, version = info.version, %error, "a stored head; skipped");
                    self.residency.tiers.retire(&version);
                }
            }
        }
        kept.reverse();
        kept
    }

    fn bring(&self, version: &Arc<HeadVersion<R>>, newest: bool) -> Result<(), HeadError> {
        if self.threads > 0 && newest {
            self.residency.load_early(version)?;
        }
        Ok(())
    }
}

/// Forgets a version that nobody can ask for any more.
pub(super) fn prune(store: &dyn HeadStore, old: &HeadInfo) {
    if let Err(error) = store.remove(&old.name, old.version) {
        tracing::warn!(head = %old.name, version = old.version, %error, "an old version stays in the store");
    }
}
