//! The caller of a swap, who can give up until its commit begins.

use std::pin::pin;

use headswap_heads::Commit;
use tokio::time::{Instant, timeout_at};

use crate::ServiceError;

/// The caller's side of a swap. Dropping this, as a cancelled call does, abandons the swap unless its commit has begun.
pub(super) struct Caller {
    pub commit: Commit,
    pub deadline: Option<Instant>,
}

impl Caller {
    pub fn new(deadline: Option<Instant>) -> Self {
        Self {
            commit: Commit::until(deadline.map(Instant::into_std)),
            deadline,
        }
    }

    /// Waits for the swap until the deadline. Once the commit has begun, it waits to the end, so that the caller learns the
    /// result.
    ///
    /// # Errors
    /// [`ServiceError::Expired`], or the error of `work`.
    pub async fn wait_for<T>(&self, work: impl Future<Output = Result<T, ServiceError>>) -> Result<T, ServiceError> {
        let Some(deadline) = self.deadline else {
            return work.await;
        };
        let mut work = pin!(work);
        let expired = ServiceError::Expired {
            doing: "the head was being replaced; nothing was changed",
        };
        match timeout_at(deadline, &mut work).await {
            // The caller still waits, so the swap was cancelled by its deadline.
            Ok(Err(ServiceError::Cancelled)) => Err(expired),
            Ok(result) => result,
            Err(_) if self.commit.abandon() => Err(expired),
            Err(_) => work.await,
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.commit.abandon();
    }
}
