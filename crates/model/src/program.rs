//! What a head computes of a prepared picture, step by step.

use std::sync::Arc;

use headswap_checkpoint::{Digest, HostTensor, Parameters};
use headswap_spec::{CompleteSpec, HeadInput, HeadLayer, LayerKind, Step};

use super::backend::BackendError;
use super::intern::Interned;
use super::plan::{StepKey, is_backbones};
use super::stack::{Stack, StepParameters};

/// What one step computes, with weights of type `W` and biases of type `B`.
pub enum Operation<W, B> {
    /// A convolution, ReLU and, if `pool`, 2x2 max pooling.
    Convolution {
        /// Its index among the backbone's steps.
        step: usize,
        /// Its parameters.
        parameters: StepParameters<W, B>,
        /// True if max pooling follows.
        pool: bool,
    },
    /// Makes a vector of the last pooling's map.
    Input(HeadInput),
    /// A Linear.
    Linear {
        /// Its index among the backbone's steps; none if it is a layer of the head's own.
        step: Option<usize>,
        /// Its parameters.
        parameters: StepParameters<W, B>,
        /// True if a ReLU follows.
        relu: bool,
    },
    /// x times a weight plus a bias, number by number.
    Affine {
        /// The weight.
        weight: Arc<B>,
        /// The bias.
        bias: Arc<B>,
    },
    /// A layer without parameters.
    Layer(HeadLayer),
}

impl<W, B> Operation<W, B> {
    /// Returns the index of the backbone's step that this is, with whatever parameters.
    pub fn backbone_step(&self) -> Option<usize> {
        match self {
            Self::Convolution { step, .. } => Some(*step),
            Self::Linear { step, .. } => *step,
            Self::Input(_) | Self::Affine { .. } | Self::Layer(_) => None,
        }
    }
}

/// The steps from a prepared picture to the input of a head's last Linear. Step 0 is the entrance of the pictures, so that
/// the operation of step `n` is the one at `n - 1`.
pub struct Program<W, B> {
    operations: Vec<Operation<W, B>>,
    /// The key of each operation.
    pub keys: Vec<StepKey>,
}

/// Places parameters on a device.
pub trait ParameterPlacer<W, B, E> {
    /// Places the weight of a step of the backbone.
    ///
    /// # Errors
    /// What the device says.
    fn step_weight(&self, step: &Step, weight: &Arc<HostTensor>) -> Result<W, E>;

    /// Places the weight of a head's own Linear.
    ///
    /// # Errors
    /// What the device says.
    fn own_weight(&self, weight: &Arc<HostTensor>) -> Result<W, E>;

    /// Places a vector.
    ///
    /// # Errors
    /// What the device says.
    fn vector(&self, vector: &Arc<HostTensor>) -> Result<B, E>;
}

/// Builds the programs of heads; heads with equal parameters share them.
pub struct ProgramBuilder<W, B> {
    weights: Interned<W>,
    biases: Interned<B>,
}

impl<W, B> Default for ProgramBuilder<W, B> {
    fn default() -> Self {
        Self {
            weights: Interned::default(),
            biases: Interned::default(),
        }
    }
}

impl<W, B> Program<W, B> {
    pub(super) fn new() -> Self {
        Self {
            operations: Vec::new(),
            keys: Vec::new(),
        }
    }

    /// Returns the number of steps.
    pub fn steps(&self) -> usize {
        1 + self.operations.len()
    }

    /// Returns what a step computes; none for step 0.
    pub fn operation(&self, step: usize) -> Option<&Operation<W, B>> {
        self.operations.get(step.checked_sub(1)?)
    }

    /// Returns the number of operations that make the input of the head's own layers.
    pub fn input_steps(&self) -> usize {
        let last = self
            .operations
            .iter()
            .rposition(|operation| operation.backbone_step().is_some() || matches!(operation, Operation::Input(_)));
        last.map_or(0, |last| last + 1)
    }

    /// Returns the first step with parameters of the head's own.
    pub fn first_own(&self) -> Option<usize> {
        Some(1 + self.keys.iter().position(|key| key.is_own())?)
    }

    pub(super) fn push(&mut self, key: StepKey, operation: Operation<W, B>) {
        self.keys.push(key);
        self.operations.push(operation);
    }

    /// Returns the sum of the sizes of the head's own parameters.
    pub fn bytes(&self, weight_bytes: impl Fn(&W) -> usize, bias_bytes: impl Fn(&B) -> usize) -> usize {
        let mut bytes = 0;
        for (key, operation) in self.keys.iter().zip(&self.operations) {
            let StepKey::Parameters { weight, bias } = *key else {
                continue;
            };
            let (own_weight, own_bias) = (!is_backbones(weight), !is_backbones(bias));
            bytes += match operation {
                Operation::Convolution { parameters, .. } | Operation::Linear { parameters, .. } => {
                    usize::from(own_weight) * weight_bytes(&parameters.weight)
                        + usize::from(own_bias) * bias_bytes(&parameters.bias)
                }
                Operation::Affine { weight, bias } => bias_bytes(weight) + bias_bytes(bias),
                Operation::Input(_) | Operation::Layer(_) => 0,
            };
        }
        bytes
    }
}

/// What a head is placed from.
#[derive(Clone, Copy)]
pub struct HeadParts<'a> {
    /// The index of the backbone that it stands on.
    pub backbone: usize,
    /// Those of [`CompleteSpec::parameter_names`], and those of the backbone that the head overrides.
    pub parameters: &'a Parameters,
    /// What it computes of which pictures.
    pub spec: &'a CompleteSpec,
}

/// The step of parameters that no step of the backbone has, in the interner's keys.
const OWN: usize = usize::MAX;

impl<W, B> ProgramBuilder<W, B> {
    /// Returns the program of a head up to its last Linear.
    ///
    /// # Errors
    /// What `placer` says, or that the backbone lacks a step.
    pub fn build<E: From<BackendError>>(
        &self,
        stack: &Stack<W, B>,
        head: HeadParts<'_>,
        placer: &impl ParameterPlacer<W, B, E>,
    ) -> Result<Program<W, B>, E> {
        let HeadParts { parameters, spec, .. } = head;
        let mut program = Program::new();
        let convolutions = stack.convolutions();
        let of_features = if spec.input == HeadInput::Features {
            convolutions..stack.steps.len()
        } else {
            0..0
        };
        for step in 0..convolutions {
            let (key, placed) = self.backbone_step(stack, step, head, placer)?;
            program.push(
                key,
                Operation::Convolution {
                    step,
                    parameters: placed,
                    pool: stack.steps[step].pool,
                },
            );
        }
        let input = stack.pooling(spec.input, picture_size(spec));
        program.push(StepKey::Input(input), Operation::Input(input));
        for step in of_features {
            let (key, placed) = self.backbone_step(stack, step, head, placer)?;
            let relu = stack.steps[step].relu;
            program.push(
                key,
                Operation::Linear {
                    step: Some(step),
                    parameters: placed,
                    relu,
                },
            );
        }
        for (index, &layer) in spec.layers[..spec.last_linear()].iter().enumerate() {
            let tensors = spec
                .parameter_names(index)
                .map(|names| names.map(|name| &parameters[&name]));
            match (layer, tensors) {
                (HeadLayer::Linear, Some([weight, bias])) => {
                    let parameters = StepParameters {
                        weight: self.weights.get((OWN, weight.digest()), || placer.own_weight(weight))?,
                        bias: self.vector(bias, placer)?,
                    };
                    let key = parameters.key();
                    program.push(
                        key,
                        Operation::Linear {
                            step: None,
                            parameters,
                            relu: false,
                        },
                    );
                }
                (_, Some([weight, bias])) => {
                    let (weight, bias) = (self.vector(weight, placer)?, self.vector(bias, placer)?);
                    let key = StepKey::Parameters {
                        weight: address(&weight),
                        bias: address(&bias),
                    };
                    program.push(key, Operation::Affine { weight, bias });
                }
                (layer, None) => program.push(layer_key(layer), Operation::Layer(layer)),
            }
        }
        Ok(program)
    }

    /// Returns a step of the backbone with the head's own parameters, where it has any.
    fn backbone_step<E: From<BackendError>>(
        &self,
        stack: &Stack<W, B>,
        index: usize,
        head: HeadParts<'_>,
        placer: &impl ParameterPlacer<W, B, E>,
    ) -> Result<(StepKey, StepParameters<W, B>), E> {
        let step = &stack.steps[index];
        let backbones = stack.parameters(head.backbone, index);
        let backbones = backbones.zip(stack.key(head.backbone, index));
        let (weight, weight_key) = match (head.parameters.get(&step.weight()), backbones) {
            (Some(own), _) => {
                let placed = self
                    .weights
                    .get((index, own.digest()), || placer.step_weight(step, own))?;
                let key = address(&placed);
                (placed, key)
            }
            (None, Some((placed, StepKey::Parameters { weight, .. }))) => (Arc::clone(&placed.weight), weight),
            (None, _) => return Err(lacks(step).into()),
        };
        let (bias, bias_key) = match (head.parameters.get(&step.bias()), backbones) {
            (Some(own), _) => {
                let placed = self.vector(own, placer)?;
                let key = address(&placed);
                (placed, key)
            }
            (None, Some((placed, StepKey::Parameters { bias, .. }))) => (Arc::clone(&placed.bias), bias),
            (None, _) => return Err(lacks(step).into()),
        };
        let key = StepKey::Parameters {
            weight: weight_key,
            bias: bias_key,
        };
        Ok((key, StepParameters { weight, bias }))
    }

    fn vector<E>(&self, host: &Arc<HostTensor>, placer: &impl ParameterPlacer<W, B, E>) -> Result<Arc<B>, E> {
        let key: (usize, Digest) = (OWN, host.digest());
        self.biases.get(key, || placer.vector(host))
    }
}

impl<W, B> StepParameters<W, B> {
    fn key(&self) -> StepKey {
        StepKey::Parameters {
            weight: address(&self.weight),
            bias: address(&self.bias),
        }
    }
}

/// Checks that a head's parameters have the shapes that its spec, its pictures and the backbone require. Returns the
/// length of its logits.
///
/// # Errors
/// [`BackendError::Misfit`] names the first parameter that does not fit.
pub fn check_parameters<W, B>(stack: &Stack<W, B>, head: HeadParts<'_>) -> Result<usize, BackendError> {
    let HeadParts {
        backbone,
        parameters,
        spec,
    } = head;
    if backbone >= stack.backbones() {
        return Err(BackendError::Misfit(format!("there is no backbone {backbone}")));
    }
    for step in &stack.steps {
        let (weight, outputs) = match step.kind {
            LayerKind::Conv { input, output } => (vec![output, input, 3, 3], output),
            LayerKind::Linear { input, output } => (vec![output, input], output),
            _ => continue,
        };
        for (name, shape) in [(step.weight(), weight), (step.bias(), vec![outputs])] {
            if let Some(own) = parameters.get(&name) {
                check_shape(&name, own, &shape)?;
            }
        }
    }
    let mut width = stack.input_width(spec.input, picture_size(spec));
    for index in 0..spec.layers.len() {
        let Some([weight_name, bias_name]) = spec.parameter_names(index) else {
            continue;
        };
        let (Some(weight), Some(bias)) = (parameters.get(&weight_name), parameters.get(&bias_name)) else {
            return Err(BackendError::Misfit(format!(
                "the head lacks {weight_name} or {bias_name}"
            )));
        };
        let outputs = weight.shape.first().copied().unwrap_or_default();
        let shape = match spec.layers[index] {
            HeadLayer::Linear => vec![outputs, width],
            _ => vec![width],
        };
        check_shape(&weight_name, weight, &shape)?;
        check_shape(&bias_name, bias, &shape[..1])?;
        width = shape[0];
    }
    if width < spec.classes {
        let classes = spec.classes;
        return Err(BackendError::Misfit(format!(
            "the head has {classes} classes, and {width} logits"
        )));
    }
    Ok(width)
}

fn check_shape(name: &str, tensor: &HostTensor, expected: &[usize]) -> Result<(), BackendError> {
    if tensor.shape == expected && !tensor.values.is_empty() {
        return Ok(());
    }
    let got = &tensor.shape;
    Err(BackendError::Misfit(format!(
        "{name} has shape {got:?}; {expected:?} is expected"
    )))
}

fn lacks(step: &Step) -> BackendError {
    let name = &step.name;
    BackendError::Misfit(format!("neither the head nor its backbone has {name}"))
}

/// Returns the address of a parameter: a key that is unique as long as a head owns the parameter.
fn address<T>(parameter: &Arc<T>) -> usize {
    Arc::as_ptr(parameter).addr()
}

/// Returns height and width of a head's pictures.
pub(super) fn picture_size(spec: &CompleteSpec) -> [u32; 2] {
    // Every valid preprocessing has a size.
    spec.preprocessing.size().unwrap_or_default()
}

fn layer_key(layer: HeadLayer) -> StepKey {
    use headswap_spec::GeluKind;
    let (kind, number) = match layer {
        HeadLayer::Linear | HeadLayer::BatchNorm(_) | HeadLayer::Affine => (0, 0.0),
        HeadLayer::Relu => (1, 0.0),
        HeadLayer::LeakyRelu(slope) => (2, slope.unwrap_or_default()),
        HeadLayer::Elu(alpha) => (3, alpha.unwrap_or_default()),
        HeadLayer::Gelu(Some(GeluKind::Tanh)) => (4, 1.0),
        HeadLayer::Gelu(_) => (4, 0.0),
        HeadLayer::Silu => (5, 0.0),
        HeadLayer::Tanh => (6, 0.0),
        HeadLayer::Sigmoid => (7, 0.0),
        HeadLayer::L2Normalise => (8, 0.0),
    };
    StepKey::Layer(kind, number.to_bits())
}
