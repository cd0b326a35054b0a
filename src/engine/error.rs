//! Why a request got no logits, or why there is no engine.

use crate::model::NetworkError;

/// What the engine answers instead of logits.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EngineError {
    /// The deadline passed before the batch ran.
    #[error("the deadline passed before the picture's turn came")]
    Expired,
    /// The forward pass failed; the engine goes on with the next batch.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// The engine has been shut down.
    #[error("the server is shutting down")]
    Stopped,
}

/// The engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The network could not be prepared.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A thread panicked.
    #[error("the device's thread ended before it was ready")]
    Ended,
    /// The operating system gives no thread.
    #[error("no thread for the device could be started: {0}")]
    Thread(#[from] std::io::Error),
}
