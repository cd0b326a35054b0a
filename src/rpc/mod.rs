//! The gRPC services: one file each, and one that turns errors into statuses.
//!
//! The room knows nothing of libtorch. What it serves arrives through a [`Gate`](crate::service::Gate), closed until the
//! model is ready.

mod arrival;
mod classifier;
mod classify_stream;
mod context;
pub mod deadline;
mod head_admin;
mod head_info;
mod metrics;
mod status;
mod upload;

pub use arrival::{Arrival, Peer};
pub use classifier::ClassifierRpc;
pub use head_admin::HeadAdminRpc;
pub use metrics::RpcMetrics;
pub use status::{ADMIN_MESSAGE_BYTES_MAX, MESSAGE_BYTES_MAX, too_large, unavailable};

/// The generated messages, clients and servers of `proto/headswap/v1`.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod pb {
    tonic::include_proto!("headswap.v1");

    /// The services' descriptors, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/headswap_descriptor.bin"));
}
