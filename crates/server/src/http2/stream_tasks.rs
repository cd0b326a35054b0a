//! The stream tasks of one HTTP/2 connection. They end with the connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

/// Cancelled tasks end at their next await, so this timeout is only reached if a task blocks its thread.
const JOIN_MAX: Duration = Duration::from_secs(1);

/// The executor on which hyper spawns a connection's streams.
#[derive(Clone, Default)]
pub(crate) struct StreamTasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Each new stream removes up to two finished ones, so the set does not outgrow the open streams.
        for _ in 0..2 {
            tasks.try_join_next();
        }
        tasks.spawn(stream);
    }
}

impl StreamTasks {
    /// Cancels the remaining tasks and waits until they have ended.
    pub async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if tokio::time::timeout(JOIN_MAX, tasks.shutdown()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "streams did not end after {JOIN_MAX:?}");
        }
    }
}
