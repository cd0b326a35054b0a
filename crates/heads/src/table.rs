//! The routing table: which version of a head a request gets.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::error::HeadError;
use super::name::HeadName;
use super::version::HeadVersion;

/// The maximum number of names that an error lists.
const KNOWN_MAX: usize = 8;

/// Versions, oldest first. In the table it is never empty, and the last is live.
type Versions<R> = Vec<Arc<HeadVersion<R>>>;
type Map<R> = BTreeMap<HeadName, Versions<R>>;

/// An immutable map behind one atomic pointer: readers never wait, and see either all of a swap or nothing of it.
#[derive(Debug)]
pub struct RoutingTable<R> {
    map: ArcSwap<Map<R>>,
}

/// One version of a head, and the numbers of all its versions.
#[derive(Debug)]
pub struct History<R> {
    /// The requested version.
    pub version: Arc<HeadVersion<R>>,
    /// True if it is the live one.
    pub live: bool,
    /// The numbers of all versions that requests may name, oldest first.
    pub available: Vec<u64>,
}

/// One page of a list of heads.
#[derive(Debug)]
pub struct Page<R> {
    /// Live versions, by name.
    pub heads: Versions<R>,
    /// True if another page follows.
    pub more: bool,
    /// The number of matches on all pages.
    pub total: usize,
}

impl<R> RoutingTable<R> {
    /// Builds a table of the newest `kept` versions of each head, which must come oldest first. Also returns the others.
    pub(super) fn new(versions: impl Iterator<Item = Arc<HeadVersion<R>>>, kept: usize) -> (Self, Versions<R>) {
        let (mut map, mut surplus) = (Map::new(), Versions::new());
        for version in versions {
            surplus.extend(add(&mut map, version, kept));
        }
        let map = ArcSwap::from_pointee(map);
        (Self { map }, surplus)
    }

    /// The number of heads.
    pub fn count(&self) -> usize {
        self.map.load().len()
    }

    /// Returns a version of a head; 0 is the live one.
    ///
    /// # Errors
    /// [`HeadError::UnknownHead`], [`HeadError::UnknownVersion`].
    pub fn resolve(&self, name: &HeadName, version: u64) -> Result<Arc<HeadVersion<R>>, HeadError> {
        find(&self.map.load(), name, version)
    }

    /// Returns the live version of every head, by name.
    pub fn list(&self) -> Vec<Arc<HeadVersion<R>>> {
        self.map
            .load()
            .values()
            .filter_map(|versions| versions.last().cloned())
            .collect()
    }

    /// Returns the matching live versions of at most `size` heads whose names come after `after`, by name.
    pub fn page(
        &self,
        after: Option<&HeadName>,
        size: usize,
        matches: impl Fn(&Arc<HeadVersion<R>>) -> bool,
    ) -> Page<R> {
        let map = self.map.load();
        let live = map.values().filter_map(|versions| versions.last());
        let (mut heads, mut more, mut total) = (Versions::new(), false, 0);
        for version in live.filter(|version| matches(version)) {
            total += 1;
            if after.is_none_or(|after| version.info.name > *after) {
                more = heads.len() == size;
                if !more {
                    heads.push(Arc::clone(version));
                }
            }
        }
        Page { heads, more, total }
    }

    /// Returns a version of a head (0 is the live one) and the numbers of all its versions, from one snapshot.
    ///
    /// # Errors
    /// As [`RoutingTable::resolve`].
    pub fn history(&self, name: &HeadName, version: u64) -> Result<History<R>, HeadError> {
        let map = self.map.load();
        let found = find(&map, name, version)?;
        let versions = map.get(name).into_iter().flatten();
        let available: Vec<u64> = versions.map(|version| version.info.version).collect();
        Ok(History {
            live: available.last() == Some(&found.info.version),
            version: found,
            available,
        })
    }

    /// Returns the versions of a head that requests may name, oldest first.
    pub fn versions(&self, name: &HeadName) -> Vec<u64> {
        self.history(name, 0)
            .map_or_else(|_| Vec::new(), |history| history.available)
    }

    /// Bytes of all versions' tensors.
    pub(super) fn bytes(&self) -> u64 {
        self.map
            .load()
            .values()
            .flatten()
            .map(|version| version.info.resident_bytes)
            .sum()
    }

    /// Makes `version` live and keeps the newest `kept` of its head, itself included. Returns the versions removed.
    ///
    /// Only the registry calls this, under the writers' lock: of two concurrent changes, one would be lost.
    pub(super) fn publish(&self, version: Arc<HeadVersion<R>>, kept: usize) -> Versions<R> {
        let mut map = Map::clone(&self.map.load());
        let retired = add(&mut map, version, kept);
        self.map.store(Arc::new(map));
        retired
    }
}

fn find<R>(map: &Map<R>, name: &HeadName, version: u64) -> Result<Arc<HeadVersion<R>>, HeadError> {
    let versions = map.get(name).ok_or_else(|| HeadError::UnknownHead {
        name: name.clone(),
        known: neighbours(map, name),
    })?;
    let found = match version {
        0 => versions.last(),
        _ => versions.iter().find(|candidate| candidate.info.version == version),
    };
    found.cloned().ok_or_else(|| HeadError::UnknownVersion {
        name: name.clone(),
        version,
        available: versions.iter().map(|version| version.info.version).collect(),
    })
}

fn add<R>(map: &mut Map<R>, version: Arc<HeadVersion<R>>, kept: usize) -> Versions<R> {
    let versions = map.entry(version.info.name.clone()).or_default();
    versions.push(version);
    let surplus = versions.len().saturating_sub(kept.max(1));
    versions.drain(..surplus).collect()
}

/// Returns the names next to `name` in alphabetical order, among which are those that share a prefix with it. Clients
/// may send any name, so this takes logarithmic time.
fn neighbours<R>(map: &Map<R>, name: &HeadName) -> Vec<String> {
    let before: Vec<_> = map.range(..name).rev().take(KNOWN_MAX).map(|(name, _)| name).collect();
    let after: Vec<_> = map.range(name..).take(KNOWN_MAX).map(|(name, _)| name).collect();
    // Half of each side, and more of one where the other has fewer.
    let taken_before = before.len().min(KNOWN_MAX - after.len().min(KNOWN_MAX / 2));
    let near = before[..taken_before].iter().rev().chain(&after);
    near.take(KNOWN_MAX).map(ToString::to_string).collect()
}
