//! The steps on libtorch: the backbone's tensors, and the computation of any range of steps.

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

/// Pictures that pass the convolutions together on the CPU. Their activations dominate the memory, 26 MB a picture in the
/// first block; larger groups need more and are hardly faster (`benches/README.md`).
const CPU_GROUP: i64 = 2;

/// The steps' parameters on the device.
pub(super) type TorchStack = Stack<PlacedTensor, PlacedTensor>;
/// The parameters that a head overrides.
pub(super) type TorchOverrides = Overrides<PlacedTensor, PlacedTensor>;

/// The backbone.
pub(super) struct TorchSteps {
    pub placement: Placement,
    pub stack: TorchStack,
    input: Input,
    accelerator: Option<Arc<dyn Accelerator>>,
    /// True if the kernels of products also add the bias and apply the ReLU, and the accelerator pools.
    fused: AtomicBool,
}

/// Limit of the error of fused operations, relative to the largest result: a few roundings to bf16.
const FUSED_ERROR_MAX: f64 = 0.05;

impl TorchSteps {
    /// Places the backbone's parameters.
    pub fn place(
        placement: Placement,
        steps: Vec<Step>,
        parameters: &Parameters,
        accelerator: Option<Arc<dyn Accelerator>>,
    ) -> Result<Self> {
        let mut backbone = Vec::with_capacity(steps.len());
        for step in &steps {
            backbone.push(StepParameters {
                weight: Arc::new(place_weight(placement, step, &parameters[&step.weight()])?),
                bias: Arc::new(placement.place(&parameters[&step.bias()])?),
            });
        }
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

    /// Turns fused operations on, if this GPU and its libraries support them and the results agree.
    fn fuse(&self) -> Result<()> {
        let picture = self.ones(0)?;
        let end = self.stack.steps.len();
        let unfused = self.run(0..end, &picture, None)?;
        self.fused.store(true, Ordering::Relaxed);
        let fused = self.run(0..end, &picture, None);
        let error = fused.and_then(|fused| Ok(largest(&fused.f_sub(&unfused)?)? / largest(&unfused)?));
        match error.and_then(|error| Ok((error, self.reads_its_result(1)?))) {
            Ok((error, false)) if error <= FUSED_ERROR_MAX => {}
            Ok((error, reads)) => self.unfuse(&format!("relative error {error:.3}, reads its result: {reads}")),
            Err(error) => self.unfuse(&error.to_string()),
        }
        Ok(())
    }

    fn unfuse(&self, reason: &str) {
        tracing::warn!(
            reason,
            "fused operations do not work here; computing without them is slower"
        );
        self.fused.store(false, Ordering::Relaxed);
    }

    /// Turns fused operations off if they do not work for this many rows.
    pub fn check_fused(&self, rows: usize) -> Result<()> {
        if self.fused.load(Ordering::Relaxed) && self.reads_its_result(rows)? {
            self.unfuse("a convolution reads the memory of its result");
        }
        Ok(())
    }

    /// Returns true if a fused convolution of this many rows depends on the previous content of its result's memory.
    /// libtorch has cuDNN add that memory times zero, and NaN times zero is NaN if cuDNN does read it.
    fn reads_its_result(&self, rows: usize) -> Result<bool> {
        let placement = self.placement;
        for step in 0..self.stack.convolutions() {
            let parameters = self.stack.parameters(step, None);
            let (weight, bias) = (parameters.weight.handle(), parameters.bias.handle());
            let side = self.stack.input_shape(step)[1] as i64;
            let shape = [rows as i64, side, side];
            let input = filled_maps(placement, shape, weight.size()[1], 1.0)?;
            let before = filled_maps(placement, shape, weight.size()[0], f64::NAN)?;
            let one = [1, 1];
            let result = input.f_cudnn_convolution_add_relu(&weight, &before, 0.0, Some(&bias), one, one, one, 1)?;
            if !bool::try_from(result.f_isfinite()?.f_all()?)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns one row of ones as the input of a step. The first step's is a picture whose bytes are 1.
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

    /// Computes `steps` for rows, each with the head's parameters or else the backbone's. The input of the first step is
    /// pictures, `[N, 224, 224, 3]` u8.
    pub fn run(&self, steps: Range<usize>, input: &Tensor, head: Option<&TorchOverrides>) -> Result<Tensor> {
        let all = self.stack.convolutions();
        let convolutions = steps.start..steps.end.min(all);
        let mut rows = input.shallow_clone();
        if !convolutions.is_empty() {
            rows = match self.placement.device {
                Device::Cpu => {
                    let mut convolved = Vec::new();
                    for group in rows.f_split(CPU_GROUP, 0)? {
                        convolved.push(self.convolve(convolutions.clone(), group, head)?);
                    }
                    match convolved.len() {
                        1 => convolved.remove(0),
                        _ => Tensor::f_cat(&convolved, 0)?,
                    }
                }
                _ => padding(&rows, |rows| self.convolve(convolutions.clone(), rows, head))?,
            };
        }
        for step in steps.start.max(all)..steps.end {
            rows = self.step(step, &rows, head)?;
        }
        Ok(rows)
    }

    /// Computes convolutions for rows, and flattens the maps of the last one.
    fn convolve(&self, steps: Range<usize>, rows: Tensor, head: Option<&TorchOverrides>) -> Result<Tensor> {
        let mut maps = match steps.start {
            0 => self.input.of(&rows, self.placement)?,
            _ => rows,
        };
        for step in steps.clone() {
            maps = self.step(step, &maps, head)?;
        }
        if steps.end < self.stack.convolutions() {
            return Ok(maps);
        }
        // Channels first, as the Linears were trained.
        Ok(maps.f_contiguous()?.f_flatten(1, -1)?)
    }

    fn step(&self, step: usize, input: &Tensor, head: Option<&TorchOverrides>) -> Result<Tensor> {
        let parameters = self.stack.parameters(step, head);
        let (weight, bias) = (parameters.weight.handle(), parameters.bias.handle());
        let step = &self.stack.steps[step];
        let (one, fused) = ([1, 1], self.fused.load(Ordering::Relaxed) && step.relu);
        let mut output = match (step.is_convolution(), fused) {
            (true, true) => input.f_cudnn_convolution_relu(&weight, Some(&bias), one, one, one, 1)?,
            (true, false) => input.f_conv2d(&weight, Some(&bias), one, one, one, 1)?,
            // `relu(bias + input weight^T)`, which cuBLASLt computes in the epilogue of its product.
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

/// Calls `compute` with rows padded to one of few sizes, because cuDNN plans for each size.
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

/// Returns maps of one value. `shape` is that of the maps without channels: rows, height and width.
fn filled_maps(placement: Placement, shape: [i64; 3], channels: i64, value: f64) -> Result<Tensor> {
    let [rows, height, width] = shape;
    let options = (placement.kind, placement.device);
    let maps = Tensor::f_full([rows, height, width, channels], value, options)?;
    Ok(maps.f_permute([0, 3, 1, 2])?)
}

/// Returns the largest absolute value.
fn largest(values: &Tensor) -> Result<f64> {
    Ok(f64::try_from(values.f_to_kind(Kind::Float)?.f_abs()?.f_max()?)?)
}

/// Places a step's weight in the memory layout that the step needs.
pub(super) fn place_weight(placement: Placement, step: &Step, weight: &Arc<HostTensor>) -> Result<PlacedTensor> {
    match step.kind {
        LayerKind::Conv { input: 3, .. } if placement.folded => placement.place_channels_last(&fold(weight)),
        LayerKind::Conv { .. } => placement.place_channels_last(weight),
        _ => placement.place(weight),
    }
}
