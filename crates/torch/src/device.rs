//! Finds the devices, and converts devices and element types to libtorch's.

use headswap_model::{BackendError, Device, DeviceChoice, Precision};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Kind};

use crate::error::Result;

/// Returns the devices of a choice, at least one. Loads libtorch's CUDA library first unless the choice is the CPU.
///
/// # Errors
/// [`BackendError::Settings`] says why a chosen GPU cannot be used.
pub fn find_devices(choice: DeviceChoice) -> Result<Vec<Device>> {
    if choice == DeviceChoice::Cpu {
        return Ok(vec![Device::Cpu]);
    }
    // libtorch caches its first answer about CUDA, so the library is loaded before the first query.
    let found = load_cuda_library()
        .map_err(|error| format!("libtorch_cuda.so cannot be loaded ({error})"))
        .and_then(|()| match Cuda::device_count().max(0) as usize {
            0 => Err("no GPU was found".to_owned()),
            count => Ok(count),
        });
    let named = match (choice, &found) {
        (DeviceChoice::Cuda(Some(index)), Ok(count)) if index >= *count => Err(format!("{count} GPUs were found")),
        (DeviceChoice::Cuda(Some(index)), Ok(_)) => Ok(vec![Device::Cuda(index)]),
        (_, Ok(count)) => Ok((0..*count).map(Device::Cuda).collect()),
        (_, Err(reason)) => Err(reason.clone()),
    };
    match (choice, named) {
        (DeviceChoice::Auto, Err(reason)) => {
            tracing::info!(reason, "computing on the CPU");
            Ok(vec![Device::Cpu])
        }
        (_, named) => named.map_err(|reason| {
            let text = format!("--device {choice}: {reason}; use --device cpu to serve without a GPU");
            BackendError::Settings(text).into()
        }),
    }
}

fn load_cuda_library() -> Result<(), libloading::Error> {
    // SAFETY: the library's initialisers register CUDA kernels with the linked libtorch; they run before any other thread
    // uses libtorch. The library is never unloaded, so that no pointer to its functions can dangle.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }?;
    std::mem::forget(library);
    Ok(())
}

/// Converts a device to libtorch's.
pub(super) fn torch_device(device: Device) -> tch::Device {
    match device {
        Device::Cuda(index) => tch::Device::Cuda(index),
        Device::Cpu | Device::Null => tch::Device::Cpu,
    }
}

/// Converts an element type to libtorch's.
///
/// # Errors
/// [`BackendError::Settings`] if libtorch does not compute in it.
pub(super) fn kind(precision: Precision, device: Device) -> Result<Kind> {
    match (precision, device) {
        (Precision::Auto, Device::Cpu) | (Precision::F32, _) => Ok(Kind::Float),
        (Precision::Auto | Precision::Bf16, _) => Ok(Kind::BFloat16),
        (Precision::F16, _) => Ok(Kind::Half),
        (Precision::Int16, _) => {
            let text = "--precision int16 is for the CPU, by --backend native; use bf16 or f16 here";
            Err(BackendError::Settings(text.into()).into())
        }
    }
}
