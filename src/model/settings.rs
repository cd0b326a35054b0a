//! What computes, where and in which numbers.

use std::fmt;
use std::str::FromStr;

use tch::Device;

use super::devices::on_devices;
use super::memory::keep_freed_memory;
use super::native::native_network;
use super::network::{Network, NetworkError};
use super::null::{NullSettings, null_network};
use super::torch::{find_devices, torch_network};
use super::weights::Backbone;

/// What `--engine` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineChoice {
    /// Native on a CPU with AVX2 or AVX-512, in f32 or int16; else libtorch.
    Auto,
    /// Our own forward pass, for CPUs.
    Native,
    /// libtorch: the reference, for CPUs and GPUs.
    Torch,
    /// Zeros, to measure the server alone.
    #[value(hide = true)]
    Null,
}

/// What `--device` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Every GPU there is, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// Every GPU, or this one.
    Cuda(Option<usize>),
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
            None if text == "cuda" => Ok(Self::Cuda(None)),
            Some(("cuda", index)) => index.parse().map(|index| Self::Cuda(Some(index))).map_err(|_| error()),
            _ => Err(error()),
        }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(None) => f.write_str("cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
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
    /// Products of 16-bit integers with scales, summed exactly; on the CPU.
    Int16,
}

/// How to compute.
#[derive(Clone, Copy, Debug)]
pub struct NetworkSettings {
    /// What computes.
    pub engine: EngineChoice,
    /// Which device.
    pub device: DeviceChoice,
    /// Which element type.
    pub precision: Precision,
    /// Threads of one operation on the CPU; 0 takes one for each core.
    pub threads: usize,
    /// Whether those of our own forward pass stay on one CPU each.
    pub pin_threads: bool,
}

impl NetworkSettings {
    /// Suits the C allocator to what will compute. To be called before any thread is started.
    pub fn prepare_memory(&self) {
        if self.needs_libtorch() {
            keep_freed_memory();
        }
    }

    /// Whether libtorch computes if there is no GPU.
    fn needs_libtorch(&self) -> bool {
        match self.engine {
            EngineChoice::Native | EngineChoice::Null => false,
            EngineChoice::Torch => true,
            EngineChoice::Auto => !self.native_numbers() || matches!(winograd::Isa::best(), winograd::Isa::Portable),
        }
    }

    fn native_numbers(&self) -> bool {
        matches!(self.precision, Precision::Auto | Precision::F32 | Precision::Int16)
    }
}

/// Places `backbone`, without its last Linear, on the device, or on each of several.
///
/// # Errors
/// [`NetworkError::Settings`] if the choices do not fit together or the device is not there, [`NetworkError::Device`] if it
/// has no room.
pub fn network(backbone: Backbone, settings: NetworkSettings) -> Result<Box<dyn Network>, NetworkError> {
    let NetworkSettings { engine, precision, .. } = settings;
    if engine == EngineChoice::Null {
        return Ok(null_network(backbone.architecture.features(), NullSettings::default()));
    }
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let threads = if settings.threads == 0 { cores } else { settings.threads };
    let devices = find_devices(settings.device)?;
    let on_cpu = devices == [Device::Cpu];
    if engine == EngineChoice::Native {
        if !on_cpu {
            return Err(unfit("computes on the CPU; add --device cpu"));
        }
        if !settings.native_numbers() {
            return Err(unfit("computes in f32 or int16; change --precision"));
        }
    }
    if on_cpu && !settings.needs_libtorch() {
        let engine = if settings.pin_threads {
            winograd::Engine::pinned(threads).map_err(|error| {
                NetworkError::Settings(format!("threads cannot be pinned: {error}; drop --pin-threads"))
            })?
        } else {
            winograd::Engine::new(threads)
        };
        return Ok(native_network(backbone, precision, engine));
    }
    if settings.pin_threads {
        let reason =
            "--pin-threads is for the forward pass of our own (--engine native); OMP_PROC_BIND pins libtorch's";
        return Err(NetworkError::Settings(reason.into()));
    }
    let mut networks = Vec::new();
    for device in devices {
        networks.push(torch_network(&backbone, device, precision, threads)?);
    }
    let first = networks.remove(0);
    match networks.is_empty() {
        true => Ok(first),
        false => Ok(on_devices(first, networks)),
    }
}

fn unfit(reason: &str) -> NetworkError {
    NetworkError::Settings(format!("--engine native {reason}, or choose --engine torch"))
}
