//! The steps on libtorch: the backbone's tensors, and rows driven through any range of steps.

use std::ops::Range;
use std::sync::Arc;

use tch::{Device, Tensor};

use super::placement::{PlacedTensor, Placement};
use crate::model::architecture::LayerKind;
use crate::model::network::NetworkError;
use crate::model::step::Step;
use crate::model::tensor::{HostTensor, Parameters};

/// Pictures that pass the convolutions together on the CPU. Their activations are the largest memory there is, 26 MB a
/// picture in the first block; larger groups take more of it and are hardly faster (`benches/README.md`).
const CPU_GROUP: i64 = 2;

const PICTURE_SIDE: i64 = 224;

/// The parameters of one step.
#[derive(Clone)]
pub(super) struct StepTensors {
    pub weight: Arc<PlacedTensor>,
    pub bias: Arc<PlacedTensor>,
}

/// The backbone without its last Linear. Shared by the device thread and by those who place heads.
pub(super) struct TorchSteps {
    pub placement: Placement,
    pub steps: Vec<Step>,
    backbone: Vec<StepTensors>,
}

impl TorchSteps {
    /// Places the backbone's parameters.
    pub fn place(placement: Placement, steps: Vec<Step>, parameters: &Parameters) -> Result<Self, NetworkError> {
        let place = |step: &Step| -> Result<StepTensors, NetworkError> {
            Ok(StepTensors {
                weight: Arc::new(place_weight(placement, step, &parameters[&step.weight()])?),
                bias: Arc::new(placement.place(&parameters[&step.bias()])?),
            })
        };
        let backbone = steps.iter().map(place).collect::<Result<_, _>>()?;
        Ok(Self {
            placement,
            steps,
            backbone,
        })
    }

    pub fn backbone(&self, step: usize) -> &StepTensors {
        &self.backbone[step]
    }

    /// The shape of one row that enters a step.
    pub fn input_shape(&self, step: usize) -> Vec<i64> {
        let side = |step: usize| PICTURE_SIDE >> self.steps[..step].iter().filter(|step| step.pool).count();
        match self.steps.get(step).map(|step| step.kind) {
            Some(LayerKind::Conv { input, .. }) => vec![1, input as i64, side(step), side(step)],
            Some(LayerKind::Linear { input, .. }) => vec![1, input as i64],
            _ => match self.steps.last().map(|step| step.kind) {
                Some(LayerKind::Linear { output, .. }) => vec![1, output as i64],
                _ => vec![1],
            },
        }
    }

    /// How many of the steps are convolutions; they come first.
    pub fn convolutions(&self) -> usize {
        self.steps.iter().take_while(|step| step.is_convolution()).count()
    }

    /// Drives rows through `steps`, each with the tensors that `parameters` gives for it. `prepare` is what a group of
    /// rows goes through before its first convolution.
    pub fn run<'a>(
        &self,
        steps: Range<usize>,
        input: &Tensor,
        prepare: impl Fn(Tensor) -> Result<Tensor, NetworkError>,
        parameters: impl Fn(usize) -> &'a StepTensors,
    ) -> Result<Tensor, NetworkError> {
        let convolutions = steps.start..steps.end.min(self.convolutions());
        let mut rows = input.shallow_clone();
        if !convolutions.is_empty() {
            let convolve = |rows: Tensor| -> Result<Tensor, NetworkError> {
                let mut maps = prepare(rows)?;
                for step in convolutions.clone() {
                    maps = self.step(step, &maps, parameters(step))?;
                }
                if convolutions.end < self.convolutions() {
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
        for step in steps.start.max(self.convolutions())..steps.end {
            rows = self.step(step, &rows, parameters(step))?;
        }
        Ok(rows)
    }

    fn step(&self, step: usize, input: &Tensor, parameters: &StepTensors) -> Result<Tensor, NetworkError> {
        let (weight, bias) = (parameters.weight.handle(), parameters.bias.handle());
        let step = &self.steps[step];
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
