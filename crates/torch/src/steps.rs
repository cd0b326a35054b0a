//! The steps on libtorch: the backbone's tensors, and rows driven through any range of steps.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use headswap_checkpoint::{HostTensor, Parameters};
use headswap_model::{Overrides, Stack, StepParameters};
use headswap_spec::{LayerKind, Step};
use tch::{Device, Kind, Tensor};

use super::accelerator::{Accelerator, torch_max_pool};
use super::graphs::padded;
use super::input::{Input, fold};
use super::placement::{PlacedTensor, Placement};
use crate::error::Result;

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
    accelerator: Option<Arc<dyn Accelerator>>,
    /// Whether bias and ReLU are part of the kernels that multiply, and pooling is the accelerator's.
    fused: AtomicBool,
}

/// How far the results of two ways to compute may be apart, of the largest result: a few roundings to bf16.
const FUSED_ERROR_MAX: f64 = 0.05;

impl TorchSteps {
    /// Places the backbone's parameters.
    pub fn place(
        placement: Placement,
        steps: Vec<Step>,
        parameters: &Parameters,
        accelerator: Option<Arc<dyn Accelerator>>,
    ) -> Result<Self> {
        let place = |step: &Step| -> Result<_> {
            Ok(StepParameters {
                weight: Arc::new(place_weight(placement, step, &parameters[&step.weight()])?),
                bias: Arc::new(placement.place(&parameters[&step.bias()])?),
            })
        };
        let backbone = steps.iter().map(place).collect::<Result<_, _>>()?;
        let placed = Self {
            placement,
            stack: Stack::new(steps, backbone),
            input: Input::new(placement)?,
            accelerator,
            fused: AtomicBool::new(false),
        };
        if placement.device.is_cuda() {
            placed.fuse()?;
        }
        Ok(placed)
    }

    /// Fuses what can be fused, if this GPU and its libraries do so and give the same.
    fn fuse(&self) -> Result<()> {
        let picture = self.ones(0)?;
        let end = self.stack.steps.len();
        let apart = self.run(0..end, &picture, None)?;
        self.fused.store(true, Ordering::Relaxed);
        let error = self.run(0..end, &picture, None).and_then(|fused| {
            let largest = |values: Tensor| -> Result<f64> {
                Ok(f64::try_from(values.f_to_kind(Kind::Float)?.f_abs()?.f_max()?)?)
            };
            Ok(largest(fused.f_sub(&apart)?)? / largest(apart)?)
        });
        match error.and_then(|error| Ok((error, self.reads_its_result(1)?))) {
            Ok((error, false)) if error <= FUSED_ERROR_MAX => {}
            Ok((error, reads)) => self.unfuse(&format!("results {error:.3} off, memory of the result read: {reads}")),
            Err(error) => self.unfuse(&error.to_string()),
        }
        Ok(())
    }

    fn unfuse(&self, reason: &str) {
        tracing::warn!(reason, "fused operations do not work here, computing without: slower");
        self.fused.store(false, Ordering::Relaxed);
    }

    /// Goes without fusion if it does not work for this many rows.
    pub fn check_fused(&self, rows: usize) -> Result<()> {
        if self.fused.load(Ordering::Relaxed) && self.reads_its_result(rows)? {
            self.unfuse("a convolution reads the memory of its result");
        }
        Ok(())
    }

    /// Whether a fused convolution of this many rows lets into its result what was in the memory before. libtorch has cuDNN
    /// add that memory times zero, which must not mean to read it: not a number times zero is not a number.
    fn reads_its_result(&self, rows: usize) -> Result<bool> {
        let placement = self.placement;
        for step in 0..self.stack.convolutions() {
            let parameters = self.stack.parameters(step, None);
            let (weight, bias) = (parameters.weight.handle(), parameters.bias.handle());
            let side = self.stack.input_shape(step)[1] as i64;
            let filled = |channels, value: f64| -> Result<Tensor> {
                let shape = [rows as i64, side, side, channels];
                let filled = Tensor::f_full(shape, value, (placement.kind, placement.device))?;
                Ok(filled.f_permute([0, 3, 1, 2])?)
            };
            let (input, before) = (filled(weight.size()[1], 1.0)?, filled(weight.size()[0], f64::NAN)?);
            let one = [1, 1];
            let result = input.f_cudnn_convolution_add_relu(&weight, &before, 0.0, Some(&bias), one, one, one, 1)?;
            if !bool::try_from(result.f_isfinite()?.f_all()?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// One row of ones that may enter a step: of grey 1 for the first, which takes pictures.
    pub fn ones(&self, step: usize) -> Result<Tensor> {
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
    pub fn run(&self, steps: Range<usize>, input: &Tensor, head: Option<&TorchOverrides>) -> Result<Tensor> {
        let all = self.stack.convolutions();
        let convolutions = steps.start..steps.end.min(all);
        let mut rows = input.shallow_clone();
        if !convolutions.is_empty() {
            let convolve = |rows: Tensor| -> Result<Tensor> {
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

    fn step(&self, step: usize, input: &Tensor, head: Option<&TorchOverrides>) -> Result<Tensor> {
        let parameters = self.stack.parameters(step, head);
        let (weight, bias) = (parameters.weight.handle(), parameters.bias.handle());
        let step = &self.stack.steps[step];
        let (one, fused) = ([1, 1], self.fused.load(Ordering::Relaxed) && step.relu);
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
            output = match &self.accelerator {
                Some(accelerator) if fused => accelerator.max_pool(&output)?,
                _ => torch_max_pool(&output)?,
            };
        }
        Ok(output)
    }
}

/// Computes on rows padded to one of few numbers: cuDNN plans anew for each.
fn padding(rows: &Tensor, compute: impl Fn(Tensor) -> Result<Tensor>) -> Result<Tensor> {
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
pub(super) fn place_weight(placement: Placement, step: &Step, weight: &Arc<HostTensor>) -> Result<PlacedTensor> {
    match step.kind {
        LayerKind::Conv { input: 3, .. } if placement.folded => placement.place_channels_last(&fold(weight)),
        LayerKind::Conv { .. } => placement.place_channels_last(weight),
        _ => placement.place(weight),
    }
}
