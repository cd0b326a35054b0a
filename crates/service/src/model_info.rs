//! The metadata of the loaded model.

use std::sync::Arc;

use headswap_heads::{Backbones, KnownBackbone};
use headswap_spec::Architecture;

/// The metadata that DescribeModel returns.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The architecture of the backbones.
    pub architecture: Architecture,
    /// The backbones.
    pub backbones: Arc<Backbones>,
    /// Such as `cpu`, `cuda:0` or `cuda:0,cuda:1`.
    pub device: String,
    /// Such as `f32`.
    pub precision: String,
    /// Maximum number of pictures in a batch.
    pub max_batch: usize,
}

impl ModelInfo {
    /// Returns the backbone of an index, which must come from these.
    pub fn backbone(&self, index: usize) -> &KnownBackbone {
        self.backbones.get(index)
    }
}
