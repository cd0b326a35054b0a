//! The steps on libtorch: the backbone's tensors, and rows driven through any range of steps.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::placement::{PlacedTensor, Placement};
use crate::model::network::NetworkError;
use crate::model::stack::{Overrides, Stack, StepParameters};
use crate::model::step::Step;
use crate::model::tensor::{HostTensor, Parameters};

/// Pictures that pass the convolutions together on the CPU. Their activations are the largest memory there is, 26 MB a
/// picture in the first block; larger groups take more of it and are hardly faster (`benches/README.md`).
const CPU_GROUP: i64 = 2;

/// The steps' parameters on the device.
pub(super) type TorchStack = Stack<PlacedTensor, PlacedTensor>;
/// A head's.
pub(super) type TorchOverrides = Overrides<PlacedTensor, PlacedTensor>;

/// The backbone, and how it computes.
pub(super) struct TorchSteps {
    pub placement: Placement,
    pub stack: TorchStack,
}

impl TorchSteps {
    /// Places the backbone's parameters.
    pub fn place(placement: Placement, steps: Vec<Step>, parameters: &Parameters) -> Result<Self, NetworkError> {
        let place = |step: &Step| -> Result<_, NetworkError> {
            Ok(StepParameters {
                weight: Arc::new(place_weight(placement, step, &parameters[&step.weight()])?),
                bias: Arc::new(placement.place(&parameters[&step.bias()])?),
            })
        };
        let backbone = steps.iter().map(place).collect::<Result<_, _>>()?;
        let stack = Stack::new(steps, backbone);
        Ok(Self { placement, stack })
    }

    /// Drives rows through `steps`, each with the head's parameters or the backbone's. `prepare` is what a group of rows
    /// goes through before its first convolution.
    pub fn run(
        &self,
        steps: Range<usize>,
        input: &Tensor,
        prepare: impl Fn(Tensor) -> Result<Tensor, NetworkError>,
        head: Option<&TorchOverrides>,
    ) -> Result<Tensor, NetworkError> {
        let all = self.stack.convolutions();
        let convolutions = steps.start..steps.end.min(all);
        let mut rows = input.shallow_clone();
        if !convolutions.is_empty() {
            let convolve = |rows: Tensor| -> Result<Tensor, NetworkError> {
                let mut maps = prepare(rows)?;
                for step in convolutions.clone() {
                    maps = self.step(step, &maps, head)?;
                }
                if convolutions.end < all {
                    return Ok(maps);
                }
                // Channels first, as the Linears were trained.
                Ok(maps.f_contiguous()?.f_flatten(1, -1)?)
            };
            let groups = match self.placement.device {
                Device::Cpu => rows.f_split(CPU_GROUP, 0)?,
                _ => vec![rows],
            };
            let mut convolved = groups.into_iter().map(convolve).collect::<Result<Vec<_>, _>>()?;
            rows = match convolved.len() {
                1 => convolved.remove(0),
                _ => Tensor::f_cat(&convolved, 0)?,
            };
        }
        for step in steps.start.max(all)..steps.end {
            rows = self.step(step, &rows, head)?;
        }
        Ok(rows)
    }

    fn step(&self, step: usize, input: &Tensor, head: Option<&TorchOverrides>) -> Result<Tensor, NetworkError> {
        let parameters = self.stack.parameters(step, head);
        let (weight, bias) = (parameters.weight.handle(), parameters.bias.handle());
        let step = &self.stack.steps[step];
        let mut output = if step.is_convolution() {
            input.f_conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1)?
        } else {
            input.f_linear(&weight, Some(&bias))?
        };
        if step.relu {
            output = output.f_relu_()?;
        }
        if step.pool {
            output = output.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false)?;
        }
        Ok(output)
    }
}

/// Places a step's weight in the layout that the step computes with.
pub(super) fn place_weight(
    placement: Placement,
    step: &Step,
    weight: &Arc<HostTensor>,
) -> Result<PlacedTensor, NetworkError> {
    if step.is_convolution() {
        placement.place_channels_last(weight)
    } else {
        placement.place(weight)
    }
}
