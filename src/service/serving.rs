//! What the use cases need once the model is ready.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::feature_cache::FeatureCache;
use crate::engine::Engine;
use crate::heads::{HeadLimits, HeadRegistry, UploadDir};
use crate::model::{Architecture, PlacedHead};

/// Everything a ready server serves with.
pub struct Serving {
    /// What computes.
    pub engine: Engine,
    /// Features of pictures seen before; none if they are not kept.
    pub cache: Option<FeatureCache>,
    /// The heads.
    pub registry: Arc<HeadRegistry<PlacedHead>>,
    /// Where uploads go.
    pub uploads: UploadDir,
    /// How many more uploads may be under way.
    pub upload_permits: Arc<Semaphore>,
    /// What is asked of new heads.
    pub head_limits: HeadLimits,
    /// What DescribeModel tells.
    pub model: ModelInfo,
}

impl Serving {
    /// A predicate that is true while any request is in flight.
    pub fn busy(&self) -> impl Fn() -> bool + Send + 'static {
        let in_flight = self.engine.in_flight().clone();
        move || in_flight.get() > 0
    }
}

/// What is known of the backbone once it is loaded.
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
