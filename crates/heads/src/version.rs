//! One published version of a head, and its metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use headswap_checkpoint::Digest;
use headswap_spec::CompleteSpec;

use super::name::HeadName;
use super::residency::{Demand, ResidencySlot, Tier};
use super::shared_tensor::SharedTensor;
use super::weights::HeadWeights;

/// The metadata of a version.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadInfo {
    /// The head.
    pub name: HeadName,
    /// 1, 2, 3, … for each name.
    pub version: u64,
    /// SHA-256 of its tensors, labels and spec.
    pub digest: Digest,
    /// The number of classes.
    pub classes: usize,
    /// The index of the backbone that it stands on, among those of this server.
    pub backbone: usize,
    /// What it computes of which pictures.
    pub spec: Arc<CompleteSpec>,
    /// True if the spec was given with the head, and is stored with it.
    pub has_spec: bool,
    /// What of the spec was assumed, a line each.
    pub assumed: Arc<[String]>,
    /// The user's annotations.
    pub annotations: BTreeMap<String, String>,
    /// The time of its creation, in microseconds since 1970-01-01 UTC.
    pub created_unix_us: u64,
    /// The names of the parameters that it overrides.
    pub parameters: Vec<String>,
    /// Its tensors' bytes in f32.
    pub resident_bytes: u64,
    /// Of these tensors, those that other versions may have, too. Not known of versions that older releases stored.
    pub shared: Arc<[SharedTensor]>,
}

/// A version: its metadata, which is immutable, and the slot of what it keeps in memory.
#[derive(Debug)]
pub struct HeadVersion<R> {
    /// Its metadata.
    pub info: HeadInfo,
    pub(super) slot: ResidencySlot<R>,
}

impl HeadInfo {
    /// Describes a version of these weights.
    pub fn of(
        weights: &HeadWeights,
        name: HeadName,
        version: u64,
        annotations: BTreeMap<String, String>,
        created_unix_us: u64,
    ) -> Self {
        Self {
            name,
            version,
            digest: weights.digest,
            classes: weights.classes(),
            backbone: weights.backbone,
            spec: Arc::clone(&weights.spec),
            has_spec: weights.has_spec,
            assumed: Arc::clone(&weights.assumed),
            annotations,
            created_unix_us,
            parameters: weights.parameters.keys().cloned().collect(),
            resident_bytes: weights.bytes(),
            shared: SharedTensor::of(&weights.parameters, &weights.spec),
        }
    }

    /// Returns what it takes on the device.
    pub(super) fn demand(&self) -> Demand {
        let shared: u64 = self.shared.iter().map(|tensor| tensor.bytes).sum();
        Demand {
            own: self.resident_bytes.saturating_sub(shared),
            shared: Arc::clone(&self.shared),
        }
    }

    /// Returns true if the backbone computes the input of its own layers, without parameters of the head.
    pub fn shares_input(&self) -> bool {
        let is_backbones = |name: &String| BACKBONE_NAMES.iter().any(|prefix| name.starts_with(prefix));
        !self.parameters.iter().any(is_backbones)
    }
}

/// What the names of the backbone's parameters before the last Linear begin with.
const BACKBONE_NAMES: [&str; 3] = ["features.", "classifier.0.", "classifier.3."];

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
