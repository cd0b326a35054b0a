//! The steps on libtorch: the backbone's tensors, and rows driven through any range of steps.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use super::graphs::padded;
use super::input::{Input, fold};
use super::placement::{PlacedTensor, Placement};
use crate::model::architecture::LayerKind;
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
    input: Input,
    /// Whether bias and ReLU are part of the kernels that multiply.
    fused: bool,
}

/// How far the results of two ways to compute may be apart, of the largest result: a few roundings to bf16.
const FUSED_ERROR_MAX: f64 = 0.05;

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
        let mut placed = Self {
            placement,
            stack: Stack::new(steps, backbone),
            input: Input::new(placement)?,
            fused: false,
        };
        if placement.device.is_cuda() {
            placed.fuse()?;
        }
        Ok(placed)
    }

    /// Fuses what can be fused, if this GPU and its libraries do so and give the same.
    fn fuse(&mut self) -> Result<(), NetworkError> {
        let picture = self.ones(0)?;
        let end = self.stack.steps.len();
        let apart = self.run(0..end, &picture, None)?;
        self.fused = true;
        let error = self.run(0..end, &picture, None).and_then(|fused| {
            let largest = |values: Tensor| -> Result<f64, NetworkError> {
                Ok(f64::try_from(values.f_to_kind(Kind::Float)?.f_abs()?.f_max()?)?)
            };
            Ok(largest(fused.f_sub(&apart)?)? / largest(apart)?)
        });
        self.fused = matches!(error, Ok(error) if error <= FUSED_ERROR_MAX);
        if !self.fused {
            tracing::warn!(?error, "fused operations do not work here, computing without: slower");
        }
        Ok(())
    }

    /// One row of ones that may enter a step: of grey 1 for the first, which takes pictures.
    pub fn ones(&self, step: usize) -> Result<Tensor, NetworkError> {
        let mut shape: Vec<i64> = self
            .stack
            .input_shape(step)
            .into_iter()
            .map(|size| size as i64)
            .collect();
        let mut kind = self.placement.kind;
        if step == 0 {
            shape.rotate_left(1);
            kind = Kind::Uint8;
        }
        shape.insert(0, 1);
        Ok(Tensor::f_ones(shape, (kind, self.placement.device))?)
    }

    /// Drives rows through `steps`, each with the head's parameters or the backbone's. What enters the first step is
    /// pictures, N x 224 x 224 x 3 u8.
    pub fn run(
        &self,
        steps: Range<usize>,
        input: &Tensor,
        head: Option<&TorchOverrides>,
    ) -> Result<Tensor, NetworkError> {
        let all = self.stack.convolutions();
        let convolutions = steps.start..steps.end.min(all);
        let mut rows = input.shallow_clone();
        if !convolutions.is_empty() {
            let convolve = |rows: Tensor| -> Result<Tensor, NetworkError> {
                let mut maps = match steps.start {
                    0 => self.input.of(&rows, self.placement)?,
                    _ => rows,
                };
                for step in convolutions.clone() {
                    maps = self.step(step, &maps, head)?;
                }
                if convolutions.end < all {
                    return Ok(maps);
                }
                // Channels first, as the Linears were trained.
                Ok(maps.f_contiguous()?.f_flatten(1, -1)?)
            };
            rows = match self.placement.device {
                Device::Cpu => {
                    let groups = rows.f_split(CPU_GROUP, 0)?.into_iter();
                    let mut convolved = groups.map(convolve).collect::<Result<Vec<_>, _>>()?;
                    match convolved.len() {
                        1 => convolved.remove(0),
                        _ => Tensor::f_cat(&convolved, 0)?,
                    }
                }
                _ => padding(&rows, convolve)?,
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
        let (one, fused) = ([1, 1], self.fused && step.relu);
        let mut output = match (step.is_convolution(), fused) {
            (true, true) => input.f_cudnn_convolution_relu(&weight, Some(&bias), one, one, one, 1)?,
            (true, false) => input.f_conv2d(&weight, Some(&bias), one, one, one, 1)?,
            // `relu(bias + input weight^T)`, which cuBLASLt does in the end of its product.
            (false, true) => bias.f_internal_addmm_activation(input, &weight.f_tr()?, false)?,
            (false, false) => input.f_linear(&weight, Some(&bias))?,
        };
        if step.relu && !fused {
            output = output.f_relu_()?;
        }
        if step.pool {
            output = output.f_max_pool2d([2, 2], [2, 2], [0, 0], one, false)?;
        }
        Ok(output)
    }
}

/// Computes on rows padded to one of few numbers: cuDNN plans anew for each.
fn padding(rows: &Tensor, compute: impl Fn(Tensor) -> Result<Tensor, NetworkError>) -> Result<Tensor, NetworkError> {
    let size = rows.size();
    let missing = padded(size[0] as usize) as i64 - size[0];
    if missing == 0 {
        return compute(rows.shallow_clone());
    }
    let mut shape = size.clone();
    shape[0] = missing;
    let rest = Tensor::f_zeros(shape, (rows.kind(), rows.device()))?;
    Ok(compute(Tensor::f_cat(&[rows, &rest], 0)?)?.f_narrow(0, 0, size[0])?)
}

/// Places a step's weight in the layout that the step computes with.
pub(super) fn place_weight(
    placement: Placement,
    step: &Step,
    weight: &Arc<HostTensor>,
) -> Result<PlacedTensor, NetworkError> {
    match step.kind {
        LayerKind::Conv { input: 3, .. } if placement.folded => placement.place_channels_last(&fold(weight)),
        LayerKind::Conv { .. } => placement.place_channels_last(weight),
        _ => placement.place(weight),
    }
}
