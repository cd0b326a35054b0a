//! A head's parameters in memory.

use std::sync::Arc;

use headswap_checkpoint::{HostTensor, Parameters};
use headswap_spec::{CompleteSpec, HeadLayer};
use winograd::{Bias, Engine, Maps};

use super::pass::NativePass;
use super::rows::{Rows, Vectors};
use super::weight::{NativeProgram, NativeStack, Small, Weight, without_subnormals};
use super::workspace::Workspace;
use crate::backend::{BackendError, PlacedHead, Placer};
use crate::host_linear::HeadProduct;
use crate::layers::apply_layer;
use crate::program::{HeadParts, Operation, ProgramBuilder, check_parameters, picture_size};
use crate::walk::Stepper as _;

/// A head's steps, its last Linear as it was read, with subnormal weights set to 0, and the layers after that.
pub(super) struct NativeHead {
    pub program: NativeProgram,
    /// `[K, width]`.
    weight: Arc<HostTensor>,
    /// `[K]`.
    bias: Arc<HostTensor>,
    after: Vec<HeadLayer>,
}

impl NativeHead {
    /// Returns the logits of some rows of the last Linear's input, one row's after the other.
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
        for &layer in &self.after {
            apply_layer(layer, &mut logits, bias.len());
        }
        logits
    }

    /// Returns the logits of rows of the head's input.
    pub fn of_inputs<'a, R>(&self, rows: usize, row: R, workspace: &mut Workspace) -> Result<Vec<f32>, BackendError>
    where
        R: Fn(usize) -> &'a [f32] + Sync,
    {
        let own = 1 + self.program.input_steps()..self.program.steps();
        if own.is_empty() || rows == 0 {
            return Ok(self.last(rows, row, workspace));
        }
        let mut inputs = workspace.vectors(rows, row(0).len());
        for index in 0..rows {
            inputs.numbers.extend_from_slice(row(index));
        }
        let inputs = Rows::Vectors(inputs);
        let mut pass = NativePass { workspace, rows: &[] };
        let outputs = pass.run(own, &inputs, &self.program)?;
        workspace.recycle(inputs);
        let logits = self.last(rows, |index| outputs.as_vectors().row(index), workspace);
        workspace.recycle(outputs);
        Ok(logits)
    }
}

/// Places heads.
pub(super) struct NativePlacer {
    stack: Arc<NativeStack>,
    builder: ProgramBuilder<Weight, Bias>,
}

impl NativePlacer {
    pub fn new(stack: Arc<NativeStack>) -> Self {
        Self {
            stack,
            builder: ProgramBuilder::default(),
        }
    }

    /// Returns one row of ones as the input of a step.
    fn ones(&self, step: usize, head: &NativeHead, size: [u32; 2]) -> Rows {
        let width = match head.program.operation(step) {
            Some(Operation::Convolution { step, .. }) => {
                let [channels, height, width] = self.stack.maps_before(*step, size);
                let numbers = vec![1.0; channels * height * width];
                return Rows::Maps(Maps::from_planes(&numbers, [1, channels, height, width]));
            }
            Some(Operation::Linear { parameters, .. }) => parameters.weight.inputs(),
            Some(Operation::Affine { weight, .. }) => weight.values().len(),
            _ => head.weight.shape[1],
        };
        Rows::Vectors(Vectors {
            numbers: vec![1.0; width],
            width,
        })
    }

    /// Runs one row of ones from the first step that is the head's own to its logits.
    fn try_out(&self, head: &NativeHead, size: [u32; 2]) -> Result<(), BackendError> {
        let mut workspace = Workspace::new(Engine::new(1));
        let mut pass = NativePass {
            workspace: &mut workspace,
            rows: &[],
        };
        let end = head.program.steps();
        let start = head.program.first_own().unwrap_or(end);
        let outputs = pass.run(start..end, &self.ones(start, head, size), &head.program)?;
        let logits = head.last(1, |_| outputs.as_vectors().row(0), &mut workspace);
        if logits.iter().all(|logit| logit.is_finite()) {
            Ok(())
        } else {
            Err(BackendError::NotFinite("f32".into()))
        }
    }
}

impl Placer for NativePlacer {
    fn place_on(
        &self,
        backbone: usize,
        parameters: &Parameters,
        spec: &CompleteSpec,
    ) -> Result<PlacedHead, BackendError> {
        let parts = HeadParts {
            backbone,
            parameters,
            spec,
        };
        let classes = check_parameters(&self.stack, parts)?;
        let last = spec.last_linear();
        let Some([weight, bias]) = spec.parameter_names(last) else {
            return Err(BackendError::Misfit("the head has no Linear".into()));
        };
        let head = NativeHead {
            program: self.builder.build(&self.stack, parts, &Small)?,
            weight: without_subnormals(&parameters[&weight]),
            bias: Arc::clone(&parameters[&bias]),
            after: spec.layers[last + 1..].to_vec(),
        };
        self.try_out(&head, picture_size(spec))?;

        let own = head.program.bytes(Weight::bytes, |bias| size_of_val(bias.values()));
        let device_bytes = own + head.weight.bytes() + head.bias.bytes();
        let (keys, input_steps) = (head.program.keys.clone(), head.program.input_steps());
        let placed = PlacedHead::new(spec, classes, device_bytes, Box::new(head));
        Ok(placed.on_backbone(backbone).with_keys(keys, input_steps))
    }
}
