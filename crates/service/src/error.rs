//! The errors of use cases.

use std::sync::Arc;

use headswap_engine::EngineError;
use headswap_heads::HeadError;
use headswap_image::ImageError;

/// A use case failed; the text is the message that callers read.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ServiceError {
    /// One field of the request is wrong.
    #[error("{message}")]
    Invalid {
        /// The field's name in the request.
        field: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// The head is refused, missing or cannot be loaded.
    #[error(transparent)]
    Head(Arc<HeadError>),
    /// The picture is refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The engine could not compute the request.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A limit is reached; a later attempt may succeed.
    #[error("{message}")]
    Exhausted {
        /// The flag that sets the limit.
        setting: &'static str,
        /// Which limit is reached and what to do.
        message: String,
    },
    /// The deadline passed.
    #[error("the deadline passed while {doing}")]
    Expired {
        /// What was happening, such as "the head was being replaced".
        doing: &'static str,
    },
    /// The caller gave up before the change was made, so nothing was changed.
    #[error("the call was cancelled before the change was made; nothing was changed")]
    Cancelled,
    /// The server cannot answer now; another replica can, or this one later.
    #[error("{0}")]
    Unavailable(String),
    /// A defect of the server.
    #[error("{0}")]
    Internal(String),
}

impl ServiceError {
    pub(super) fn invalid(field: &'static str, message: String) -> Self {
        Self::Invalid { field, message }
    }
}

impl From<HeadError> for ServiceError {
    fn from(error: HeadError) -> Self {
        match error {
            HeadError::Cancelled => Self::Cancelled,
            error => Self::Head(Arc::new(error)),
        }
    }
}
