//! Where acknowledged heads outlive the process.

use std::path::PathBuf;
use std::time::Duration;

use headswap_checkpoint::Throttle;

use super::error::HeadError;
use super::name::HeadName;
use super::version::HeadInfo;
use super::weights::HeadWeights;

/// A durable store of head versions.
pub trait HeadStore: Send + Sync {
    /// Writes a version beside its final place, pausing as `throttle` says. There it survives a power loss but is not one of
    /// the store's yet.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the version is there.
    fn stage(
        &self,
        info: &HeadInfo,
        weights: &HeadWeights,
        throttle: &Throttle,
    ) -> Result<Box<dyn StagedHead>, StoreError>;

    /// Writes a version; once it returns, the version survives a power loss.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the version is there.
    fn save(&self, info: &HeadInfo, weights: &HeadWeights) -> Result<(), StoreError> {
        self.stage(info, weights, &Throttle::off())?.commit()?;
        Ok(())
    }

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
    /// [`HeadError::Damaged`] if the file was read and is wrong, ends early or is gone; [`HeadError::Unreadable`] if the
    /// system refused to read it.
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

/// A version that is written but not one of the store's. Dropping this removes it.
pub trait StagedHead: Send {
    /// Makes it one of the store's; once this returns, that survives a power loss. Returns how much of the time since
    /// [`HeadStore::stage`] began was spent in fsync.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the version is there.
    fn commit(self: Box<Self>) -> Result<Duration, StoreError>;
}

/// The disk refused to write.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {path}: {source}; no head was changed, so fix that and try again", path = .path.display())]
pub struct StoreError {
    /// As "write".
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: std::io::Error,
}
