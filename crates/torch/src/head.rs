//! A head's tensors on the device.

use std::sync::Arc;

use headswap_checkpoint::Parameters;
use headswap_model::{
    BackendError, HeadParts, LeafRows, Operation, PlacedHead, Placer, ProgramBuilder, apply_layer, check_parameters,
};
use headswap_spec::{CompleteSpec, HeadLayer};
use tch::Tensor;

use super::host::HostProducts;
use super::last::{LastLinear, LastProducts};
use super::pass::TorchPass;
use super::pictures::Pictures;
use super::rows::Rows;
use super::steps::{TorchSteps, filled_maps};
use super::weight::{TorchProgram, Vector, Weight};
use crate::error::Result;

/// A head's steps, its last Linear, and the layers after that.
pub(super) struct TorchHead {
    pub program: TorchProgram,
    pub last: LastLinear,
    after: Vec<HeadLayer>,
    classes: usize,
}

impl TorchHead {
    /// Applies the layers after the last Linear to its results.
    pub fn finish(&self, logits: &mut [f32]) {
        for &layer in &self.after {
            apply_layer(layer, logits, self.classes);
        }
    }
}

/// Places heads.
pub(super) struct TorchPlacer {
    backbone: Arc<TorchSteps>,
    builder: ProgramBuilder<Weight, Vector>,
}

impl TorchPlacer {
    pub fn new(backbone: Arc<TorchSteps>) -> Self {
        Self {
            backbone,
            builder: ProgramBuilder::default(),
        }
    }

    /// Returns one row of ones as the input of a step.
    fn ones(&self, step: usize, head: &TorchHead, size: [u32; 2]) -> Result<Rows> {
        let placement = self.backbone.placement;
        let width = match head.program.operation(step) {
            Some(Operation::Convolution { step, parameters, .. }) => {
                let [_, height, width] = self.backbone.stack.maps_before(*step, size).map(|size| size as i64);
                // The first one's weight may be folded.
                let channels = parameters.weight.inputs();
                return Ok(Rows::Maps(filled_maps(placement, [1, height, width], channels, 1.0)?));
            }
            Some(Operation::Linear { parameters, .. }) => parameters.weight.inputs(),
            Some(Operation::Affine { weight, .. }) => weight.len(),
            Some(Operation::Input(_) | Operation::Layer(_)) | None => head.last.inputs(),
        };
        Ok(Rows::Vectors(Tensor::f_ones(
            [1, width],
            (placement.kind, placement.device),
        )?))
    }

    /// Runs one row of ones from the first step that is the head's own to its logits.
    fn try_out(&self, head: &TorchHead, size: [u32; 2]) -> Result<()> {
        let _no_gradients = tch::no_grad_guard();
        let mut host = HostProducts::new(1);
        let end = head.program.steps();
        let start = head.program.first_own().unwrap_or(end);
        let mut pass = TorchPass {
            steps: &self.backbone,
            pictures: &Pictures::Host(&[]),
            graphs: None,
            host: &mut host,
        };
        let rows = pass.try_run(start..end, &self.ones(start, head, size)?, &head.program)?;
        let leaf = [rows.as_vectors()?.shallow_clone()];
        let first = LeafRows {
            leaf: 0,
            positions: vec![0],
        };
        let mut logits = LastProducts::of(&leaf, &[(&head.last, &first)], &mut host)?.read()?;
        for logits in &mut logits {
            head.finish(logits);
        }
        if logits.iter().flatten().all(|logit| logit.is_finite()) {
            Ok(())
        } else {
            Err(self.backbone.placement.not_finite().into())
        }
    }

    fn try_place(&self, parts: HeadParts<'_>) -> Result<PlacedHead> {
        let HeadParts {
            backbone,
            parameters,
            spec,
        } = parts;
        let (stack, placement) = (&self.backbone.stack, self.backbone.placement);
        let classes = check_parameters(stack, parts)?;
        let last = spec.last_linear();
        let Some([weight, bias]) = spec.parameter_names(last) else {
            return Err(BackendError::Misfit("the head has no Linear".into()).into());
        };
        let head = TorchHead {
            program: self.builder.build(stack, parts, &placement)?,
            last: LastLinear::place(placement, &parameters[&weight], &parameters[&bias])?,
            after: spec.layers[last + 1..].to_vec(),
            classes,
        };
        // Every valid preprocessing has a size.
        let size = spec.preprocessing.size().unwrap_or_default();
        self.try_out(&head, size)?;

        let device_bytes = head.program.bytes(Weight::bytes, Vector::bytes) + head.last.bytes();
        let (keys, input_steps) = (head.program.keys.clone(), head.program.input_steps());
        let placed = PlacedHead::new(spec, classes, device_bytes, Box::new(head));
        Ok(placed.on_backbone(backbone).with_keys(keys, input_steps))
    }
}

impl Placer for TorchPlacer {
    fn place_on(
        &self,
        backbone: usize,
        parameters: &Parameters,
        spec: &CompleteSpec,
    ) -> Result<PlacedHead, BackendError> {
        Ok(self.try_place(HeadParts {
            backbone,
            parameters,
            spec,
        })?)
    }
}
