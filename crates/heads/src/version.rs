//! One published version of a head, and its metadata.

use std::collections::BTreeMap;

use headswap_checkpoint::Digest;

use super::name::HeadName;
use super::residency::{ResidencySlot, Tier};

/// The metadata of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadInfo {
    /// The head.
    pub name: HeadName,
    /// 1, 2, 3, … for each name.
    pub version: u64,
    /// SHA-256 of its tensors and labels.
    pub digest: Digest,
    /// K.
    pub classes: usize,
    /// The user's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The time of its creation, in microseconds since 1970-01-01 UTC.
    pub created_unix_us: u64,
    /// The names of the parameters that it overrides.
    pub parameters: Vec<String>,
    /// Its tensors' bytes in f32.
    pub resident_bytes: u64,
}

/// A version: its metadata, which is immutable, and the slot of what it keeps in memory.
#[derive(Debug)]
pub struct HeadVersion<R> {
    /// Its metadata.
    pub info: HeadInfo,
    pub(super) slot: ResidencySlot<R>,
}

impl<R> HeadVersion<R> {
    /// Returns its tier, or none once it is retired.
    pub fn tier(&self) -> Option<Tier> {
        self.slot.lock().tier()
    }

    /// Counts an answer that it gave.
    pub fn answered(&self) {
        self.slot.answered();
    }

    /// The number of answers that it gave since the process started.
    pub fn answers(&self) -> u64 {
        self.slot.answers()
    }
}
