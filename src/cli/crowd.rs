//! The threads of clients that crowd a server.

use tokio::runtime::{Builder, Handle, Runtime};

use super::error::CliError;
use crate::model::give_way;

/// Threads of low priority, so that the clients take no processor from the server that they are to crowd: elsewhere they are
/// on other machines.
pub(super) struct Crowd {
    handle: Handle,
    /// Until this is dropped.
    threads: Option<Runtime>,
}

impl Crowd {
    pub fn new() -> Result<Self, CliError> {
        let mut threads = Builder::new_multi_thread();
        threads.enable_all().thread_name("crowd").on_thread_start(give_way);
        let threads = threads.build()?;
        Ok(Self {
            handle: threads.handle().clone(),
            threads: Some(threads),
        })
    }

    /// Runs a client; what it spawns runs on these threads, too.
    pub async fn run<T: Send + 'static>(
        &self,
        client: impl Future<Output = Result<T, CliError>> + Send + 'static,
    ) -> Result<T, CliError> {
        let ended = self.handle.spawn(client).await;
        ended.map_err(|error| CliError::Failed(format!("a client stopped: {error}")))?
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // A runtime cannot wait for its threads on a thread of another one.
            threads.shutdown_background();
        }
    }
}
