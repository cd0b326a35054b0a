//! The steps' parameters on the device.

use std::sync::Arc;

use headswap_checkpoint::HostTensor;
use headswap_model::{BackendError, ParameterPlacer, Program, Stack};
use headswap_spec::{LayerKind, Step};
use tch::Tensor;

use super::input::fold;
use super::placement::{PlacedTensor, Placement};
use crate::error::{Result, TorchError};

/// The steps' parameters on the device.
pub(super) type TorchStack = Stack<Weight, Vector>;
/// The steps of a head.
pub(super) type TorchProgram = Program<Weight, Vector>;

/// The weight of a step.
pub(super) enum Weight {
    /// On the device.
    Placed(PlacedTensor),
    /// A head's own Linear on the CPU, in f32 for any element type of the backbone.
    Host(Arc<HostTensor>),
}

impl Weight {
    /// Returns another handle to the tensor.
    pub fn handle(&self) -> Result<Tensor> {
        match self {
            Self::Placed(weight) => Ok(weight.handle()),
            Self::Host(_) => Err(BackendError::ForeignHead.into()),
        }
    }

    /// Returns the channels of the maps that a convolution takes, or the numbers of a row that a Linear takes.
    pub fn inputs(&self) -> i64 {
        match self {
            Self::Placed(weight) => weight.handle().size()[1],
            Self::Host(weight) => weight.shape.last().map_or(0, |&inputs| inputs as i64),
        }
    }

    pub fn bytes(&self) -> usize {
        match self {
            Self::Placed(weight) => weight.bytes(),
            Self::Host(weight) => weight.bytes(),
        }
    }
}

/// A bias, or the weight of an affine layer.
pub(super) struct Vector {
    placed: PlacedTensor,
    /// The same in f32, for a head's own layers; none on a GPU.
    host: Option<Arc<HostTensor>>,
}

impl Vector {
    pub fn place(placement: Placement, vector: &Arc<HostTensor>) -> Result<Self> {
        Ok(Self {
            placed: placement.place(vector)?,
            host: (!placement.gpu).then(|| Arc::clone(vector)),
        })
    }

    /// Returns another handle to the tensor.
    pub fn handle(&self) -> Tensor {
        self.placed.handle()
    }

    /// Returns the number of numbers.
    pub fn len(&self) -> i64 {
        self.handle().numel() as i64
    }

    /// Returns the numbers in f32; none on a GPU.
    pub fn on_host(&self) -> Option<&[f32]> {
        self.host.as_ref().map(|host| &host.values[..])
    }

    pub fn bytes(&self) -> usize {
        self.placed.bytes()
    }
}

/// Places a step's weight in the memory layout that the step needs.
pub(super) fn place_weight(placement: Placement, step: &Step, weight: &Arc<HostTensor>) -> Result<Weight> {
    Ok(Weight::Placed(match step.kind {
        LayerKind::Conv { input: 3, .. } if placement.gpu => placement.place_channels_last(&fold(weight))?,
        LayerKind::Conv { .. } => placement.place_channels_last(weight)?,
        _ => placement.place(weight)?,
    }))
}

impl ParameterPlacer<Weight, Vector, TorchError> for Placement {
    fn step_weight(&self, step: &Step, weight: &Arc<HostTensor>) -> Result<Weight> {
        place_weight(*self, step, weight)
    }

    fn own_weight(&self, weight: &Arc<HostTensor>) -> Result<Weight> {
        if self.gpu {
            return Ok(Weight::Placed(self.place(weight)?));
        }
        Ok(Weight::Host(Arc::clone(weight)))
    }

    fn vector(&self, vector: &Arc<HostTensor>) -> Result<Vector> {
        Vector::place(*self, vector)
    }
}
