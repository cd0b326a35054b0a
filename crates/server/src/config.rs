//! Every setting of `headswap serve`, from flags or `HEADSWAP_*` variables.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use headswap_heads::ResidencyLimits;
use headswap_image::{ImageLimits, ImageSettings, JpegScaling};
use headswap_model::{BackendChoice, BackendSettings, DeviceChoice, Precision, WeightsSource};
use headswap_service::heads::SourceSettings;
use headswap_spec::Architecture;

use super::listen_address::ListenAddress;
use super::null_args::NullArgs;
use super::{ServerError, memory};

/// How logs are written to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// When heads of the store are brought to the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HeadsLoad {
    /// At start, as far as there is room.
    Eager,
    /// When first asked for.
    Lazy,
}

/// The settings of a server.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Address of ClassifierService; port 0 takes a free one, unix:/PATH is a Unix socket for the server's user and group
    #[arg(
        long,
        env = "HEADSWAP_LISTEN",
        default_value = "127.0.0.1:50051",
        value_name = "ADDRESS"
    )]
    pub listen: ListenAddress,
    /// Address of HeadAdminService; keep it where only administrators reach it
    #[arg(
        long,
        env = "HEADSWAP_ADMIN_LISTEN",
        default_value = "127.0.0.1:50052",
        value_name = "ADDRESS"
    )]
    pub admin_listen: SocketAddr,
    /// Address of /metrics, /healthz and /readyz
    #[arg(
        long,
        env = "HEADSWAP_HTTP_LISTEN",
        default_value = "127.0.0.1:9090",
        value_name = "ADDRESS"
    )]
    pub http_listen: SocketAddr,

    /// The backbone: a file of weights, safetensors or PyTorch's .pth, or `demo` for seeded, untrained numbers
    #[arg(long, env = "HEADSWAP_WEIGHTS", value_name = "FILE|demo", help_heading = "Model")]
    pub weights: Option<WeightsSource>,
    /// The backbone's class labels, one on a line
    #[arg(long, env = "HEADSWAP_LABELS", value_name = "FILE", help_heading = "Model")]
    pub labels: Option<PathBuf>,
    /// Which table of layers
    #[arg(
        long,
        env = "HEADSWAP_ARCH",
        value_enum,
        default_value = "vgg16",
        help_heading = "Model"
    )]
    pub arch: Architecture,
    /// auto, cpu, cuda (every GPU) or cuda:N
    #[arg(long, env = "HEADSWAP_DEVICE", default_value = "auto", help_heading = "Model")]
    pub device: DeviceChoice,
    /// Numbers that the forward pass multiplies; auto is f32 on the CPU, where int16 is faster, and bf16 on a GPU
    #[arg(
        long,
        env = "HEADSWAP_PRECISION",
        value_enum,
        default_value = "auto",
        help_heading = "Model"
    )]
    pub precision: Precision,
    /// Threads of the forward pass on the CPU; 0 takes one for each core
    #[arg(long, env = "HEADSWAP_THREADS", default_value_t = 0, help_heading = "Model")]
    pub threads: usize,
    /// Keep each thread of our own forward pass on one CPU, the first of those that the process may use; for a machine that
    /// does nothing else. Two CPUs may be threads of one core: set those to use by taskset or a cpuset
    #[arg(
        long,
        env = "HEADSWAP_PIN_THREADS",
        value_parser = BoolishValueParser::new(),
        help_heading = "Model"
    )]
    pub pin_threads: bool,
    /// What computes: our own forward pass for CPUs, or libtorch
    #[arg(
        long,
        alias = "engine",
        env = "HEADSWAP_BACKEND",
        value_enum,
        default_value = "auto",
        help_heading = "Model"
    )]
    pub backend: BackendChoice,

    /// Pictures in a batch at most; 0 measures at start where larger batches stop paying
    #[arg(long, env = "HEADSWAP_MAX_BATCH", default_value_t = 0, help_heading = "Batching")]
    pub max_batch: usize,
    /// How long, in microseconds, an idle device may wait for a fuller batch
    #[arg(
        long,
        env = "HEADSWAP_BATCH_WAIT_US_MAX",
        default_value_t = 0,
        help_heading = "Batching"
    )]
    pub batch_wait_us_max: u64,
    /// Unary calls come before the requests of streams, which keep this part, in percent, of what the device computes while
    /// both wait
    #[arg(
        long,
        env = "HEADSWAP_BULK_SHARE",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(0..=100),
        value_name = "PERCENT",
        help_heading = "Batching"
    )]
    pub bulk_share: u32,
    /// What the null engine does
    #[command(flatten)]
    pub null: NullArgs,
    /// Bytes of features kept of pictures seen before, 16 kB each, so that one asked again costs the last Linear alone;
    /// 0 keeps none
    #[arg(
        long,
        env = "HEADSWAP_FEATURE_CACHE_BYTES_MAX",
        default_value_t = 0,
        help_heading = "Limits"
    )]
    pub feature_cache_bytes_max: u64,
    /// Requests under way at most, unary calls and streams' requests counted apart: more unary calls are refused with
    /// RESOURCE_EXHAUSTED, streams wait
    #[arg(long, env = "HEADSWAP_IN_FLIGHT_MAX", default_value_t = 256, help_heading = "Limits")]
    pub in_flight_max: usize,
    /// Requests of one stream under way at most, answers that the client has not read included; more wait in the client
    #[arg(
        long,
        env = "HEADSWAP_STREAM_IN_FLIGHT_MAX",
        default_value_t = 64,
        help_heading = "Limits"
    )]
    pub stream_in_flight_max: usize,
    /// Pictures decoded at the same time; 0 means one for each core, or for every second one if the forward pass runs on
    /// them, too
    #[arg(long, env = "HEADSWAP_DECODE_THREADS", default_value_t = 0, help_heading = "Limits")]
    pub decode_threads: usize,
    /// Pixels of a picture at most, before resizing
    #[arg(long, env = "HEADSWAP_IMAGE_PIXELS_MAX", default_value_t = 64 * 1024 * 1024, help_heading = "Limits")]
    pub image_pixels_max: u64,
    /// Bytes of memory that decoding may take over all pictures; more pictures wait, and one that alone takes more is refused
    /// with RESOURCE_EXHAUSTED. 0 means an eighth of the memory that the process may use, and 320 MiB at least
    #[arg(
        long,
        env = "HEADSWAP_DECODE_BYTES_MAX",
        default_value_t = 0,
        help_heading = "Limits"
    )]
    pub decode_bytes_max: u64,
    /// Whether a large JPEG is decoded at 1/2, 1/4 or 1/8 of its size (DCT scaling), for less time and memory
    #[arg(
        long,
        env = "HEADSWAP_JPEG_SCALING",
        value_enum,
        default_value = "off",
        help_heading = "Pictures"
    )]
    pub jpeg_scaling: JpegScaling,
    /// Requests and streams open on one connection at most; more wait in the client
    #[arg(
        long,
        env = "HEADSWAP_STREAMS_PER_CONNECTION_MAX",
        default_value_t = 100,
        help_heading = "Limits"
    )]
    pub streams_per_connection_max: u32,
    /// How long, in milliseconds, the message of a request may stall while it arrives, and nothing may move on a
    /// ClassifyStream; then it ends with DEADLINE_EXCEEDED
    #[arg(
        long,
        env = "HEADSWAP_STREAM_IDLE_MS_MAX",
        default_value_t = 300_000,
        help_heading = "Limits"
    )]
    pub stream_idle_ms_max: u64,
    /// Bytes of a ClassifierService message at most, after decompression
    #[arg(long, env = "HEADSWAP_MESSAGE_BYTES_MAX", default_value_t = 32 << 20, help_heading = "Limits")]
    pub message_bytes_max: usize,
    /// Bytes of a HeadAdminService message at most; UploadHead sends a file in many
    #[arg(long, env = "HEADSWAP_ADMIN_MESSAGE_BYTES_MAX", default_value_t = 1100 << 20, help_heading = "Limits")]
    pub admin_message_bytes_max: usize,
    /// Bytes of a file that UploadHead sends or ReplaceHead's `uri` names, at most
    #[arg(
        long,
        env = "HEADSWAP_UPLOAD_BYTES_MAX",
        default_value_t = 1_200_000_000,
        help_heading = "Limits"
    )]
    pub upload_bytes_max: u64,
    /// Uploads at the same time at most; more are refused with RESOURCE_EXHAUSTED. As many files above 8 MiB, uploaded or
    /// not, are swapped in at the same time
    #[arg(long, env = "HEADSWAP_UPLOADS_MAX", default_value_t = 4, help_heading = "Limits")]
    pub uploads_max: usize,

    /// Where acknowledged heads are kept over restarts [default: headswap/heads in the user's data folder]
    #[arg(long, env = "HEADSWAP_HEADS_DIR", value_name = "DIR", help_heading = "Heads")]
    pub heads_dir: Option<PathBuf>,
    /// The folder that ReplaceHead's file:// URIs may name files in; without it, none
    #[arg(long, env = "HEADSWAP_HEAD_SOURCE_DIR", value_name = "DIR", help_heading = "Heads")]
    pub head_source_dir: Option<PathBuf>,
    /// Heads at most
    #[arg(long, env = "HEADSWAP_HEADS_MAX", default_value_t = 100_000, help_heading = "Heads")]
    pub heads_max: usize,
    /// Versions of a head that requests may name, the live one included
    #[arg(
        long,
        env = "HEADSWAP_HEAD_VERSIONS_KEPT",
        default_value_t = 2,
        help_heading = "Heads"
    )]
    pub head_versions_kept: usize,
    /// Bytes of all heads in the store at most
    #[arg(long, env = "HEADSWAP_HEADS_BYTES_MAX", default_value_t = 64 << 30, help_heading = "Heads")]
    pub heads_bytes_max: u64,
    /// When heads of the store are brought to the device: the newest version of each at start, read in whole and as far
    /// as there is room, or each when it is first asked for
    #[arg(
        long,
        env = "HEADSWAP_HEADS_LOAD",
        value_enum,
        default_value = "eager",
        help_heading = "Heads"
    )]
    pub heads_load: HeadsLoad,
    /// Bytes of heads on the device at most, counted in f32; the least recently used leave for others and are loaded again
    /// when asked for. Wants room for all that are asked for at the same time. Heads that are being swapped in are tried
    /// beside these, in as many bytes again and 64 MiB
    #[arg(long, env = "HEADSWAP_HEADS_RESIDENT_BYTES_MAX", default_value_t = 2 << 30, help_heading = "Heads")]
    pub heads_resident_bytes_max: u64,
    /// Bytes of heads kept in host memory, from where they come back faster than from the disk. Copies of what is on the
    /// device count, so it takes more than --heads-resident-bytes-max to be of use [default: twice that on a GPU; 0 on the
    /// CPU, where host memory is the device's]
    #[arg(
        long,
        env = "HEADSWAP_HEADS_WARM_BYTES_MAX",
        value_name = "BYTES",
        help_heading = "Heads"
    )]
    pub heads_warm_bytes_max: Option<u64>,
    /// Heads loaded at the same time at most; others wait for their turn
    #[arg(long, env = "HEADSWAP_HEAD_LOADS_MAX", default_value_t = 4, help_heading = "Heads")]
    pub head_loads_max: usize,

    /// After SIGTERM, how long in milliseconds new requests are still taken while health says NOT_SERVING, so that load
    /// balancers turn away first
    #[arg(
        long,
        env = "HEADSWAP_DRAIN_DELAY_MS",
        default_value_t = 0,
        help_heading = "Operations"
    )]
    pub drain_delay_ms: u64,
    /// After that, how long in milliseconds accepted requests may take to finish
    #[arg(
        long,
        env = "HEADSWAP_DRAIN_MS_MAX",
        default_value_t = 30_000,
        help_heading = "Operations"
    )]
    pub drain_ms_max: u64,
    /// How logs are written
    #[arg(
        long,
        env = "HEADSWAP_LOG_FORMAT",
        value_enum,
        default_value = "human",
        help_heading = "Operations"
    )]
    pub log_format: LogFormat,
    /// What is logged, as `info` or `headswap=debug`
    #[arg(
        long,
        env = "HEADSWAP_LOG",
        default_value = "info",
        value_name = "FILTER",
        help_heading = "Operations"
    )]
    pub log: String,
}

impl ServeArgs {
    /// Finds every setting that cannot work, not only the first.
    pub(super) fn check(&self) -> Result<(), ServerError> {
        let mut mistakes = Vec::new();
        if self.weights.is_none() {
            mistakes.push(
                "--weights is missing: give a file with a trained VGG16 (safetensors or .pth), or `--weights demo` for \
                 untrained numbers to try the server with"
                    .to_owned(),
            );
        }
        let positive = [
            ("--in-flight-max", self.in_flight_max),
            ("--stream-in-flight-max", self.stream_in_flight_max),
            ("--heads-max", self.heads_max),
            ("--head-versions-kept", self.head_versions_kept),
            ("--head-loads-max", self.head_loads_max),
            ("--uploads-max", self.uploads_max),
            ("--streams-per-connection-max", self.streams_per_connection_max as usize),
            ("--stream-idle-ms-max", usize::from(self.stream_idle_ms_max > 0)),
        ];
        mistakes.extend(
            positive
                .iter()
                .filter(|(_, value)| *value == 0)
                .map(|(flag, _)| format!("{flag} must be at least 1")),
        );
        if let Some(dir) = self.head_source_dir.as_ref().filter(|dir| !dir.is_dir()) {
            mistakes.push(format!(
                "--head-source-dir {} is not a directory; create it or drop the flag",
                dir.display()
            ));
        }
        if self.heads_dir().is_none() {
            mistakes.push("there is no home folder to keep heads in; set --heads-dir".to_owned());
        }
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(ServerError::Config(mistakes.join("\n")))
        }
    }

    /// The folder of heads: as set, or under the user's data folder (XDG Base Directory Specification).
    pub(super) fn heads_dir(&self) -> Option<PathBuf> {
        let data = || match std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()) {
            Some(dir) => Some(PathBuf::from(dir)),
            None => std::env::home_dir().map(|home| home.join(".local/share")),
        };
        self.heads_dir.clone().or_else(|| Some(data()?.join("headswap/heads")))
    }

    /// What bounds heads in memory.
    pub(super) fn residency(&self, on_cpu: bool) -> ResidencyLimits {
        let resident_bytes_max = self.heads_resident_bytes_max;
        let warm_default = if on_cpu {
            0
        } else {
            resident_bytes_max.saturating_mul(2)
        };
        ResidencyLimits {
            resident_bytes_max,
            warm_bytes_max: self.heads_warm_bytes_max.unwrap_or(warm_default),
            loads_max: self.head_loads_max,
        }
    }

    /// How many pictures are decoded at the same time on these cores. Where the forward pass runs on them, too, its threads
    /// wait for each other: better that one of them be interrupted at a time than all.
    pub(super) fn decoders(&self, cores: usize, on_cpu: bool) -> usize {
        match self.decode_threads {
            0 if on_cpu => (cores / 2).max(1),
            0 => cores,
            threads => threads,
        }
    }

    /// The memory that decoding may take in all.
    pub(super) fn decode_memory(&self) -> u64 {
        match self.decode_bytes_max {
            0 => (memory::available() / 8).max(320 << 20),
            bytes => bytes,
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

    /// What decoding needs to know.
    pub(super) fn image(&self) -> ImageSettings {
        ImageSettings {
            limits: ImageLimits {
                pixels_max: self.image_pixels_max,
            },
            jpeg_scaling: self.jpeg_scaling,
        }
    }

    /// Which files ReplaceHead may read.
    pub(super) fn head_sources(&self) -> SourceSettings {
        SourceSettings {
            dir: self.head_source_dir.clone(),
            bytes_max: self.upload_bytes_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ServeArgs,
    }

    #[test]
    fn decoders_leave_half_of_the_cores_to_a_forward_pass_on_them() {
        let decoders = |threads: &str, cores, on_cpu| {
            let line = Line::parse_from(["serve", "--decode-threads", threads]);
            line.args.decoders(cores, on_cpu)
        };
        for (cores, beside, among) in [(1, 1, 1), (2, 2, 1), (16, 16, 8)] {
            assert_eq!(
                (decoders("0", cores, false), decoders("0", cores, true)),
                (beside, among)
            );
            assert_eq!((decoders("3", cores, false), decoders("3", cores, true)), (3, 3));
        }
    }
}
