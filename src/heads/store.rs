//! Where acknowledged heads outlive the process.

use std::path::PathBuf;

use super::error::HeadError;
use super::name::HeadName;
use super::version::HeadInfo;
use super::weights::HeadWeights;

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

    /// Every version that looks whole, by name and version, without reading the tensors.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read at all; a version that is seen to be damaged is left out and logged.
    fn list(&self) -> Result<Vec<HeadInfo>, StoreError>;

    /// A listed version's weights, which are those that were acknowledged.
    ///
    /// # Errors
    /// [`HeadError::Damaged`] if they are not, [`HeadError::Store`] if they cannot be read.
    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError>;

    /// A listed version's labels, without reading the tensors.
    ///
    /// # Errors
    /// As [`HeadStore::load`].
    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError>;

    /// The highest version number that is stored under `name`, damaged ones included; 0 if none.
    ///
    /// # Errors
    /// [`StoreError`] if that cannot be told.
    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError>;
}

/// The disk refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}; no head was changed, so mend that and try again", path = .path.display())]
pub struct StoreError {
    /// As "write".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}
