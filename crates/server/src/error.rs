//! The errors that end the server.

use std::io;
use std::time::Duration;

use crate::settings::ListenAddress;

/// Why the server did not start, or failed while it served or shut down.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Invalid settings, one on each line.
    #[error("{0}")]
    Settings(String),
    /// An address could not be bound.
    #[error("cannot listen on {address} (--{flag}): {source}; is another server running there?")]
    Listen {
        /// The flag that sets the address.
        flag: &'static str,
        /// The address.
        address: ListenAddress,
        /// The system's error.
        source: io::Error,
    },
    /// The backbone could not be loaded.
    #[error(transparent)]
    Weights(#[from] headswap_model::WeightsError),
    /// The device could not be used.
    #[error(transparent)]
    Backend(#[from] headswap_model::BackendError),
    /// The engine did not start.
    #[error(transparent)]
    Engine(#[from] headswap_engine::StartError),
    /// The heads could not be loaded.
    #[error(transparent)]
    Heads(#[from] headswap_heads::HeadError),
    /// The system could not start a thread, or a file could not be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A port stopped accepting connections while serving.
    #[error("a listener failed: {0}")]
    Listener(String),
    /// A device no longer computes.
    #[error("the device no longer computes ({0}); the server has stopped, so that its supervisor can restart it")]
    Device(String),
    /// Accepted requests were still unanswered at the end of the drain.
    #[error("{left} accepted requests were still unanswered after {longest:?} of draining (--drain-ms-max)")]
    Drain {
        /// The number of unanswered requests.
        left: usize,
        /// `--drain-ms-max`.
        longest: Duration,
    },
}
