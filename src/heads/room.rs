//! Bytes of a device, taken before they are used and given back when their user is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A bound on bytes; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    most: u64,
    used: AtomicU64,
}

/// Bytes that are taken for as long as this lives; the default takes none of no room.
#[derive(Debug, Default)]
pub struct Reservation(Option<(Room, u64)>);

impl Room {
    pub fn new(most: u64) -> Self {
        Self(Arc::new(Counter {
            most,
            used: AtomicU64::new(0),
        }))
    }

    pub fn most(&self) -> u64 {
        self.0.most
    }

    /// Takes `bytes` if so many are left.
    pub fn take(&self, bytes: u64) -> Option<Reservation> {
        let fits = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.0.most);
        let taken = self.0.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits);
        taken.is_ok().then(|| Reservation(Some((self.clone(), bytes))))
    }

    /// How many bytes must be given back before `bytes` can be taken.
    pub fn lacking(&self, bytes: u64) -> u64 {
        let used = self.0.used.load(Ordering::Acquire);
        used.saturating_add(bytes).saturating_sub(self.0.most)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if let Some((room, bytes)) = &self.0 {
            room.0.used.fetch_sub(*bytes, Ordering::AcqRel);
        }
    }
}
