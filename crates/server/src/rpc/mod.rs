//! The gRPC services: one file each, and one that turns errors into statuses.
//!
//! The room knows nothing of libtorch. What it serves arrives through a [`Lifecycle`](headswap_service::Lifecycle), closed until the
//! model is ready.

mod classifier;
mod classify_stream;
mod context;
mod head_admin;
mod head_messages;
mod metrics;
mod upload;

pub use classifier::ClassifierRpc;
pub use head_admin::HeadAdminRpc;
pub use metrics::RpcMetrics;
