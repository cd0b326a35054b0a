//! The forward pass on libtorch: the reference, for the CPU and for CUDA.

mod accelerator;
mod cuda;
mod device;
mod graphs;
mod head;
mod input;
mod lane;
mod last;
mod network;
mod placement;
mod steps;

pub(super) use device::find_devices;
pub(super) use network::torch_network;

use super::network::NetworkError;

impl From<tch::TchError> for NetworkError {
    fn from(error: tch::TchError) -> Self {
        Self::of_device(&error.to_string())
    }
}
