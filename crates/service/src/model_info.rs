//! What is known of the backbone once it is loaded.

use headswap_spec::Architecture;

/// What DescribeModel tells of it.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The table of layers.
    pub architecture: Architecture,
    /// SHA-256, in hexadecimal.
    pub backbone_digest: String,
    /// Where the weights came from.
    pub weights: String,
    /// As `cpu`, `cuda:0` or `cuda:0,cuda:1`.
    pub device: String,
    /// As `f32`.
    pub precision: String,
    /// Pictures in a batch at most.
    pub max_batch: usize,
}
