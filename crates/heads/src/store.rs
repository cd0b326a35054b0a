//! The trait of the store in which acknowledged heads outlive the process.

use std::path::PathBuf;
use std::time::Duration;

use headswap_checkpoint::Throttle;

use super::error::HeadError;
use super::name::HeadName;
use super::version::HeadInfo;
use super::weights::HeadWeights;

/// A durable store of head versions.
pub trait HeadStore: Send + Sync {
    /// Writes a version under a temporary name, pausing as `throttle` says. It survives a power loss there but is not listed
    /// before [`StagedHead::commit`].
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the version is stored.
    fn stage(
        &self,
        info: &HeadInfo,
        weights: &HeadWeights,
        throttle: &Throttle,
    ) -> Result<Box<dyn StagedHead>, StoreError>;

    /// Writes a version; once this returns, the version survives a power loss.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the version is stored.
    fn save(&self, info: &HeadInfo, weights: &HeadWeights) -> Result<(), StoreError> {
        self.stage(info, weights, &Throttle::off())?.commit()?;
        Ok(())
    }

    /// Removes a version; does nothing if the store does not hold it.
    ///
    /// # Errors
    /// [`StoreError`].
    fn remove(&self, info: &HeadInfo) -> Result<(), StoreError>;

    /// Lists every version whose file looks complete, by name and version, without reading the tensors.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read at all; a damaged version is left out and logged.
    fn list(&self) -> Result<Vec<HeadInfo>, StoreError>;

    /// Reads a listed version's weights and verifies that they are the acknowledged ones.
    ///
    /// # Errors
    /// [`HeadError::Damaged`] if the file is missing, ends early or has other contents; [`HeadError::Unreadable`] if the
    /// system failed to read it.
    fn load(&self, info: &HeadInfo) -> Result<HeadWeights, HeadError>;

    /// Reads a listed version's labels, without the tensors.
    ///
    /// # Errors
    /// As [`HeadStore::load`].
    fn labels(&self, info: &HeadInfo) -> Result<Vec<String>, HeadError>;

    /// Returns the highest version number stored under `name`, damaged versions included; 0 if there is none.
    ///
    /// # Errors
    /// [`StoreError`] if the store cannot be read.
    fn highest_version(&self, name: &HeadName) -> Result<u64, StoreError>;
}

/// A version that is written but not yet listed by the store. Dropping this removes it.
pub trait StagedHead: Send {
    /// Adds the version to the store; once this returns, it survives a power loss. Returns the time spent in fsync since
    /// [`HeadStore::stage`] began.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the version is stored.
    fn commit(self: Box<Self>) -> Result<Duration, StoreError>;
}

/// The store could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}; no head was changed, so fix that and try again", path = .path.display())]
pub struct StoreError {
    /// A verb, such as "write".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's error.
    pub source: std::io::Error,
}
