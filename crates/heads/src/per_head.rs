//! One lock per head that is being changed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::name::HeadName;

/// Locks of type `L` by head; each exists while any caller holds a reference to it.
#[derive(Debug)]
pub struct PerHead<L>(Mutex<HashMap<HeadName, Weak<L>>>);

impl<L> Default for PerHead<L> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<L: Default> PerHead<L> {
    /// Returns the head's lock: concurrent callers get the same one.
    pub fn of(&self, name: &HeadName) -> Arc<L> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(name).and_then(Weak::upgrade) {
            return lock;
        }
        // The map never holds more locks than there are changes in progress.
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::<L>::default();
        locks.insert(name.clone(), Arc::downgrade(&lock));
        lock
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_one_lock_while_it_is_used() {
        let (locks, [cats, dogs]) = (
            PerHead::<Mutex<()>>::default(),
            ["cats", "dogs"].map(|name| HeadName::parse(name).unwrap()),
        );
        let lock = locks.of(&cats);
        assert!(Arc::ptr_eq(&lock, &locks.of(&cats)));
        assert!(!Arc::ptr_eq(&lock, &locks.of(&dogs)));
        drop(lock);
        let _other = locks.of(&dogs);
        assert_eq!(locks.0.lock().unwrap().len(), 1);
    }
}
