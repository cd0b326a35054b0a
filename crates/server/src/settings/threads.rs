//! Whether the system gives as many threads as the server needs: found out before anything depends on it, since the runtime's
//! own threads panic where they are refused.

use std::sync::{Arc, Mutex};
use std::thread;

use super::ServeArgs;
use crate::ServerError;

/// Threads of the forward pass at most.
pub(super) const THREADS_MAX: usize = 1024;

/// Threads beside those that are counted: listeners' blocking calls, readers and writers of heads.
const OTHERS: usize = 16;

impl ServeArgs {
    /// Starts as many threads as the server needs at the same time, and ends them again.
    ///
    /// # Errors
    /// [`ServerError::Settings`] says how many are needed if the system refuses one.
    pub(super) fn check_threads(&self) -> Result<(), ServerError> {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let needed = cores + self.model.backend().threads() + self.pictures.decoders(cores, true) + OTHERS;
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock();
        let mut started = Vec::with_capacity(needed);
        let mut refused = None;
        for _ in 0..needed {
            let gate = Arc::clone(&gate);
            match thread::Builder::new()
                .name("trial".into())
                .spawn(move || drop(gate.lock()))
            {
                Ok(thread) => started.push(thread),
                Err(error) => {
                    refused = Some(error);
                    break;
                }
            }
        }
        drop(closed);
        let count = started.len();
        for thread in started {
            let _ = thread.join();
        }
        match refused {
            None => Ok(()),
            Some(error) => Err(ServerError::Settings(format!(
                "the server needs {needed} threads at the same time, and the system allows {count} ({error}); raise the limit \
                 on processes (pids.max of the control group, ulimit -u), or lower --threads and --decode-threads"
            ))),
        }
    }
}
