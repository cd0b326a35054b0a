//! The gRPC services: one file each, and one that turns errors into statuses.
//!
//! The room knows nothing of libtorch. What it serves arrives through a [`Gate`](headswap_service::Gate), closed until the
//! model is ready.

mod arrival;
mod classifier;
mod classify_stream;
mod context;
pub mod deadline;
mod head_admin;
mod head_messages;
mod metrics;
mod status;
mod upload;

pub use arrival::{Arrival, Peer};
pub use classifier::ClassifierRpc;
pub use head_admin::HeadAdminRpc;
pub use metrics::RpcMetrics;
pub use status::{ADMIN_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, too_large, unavailable};
