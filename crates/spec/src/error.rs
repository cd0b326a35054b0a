//! What is wrong with a head spec.

/// A key of a spec, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct SpecError {
    /// The key with the keys around it, for example `preprocessing.crop`; `spec` for the whole.
    pub key: String,
    /// What is wrong, and what to give.
    pub reason: String,
}

impl SpecError {
    pub(crate) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            reason: reason.into(),
        }
    }
}
