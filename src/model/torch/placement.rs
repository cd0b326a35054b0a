//! Host parameters to device tensors.

use std::sync::Arc;

use tch::{Device, Kind, Tensor};

use crate::model::network::NetworkError;
use crate::model::tensor::HostTensor;

/// A device and an element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub device: Device,
    pub kind: Kind,
}

/// A tensor that may lie in memory owned by host parameters, which live as long as it does.
pub(super) struct PlacedTensor {
    tensor: Tensor,
    _owner: Option<Arc<HostTensor>>,
}

impl PlacedTensor {
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// A copy of it, made by `change`, that no longer needs the host's memory.
    pub fn map(self, change: impl FnOnce(&Tensor) -> Result<Tensor, NetworkError>) -> Result<Self, NetworkError> {
        Ok(Self {
            tensor: change(&self.tensor)?,
            _owner: None,
        })
    }
}

impl Placement {
    /// Places one parameter. On the CPU in f32 nothing is copied: the tensor lies in `host`'s own memory.
    pub fn place(&self, host: &Arc<HostTensor>) -> Result<PlacedTensor, NetworkError> {
        let shape: Vec<i64> = host.shape.iter().map(|&dimension| dimension as i64).collect();
        let strides: Vec<i64> = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
        // SAFETY: the memory holds exactly the product of `shape` f32 values (checked when the parameters were read),
        // is never written again, and outlives the tensor: either it is copied below or `_owner` holds it.
        let view =
            unsafe { Tensor::f_from_blob(host.values.as_ptr().cast(), &shape, &strides, Kind::Float, Device::Cpu) }?;
        if (self.device, self.kind) == (Device::Cpu, Kind::Float) {
            return Ok(PlacedTensor {
                tensor: view,
                _owner: Some(Arc::clone(host)),
            });
        }
        let tensor = view.f_to_device(self.device)?.f_to_kind(self.kind)?;
        Ok(PlacedTensor { tensor, _owner: None })
    }
}
