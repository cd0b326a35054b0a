//! Why a request got no logits.

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
