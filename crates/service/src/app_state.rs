//! What the use cases need once the model is ready.

use std::sync::Arc;

use headswap_engine::Engine;
use headswap_heads::HeadRegistry;
use headswap_model::PlacedHead;

use super::feature_cache::FeatureCache;
use super::heads::HeadAdmin;
use super::model_info::ModelInfo;

/// Everything a ready server serves with.
pub struct AppState {
    /// What computes.
    pub engine: Engine,
    /// Features of pictures seen before; none if they are not kept.
    pub cache: Option<FeatureCache>,
    /// The heads.
    pub registry: Arc<HeadRegistry<PlacedHead>>,
    /// Their administration.
    pub heads: Arc<HeadAdmin>,
    /// What DescribeModel tells.
    pub model: ModelInfo,
}
