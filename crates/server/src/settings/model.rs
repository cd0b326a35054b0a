//! The backbone and what computes it.

use std::num::NonZeroUsize;

use clap::Args;
use clap::builder::BoolishValueParser;
use headswap_model::{BackendChoice, BackendSettings, DeviceChoice, Precision, THREADS_MAX, WeightsSource};
use headswap_spec::Architecture;

use super::labels_source::LabelsSource;
use super::memory;
use super::preprocessing_source::PreprocessingSource;
use crate::ServerError;

/// The backbone and what computes it.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// The backbone: a file of weights, safetensors or PyTorch's .pth, or `demo` for seeded, untrained numbers
    #[arg(long, env = "HEADSWAP_WEIGHTS", value_name = "FILE|demo")]
    pub weights: Option<WeightsSource>,
    /// The backbone's class labels: a file with one on each line, `imagenet`, or `none` [default: imagenet for trained weights
    /// of 1000 classes]
    #[arg(long, env = "HEADSWAP_LABELS", value_name = "FILE|imagenet|none")]
    pub labels: Option<LabelsSource>,
    /// Architecture of the backbone
    #[arg(long, env = "HEADSWAP_ARCH", value_enum, default_value = "vgg16")]
    pub arch: Architecture,
    /// How pictures are prepared for the backbone, and for heads without a spec: torchvision (the default), torchvision-stretch,
    /// unit, half, keras-unit, keras-caffe, keras-raw, tensorflow-unit, tensorflow-caffe, tensorflow-raw, or a file with the JSON of a spec's `preprocessing`
    #[arg(
        long,
        env = "HEADSWAP_PREPROCESSING",
        value_name = "PRESET|FILE",
        default_value = "torchvision"
    )]
    pub preprocessing: PreprocessingSource,
    /// auto, cpu, cuda (every GPU) or cuda:N
    #[arg(long, env = "HEADSWAP_DEVICE", default_value = "auto")]
    pub device: DeviceChoice,
    /// Numbers that the forward pass multiplies; auto is f32 on the CPU, where int16 is faster, and bf16 on a GPU
    #[arg(long, env = "HEADSWAP_PRECISION", value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Threads of the forward pass on the CPU; 0 takes one for each core
    #[arg(long, env = "HEADSWAP_THREADS", default_value_t = 0)]
    pub threads: usize,
    /// Pin each thread of our own forward pass to one CPU, taking the first CPUs that the process may use; for a machine that
    /// does nothing else. Two of these CPUs may be threads of one core: choose the CPUs with taskset or a cpuset
    #[arg(
        long,
        env = "HEADSWAP_PIN_THREADS",
        value_parser = BoolishValueParser::new()
    )]
    pub pin_threads: bool,
    /// What computes the forward pass
    #[arg(long, alias = "engine", env = "HEADSWAP_BACKEND", value_enum, default_value = "auto")]
    pub backend: BackendChoice,
}

impl ModelArgs {
    pub(super) fn check(&self, mistakes: &mut Vec<String>) {
        if self.weights.is_none() {
            let text = "--weights is missing: give a file with a trained VGG16 (safetensors or .pth), or `--weights demo` for \
                        untrained numbers to try the server with";
            mistakes.push(text.to_owned());
        }
        mistakes.extend(self.preprocessing.read().err());
        if self.threads > THREADS_MAX {
            let threads = self.threads;
            mistakes.push(format!(
                "--threads {threads}: the limit is {THREADS_MAX}; 0 takes one for each core"
            ));
        }
    }

    /// What the forward pass needs to know.
    pub fn backend(&self) -> BackendSettings {
        BackendSettings {
            backend: self.backend,
            device: self.device,
            precision: self.precision,
            threads: NonZeroUsize::new(self.threads),
            pin_threads: self.pin_threads,
        }
    }

    /// Refuses to load a backbone that would not fit, instead of being killed half-way.
    pub(super) fn check_memory(&self) -> Result<(), ServerError> {
        let settings = self.backend();
        let (needed, available) = (settings.host_bytes(self.arch), memory::available());
        if settings.backend == BackendChoice::Null || needed <= available {
            return Ok(());
        }
        let int16 = BackendSettings {
            precision: Precision::Int16,
            ..settings
        };
        Err(ServerError::Settings(format!(
            "the backbone takes about {} MB of memory while it is being loaded, and the process may use {} MB; raise the \
             memory limit, or choose --precision int16, which takes {} MB",
            needed / 1_000_000,
            available / 1_000_000,
            int16.host_bytes(self.arch) / 1_000_000,
        )))
    }
}
