//! Which device computes, and in which element type.

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device, Kind};

use crate::model::network::NetworkError;
use crate::model::settings::{DeviceChoice, Precision};

/// Finds the device, loading libtorch's CUDA half first if a GPU may be meant.
///
/// # Errors
/// [`NetworkError::Settings`] says what a GPU that was asked for by name lacks.
pub fn find_device(choice: DeviceChoice) -> Result<Device, NetworkError> {
    let unavailable = |reason: String| {
        NetworkError::Settings(format!(
            "--device {choice}: {reason}; use --device cpu to serve without a GPU"
        ))
    };
    if choice == DeviceChoice::Cpu {
        return Ok(Device::Cpu);
    }
    // libtorch remembers its first answer about CUDA, so this comes before any question.
    let loaded = load_cuda_library();
    let devices = if loaded.is_ok() {
        Cuda::device_count().max(0) as usize
    } else {
        0
    };
    match (choice, loaded) {
        (DeviceChoice::Cuda(_), Err(error)) => Err(unavailable(format!("libtorch_cuda.so cannot be loaded ({error})"))),
        (DeviceChoice::Cuda(index), Ok(())) if index >= devices => {
            Err(unavailable(format!("{devices} GPUs were found")))
        }
        (DeviceChoice::Cuda(index), Ok(())) => Ok(Device::Cuda(index)),
        (_, Ok(())) if devices > 0 => Ok(Device::Cuda(0)),
        (_, loaded) => {
            tracing::info!(
                reason = loaded.err().map(|e| e.to_string()),
                "no GPU found, computing on the CPU"
            );
            Ok(Device::Cpu)
        }
    }
}

fn load_cuda_library() -> Result<(), libloading::Error> {
    // SAFETY: the library's initialisers register CUDA kernels with the libtorch already linked; they run before any
    // other thread uses libtorch. It is never unloaded, so no function pointer of it can dangle.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }?;
    std::mem::forget(library);
    Ok(())
}

/// What libtorch calls an element type.
///
/// # Errors
/// [`NetworkError::Settings`] if libtorch has no such forward pass.
pub(super) fn kind(precision: Precision, device: Device) -> Result<Kind, NetworkError> {
    match (precision, device) {
        (Precision::Auto, Device::Cpu) | (Precision::F32, _) => Ok(Kind::Float),
        (Precision::Auto | Precision::Bf16, _) => Ok(Kind::BFloat16),
        (Precision::F16, _) => Ok(Kind::Half),
        (Precision::Int16, _) => Err(NetworkError::Settings(
            "--precision int16 is for the CPU, by --engine native; use bf16 or f16 here".into(),
        )),
    }
}
