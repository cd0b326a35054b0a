//! The steps' parameters on a CPU: the backbones' packed for speed, heads' for memory.

use std::collections::HashMap;
use std::sync::Arc;

use headswap_checkpoint::{Digest, HostTensor, Parameters};
use headswap_spec::Step;
use winograd::{Bias, PackedConv, PackedLinear, flush_subnormal};

use crate::backend::BackendError;
use crate::program::{ParameterPlacer, Program};
use crate::stack::{Stack, StepParameters};

/// The steps' parameters in memory.
pub(super) type NativeStack = Stack<Weight, Bias>;
/// The steps of a head.
pub(super) type NativeProgram = Program<Weight, Bias>;

/// The weight of a step.
pub(super) enum Weight {
    Conv(PackedConv),
    Linear(PackedLinear),
    /// A Linear as it was read, with subnormal weights set to 0.
    Host(Arc<HostTensor>),
}

impl Weight {
    /// Packs a weight of the backbone for speed.
    fn fast(step: &Step, weight: &HostTensor, precision: winograd::Precision) -> Self {
        let outputs = weight.shape[0];
        if step.is_convolution() {
            Self::Conv(PackedConv::new(&weight.values, outputs, precision))
        } else {
            Self::Linear(PackedLinear::new(&weight.values, outputs, precision))
        }
    }

    /// Packs a head's own weight for memory.
    pub fn small(step: &Step, weight: &Arc<HostTensor>) -> Self {
        if step.is_convolution() {
            Self::Conv(PackedConv::direct(&weight.values, weight.shape[0]))
        } else {
            Self::Host(without_subnormals(weight))
        }
    }

    /// Returns the numbers of a row that a Linear takes.
    pub fn inputs(&self) -> usize {
        match self {
            Self::Linear(linear) => linear.inputs(),
            Self::Host(weight) => weight.shape.last().copied().unwrap_or_default(),
            Self::Conv(_) => unreachable!("a convolution takes maps"),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Conv(conv) => conv.bytes(),
            Self::Linear(linear) => linear.bytes(),
            Self::Host(weight) => weight.bytes(),
        }
    }
}

/// Packs heads' own parameters for memory.
pub(super) struct Small;

impl ParameterPlacer<Weight, Bias, BackendError> for Small {
    fn step_weight(&self, step: &Step, weight: &Arc<HostTensor>) -> Result<Weight, BackendError> {
        Ok(Weight::small(step, weight))
    }

    fn own_weight(&self, weight: &Arc<HostTensor>) -> Result<Weight, BackendError> {
        Ok(Weight::Host(without_subnormals(weight)))
    }

    fn vector(&self, vector: &Arc<HostTensor>) -> Result<Bias, BackendError> {
        Ok(Bias::new(&vector.values))
    }
}

/// Returns the tensor itself or, if it has subnormal numbers (with which many CPUs multiply a hundred times slower), a
/// copy in which they are 0.
pub(super) fn without_subnormals(tensor: &Arc<HostTensor>) -> Arc<HostTensor> {
    if !tensor.values.iter().any(|value| value.is_subnormal()) {
        return Arc::clone(tensor);
    }
    let values = tensor.values.iter().map(|&value| flush_subnormal(value)).collect();
    Arc::new(HostTensor::new(tensor.shape.clone(), values))
}

/// Packs backbones tensor by tensor, and frees each tensor once packed. Starts at the last step, since the Linears' weights
/// are the largest, so that at most one of them exists twice. Equal tensors of several backbones are packed once.
pub(super) fn pack(steps: Vec<Step>, backbones: Vec<Parameters>, precision: winograd::Precision) -> NativeStack {
    let mut packed = Packed::default();
    let mut stack = Vec::with_capacity(backbones.len());
    for mut parameters in backbones {
        let mut backbone = Vec::with_capacity(steps.len());
        for step in steps.iter().rev() {
            let (Some(weight), Some(bias)) = (parameters.remove(&step.weight()), parameters.remove(&step.bias()))
            else {
                continue;
            };
            backbone.push(packed.parameters(step, &weight, &bias, precision));
        }
        backbone.reverse();
        stack.push(backbone);
    }
    Stack::new(steps, stack)
}

/// Parameters that were packed, by step and digest.
#[derive(Default)]
struct Packed {
    weights: HashMap<(String, Digest), Arc<Weight>>,
    biases: HashMap<(String, Digest), Arc<Bias>>,
}

impl Packed {
    fn parameters(
        &mut self,
        step: &Step,
        weight: &HostTensor,
        bias: &HostTensor,
        precision: winograd::Precision,
    ) -> StepParameters<Weight, Bias> {
        let key = |tensor: &HostTensor| (step.name.clone(), tensor.digest());
        let weight = self
            .weights
            .entry(key(weight))
            .or_insert_with(|| Arc::new(Weight::fast(step, weight, precision)));
        let bias = self
            .biases
            .entry(key(bias))
            .or_insert_with(|| Arc::new(Bias::new(&bias.values)));
        StepParameters {
            weight: Arc::clone(weight),
            bias: Arc::clone(bias),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_is_copied_only_to_lose_its_subnormals() {
        let normal = Arc::new(HostTensor::new(vec![3], vec![1.0, 0.0, -f32::MIN_POSITIVE]));
        assert!(Arc::ptr_eq(&normal, &without_subnormals(&normal)));
        let tensor = Arc::new(HostTensor::new(vec![2, 2], vec![1.0, 1e-40, -1e-39, -2.0]));
        let copy = without_subnormals(&tensor);
        assert_eq!(*copy, HostTensor::new(vec![2, 2], vec![1.0, 0.0, 0.0, -2.0]));
    }
}
