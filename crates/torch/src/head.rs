//! A head's tensors on the device.

use std::sync::Arc;

use headswap_checkpoint::Parameters;
use headswap_model::{BackendError, ParamInterner, PlacedHead, Placer};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};

use super::last::{HostProducts, LastLinear, LastProducts};
use super::placement::PlacedTensor;
use super::steps::{TorchOverrides, TorchSteps, place_weight};
use crate::error::Result;

/// The steps that a head overrides, and its last Linear.
pub(super) struct TorchHead {
    pub overrides: TorchOverrides,
    pub last: LastLinear,
}

/// Places heads.
pub(super) struct TorchPlacer {
    backbone: Arc<TorchSteps>,
    interner: ParamInterner<PlacedTensor, PlacedTensor>,
}

impl TorchPlacer {
    pub fn new(backbone: Arc<TorchSteps>) -> Self {
        Self {
            backbone,
            interner: ParamInterner::default(),
        }
    }

    /// Runs one row of ones from the first step that the head overrides to its logits.
    fn try_out(&self, head: &TorchHead) -> Result<()> {
        let _no_gradients = tch::no_grad_guard();
        let backbone = &self.backbone;
        let end = backbone.stack.steps.len();
        let start = head.overrides.first().unwrap_or(end);
        let features = backbone.run(start..end, &backbone.ones(start)?, Some(&head.overrides))?;
        let logits = LastProducts::of(&features, &[(&head.last, &[0])], &mut HostProducts::new(1))?.read()?;
        if logits.iter().flatten().all(|logit| logit.is_finite()) {
            Ok(())
        } else {
            Err(backbone.placement.not_finite().into())
        }
    }

    fn try_place(&self, parameters: &Parameters) -> Result<PlacedHead> {
        let placement = self.backbone.placement;
        let stack = &self.backbone.stack;
        let overrides = self.interner.place(
            stack,
            parameters,
            |step, weight| place_weight(placement, step, weight),
            |bias| placement.place(bias),
        )?;
        let head = TorchHead {
            overrides,
            last: LastLinear::place(placement, &parameters[LAST_WEIGHT], &parameters[LAST_BIAS])?,
        };
        self.try_out(&head)?;

        let overrides = &head.overrides;
        let device_bytes = overrides.bytes(PlacedTensor::bytes, PlacedTensor::bytes) + head.last.bytes();
        let (classes, keys) = (parameters[LAST_BIAS].values.len(), overrides.keys.clone());
        Ok(PlacedHead::new(classes, device_bytes, Box::new(head)).with_keys(keys))
    }
}

impl Placer for TorchPlacer {
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, BackendError> {
        Ok(self.try_place(parameters)?)
    }
}
