//! The gRPC services: one file each, and one that turns errors into statuses.
//!
//! The room knows nothing of libtorch. What it serves arrives through a [`Gate`], closed until the model is ready.

mod classifier;
mod deadline;
mod gate;
mod head_admin;
mod head_info;
mod input;
mod leases;
mod metrics;
mod requests;
mod status;
mod upload;

pub use classifier::ClassifierRpc;
pub use gate::{Accepted, Gate, Serving};
pub use head_admin::HeadAdminRpc;
pub use input::Input;
pub use metrics::RpcMetrics;

use tower::util::BoxCloneSyncService;

use crate::engine::{Answer, EngineError, Request};
use crate::image::ImageError;

/// The generated messages, clients and servers of `proto/headswap/v1`.
#[allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic)]
pub mod pb {
    tonic::include_proto!("headswap.v1");

    /// The services' descriptors, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/headswap_descriptor.bin"));
}

/// Everything between a request and its numbers: admission, deadline, decoding, the engine.
pub type Pipeline = BoxCloneSyncService<Request<Input>, Answer, PipelineError>;

/// Why the pipeline gave no numbers.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The picture was refused.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// As many requests as `--in-flight-max` allows are under way.
    #[error("the server is at its limit of requests in flight; retry later")]
    Overloaded,
}
