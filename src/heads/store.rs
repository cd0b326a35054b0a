//! Where acknowledged heads outlive the process.

use std::path::PathBuf;

use super::name::HeadName;
use super::version::HeadInfo;
use super::weights::HeadWeights;

/// A version as the store gave it back.
#[derive(Clone, Debug)]
pub struct StoredHead {
    /// What was known of it.
    pub info: HeadInfo,
    /// Its weights.
    pub weights: HeadWeights,
}

/// A durable store of head versions.
pub trait HeadStore: Send + Sync {
    /// Writes a version; once it returns, the version survives a power loss.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the version is there.
    fn save(&self, info: &HeadInfo, weights: &HeadWeights) -> Result<(), StoreError>;

    /// Forgets a version; one that is not there is forgotten already.
    ///
    /// # Errors
    /// [`StoreError`].
    fn remove(&self, name: &HeadName, version: u64) -> Result<(), StoreError>;

    /// Every whole version, by name and version.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read at all; a version that is damaged is left out and logged.
    fn load_all(&self) -> Result<Vec<StoredHead>, StoreError>;

    /// The highest version number that was ever written under `name`, damaged ones included; 0 if none.
    fn highest_version(&self, name: &HeadName) -> u64;
}

/// The disk refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}; the live head is unchanged", path = .path.display())]
pub struct StoreError {
    /// As "write".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}
