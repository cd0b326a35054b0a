//! The one moment up to which a swap can be abandoned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::error::HeadError;

const PENDING: u8 = 0;
const BEGUN: u8 = 1;
const ABANDONED: u8 = 2;

/// Shared by a swap and its caller: either the swap begins its commit or the caller abandons it, whichever is first.
/// Clones are the same commit.
#[derive(Clone, Debug, Default)]
pub struct Commit(Arc<AtomicU8>);

impl Commit {
    /// Abandons the swap. Returns false if its commit has begun: then it is finished whether or not its caller waits.
    pub fn abandon(&self) -> bool {
        self.decide(ABANDONED) != BEGUN
    }

    /// # Errors
    /// [`HeadError::Cancelled`] once the swap is abandoned.
    pub(super) fn check(&self) -> Result<(), HeadError> {
        match self.0.load(Ordering::Acquire) {
            ABANDONED => Err(HeadError::Cancelled),
            _ => Ok(()),
        }
    }

    /// From here on the swap cannot be abandoned.
    ///
    /// # Errors
    /// [`HeadError::Cancelled`] if it was.
    pub(super) fn begin(&self) -> Result<(), HeadError> {
        match self.decide(BEGUN) {
            ABANDONED => Err(HeadError::Cancelled),
            _ => Ok(()),
        }
    }

    /// The decision, which is `wanted` unless there was one before.
    fn decide(&self, wanted: u8) -> u8 {
        let decided = self
            .0
            .compare_exchange(PENDING, wanted, Ordering::AcqRel, Ordering::Acquire);
        decided.map_or_else(|before| before, |_| wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decision_stands() {
        let commit = Commit::default();
        commit.check().unwrap();
        assert!(commit.clone().abandon() && commit.abandon());
        assert!(matches!(commit.check(), Err(HeadError::Cancelled)));
        assert!(matches!(commit.begin(), Err(HeadError::Cancelled)));

        let commit = Commit::default();
        commit.begin().unwrap();
        assert!(!commit.abandon());
        commit.check().unwrap();
    }

    #[test]
    fn of_two_threads_one_decides() {
        for _ in 0..1000 {
            let commit = Commit::default();
            std::thread::scope(|scope| {
                let begun = scope.spawn(|| commit.begin().is_ok());
                let abandoned = commit.abandon();
                assert_ne!(begun.join().unwrap(), abandoned);
            });
        }
    }
}
