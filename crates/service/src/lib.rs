//! The use cases of the server, in its own types: requests, results and errors.
//!
//! This crate does not depend on gRPC. The server's adapters (`rpc/`) turn messages into calls and errors into statuses.

mod app_state;
mod classify;
mod context;
mod embed;
mod error;
mod feature_cache;
pub mod heads;
mod lifecycle;
mod model_info;
mod picture;
mod requested_heads;

pub use app_state::AppState;
pub use classify::{Classified, ClassifyQuery, HeadAnswer, Scored, Scores};
pub use context::CallContext;
pub use embed::{EmbedKind, EmbedQuery, Embedded};
pub use error::ServiceError;
pub use feature_cache::{CacheMetrics, FeatureCache};
pub use heads::{HeadAdmin, HeadAdminParts};
pub use lifecycle::{Accepted, Lifecycle};
pub use model_info::ModelInfo;
pub use picture::Picture;

use std::sync::Arc;

use headswap_heads::HeadVersion;
use headswap_model::PlacedHead;

/// A version of a head on the server's device.
pub type Version = Arc<HeadVersion<PlacedHead>>;
