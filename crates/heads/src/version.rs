//! One published version of a head.

use std::collections::BTreeMap;

use headswap_checkpoint::Digest;

use super::name::HeadName;
use super::residency::{ResidencySlot, Tier};

/// What is known of a version.
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
    /// The user's notes.
    pub annotations: BTreeMap<String, String>,
    /// When it was made, in microseconds since 1970-01-01 UTC.
    pub created_unix_us: u64,
    /// The names of the parameters that it overrides.
    pub parameters: Vec<String>,
    /// Its tensors' bytes in f32.
    pub resident_bytes: u64,
}

/// A version: what is known of it, and a place for what is on the device. Immutable but for that place.
#[derive(Debug)]
pub struct HeadVersion<R> {
    /// What is known of it.
    pub info: HeadInfo,
    pub(super) slot: ResidencySlot<R>,
}

impl<R> HeadVersion<R> {
    /// Where it is; none once no request may name it.
    pub fn tier(&self) -> Option<Tier> {
        self.slot.lock().tier()
    }

    /// Counts an answer that it gave.
    pub fn answered(&self) {
        self.slot.answered();
    }

    /// How many answers it gave since the process started.
    pub fn answers(&self) -> u64 {
        self.slot.answers()
    }
}
