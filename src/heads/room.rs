//! Bytes of a device, taken before they are used and given back when their user is gone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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
pub struct Reservation(Option<Arc<Taken>>);

#[derive(Debug)]
struct Taken {
    bytes: u64,
    room: Mutex<Room>,
}

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
        taken.ok()?;
        let room = Mutex::new(self.clone());
        Some(Reservation(Some(Arc::new(Taken { bytes, room }))))
    }

    /// How many bytes must be given back before `bytes` can be taken.
    pub fn lacking(&self, bytes: u64) -> u64 {
        let used = self.0.used.load(Ordering::Acquire);
        used.saturating_add(bytes).saturating_sub(self.0.most)
    }
}

impl Reservation {
    /// Another owner of the same bytes, which are taken until both are gone.
    pub(super) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Moves these bytes to the room in which `other` took as many; those it had before are given back.
    pub(super) fn move_into(&self, other: Self) {
        if let (Some(own), Some(other)) = (&self.0, &other.0) {
            debug_assert_eq!(own.bytes, other.bytes);
            std::mem::swap(&mut *own.room(), &mut *other.room());
        }
    }
}

impl Taken {
    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room().0.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_move_from_one_room_to_another() {
        let (trial, main) = (Room::new(10), Room::new(10));
        let used = |room: &Room| room.lacking(10);
        let (on_trial, kept) = (trial.take(6).unwrap(), main.take(6).unwrap());
        let held = on_trial.share();
        assert!(trial.take(5).is_none());
        on_trial.move_into(kept);
        assert_eq!((used(&trial), used(&main)), (0, 6));
        drop(on_trial);
        assert_eq!((used(&trial), used(&main)), (0, 6));
        drop(held);
        assert_eq!((used(&trial), used(&main)), (0, 0));
    }
}
