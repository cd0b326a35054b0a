//! The gRPC services: each converts messages to calls of `headswap_service`, and results to messages.
//!
//! The services get their state from a [`Lifecycle`](headswap_service::Lifecycle), which refuses requests until the model is ready.

mod classifier;
mod classify_stream;
mod context;
mod head_admin;
mod head_messages;
mod metrics;
mod spec_messages;
mod upload;

pub use classifier::ClassifierRpc;
pub use head_admin::HeadAdminRpc;
pub use metrics::RpcMetrics;
