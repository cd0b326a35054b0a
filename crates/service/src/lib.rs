//! Use cases in the server's own types: what a caller asks, what it gets, and why not.
//!
//! The room knows nothing of gRPC. An adapter (`rpc/`) turns messages into calls and errors into statuses.

mod app_state;
mod asked_heads;
mod classify;
mod context;
mod error;
mod feature_cache;
pub mod heads;
mod lifecycle;
mod model_info;

pub use app_state::AppState;
pub use classify::{Classified, ClassifyQuery, Embedded, HeadAnswer, Picture, Prediction, Scores};
pub use context::CallContext;
pub use error::ServiceError;
pub use feature_cache::{CacheMetrics, FeatureCache};
pub use heads::{HeadAdmin, HeadAdminParts};
pub use lifecycle::{Accepted, Lifecycle};
pub use model_info::ModelInfo;

use std::sync::Arc;

use headswap_heads::HeadVersion;
use headswap_model::PlacedHead;

/// A version of a head on the server's device.
pub type Version = Arc<HeadVersion<PlacedHead>>;
