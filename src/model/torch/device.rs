//! Which device computes, and in which element type.

use std::fmt;
use std::str::FromStr;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use tch::{Cuda, Device, Kind};

use crate::model::NetworkError;

/// What `--device` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The first GPU if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// This GPU.
    Cuda(usize),
}

/// The device was spelled wrong.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no device; use auto, cpu, cuda or cuda:N")]
pub struct ParseDeviceError(String);

impl FromStr for DeviceChoice {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseDeviceError(text.to_owned());
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", index)) => index.parse().map(Self::Cuda).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

impl DeviceChoice {
    /// Finds the device, loading libtorch's CUDA half first if a GPU may be meant.
    ///
    /// # Errors
    /// [`NetworkError::Device`] says what a GPU that was asked for by name lacks.
    pub(super) fn resolve(self) -> Result<Device, NetworkError> {
        let unavailable = |reason: String| {
            NetworkError::Device(format!(
                "--device {self}: {reason}; use --device cpu to serve without a GPU"
            ))
        };
        if self == Self::Cpu {
            return Ok(Device::Cpu);
        }
        // libtorch remembers its first answer about CUDA, so this comes before any question.
        let loaded = load_cuda_library();
        let devices = if loaded.is_ok() {
            Cuda::device_count().max(0) as usize
        } else {
            0
        };
        match (self, loaded) {
            (Self::Cuda(_), Err(error)) => Err(unavailable(format!("libtorch_cuda.so cannot be loaded ({error})"))),
            (Self::Cuda(index), Ok(())) if index >= devices => Err(unavailable(format!("{devices} GPUs were found"))),
            (Self::Cuda(index), Ok(())) => Ok(Device::Cuda(index)),
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
}

fn load_cuda_library() -> Result<(), libloading::Error> {
    // SAFETY: the library's initialisers register CUDA kernels with the libtorch already linked; they run before any
    // other thread uses libtorch. It is never unloaded, so no function pointer of it can dangle.
    let library = unsafe { Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL) }?;
    std::mem::forget(library);
    Ok(())
}

/// The element type that the backbone computes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Precision {
    /// f32 on the CPU, bf16 on a GPU.
    Auto,
    /// 32-bit.
    F32,
    /// 16-bit with f32's range.
    Bf16,
    /// 16-bit with more digits and less range.
    F16,
}

impl Precision {
    pub(super) fn kind(self, device: Device) -> Kind {
        match (self, device) {
            (Self::Auto, Device::Cpu) | (Self::F32, _) => Kind::Float,
            (Self::Auto | Self::Bf16, _) => Kind::BFloat16,
            (Self::F16, _) => Kind::Half,
        }
    }
}
