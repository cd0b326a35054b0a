//! The tasks of one HTTP/2 connection, one for each stream. They end with the connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

/// A task that has been cancelled ends at its next await, so this is only reached if one blocks its thread.
const JOIN_MAX: Duration = Duration::from_secs(1);

/// Where hyper spawns its streams.
#[derive(Clone, Default)]
pub(crate) struct StreamTasks(Arc<Mutex<JoinSet<()>>>);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for StreamTasks {
    fn execute(&self, stream: F) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Two are taken out for each that comes, so the set does not grow beyond the streams that are open.
        for _ in 0..2 {
            tasks.try_join_next();
        }
        tasks.spawn(stream);
    }
}

impl StreamTasks {
    /// Cancels what is left and waits until it has ended.
    pub async fn end(&self) {
        let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        if tokio::time::timeout(JOIN_MAX, tasks.shutdown()).await.is_err() {
            tracing::warn!(tasks = tasks.len(), "streams did not end after {JOIN_MAX:?}");
        }
    }
}
