//! The commit point of a swap: until then its caller can abandon it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use super::error::HeadError;

const PENDING: u8 = 0;
const BEGUN: u8 = 1;
const ABANDONED: u8 = 2;

/// Shared by a swap and its caller: either the swap begins its commit or the caller abandons it, whichever is first.
/// Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    state: Arc<AtomicU8>,
    /// Abandoned from this moment on, even if the caller's timer has not fired yet.
    deadline: Option<Instant>,
}

impl Commit {
    /// Returns a commit that cannot begin after `deadline`.
    pub fn until(deadline: Option<Instant>) -> Self {
        Self {
            state: Arc::default(),
            deadline,
        }
    }

    /// Abandons the swap. Returns false if its commit has begun: then it finishes even if its caller gives up.
    pub fn abandon(&self) -> bool {
        self.decide(ABANDONED) != BEGUN
    }

    /// # Errors
    /// [`HeadError::Cancelled`] once the swap is abandoned.
    pub(super) fn check(&self) -> Result<(), HeadError> {
        self.abandon_if_expired();
        match self.state.load(Ordering::Acquire) {
            ABANDONED => Err(HeadError::Cancelled),
            _ => Ok(()),
        }
    }

    /// Begins the commit; afterwards the swap cannot be abandoned.
    ///
    /// # Errors
    /// [`HeadError::Cancelled`] if it was abandoned before.
    pub(super) fn begin(&self) -> Result<(), HeadError> {
        self.abandon_if_expired();
        match self.decide(BEGUN) {
            ABANDONED => Err(HeadError::Cancelled),
            _ => Ok(()),
        }
    }

    fn abandon_if_expired(&self) {
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            self.abandon();
        }
    }

    /// Sets the state to `next` if it is still pending. Returns the resulting state.
    fn decide(&self, next: u8) -> u8 {
        let exchanged = self
            .state
            .compare_exchange(PENDING, next, Ordering::AcqRel, Ordering::Acquire);
        exchanged.map_or_else(|decided| decided, |_| next)
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
    fn exactly_one_of_two_racing_threads_decides() {
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
