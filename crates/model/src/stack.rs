//! The backbone's steps and their parameters.

use std::collections::BTreeMap;
use std::sync::Arc;

use headswap_spec::{HeadInput, LayerKind, Step};

use super::plan::StepKey;
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

/// The backbone without its last Linear. The device's thread and the threads that place heads share it.
pub struct Stack<W, B> {
    /// The steps, in order.
    pub steps: Vec<Step>,
    backbone: Vec<StepParameters<W, B>>,
    /// The backbone's own computation of each input of heads.
    programs: BTreeMap<HeadInput, Program<W, B>>,
}

impl<W, B> Stack<W, B> {
    /// Returns a stack of these steps. `backbone` are the parameters of each.
    ///
    /// # Panics
    /// If there are not as many parameters as steps.
    pub fn new(steps: Vec<Step>, backbone: Vec<StepParameters<W, B>>) -> Self {
        assert_eq!(steps.len(), backbone.len(), "each step has parameters");
        let mut stack = Self {
            steps,
            backbone,
            programs: BTreeMap::new(),
        };
        for input in HeadInput::ALL {
            let program = stack.program(input);
            stack.programs.insert(input, program);
        }
        stack
    }

    /// Returns the backbone's parameters of a step.
    pub fn backbone(&self, step: usize) -> &StepParameters<W, B> {
        &self.backbone[step]
    }

    /// Returns what the backbone computes of pictures of this height and width for an input of heads.
    pub fn backbone_program(&self, input: HeadInput, size: [u32; 2]) -> &Program<W, B> {
        &self.programs[&self.canonical(input, size)]
    }

    fn program(&self, input: HeadInput) -> Program<W, B> {
        let mut program = Program::new();
        let convolutions = self.convolutions();
        for (step, parameters) in self.backbone.iter().enumerate().take(convolutions) {
            let convolution = Operation::Convolution {
                step,
                parameters: parameters.clone(),
                pool: self.steps[step].pool,
            };
            program.push(StepKey::BACKBONE, convolution);
        }
        let pooled = match input {
            HeadInput::Features => HeadInput::Adaptive7x7,
            pooled => pooled,
        };
        program.push(StepKey::Input(pooled), Operation::Input(pooled));
        if input == HeadInput::Features {
            for (step, parameters) in self.backbone.iter().enumerate().skip(convolutions) {
                let linear = Operation::Linear {
                    step: Some(step),
                    parameters: parameters.clone(),
                    relu: self.steps[step].relu,
                };
                program.push(StepKey::BACKBONE, linear);
            }
        }
        program
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
