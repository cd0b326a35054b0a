//! What is wrong with a head spec.

/// The longest reason, in characters: it may quote what a client sent.
const REASON_MAX: usize = 400;

/// A key of a spec, and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct SpecError {
    /// The key with the keys around it, for example `preprocessing.crop`; `spec` for the whole.
    pub key: String,
    /// What is wrong, and what to give: one short line.
    pub reason: String,
}

impl SpecError {
    pub(crate) fn new(key: impl Into<String>, reason: impl Into<String>) -> Self {
        let reason: String = reason.into();
        let mut line = String::new();
        for character in reason.chars().take(REASON_MAX) {
            line.push(if character.is_control() { ' ' } else { character });
        }
        if line.len() < reason.len() {
            line.push('…');
        }
        Self {
            key: key.into(),
            reason: line,
        }
    }
}
