//! Threads for the clients of a load.

use headswap_checkpoint::lower_priority;
use headswap_client::ClientError;
use tokio::runtime::{Builder, Handle, Runtime};

/// Threads of low priority, so that the clients take no CPU time from the server under load; elsewhere they are on other
/// machines.
pub struct ClientThreads {
    handle: Handle,
    /// Until this is dropped.
    threads: Option<Runtime>,
}

impl ClientThreads {
    /// As many threads as the machine has cores.
    ///
    /// # Errors
    /// If the system gives no threads.
    pub fn new() -> Result<Self, ClientError> {
        let mut threads = Builder::new_multi_thread();
        threads
            .enable_all()
            .thread_name("client")
            .on_thread_start(lower_priority);
        let threads = threads.build()?;
        Ok(Self {
            handle: threads.handle().clone(),
            threads: Some(threads),
        })
    }

    /// Runs a client; what it spawns runs on these threads, too.
    ///
    /// # Errors
    /// The client's, or [`ClientError::Failed`] if it panicked.
    pub async fn run<T, E>(&self, client: impl Future<Output = Result<T, E>> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ClientError> + Send + 'static,
    {
        let ended = self.handle.spawn(client).await;
        ended.map_err(|error| ClientError::Failed(format!("a client stopped: {error}")))?
    }
}

impl Drop for ClientThreads {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // A runtime cannot wait for its threads on a thread of another one.
            threads.shutdown_background();
        }
    }
}
