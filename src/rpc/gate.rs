//! What the services need once the model is ready, behind a gate that is closed until then.

use std::sync::{Arc, OnceLock};

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::Pipeline;
use super::status::RETRY_LATER;
use crate::heads::{HeadLimits, HeadRegistry};
use crate::model::{Architecture, PlacedHead, Placer};

/// Everything a ready server serves with.
pub struct Serving {
    /// Refuses at once when the server is at its limit: for unary calls.
    pub pipeline: Pipeline,
    /// Waits for its turn: for streams, which have flow control.
    pub patient_pipeline: Pipeline,
    /// The heads.
    pub registry: HeadRegistry<Arc<PlacedHead>>,
    /// Puts new heads on the device.
    pub placer: Arc<dyn Placer>,
    /// What is asked of new heads.
    pub head_limits: HeadLimits,
    /// What DescribeModel tells.
    pub model: ModelInfo,
}

/// What is known of the backbone once it is loaded.
#[derive(Clone, Debug)]
pub struct ModelInfo {
    /// The table of layers.
    pub architecture: Architecture,
    /// SHA-256, in hexadecimal.
    pub backbone_digest: String,
    /// Where the weights came from.
    pub weights: String,
    /// As `cpu` or `cuda:0`.
    pub device: String,
    /// As `f32`.
    pub precision: String,
    /// Pictures in a batch at most.
    pub max_batch: usize,
}

/// Opened once, when the warm-up has passed; closed again by a shutdown's drain, which the health service announces.
#[derive(Clone, Default)]
pub struct Gate(Arc<OnceLock<Arc<Serving>>>);

impl Gate {
    /// Lets requests in.
    pub fn open(&self, serving: Arc<Serving>) {
        let _ = self.0.set(serving);
    }

    /// What to serve with.
    ///
    /// # Errors
    /// UNAVAILABLE while the model is loading.
    pub fn pass(&self) -> Result<Arc<Serving>, Status> {
        let loading = || {
            let details = ErrorDetails::with_retry_info(Some(RETRY_LATER));
            Status::with_error_details(
                Code::Unavailable,
                "the model is still loading; retry in a second",
                details,
            )
        };
        self.0.get().cloned().ok_or_else(loading)
    }
}
