//! Computes logits from pictures, or from their features, in batches.
//!
//! All admitted requests wait in the [`Scheduler`](scheduler::Scheduler), which is pure and owned by the batcher, a tokio
//! task. It grants decode slots, on the blocking pool, and devices. A device thread is an OS thread that computes batches
//! and answers each entry through a oneshot. A GPU has two, so that one copies while the other computes.
//! This crate does not depend on gRPC, head names or stores.

mod admission;
mod batch;
mod batcher;
mod calibrate;
mod class;
mod clock;
mod cost;
mod decode_budget;
mod decoders;
mod error;
mod fair_queue;
mod family;
mod handle;
mod health;
mod launch_check;
mod metrics;
pub mod policy;
mod probe;
mod request;
#[cfg(test)]
mod rig;
pub mod scheduler;
mod share;
mod together;
mod worker;

pub use admission::Admitted;
pub use calibrate::{Calibration, calibrate, measure};
pub use class::{Class, FlowId};
pub use clock::{Clock, SystemClock};
pub use cost::{Cost, CostTable, PICTURE_COST, REQUEST_COST_MAX, picture_cost, pictures_cost};
pub use decoders::{Decode, PictureDecoder};
pub use error::{DECODE_BYTES_MAX, EngineError, Stage, StartError};
pub use family::Family;
pub use handle::{Engine, EngineSettings, EngineThreads, start};
pub use health::EngineHealth;
pub use metrics::{Counted, EngineMetrics};
pub use policy::BatchLimits;
pub use request::{
    Answer, CachedInput, HeadSource, Input, Pinned, PinnedHeads, PreparedPicture, Request, Timing, Wanted,
};
