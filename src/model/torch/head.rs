//! A head's last Linear on the device.

use std::sync::Arc;

use tch::{Kind, Tensor};

use super::placement::{PlacedTensor, Placement};
use crate::model::network::{NetworkError, PlacedHead, Placer};
use crate::model::tensor::Parameters;
use crate::model::{LAST_BIAS, LAST_WEIGHT};

pub(super) struct TorchHead {
    weight: PlacedTensor,
    bias: PlacedTensor,
}

impl TorchHead {
    /// Rows of features to rows of logits, in f32 on the CPU.
    pub fn logits(&self, features: &Tensor) -> Result<Vec<f32>, NetworkError> {
        let logits = features.f_linear(self.weight.tensor(), Some(self.bias.tensor()))?;
        to_host(&logits)
    }
}

/// A tensor's values in f32, row-major.
pub(super) fn to_host(tensor: &Tensor) -> Result<Vec<f32>, NetworkError> {
    let tensor = tensor
        .f_to_kind(Kind::Float)?
        .f_to_device(tch::Device::Cpu)?
        .f_contiguous()?;
    let mut values = vec![0f32; tensor.numel()];
    tensor.f_copy_data(&mut values, tensor.numel())?;
    Ok(values)
}

impl Placer for Placement {
    fn place(&self, parameters: Arc<Parameters>) -> Result<PlacedHead, NetworkError> {
        let weight = Placement::place(self, &parameters[LAST_WEIGHT])?;
        let bias = Placement::place(self, &parameters[LAST_BIAS])?;
        let classes = parameters[LAST_BIAS].values.len();
        let features = parameters[LAST_WEIGHT].shape[1] as i64;
        let head = TorchHead { weight, bias };

        let trial = Tensor::f_ones([1, features], (self.kind, self.device))?;
        if head.logits(&trial)?.iter().any(|logit| !logit.is_finite()) {
            return Err(NetworkError::NotFinite(
                super::network::precision_name(self.kind).into(),
            ));
        }
        Ok(PlacedHead::new(classes, Box::new(head)))
    }
}
