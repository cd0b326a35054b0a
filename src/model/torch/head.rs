//! A head's tensors on the device.

use std::sync::Arc;

use super::last::{HostProducts, LastLinear, LastProducts};
use super::placement::PlacedTensor;
use super::steps::{TorchOverrides, TorchSteps, place_weight};
use crate::model::network::{NetworkError, PlacedHead, Placer};
use crate::model::stack::Overriding;
use crate::model::tensor::Parameters;
use crate::model::{LAST_BIAS, LAST_WEIGHT};

/// The steps that a head overrides, and its last Linear.
pub(super) struct TorchHead {
    pub overrides: TorchOverrides,
    pub last: LastLinear,
}

/// Places heads.
pub(super) struct TorchPlacer {
    backbone: Arc<TorchSteps>,
    overriding: Overriding<PlacedTensor, PlacedTensor>,
}

impl TorchPlacer {
    pub fn new(backbone: Arc<TorchSteps>) -> Self {
        Self {
            backbone,
            overriding: Overriding::default(),
        }
    }

    /// Runs one row of ones from the first step that the head overrides to its logits.
    fn try_out(&self, head: &TorchHead) -> Result<(), NetworkError> {
        let _no_gradients = tch::no_grad_guard();
        let backbone = &self.backbone;
        let end = backbone.stack.steps.len();
        let start = head.overrides.first().unwrap_or(end);
        let features = backbone.run(start..end, &backbone.ones(start)?, Some(&head.overrides))?;
        let logits = LastProducts::of(&features, &[(&head.last, &[0])], &mut HostProducts::new(1))?.read()?;
        if logits.iter().flatten().all(|logit| logit.is_finite()) {
            Ok(())
        } else {
            Err(backbone.placement.not_finite())
        }
    }
}

impl Placer for TorchPlacer {
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, NetworkError> {
        let placement = self.backbone.placement;
        let stack = &self.backbone.stack;
        let weight = |step: &_, host: &_| place_weight(placement, step, host);
        let head = TorchHead {
            overrides: self
                .overriding
                .place(stack, parameters, weight, |host| placement.place(host))?,
            last: LastLinear::place(placement, &parameters[LAST_WEIGHT], &parameters[LAST_BIAS])?,
        };
        self.try_out(&head)?;

        let overrides = &head.overrides;
        let device_bytes = overrides.bytes(PlacedTensor::bytes, PlacedTensor::bytes) + head.last.bytes();
        let (classes, keys) = (parameters[LAST_BIAS].values.len(), overrides.keys.clone());
        Ok(PlacedHead::new(classes, device_bytes, Box::new(head)).with_keys(keys))
    }
}
