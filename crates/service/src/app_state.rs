//! The state that the use cases share once the model is ready.

use std::sync::Arc;

use headswap_engine::Engine;
use headswap_heads::HeadRegistry;
use headswap_model::PlacedHead;

use super::feature_cache::FeatureCache;
use super::heads::HeadAdmin;
use super::model_info::ModelInfo;

/// The parts of a ready server.
pub struct AppState {
    /// The engine.
    pub engine: Engine,
    /// The feature cache; none if it is off.
    pub cache: Option<FeatureCache>,
    /// The heads.
    pub registry: Arc<HeadRegistry<PlacedHead>>,
    /// The administration of heads.
    pub heads: Arc<HeadAdmin>,
    /// The metadata of the model, for DescribeModel.
    pub model: ModelInfo,
}
