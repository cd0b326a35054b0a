//! The threads that the server needs.

use std::thread;

use headswap_model::check_threads;

use super::ServeArgs;
use crate::ServerError;

/// Threads beside those that are counted: listeners' blocking calls, readers and writers of heads.
const OTHERS: usize = 16;

impl ServeArgs {
    /// Checks that the system gives as many threads as the server needs at the same time.
    ///
    /// # Errors
    /// [`ServerError::Settings`] says how many are needed if the system refuses one.
    pub(super) fn check_threads(&self) -> Result<(), ServerError> {
        let cores = thread::available_parallelism().map_or(1, |cores| cores.get());
        let needed = cores + self.model.backend().threads() + self.pictures.decoders(cores, true) + OTHERS;
        check_threads(needed)
            .map_err(|error| ServerError::Settings(format!("{error}, or lower --threads and --decode-threads")))
    }
}
