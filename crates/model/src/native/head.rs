//! A head's parameters in memory.

use std::sync::Arc;

use headswap_checkpoint::{HostTensor, Parameters};
use headswap_spec::{LAST_BIAS, LAST_WEIGHT};
use winograd::{Bias, Engine, Maps};

use super::pass::NativePass;
use super::rows::{Rows, Vectors};
use super::weight::{NativeOverrides, NativeStack, Weight, without_subnormals};
use super::workspace::Workspace;
use crate::backend::{BackendError, PlacedHead, Placer};
use crate::host_linear::HeadProduct;
use crate::stack::ParamInterner;
use crate::walk::Stepper as _;

/// The steps that a head overrides, and its last Linear as it was read, with subnormal weights set to 0.
pub(super) struct NativeHead {
    pub overrides: NativeOverrides,
    /// `[K, width]`.
    weight: Arc<HostTensor>,
    /// `[K]`.
    bias: Arc<HostTensor>,
}

impl NativeHead {
    /// Returns the logits of some rows of features, one row's after the other.
    pub fn last<'a, R>(&self, rows: usize, row: R, workspace: &mut Workspace) -> Vec<f32>
    where
        R: Fn(usize) -> &'a [f32] + Sync,
    {
        let (weight, bias) = (&*self.weight, &self.bias.values[..]);
        let mut logits = Vec::new();
        let product = HeadProduct {
            weight,
            bias,
            rows,
            row,
        };
        workspace.host_linear(&product, &mut logits);
        logits
    }
}

/// Places heads.
pub(super) struct NativePlacer {
    stack: Arc<NativeStack>,
    interner: ParamInterner<Weight, Bias>,
}

impl NativePlacer {
    pub fn new(stack: Arc<NativeStack>) -> Self {
        Self {
            stack,
            interner: ParamInterner::default(),
        }
    }

    /// Returns one row of ones as the input of a step.
    fn ones(&self, step: usize) -> Rows {
        let shape = self.stack.input_shape(step);
        let numbers = vec![1.0; shape.iter().product()];
        match shape[..] {
            [channels, height, width] => Rows::Maps(Maps::from_planes(&numbers, [1, channels, height, width])),
            _ => Rows::Vectors(Vectors {
                width: numbers.len(),
                numbers,
            }),
        }
    }

    /// Runs one row of ones from the first step that the head overrides to its logits.
    fn try_out(&self, head: &NativeHead) -> Result<(), BackendError> {
        let mut workspace = Workspace::new(Engine::new(1));
        let mut pass = NativePass {
            stack: &self.stack,
            workspace: &mut workspace,
            pictures: &[],
        };
        let end = self.stack.steps.len();
        let start = head.overrides.first().unwrap_or(end);
        let features = pass.run(start..end, &self.ones(start), Some(&head.overrides))?;
        let logits = head.last(1, |_| features.as_vectors().row(0), &mut workspace);
        if logits.iter().all(|logit| logit.is_finite()) {
            Ok(())
        } else {
            Err(BackendError::NotFinite("f32".into()))
        }
    }
}

impl Placer for NativePlacer {
    fn place(&self, parameters: &Parameters) -> Result<PlacedHead, BackendError> {
        let head = NativeHead {
            overrides: self.interner.place(
                &self.stack,
                parameters,
                |step, weight| Ok::<_, BackendError>(Weight::small(step, weight)),
                |bias| Ok(Bias::new(&bias.values)),
            )?,
            weight: without_subnormals(&parameters[LAST_WEIGHT]),
            bias: Arc::clone(&parameters[LAST_BIAS]),
        };
        self.try_out(&head)?;

        let own = head.overrides.bytes(Weight::bytes, |bias| size_of_val(bias.values()));
        let device_bytes = own + head.weight.bytes() + head.bias.bytes();
        let (classes, keys) = (head.bias.values.len(), head.overrides.keys.clone());
        Ok(PlacedHead::new(classes, device_bytes, Box::new(head)).with_keys(keys))
    }
}
