//! From one picture, or the features of one, to its logits, in batches: a `tower::Service` in front of a batcher task and
//! a device thread, or several.
//!
//! The service puts an entry on a bounded queue; the batcher, a tokio task, forms batches by a [pure policy](policy);
//! the device thread, an OS thread that drives the network, computes them and answers each entry through a oneshot. A GPU
//! has two, so that one copies while the other computes.
//! The room knows nothing of gRPC, of head names or of stores.

mod batch;
mod batcher;
mod calibrate;
mod error;
mod metrics;
pub mod policy;
mod request;
mod service;
mod together;
mod worker;

pub use calibrate::{Calibration, calibrate};
pub use error::{EngineError, StartError};
pub use metrics::{Counted, EngineMetrics};
pub use policy::BatchLimits;
pub use request::{Answer, Request, Row, Timing};
pub use service::{Engine, EngineThreads, start};
