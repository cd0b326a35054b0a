//! Parameters in host memory, before they are placed on a device.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use super::digest::Digest;
use super::throttle::Throttle;

/// The parameters of a model or head, sorted by name. A backend that computes in host memory may share them; each is freed
/// when its last user drops it.
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

    /// Returns the SHA-256 of its shape and values, computed on the first call. The values must not change after that.
    pub fn digest(&self) -> Digest {
        self.digest_throttled(&Throttle::off())
    }

    /// As [`HostTensor::digest`]; the first call pauses as `throttle` says.
    pub fn digest_throttled(&self, throttle: &Throttle) -> Digest {
        *self.digest.get_or_init(|| Digest::of_tensor(self, throttle))
    }

    /// Its size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        self.values.len() * size_of::<f32>()
    }
}
