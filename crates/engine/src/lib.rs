//! From one picture, or the features of one, to its logits, in batches.
//!
//! Requests wait in one place: the [`Scheduler`](scheduler::Scheduler), which is pure, holds all that is admitted and is
//! owned by the batcher, a tokio task. It grants decode slots, on the blocking pool, and devices. A device thread, an OS
//! thread that drives the network, computes a batch and answers each entry through a oneshot. A GPU has two, so that one
//! copies while the other computes.
//! The room knows nothing of gRPC, of head names or of stores.

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
mod handle;
mod health;
mod metrics;
pub mod policy;
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
pub use cost::CostTable;
pub use decoders::{Decode, PictureDecoder};
pub use error::{DECODE_BYTES_MAX, EngineError, Stage, StartError};
pub use handle::{Engine, EngineSettings, EngineThreads, start};
pub use health::EngineHealth;
pub use metrics::{Counted, EngineMetrics};
pub use policy::BatchLimits;
pub use request::{Answer, HeadSource, Input, Pinned, PinnedHeads, Request, Timing};
