//! The backbones' steps and their parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use headswap_spec::{HeadInput, LayerKind, Step};

use super::plan::{BACKBONES_MAX, StepKey};
use super::program::{Operation, Program};

/// The side of the map that enters `classifier.0`, to which other maps are averaged.
pub const POOLED_SIDE: usize = 7;

/// The parameters of one step on a device: a weight of type `W`, a bias of type `B`.
pub struct StepParameters<W, B> {
    /// The convolution's or Linear's weight.
    pub weight: Arc<W>,
    /// Its bias.
    pub bias: Arc<B>,
}

impl<W, B> Clone for StepParameters<W, B> {
    fn clone(&self) -> Self {
        Self {
            weight: Arc::clone(&self.weight),
            bias: Arc::clone(&self.bias),
        }
    }
}

/// The backbones without their last Linears. The device's thread and the threads that place heads share it.
pub struct Stack<W, B> {
    /// The steps, in order.
    pub steps: Vec<Step>,
    backbones: Vec<StackBackbone<W, B>>,
}

/// One backbone of a stack.
struct StackBackbone<W, B> {
    /// The parameters of each step; those of the convolutions alone if the backbone lacks its Linears.
    parameters: Vec<StepParameters<W, B>>,
    /// The key of each.
    keys: Vec<StepKey>,
    /// The backbone's own computation of each input of heads that it has.
    programs: BTreeMap<HeadInput, Program<W, B>>,
}

impl<W, B> Stack<W, B> {
    /// Returns a stack of these steps. `backbones` are the parameters of each backbone: of all steps, or of the convolutions
    /// alone. Parameters that two backbones share are computed once for the heads of both.
    ///
    /// # Panics
    /// If there is no backbone, if there are more than [`BACKBONES_MAX`], or if one has another number of parameters.
    pub fn new(steps: Vec<Step>, backbones: Vec<Vec<StepParameters<W, B>>>) -> Self {
        assert!(
            (1..=BACKBONES_MAX).contains(&backbones.len()),
            "1 to {BACKBONES_MAX} backbones"
        );
        let mut stack = Self {
            steps,
            backbones: Vec::with_capacity(backbones.len()),
        };
        for parameters in backbones {
            let count = parameters.len();
            assert!(
                count == stack.steps.len() || count == stack.convolutions(),
                "each step has parameters"
            );
            stack.add(parameters);
        }
        stack
    }

    fn add(&mut self, parameters: Vec<StepParameters<W, B>>) {
        let mut keys = Vec::with_capacity(parameters.len());
        for (step, own) in parameters.iter().enumerate() {
            let (mut weight, mut bias) = (self.backbones.len(), self.backbones.len());
            for (index, other) in self.backbones.iter().enumerate().rev() {
                let Some(other) = other.parameters.get(step) else {
                    continue;
                };
                if Arc::ptr_eq(&own.weight, &other.weight) {
                    weight = index;
                }
                if Arc::ptr_eq(&own.bias, &other.bias) {
                    bias = index;
                }
            }
            keys.push(StepKey::of_backbones(weight, bias));
        }
        let mut backbone = StackBackbone {
            parameters,
            keys,
            programs: BTreeMap::new(),
        };
        for input in HeadInput::ALL {
            if let Some(program) = self.program(&backbone, input) {
                backbone.programs.insert(input, program);
            }
        }
        self.backbones.push(backbone);
    }

    /// Returns the number of backbones.
    pub fn backbones(&self) -> usize {
        self.backbones.len()
    }

    /// Returns a backbone's parameters of a step; none if there is no such backbone, or if it lacks its Linears.
    pub fn parameters(&self, backbone: usize, step: usize) -> Option<&StepParameters<W, B>> {
        self.backbones.get(backbone)?.parameters.get(step)
    }

    /// Returns the key of a backbone's parameters of a step.
    pub(super) fn key(&self, backbone: usize, step: usize) -> Option<StepKey> {
        self.backbones.get(backbone)?.keys.get(step).copied()
    }

    /// Returns what a backbone computes of pictures of this height and width for an input of heads; none if there is no such
    /// backbone, or if it lacks the Linears of [`HeadInput::Features`].
    pub fn backbone_program(&self, backbone: usize, input: HeadInput, size: [u32; 2]) -> Option<&Program<W, B>> {
        self.backbones.get(backbone)?.programs.get(&self.canonical(input, size))
    }

    /// Returns the input of heads that needs most of each backbone: the features or, without Linears, the last pooling's map.
    pub fn last_inputs(&self) -> Vec<HeadInput> {
        let mut inputs = Vec::with_capacity(self.backbones.len());
        for backbone in &self.backbones {
            inputs.push(match backbone.programs.contains_key(&HeadInput::Features) {
                true => HeadInput::Features,
                false => HeadInput::Adaptive7x7,
            });
        }
        inputs
    }

    fn program(&self, backbone: &StackBackbone<W, B>, input: HeadInput) -> Option<Program<W, B>> {
        let mut program = Program::new();
        let convolutions = self.convolutions();
        let with_keys = backbone.parameters.iter().zip(&backbone.keys).enumerate();
        for (step, (parameters, key)) in with_keys.clone().take(convolutions) {
            let convolution = Operation::Convolution {
                step,
                parameters: parameters.clone(),
                pool: self.steps[step].pool,
            };
            program.push(*key, convolution);
        }
        let pooled = match input {
            HeadInput::Features => HeadInput::Adaptive7x7,
            pooled => pooled,
        };
        program.push(StepKey::Input(pooled), Operation::Input(pooled));
        if input == HeadInput::Features {
            if backbone.parameters.len() < self.steps.len() {
                return None;
            }
            for (step, (parameters, key)) in with_keys.skip(convolutions) {
                let linear = Operation::Linear {
                    step: Some(step),
                    parameters: parameters.clone(),
                    relu: self.steps[step].relu,
                };
                program.push(*key, linear);
            }
        }
        Some(program)
    }

    /// Returns the way in which an input of heads makes a vector of the last pooling's map, for pictures of this size. Two
    /// ways with equal results are one.
    pub fn pooling(&self, input: HeadInput, size: [u32; 2]) -> HeadInput {
        match self.canonical(input, size) {
            HeadInput::Features => HeadInput::Adaptive7x7,
            pooled => pooled,
        }
    }

    fn canonical(&self, input: HeadInput, size: [u32; 2]) -> HeadInput {
        match (input, self.pooled_size(size)) {
            (HeadInput::Flatten, [POOLED_SIDE, POOLED_SIDE]) => HeadInput::Adaptive7x7,
            (input, _) => input,
        }
    }

    /// Returns height and width of the last pooling's map.
    pub fn pooled_size(&self, size: [u32; 2]) -> [usize; 2] {
        size.map(|side| self.pooled(side as usize, self.convolutions()))
    }

    /// Returns the side of the maps that enter a convolution, for pictures of this side.
    fn pooled(&self, side: usize, step: usize) -> usize {
        side >> self.steps[..step].iter().filter(|step| step.pool).count()
    }

    /// Returns channels, height and width of the maps that enter a convolution.
    pub fn maps_before(&self, step: usize, size: [u32; 2]) -> [usize; 3] {
        let [height, width] = size.map(|side| self.pooled(side as usize, step));
        let channels = match self.steps[step].kind {
            LayerKind::Conv { input, .. } => input,
            _ => unreachable!("the step is a convolution"),
        };
        [channels, height, width]
    }

    /// Returns the channels of the last pooling's map.
    pub fn pooled_channels(&self) -> usize {
        match self.steps[self.convolutions() - 1].kind {
            LayerKind::Conv { output, .. } => output,
            _ => unreachable!("the step is a convolution"),
        }
    }

    /// Returns the length of an input of heads.
    pub fn input_width(&self, input: HeadInput, size: [u32; 2]) -> usize {
        let channels = self.pooled_channels();
        let [height, width] = self.pooled_size(size);
        match input {
            HeadInput::Flatten | HeadInput::FlattenHwc => channels * height * width,
            HeadInput::Adaptive7x7 => channels * POOLED_SIDE * POOLED_SIDE,
            HeadInput::GlobalAverage | HeadInput::GlobalMax => channels,
            HeadInput::GlobalMaxAverage => 2 * channels,
            HeadInput::Features => match self.steps.last().map(|step| step.kind) {
                Some(LayerKind::Linear { output, .. }) => output,
                _ => unreachable!("the last step is a Linear"),
            },
        }
    }

    /// Returns the number of convolutions, which are the first steps.
    pub fn convolutions(&self) -> usize {
        self.steps.iter().take_while(|step| step.is_convolution()).count()
    }
}
