//! Which device computes, and in which element type.

use headswap_model::{BackendError, Device, DeviceChoice, Precision};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Kind};

use crate::error::Result;

/// Finds the devices, at least one, loading libtorch's CUDA half first if GPUs may be meant.
///
/// # Errors
/// [`BackendError::Settings`] says what a GPU that was asked for by name lacks.
pub fn find_devices(choice: DeviceChoice) -> Result<Vec<Device>> {
    if choice == DeviceChoice::Cpu {
        return Ok(vec![Device::Cpu]);
    }
    // libtorch remembers its first answer about CUDA, so this comes before any question.
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
    // SAFETY: the library's initialisers register CUDA kernels with the libtorch already linked; they run before any
    // other thread uses libtorch. It is never unloaded, so no function pointer of it can dangle.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }?;
    std::mem::forget(library);
    Ok(())
}

/// A device as libtorch calls it.
pub(super) fn torch_device(device: Device) -> tch::Device {
    match device {
        Device::Cuda(index) => tch::Device::Cuda(index),
        Device::Cpu | Device::Null => tch::Device::Cpu,
    }
}

/// What libtorch calls an element type.
///
/// # Errors
/// [`BackendError::Settings`] if libtorch has no such forward pass.
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
