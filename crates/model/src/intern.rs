//! Parameters on a device that several heads share.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use headswap_checkpoint::Digest;

/// Where a parameter belongs, and its digest.
type Key = (usize, Digest);

/// Parameters by step and digest, for as long as a head owns them.
pub(super) struct Interned<T>(Mutex<HashMap<Key, Weak<T>>>);

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Interned<T> {
    /// Returns the parameter that another head placed, or places it.
    pub fn get<E>(&self, key: Key, place: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let found = self.lock().get(&key).and_then(Weak::upgrade);
        if let Some(found) = found {
            return Ok(found);
        }
        // Without the lock: placing is slow. If another thread placed the same parameter meanwhile, its own counts.
        let new = Arc::new(place()?);
        let mut placed = self.lock();
        if let Some(found) = placed.get(&key).and_then(Weak::upgrade) {
            return Ok(found);
        }
        placed.retain(|_, placed| placed.strong_count() > 0);
        placed.insert(key, Arc::downgrade(&new));
        Ok(new)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Weak<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
