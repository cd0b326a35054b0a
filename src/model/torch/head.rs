//! A head's tensors on the device.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tch::Tensor;

use super::last::{LastLinear, last_linears};
use super::placement::PlacedTensor;
use super::steps::{StepTensors, TorchSteps, place_weight};
use crate::model::digest::Digest;
use crate::model::network::{NetworkError, PlacedHead, Placer};
use crate::model::plan::StepKey;
use crate::model::step::Step;
use crate::model::tensor::{HostTensor, Parameters};
use crate::model::{LAST_BIAS, LAST_WEIGHT};

/// The steps that a head overrides, and its last Linear.
pub(super) struct TorchHead {
    /// For each step with a tensor of the head's, both of its tensors: one of them may be the backbone's.
    overrides: BTreeMap<usize, StepTensors>,
    pub last: LastLinear,
}

impl TorchHead {
    /// The tensors of a step: its own, or else the backbone's.
    pub fn step<'a>(&'a self, step: usize, backbone: &'a TorchSteps) -> &'a StepTensors {
        self.overrides.get(&step).unwrap_or_else(|| backbone.backbone(step))
    }
}

/// Places heads, and shares the tensors that heads have in common.
pub(super) struct TorchPlacer {
    backbone: Arc<TorchSteps>,
    placed: Mutex<HashMap<(usize, Digest), Weak<PlacedTensor>>>,
}

impl TorchPlacer {
    pub fn new(backbone: Arc<TorchSteps>) -> Self {
        Self {
            backbone,
            placed: Mutex::default(),
        }
    }

    /// The tensor of a step, as another head placed it or new.
    fn shared(
        &self,
        step: usize,
        host: &HostTensor,
        place: impl FnOnce() -> Result<PlacedTensor, NetworkError>,
    ) -> Result<Arc<PlacedTensor>, NetworkError> {
        let key = (step, host.digest());
        let find = || {
            let placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
            placed.get(&key).and_then(Weak::upgrade)
        };
        if let Some(tensor) = find() {
            return Ok(tensor);
        }
        let tensor = Arc::new(place()?);
        let mut placed = self.placed.lock().unwrap_or_else(PoisonError::into_inner);
        placed.retain(|_, tensor| tensor.strong_count() > 0);
        placed.insert(key, Arc::downgrade(&tensor));
        Ok(tensor)
    }

    /// A step's tensors if the head has any of its own, and what tells them from other heads'.
    fn place_step(
        &self,
        index: usize,
        step: &Step,
        parameters: &Parameters,
    ) -> Result<Option<(StepTensors, StepKey)>, NetworkError> {
        let (weight, bias) = (parameters.get(&step.weight()), parameters.get(&step.bias()));
        if weight.is_none() && bias.is_none() {
            return Ok(None);
        }
        let placement = self.backbone.placement;
        let mut tensors = self.backbone.backbone(index).clone();
        let mut key = StepKey::default();
        // The tensors live as long as the head, and so do their addresses, by which steps are told apart.
        if let Some(weight) = weight {
            tensors.weight = self.shared(2 * index, weight, || place_weight(placement, step, weight))?;
            key.weight = Arc::as_ptr(&tensors.weight).addr();
        }
        if let Some(bias) = bias {
            tensors.bias = self.shared(2 * index + 1, bias, || placement.place(bias))?;
            key.bias = Arc::as_ptr(&tensors.bias).addr();
        }
        Ok(Some((tensors, key)))
    }

    /// Runs one row of ones from the first step that the head overrides to its logits.
    fn try_out(&self, head: &TorchHead) -> Result<(), NetworkError> {
        let _no_gradients = tch::no_grad_guard();
        let backbone = &self.backbone;
        let start = head.overrides.keys().next().copied().unwrap_or(backbone.steps.len());
        let ones = Tensor::f_ones(
            backbone.input_shape(start),
            (backbone.placement.kind, backbone.placement.device),
        )?;
        let steps = start..backbone.steps.len();
        let features = backbone.run(steps, &ones, Ok, |step| head.step(step, backbone))?;
        let logits = last_linears(&features, &[(&head.last, vec![0])])?;
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
        let mut keys = vec![StepKey::default(); self.backbone.steps.len()];
        let mut overrides = BTreeMap::new();
        for (index, step) in self.backbone.steps.iter().enumerate() {
            if let Some((tensors, key)) = self.place_step(index, step, parameters)? {
                overrides.insert(index, tensors);
                keys[index] = key;
            }
        }
        let head = TorchHead {
            last: LastLinear::place(placement, &parameters[LAST_WEIGHT], &parameters[LAST_BIAS])?,
            overrides,
        };
        self.try_out(&head)?;

        let own = head.overrides.iter().flat_map(|(&step, tensors)| {
            let weight = Some(&tensors.weight).filter(|_| keys[step].weight != 0);
            weight
                .into_iter()
                .chain(Some(&tensors.bias).filter(|_| keys[step].bias != 0))
        });
        let device_bytes = own.map(|tensor| tensor.bytes()).sum::<usize>() + head.last.bytes();
        // All steps up to the last overridden one.
        keys.truncate(head.overrides.keys().next_back().map_or(0, |last| last + 1));
        let classes = parameters[LAST_BIAS].values.len();
        Ok(PlacedHead::new(classes, device_bytes, Box::new(head)).with_keys(keys))
    }
}
