//! The backend, opened and warmed up.

use std::time::Duration;

use headswap_engine::{CostTable, StartError, calibrate, measure};
use headswap_model::{Backbone, Backend, BackendChoice, Device, TorchRuntime, null_backend, open_backend};

use crate::ServerError;
use crate::settings::ServeArgs;

/// The largest batch that the warm-up tries.
const MAX_BATCH_CEILING: usize = 256;
/// How long the warm-up may look for the best batch.
const WARM_UP_BUDGET: Duration = Duration::from_millis(2500);

/// A backend that has computed.
pub(super) struct ReadyBackend {
    pub backend: Box<dyn Backend>,
    pub devices: Vec<Device>,
    pub max_batch: usize,
    /// What a batch costs.
    pub cost: CostTable,
}

impl ReadyBackend {
    /// Places the backbones, proves that they compute, settles the batch size and measures what batches cost.
    pub fn open(
        backbones: Vec<Backbone>,
        args: &ServeArgs,
        torch: Option<&dyn TorchRuntime>,
    ) -> Result<Self, ServerError> {
        let settings = args.model.backend();
        let mut backend = if settings.backend == BackendChoice::Null {
            null_backend(args.model.arch.features(), args.null.settings())
        } else {
            open_backend(backbones, &settings, torch)?
        };
        let found = match args.batching.max_batch {
            0 => calibrate(backend.as_mut(), MAX_BATCH_CEILING, WARM_UP_BUDGET)?,
            max_batch => {
                let measured = measure(backend.as_mut(), max_batch);
                measured.map_err(|error| StartError::MaxBatch { max_batch, error })?
            }
        };
        tracing::info!(
            max_batch = found.max_batch,
            picture_us = per_picture(&found.per_picture),
            "warm-up passed"
        );
        Ok(Self {
            devices: backend.devices(),
            backend,
            max_batch: found.max_batch,
            cost: CostTable::from_per_picture(&found.per_picture),
        })
    }
}

/// As `1:31000 8:24100`: what a picture costs in a batch of each size, in microseconds.
fn per_picture(measured: &[(usize, Duration)]) -> String {
    let mut text = String::new();
    for (batch, time) in measured {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&format!("{batch}:{}", time.as_micros()));
    }
    text
}
