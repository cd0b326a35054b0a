//! Turns the list of stored versions into the versions that requests may name.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::HeadError;
use super::name::HeadName;
use super::residency::Residency;
use super::store::HeadStore;
use super::version::{HeadInfo, HeadVersion};

/// Versions of one head, oldest first.
type Versions<R> = Vec<Arc<HeadVersion<R>>>;

/// The parameters of opening a store.
pub(super) struct Opening<'a, R> {
    pub residency: &'a Residency<R>,
    pub store: &'a dyn HeadStore,
    pub versions_kept: usize,
    /// The number of threads that load each head's newest version onto the device while space is left there; 0 loads
    /// none.
    pub threads: usize,
}

impl<R: Send + Sync> Opening<'_, R> {
    /// Returns the versions of every head. Versions beyond `versions_kept` are removed from the store.
    ///
    /// A version that is loaded is read in full; if it is damaged, an older one takes its place. Of the others, only the
    /// header is read before a request names them.
    pub fn versions(&self, listed: Vec<HeadInfo>) -> Vec<Versions<R>> {
        let mut heads: BTreeMap<HeadName, Vec<HeadInfo>> = BTreeMap::new();
        for info in listed {
            heads.entry(info.name.clone()).or_default().push(info);
        }
        let mut heads: Vec<Vec<HeadInfo>> = heads.into_values().collect();
        for versions in &mut heads {
            versions.sort_by_key(|info| info.version);
        }
        // If the device has no space for all, the newest are the likeliest to be requested.
        heads.sort_by_key(|versions| versions.last().map(|info| info.created_unix_us));
        if self.threads <= 1 {
            return heads.into_iter().rev().map(|versions| self.kept(versions)).collect();
        }
        let (heads, opened) = (Mutex::new(heads), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| self.open_heads(&heads, &opened));
            }
        });
        opened.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens heads, last first, until `heads` is empty.
    fn open_heads(&self, heads: &Mutex<Vec<Vec<HeadInfo>>>, opened: &Mutex<Vec<Versions<R>>>) {
        loop {
            let head = heads.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(versions) = head else { return };
            let kept = self.kept(versions);
            opened.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
        }
    }

    /// Returns a head's newest versions; input and output are oldest first.
    fn kept(&self, mut versions: Vec<HeadInfo>) -> Versions<R> {
        let mut kept = Versions::new();
        while let Some(info) = versions.pop() {
            if kept.len() == self.versions_kept.max(1) {
                prune(self.store, &info);
                continue;
            }
            let version = self.residency.tiers.version(info, None);
            match self.load(&version, kept.is_empty()) {
                Ok(()) => kept.push(version),
                Err(error @ HeadError::Unreadable { .. }) => {
                    // It may be whole: the first request that names it tries again.
                    let info = &version.info;
                    tracing::warn!(head = %info.name, version = info.version, %error, "a stored head was not loaded yet");
                    kept.push(version);
                }
                Err(error) => {
                    let info = &version.info;
                    tracing::warn!(head = %info.name, version = info.version, %error, "a stored head was skipped");
                    self.residency.tiers.retire(&version);
                }
            }
        }
        kept.reverse();
        kept
    }

    fn load(&self, version: &Arc<HeadVersion<R>>, newest: bool) -> Result<(), HeadError> {
        if self.threads > 0 && newest {
            self.residency.load_early(version)?;
        }
        Ok(())
    }
}

/// Removes a retired version from the store; a failure is only logged.
pub(super) fn prune(store: &dyn HeadStore, old: &HeadInfo) {
    if let Err(error) = store.remove(old) {
        tracing::warn!(head = %old.name, version = old.version, %error, "an old version was not removed from the store");
    }
}
