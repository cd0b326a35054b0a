//! Parameters in host memory, before they are placed on a device.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::digest::Digest;

/// A model's or head's parameters by name, in the order of their names. Each may be shared with a device that computes
/// in the host's memory, and is freed when the last user lets go.
pub type Parameters = BTreeMap<String, Arc<HostTensor>>;

/// One tensor in host memory: f32, row-major, contiguous.
#[derive(Clone, Debug)]
pub struct HostTensor {
    /// The size of each dimension, outermost first.
    pub shape: Vec<usize>,
    /// As many values as the product of `shape`.
    pub values: Vec<f32>,
    digest: OnceLock<Digest>,
}

impl PartialEq for HostTensor {
    fn eq(&self, other: &Self) -> bool {
        (&self.shape, &self.values) == (&other.shape, &other.values)
    }
}

impl HostTensor {
    /// Wraps as many values as the product of `shape`.
    pub fn new(shape: Vec<usize>, values: Vec<f32>) -> Self {
        Self {
            shape,
            values,
            digest: OnceLock::new(),
        }
    }

    /// SHA-256 of its shape and values, computed when first asked for. Whoever changes a tensor changes a clone that
    /// has not been asked.
    pub fn digest(&self) -> Digest {
        *self.digest.get_or_init(|| Digest::of_tensor(self))
    }

    /// Its size as f32, in bytes.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}
