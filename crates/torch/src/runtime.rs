//! libtorch as a [`TorchRuntime`].

use headswap_model::{Backbone, Backend, BackendError, Device, DeviceChoice, Precision, TorchRuntime};

use super::allocator::keep_freed_memory;
use super::backend::torch_backend;
use super::device::find_devices;

/// The libtorch that this crate links.
pub static LIBTORCH: &dyn TorchRuntime = &Libtorch;

struct Libtorch;

impl TorchRuntime for Libtorch {
    fn prepare_process(&self) {
        keep_freed_memory();
    }

    fn devices(&self, choice: DeviceChoice) -> Result<Vec<Device>, BackendError> {
        Ok(find_devices(choice)?)
    }

    fn backend(
        &self,
        backbones: &[Backbone],
        device: Device,
        precision: Precision,
        threads: usize,
    ) -> Result<Box<dyn Backend>, BackendError> {
        Ok(torch_backend(backbones, device, precision, threads)?)
    }
}
