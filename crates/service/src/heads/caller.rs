//! Who waits for a swap, and until when.

use std::pin::pin;

use headswap_heads::Commit;
use tokio::time::{Instant, timeout_at};

use crate::ServiceError;

/// The caller's side of a swap. Dropping this, as a call that is cancelled does, abandons the swap unless its commit has
/// begun.
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

    /// Waits for the swap, up to the deadline; but once the commit has begun, to its end: what is changed is told.
    ///
    /// # Errors
    /// [`ServiceError::Expired`], or the work's own.
    pub async fn wait_for<T>(&self, work: impl Future<Output = Result<T, ServiceError>>) -> Result<T, ServiceError> {
        let Some(deadline) = self.deadline else {
            return work.await;
        };
        let mut work = pin!(work);
        let expired = ServiceError::Expired {
            doing: "the head was being replaced; nothing was changed",
        };
        match timeout_at(deadline, &mut work).await {
            // The caller is still here, so it was its deadline that the swap stopped at.
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
