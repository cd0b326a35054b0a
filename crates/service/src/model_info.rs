//! The metadata of the loaded backbone.

use headswap_spec::{Architecture, Preprocessing};

/// The metadata that DescribeModel returns.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The architecture.
    pub architecture: Architecture,
    /// How pictures are prepared for the backbone, and for heads without a spec.
    pub preprocessing: Preprocessing,
    /// SHA-256 of the backbone, in hexadecimal.
    pub backbone_digest: String,
    /// The source of the weights.
    pub weights: String,
    /// Such as `cpu`, `cuda:0` or `cuda:0,cuda:1`.
    pub device: String,
    /// Such as `f32`.
    pub precision: String,
    /// Maximum number of pictures in a batch.
    pub max_batch: usize,
}
