//! Use cases in the server's own types: what a caller asks, what it gets, and why not.
//!
//! The room knows nothing of gRPC. An adapter (`rpc/`) turns messages into calls and errors into statuses.

mod context;
mod error;
pub mod heads;
mod model_info;

pub use context::{CallContext, Class};
pub use error::ServiceError;
pub use heads::{HeadAdmin, HeadAdminParts};
pub use model_info::ModelInfo;
