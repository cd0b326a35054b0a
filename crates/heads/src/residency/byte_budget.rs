//! A budget of device memory: bytes are reserved before they are used and released when their last owner is dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A limit on bytes; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ByteBudget(Arc<Counter>);

#[derive(Debug)]
struct Counter {
    bytes_max: u64,
    used: AtomicU64,
}

/// Bytes that are reserved until this is dropped; the default reserves nothing.
#[derive(Debug, Default)]
pub struct Reservation(Option<Arc<Reserved>>);

#[derive(Debug)]
struct Reserved {
    bytes: u64,
    budget: Mutex<ByteBudget>,
}

impl ByteBudget {
    pub fn new(bytes_max: u64) -> Self {
        Self(Arc::new(Counter {
            bytes_max,
            used: AtomicU64::new(0),
        }))
    }

    pub fn bytes_max(&self) -> u64 {
        self.0.bytes_max
    }

    /// Reserves `bytes` if so many are left.
    pub fn reserve(&self, bytes: u64) -> Option<Reservation> {
        self.0
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|used| *used <= self.0.bytes_max)
            })
            .ok()?;
        let budget = Mutex::new(self.clone());
        Some(Reservation(Some(Arc::new(Reserved { bytes, budget }))))
    }

    /// Returns how many bytes must be released before `bytes` can be reserved.
    pub fn lacking(&self, bytes: u64) -> u64 {
        let used = self.0.used.load(Ordering::Acquire);
        used.saturating_add(bytes).saturating_sub(self.0.bytes_max)
    }
}

impl Reservation {
    /// Returns another owner of the same bytes, which stay reserved until both are dropped.
    pub(crate) fn share(&self) -> Self {
        Self(self.0.clone())
    }

    /// Moves these bytes to the budget of `other`, which reserved as many, and releases them in their own.
    pub(crate) fn move_into(&self, other: Self) {
        if let (Some(own), Some(other)) = (&self.0, &other.0) {
            debug_assert_eq!(own.bytes, other.bytes);
            std::mem::swap(&mut *own.budget(), &mut *other.budget());
        }
    }
}

impl Reserved {
    fn budget(&self) -> MutexGuard<'_, ByteBudget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget().0.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_move_from_one_budget_to_another() {
        let (trial, main) = (ByteBudget::new(10), ByteBudget::new(10));
        let (on_trial, kept) = (trial.reserve(6).unwrap(), main.reserve(6).unwrap());
        let held = on_trial.share();
        assert!(trial.reserve(5).is_none());
        on_trial.move_into(kept);
        assert_eq!((used(&trial), used(&main)), (0, 6));
        drop(on_trial);
        assert_eq!((used(&trial), used(&main)), (0, 6));
        drop(held);
        assert_eq!((used(&trial), used(&main)), (0, 0));
    }

    fn used(budget: &ByteBudget) -> u64 {
        budget.lacking(budget.bytes_max())
    }
}
