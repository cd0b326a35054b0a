//! The settings of the backend, the device and the element type.

use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;

use headswap_spec::Architecture;
use winograd::Isa;

/// The bytes that the program takes besides the backbone.
const PROGRAM_BYTES: u64 = 64 << 20;

/// The values of `--backend`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum BackendChoice {
    /// libtorch on GPUs and for bf16 and f16, native on CPUs.
    Auto,
    /// Our own forward pass, for CPUs, in f32 and int16.
    Native,
    /// libtorch: the reference, for CPUs and GPUs.
    Torch,
    /// Zeros, to measure the server alone.
    #[cfg_attr(feature = "clap", value(hide = true))]
    Null,
}

/// The values of `--device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// Every GPU, or the CPU if there is none.
    Auto,
    /// The CPU.
    Cpu,
    /// Every GPU, or the one with this index.
    Cuda(Option<usize>),
}

/// The text is not a device.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a device; use auto, cpu, cuda or cuda:N")]
pub struct ParseDeviceError(String);

impl FromStr for DeviceChoice {
    type Err = ParseDeviceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let device = match text.split_once(':') {
            None if text == "auto" => Some(Self::Auto),
            None if text == "cpu" => Some(Self::Cpu),
            None if text == "cuda" => Some(Self::Cuda(None)),
            Some(("cuda", index)) => index.parse().ok().map(|index| Self::Cuda(Some(index))),
            _ => None,
        };
        device.ok_or_else(|| ParseDeviceError(text.to_owned()))
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
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

/// The settings of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendSettings {
    /// The backend.
    pub backend: BackendChoice,
    /// The device or devices.
    pub device: DeviceChoice,
    /// The element type.
    pub precision: Precision,
    /// Threads of one operation on the CPU; `None` is one for each core.
    pub threads: Option<NonZeroUsize>,
    /// True if each thread of the native backend is pinned to one CPU.
    pub pin_threads: bool,
}

impl BackendSettings {
    /// Returns the number of threads of one operation on the CPU.
    pub fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism();
        self.threads.or(cores.ok()).map_or(1, NonZeroUsize::get)
    }

    /// Returns the bytes of host memory that a server takes while it loads so many backbones of this architecture: the highest
    /// resident memory measured with the full VGG16, in proportion to the parameters (docs/operating.md, "Memory").
    pub fn host_bytes(&self, architecture: Architecture, backbones: usize) -> u64 {
        let mut parameters = 0;
        for (_, shape) in architecture.parameters(1000) {
            parameters += shape.iter().product::<usize>() as u64 * 4;
        }
        let percent = match (self.torch_on_cpu(), self.precision) {
            (false, Precision::Int16) => 126,
            (false, _) => 165,
            (true, Precision::Auto | Precision::F32) => 135,
            (true, _) => 255,
        };
        PROGRAM_BYTES + backbones as u64 * parameters * percent / 100
    }

    /// Returns true if libtorch computes on machines without a GPU.
    pub fn torch_on_cpu(&self) -> bool {
        match self.backend {
            BackendChoice::Native | BackendChoice::Null => false,
            BackendChoice::Torch => true,
            BackendChoice::Auto => !self.native_computes_precision() || matches!(Isa::best(), Isa::Portable),
        }
    }

    /// Returns true if the native backend computes in this precision.
    pub fn native_computes_precision(&self) -> bool {
        matches!(self.precision, Precision::Auto | Precision::F32 | Precision::Int16)
    }
}

/// A device that computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The processor.
    Cpu,
    /// The NVIDIA GPU of this index.
    Cuda(usize),
    /// No device: the answers are zeros.
    Null,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
            Self::Null => f.write_str("null"),
        }
    }
}
