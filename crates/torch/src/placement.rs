//! Places parameters on the device.

use std::sync::{Arc, Mutex, PoisonError};

use headswap_checkpoint::HostTensor;
use headswap_model::BackendError;
use tch::{Device, Kind, Tensor};

use crate::error::Result;

/// A device and an element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Placement {
    pub device: Device,
    pub kind: Kind,
    /// True on a GPU, and on a CPU that stands for one in tests: the first convolution's weight also normalises pictures
    /// (`input.rs`), and the device computes heads' own layers, which a CPU computes in f32 by our own code.
    pub gpu: bool,
}

/// A tensor on the device. tch's handles are `Send` but not `Sync`, so each user takes a handle of its own; libtorch allows
/// any number of threads to read a tensor that is not written.
pub(super) struct PlacedTensor {
    tensor: Mutex<Tensor>,
    bytes: usize,
    /// The owner of the tensor's memory, if that is host memory.
    _owner: Option<Arc<HostTensor>>,
}

impl PlacedTensor {
    fn new(tensor: Tensor, owner: Option<Arc<HostTensor>>) -> Self {
        Self {
            bytes: tensor.numel() * tensor.kind().elt_size_in_bytes(),
            tensor: Mutex::new(tensor),
            _owner: owner,
        }
    }

    /// Returns another handle to the same memory, which is valid as long as `self`.
    pub fn handle(&self) -> Tensor {
        self.tensor
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shallow_clone()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Placement {
    /// Places a Linear's weight, or a bias. On the CPU in f32 the tensor is `host`'s own memory, without a copy.
    pub fn place(&self, host: &Arc<HostTensor>) -> Result<PlacedTensor> {
        let view = view(host)?;
        if self.computes_in_host_memory() {
            return Ok(PlacedTensor::new(view, Some(Arc::clone(host))));
        }
        Ok(PlacedTensor::new(self.to_device(&view)?, None))
    }

    /// Places a convolution's weight channels last, like its input.
    pub fn place_channels_last(&self, host: &HostTensor) -> Result<PlacedTensor> {
        let inner = view(host)?.f_permute([0, 2, 3, 1])?.f_contiguous()?;
        Ok(PlacedTensor::new(
            self.to_device(&inner)?.f_permute([0, 3, 1, 2])?,
            None,
        ))
    }

    /// Places a vector in this element type.
    pub fn place_numbers(&self, numbers: &[f32], kind: Kind) -> Result<PlacedTensor> {
        let placed = Tensor::f_from_slice(numbers)?
            .f_to_device(self.device)?
            .f_to_kind(kind)?;
        Ok(PlacedTensor::new(placed, None))
    }

    fn computes_in_host_memory(&self) -> bool {
        (self.device, self.kind) == (Device::Cpu, Kind::Float)
    }

    /// Copies a tensor to the device. Fails if it is not finite there: values that are finite in f32 may overflow in f16.
    fn to_device(self, tensor: &Tensor) -> Result<Tensor> {
        let placed = tensor.f_to_device(self.device)?.f_to_kind(self.kind)?;
        if self.kind != Kind::Float && !bool::try_from(placed.f_isfinite()?.f_all()?)? {
            return Err(self.not_finite().into());
        }
        Ok(placed)
    }

    pub fn not_finite(&self) -> BackendError {
        BackendError::NotFinite(self.precision().into())
    }

    pub fn precision(&self) -> &'static str {
        match self.kind {
            Kind::BFloat16 => "bf16",
            Kind::Half => "f16",
            _ => "f32",
        }
    }
}

/// Returns a tensor that refers to `host`'s memory, which must outlive it.
fn view(host: &HostTensor) -> Result<Tensor> {
    let shape: Vec<i64> = host.shape.iter().map(|&dimension| dimension as i64).collect();
    let strides: Vec<i64> = (0..shape.len()).map(|d| shape[d + 1..].iter().product()).collect();
    // SAFETY: the memory holds as many f32 values as the product of `shape` (checked when the parameters were read) and is
    // not written again. Both callers either copy the tensor before they return or store the owner with it.
    let view = unsafe { Tensor::f_from_blob(host.values.as_ptr().cast(), &shape, &strides, Kind::Float, Device::Cpu) };
    Ok(view?)
}
