//! The one moment up to which a swap can be abandoned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use super::error::HeadError;

const PENDING: u8 = 0;
const BEGUN: u8 = 1;
const ABANDONED: u8 = 2;

/// Shared by a swap and its caller: either the swap begins its commit or the caller abandons it, whichever is first.
/// Clones are the same commit.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    state: Arc<AtomicU8>,
    /// From here on the caller has given up, even if nothing has told so yet: a timer may be late.
    deadline: Option<Instant>,
}

impl Commit {
    /// One that cannot begin after `deadline`.
    pub fn until(deadline: Option<Instant>) -> Self {
        Self {
            state: Arc::default(),
            deadline,
        }
    }

    /// Abandons the swap. Returns false if its commit has begun: then it is finished whether or not its caller waits.
    pub fn abandon(&self) -> bool {
        self.decide(ABANDONED) != BEGUN
    }

    /// # Errors
    /// [`HeadError::Cancelled`] once the swap is abandoned.
    pub(super) fn check(&self) -> Result<(), HeadError> {
        self.look_at_the_clock();
        match self.state.load(Ordering::Acquire) {
            ABANDONED => Err(HeadError::Cancelled),
            _ => Ok(()),
        }
    }

    /// From here on the swap cannot be abandoned.
    ///
    /// # Errors
    /// [`HeadError::Cancelled`] if it was.
    pub(super) fn begin(&self) -> Result<(), HeadError> {
        self.look_at_the_clock();
        match self.decide(BEGUN) {
            ABANDONED => Err(HeadError::Cancelled),
            _ => Ok(()),
        }
    }

    fn look_at_the_clock(&self) {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.abandon();
        }
    }

    /// The decision, which is `wanted` unless there was one before.
    fn decide(&self, wanted: u8) -> u8 {
        let decided = self
            .state
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
    fn no_commit_begins_after_its_deadline() {
        let commit = Commit::until(Some(Instant::now()));
        assert!(matches!(commit.begin(), Err(HeadError::Cancelled)));
        let commit = Commit::until(Some(Instant::now()));
        assert!(matches!(commit.check(), Err(HeadError::Cancelled)));
        let commit = Commit::until(Instant::now().checked_add(std::time::Duration::from_secs(3600)));
        commit.check().unwrap();
        commit.begin().unwrap();
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
