//! The steps on libtorch: the backbones' tensors, and the computation of any range of steps after the pictures' entrance.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use headswap_checkpoint::{Digest, HostTensor, Parameters};
use headswap_model::{BackendError, Operation, Stack, StepParameters};
use headswap_spec::{HeadInput, PICTURE_SIDE, Step};
use tch::{Kind, Tensor};

use super::accelerator::{Accelerator, torch_max_pool};
use super::graphs::padded;
use super::input::FoldedInput;
use super::layers;
use super::pictures::Uploaded;
use super::placement::Placement;
use super::weight::{TorchProgram, TorchStack, Vector, Weight, place_weight};
use crate::error::{Result, TorchError};

/// Height and width of the pictures that VGG16 was trained on.
const VGG16: [u32; 2] = [PICTURE_SIDE as u32; 2];

type TorchOperation = Operation<Weight, Vector>;
type TorchParameters = StepParameters<Weight, Vector>;

/// The backbones.
pub(super) struct TorchSteps {
    pub placement: Placement,
    pub stack: TorchStack,
    /// None on the CPU, where pictures are normalised.
    folded_input: Option<FoldedInput>,
    accelerator: Option<Arc<dyn Accelerator>>,
    /// True if the kernels of products also add the bias and apply the ReLU, and the accelerator pools.
    fused: AtomicBool,
}

/// Parameters of the backbones that were placed, by step and digest.
#[derive(Default)]
struct PlacedParameters {
    weights: HashMap<(String, Digest), Arc<Weight>>,
    biases: HashMap<(String, Digest), Arc<Vector>>,
}

impl PlacedParameters {
    fn place(
        &mut self,
        placement: Placement,
        step: &Step,
        weight: &Arc<HostTensor>,
        bias: &Arc<HostTensor>,
    ) -> Result<TorchParameters> {
        let weight_key = (step.name.clone(), weight.digest());
        let weight = match self.weights.get(&weight_key) {
            Some(placed) => Arc::clone(placed),
            None => Arc::new(place_weight(placement, step, weight)?),
        };
        self.weights.insert(weight_key, Arc::clone(&weight));
        let bias_key = (step.name.clone(), bias.digest());
        let bias = match self.biases.get(&bias_key) {
            Some(placed) => Arc::clone(placed),
            None => Arc::new(Vector::place(placement, bias)?),
        };
        self.biases.insert(bias_key, Arc::clone(&bias));
        Ok(StepParameters { weight, bias })
    }
}

/// Limit of the error of fused operations, relative to the largest result: a few roundings to bf16.
const FUSED_ERROR_MAX: f64 = 0.05;

impl TorchSteps {
    /// Places the backbones' parameters. Equal ones of several backbones are placed once.
    pub fn place(
        placement: Placement,
        steps: Vec<Step>,
        backbones: &[&Parameters],
        accelerator: Option<Arc<dyn Accelerator>>,
    ) -> Result<Self> {
        let mut known = PlacedParameters::default();
        let mut stack = Vec::with_capacity(backbones.len());
        for parameters in backbones {
            let mut backbone = Vec::with_capacity(steps.len());
            for step in &steps {
                let (weight, bias) = (parameters.get(&step.weight()), parameters.get(&step.bias()));
                if let (Some(weight), Some(bias)) = (weight, bias) {
                    backbone.push(known.place(placement, step, weight, bias)?);
                }
            }
            stack.push(backbone);
        }
        let placed = Self {
            placement,
            stack: Stack::new(steps, stack),
            folded_input: if placement.gpu {
                Some(FoldedInput::new(placement)?)
            } else {
                None
            },
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
        let unfused = self.features(self.ones()?)?;
        self.fused.store(true, Ordering::Relaxed);
        let fused = self.ones().and_then(|ones| self.features(ones));
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
            let Some(parameters) = self.stack.parameters(0, step) else {
                break;
            };
            let (weight, bias) = (parameters.weight.handle()?, parameters.bias.handle());
            let [_, height, width] = self.stack.maps_before(step, VGG16).map(|size| size as i64);
            let shape = [rows as i64, height, width];
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

    /// Returns one row of ones as the first convolution's input of a picture of VGG16's own size.
    fn ones(&self) -> Result<Tensor> {
        let side = PICTURE_SIDE as i64;
        let first = self.stack.parameters(0, 0).ok_or_else(no_backbone)?;
        let channels = first.weight.inputs();
        filled_maps(self.placement, [1, side, side], channels, 1.0)
    }

    /// Returns the first convolution's input of pictures that are on a GPU, padded to one of few numbers of rows.
    pub fn input(&self, pictures: &Uploaded, rows: &[usize]) -> Result<Tensor> {
        match &self.folded_input {
            Some(folded) => pictures.input(rows, folded, padded(rows.len())),
            None => Err(BackendError::Device("pictures were uploaded for a CPU".into()).into()),
        }
    }

    /// Computes all that the first backbone has of plain pictures on a GPU, `[N, 224, 224, 3]` u8: its features or, without
    /// Linears, the last pooling's map.
    pub fn features_of_bytes(&self, pixels: &Tensor) -> Result<Tensor> {
        match &self.folded_input {
            Some(folded) => self.features(folded.of_bytes(pixels, pixels.size()[0] as usize)?),
            None => Err(BackendError::Device("pictures were uploaded for a CPU".into()).into()),
        }
    }

    /// Computes the features, or the map, of the first convolution's input with the first backbone's own parameters.
    fn features(&self, input: Tensor) -> Result<Tensor> {
        let program = [HeadInput::Features, HeadInput::Adaptive7x7]
            .into_iter()
            .find_map(|input| self.stack.backbone_program(0, input, VGG16))
            .ok_or_else(no_backbone)?;
        self.run(program, 1..program.steps(), input)
    }

    /// Computes steps after the pictures' entrance, for the first one's input.
    pub fn run(&self, program: &TorchProgram, steps: Range<usize>, input: Tensor) -> Result<Tensor> {
        let mut rows = input;
        for step in steps {
            let Some(operation) = program.operation(step) else {
                break;
            };
            rows = self.step(operation, &rows)?;
        }
        Ok(rows)
    }

    fn step(&self, operation: &TorchOperation, input: &Tensor) -> Result<Tensor> {
        match operation {
            Operation::Convolution { step, parameters, pool } => {
                let output = self.convolution(*step, parameters, input)?;
                if !pool {
                    return Ok(output);
                }
                match &self.accelerator {
                    Some(accelerator) if self.fuses(*step, input) => accelerator.max_pool(&output),
                    _ => torch_max_pool(&output),
                }
            }
            Operation::Input(input_kind) => layers::pool(*input_kind, input),
            Operation::Linear { parameters, relu, .. } => self.linear(parameters, *relu, input),
            Operation::Affine { weight, bias } => Ok(bias.handle().f_addcmul(input, &weight.handle())?),
            Operation::Layer(layer) => layers::layer(*layer, input),
        }
    }

    /// Computes a convolution and its ReLU.
    fn convolution(&self, step: usize, parameters: &TorchParameters, input: &Tensor) -> Result<Tensor> {
        let (weight, bias, one) = (parameters.weight.handle()?, parameters.bias.handle(), [1, 1]);
        if self.fuses(step, input) {
            return Ok(input.f_cudnn_convolution_relu(&weight, Some(&bias), one, one, one, 1)?);
        }
        Ok(input.f_conv2d(&weight, Some(&bias), one, one, one, 1)?.f_relu_()?)
    }

    fn linear(&self, parameters: &TorchParameters, relu: bool, input: &Tensor) -> Result<Tensor> {
        let (weight, bias) = (parameters.weight.handle()?, parameters.bias.handle());
        if relu && self.fused.load(Ordering::Relaxed) {
            // `relu(bias + input weight^T)`, which cuBLASLt computes in the epilogue of its product.
            return Ok(bias.f_internal_addmm_activation(input, &weight.f_tr()?, false)?);
        }
        let mut output = input.f_linear(&weight, Some(&bias))?;
        if relu {
            output = output.f_relu_()?;
        }
        Ok(output)
    }

    /// Returns true if a convolution's operations are fused. They are checked for the maps of pictures of VGG16's own size
    /// alone, because cuDNN chooses its algorithms by the size.
    fn fuses(&self, step: usize, input: &Tensor) -> bool {
        let [_, height, width] = self.stack.maps_before(step, VGG16).map(|size| size as i64);
        self.fused.load(Ordering::Relaxed) && input.size()[2..] == [height, width]
    }
}

fn no_backbone() -> TorchError {
    BackendError::Device("there is no backbone".into()).into()
}

/// Returns maps with rows of zeros after them, so that there are as many as one of few sizes, because cuDNN plans for each.
pub(super) fn pad(maps: &Tensor) -> Result<Tensor> {
    let &[rows, channels, height, width] = &maps.size()[..] else {
        return Ok(maps.shallow_clone());
    };
    let missing = padded(rows as usize) as i64 - rows;
    if missing == 0 {
        return Ok(maps.shallow_clone());
    }
    let rest = Tensor::f_zeros([missing, height, width, channels], (maps.kind(), maps.device()))?;
    Ok(Tensor::f_cat(&[maps, &rest.f_permute([0, 3, 1, 2])?], 0)?)
}

/// Returns maps of one value. `shape` is that of the maps without channels: rows, height and width.
pub(super) fn filled_maps(placement: Placement, shape: [i64; 3], channels: i64, value: f64) -> Result<Tensor> {
    let [rows, height, width] = shape;
    let options = (placement.kind, placement.device);
    let maps = Tensor::f_full([rows, height, width, channels], value, options)?;
    Ok(maps.f_permute([0, 3, 1, 2])?)
}

/// Returns the largest absolute value.
fn largest(values: &Tensor) -> Result<f64> {
    Ok(f64::try_from(values.f_to_kind(Kind::Float)?.f_abs()?.f_max()?)?)
}
