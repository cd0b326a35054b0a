//! `headswap bench`, and of its sub-commands `forward`: the network alone.

mod architectures;
mod bare_forward;
mod cache;
mod heads;
mod image;
mod isolation;
mod legend;
mod machine;
mod serve;
mod small_swaps;
mod upload;

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use headswap_model::{BackendChoice, BackendSettings, DeviceChoice, NullFault, Precision, TorchRuntime, WeightsSource};
use serde_json::json;

use self::architectures::BenchArchitecturesArgs;
use self::bare_forward::BareForward;
use self::cache::BenchCacheArgs;
use self::heads::BenchHeadsArgs;
use self::image::BenchImageArgs;
use self::isolation::BenchIsolationArgs;
use self::legend::{BenchTable, Column};
use self::machine::Machine;
use self::serve::BenchServeArgs;
use self::upload::BenchUploadArgs;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_line};

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// The forward pass alone, by batch size
    Forward(BenchForwardArgs),
    /// From a picture's bytes to pixels, on one core
    Image(BenchImageArgs),
    /// A server under load: one of its own, beside the bare forward pass in the same run, or a running one
    #[command(after_help = serve::EXAMPLES)]
    Serve(BenchServeArgs),
    /// Pictures asked for the first and for the second time
    Cache(BenchCacheArgs),
    /// Many heads on one backbone, beside few
    Heads(BenchHeadsArgs),
    /// Heads of several architectures, sizes and preprocessings, beside plain ones
    #[command(after_help = architectures::EXAMPLES)]
    Architectures(BenchArchitecturesArgs),
    /// A large head uploaded under load
    Upload(BenchUploadArgs),
    /// Unary calls beside streams, read or not, and beside cancelled calls
    Isolation(BenchIsolationArgs),
}

/// What computes.
#[derive(Args, Clone, Debug)]
pub(crate) struct ModelArgs {
    /// A file of weights, as of `serve --weights`, or `demo`
    #[arg(long, default_value = "demo")]
    pub weights: WeightsSource,
    /// What computes the forward pass; `null` computes nothing, to measure the server alone
    #[arg(long, alias = "engine", value_enum, default_value = "auto")]
    pub backend: BackendChoice,
    /// auto, cpu, cuda (every GPU) or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Numbers that the forward pass multiplies
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Threads on the CPU; 0 takes one for each core
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Pin each thread of our own forward pass to one CPU
    #[arg(long)]
    pub pin_threads: bool,
    /// How long the null engine takes for a row, in microseconds
    #[arg(long, default_value_t = 0, hide = true)]
    pub null_row_us: u64,
    /// How the null engine fails
    #[arg(long, value_name = "FAULT", hide = true)]
    pub null_fault: Option<NullFault>,
}

impl BenchCommand {
    /// What this process itself will compute with, if it does.
    pub fn backend(&self) -> Option<BackendSettings> {
        match self {
            Self::Forward(args) => Some(args.model.backend()),
            Self::Architectures(args) => Some(args.model.backend()),
            Self::Serve(args) => args.own_backend(),
            Self::Cache(_) | Self::Heads(_) | Self::Image(_) | Self::Isolation(_) | Self::Upload(_) => None,
        }
    }
}

impl ModelArgs {
    pub fn backend(&self) -> BackendSettings {
        BackendSettings {
            backend: self.backend,
            device: self.device,
            precision: self.precision,
            threads: NonZeroUsize::new(self.threads),
            pin_threads: self.pin_threads,
        }
    }

    /// The same choices for a server.
    pub fn server_flags(&self) -> Vec<String> {
        let weights = match &self.weights {
            WeightsSource::Demo => "demo".to_owned(),
            WeightsSource::File(path) => path.display().to_string(),
        };
        let mut flags = vec![
            ("--weights", weights),
            ("--backend", name_of(&self.backend)),
            ("--device", self.device.to_string()),
            ("--precision", name_of(&self.precision)),
            ("--threads", self.threads.to_string()),
            ("--null-row-us", self.null_row_us.to_string()),
        ];
        flags.extend(self.null_fault.map(|fault| ("--null-fault", fault.to_string())));
        let words = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        words
            .chain(self.pin_threads.then(|| "--pin-threads".to_owned()))
            .collect()
    }
}

/// A choice as it is written on the command line.
pub(super) fn name_of(choice: &impl ValueEnum) -> String {
    let value = choice.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[derive(Args, Debug)]
pub(crate) struct BenchForwardArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Batch sizes
    #[arg(long, value_delimiter = ',', default_value = "1,2,4,8")]
    batch: Vec<usize>,
    /// Seconds for each size
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(command: BenchCommand, torch: Option<&'static dyn TorchRuntime>) -> Result<(), CliError> {
    match command {
        BenchCommand::Forward(args) => forward(&args, torch),
        BenchCommand::Image(args) => image::run(&args),
        BenchCommand::Serve(args) => serve::run(args, torch).await,
        BenchCommand::Cache(args) => cache::run(args).await,
        BenchCommand::Heads(args) => heads::run(args).await,
        BenchCommand::Architectures(args) => architectures::run(args, torch).await,
        BenchCommand::Upload(args) => upload::run(args).await,
        BenchCommand::Isolation(args) => isolation::run(args).await,
    }
}

const FORWARD_COLUMNS: [Column; 4] = [
    ("batch", "pictures computed together"),
    (
        "ms/image",
        "median time for one picture, with a batch on every lane of the device",
    ),
    ("images/s", "pictures a second at that time"),
    ("ms alone", "median time for a whole batch with nothing beside it"),
];

fn forward(args: &BenchForwardArgs, torch: Option<&dyn TorchRuntime>) -> Result<(), CliError> {
    let bare = BareForward::load(&args.model, torch)?;
    let (device, precision) = &bare.device;
    let machine = Machine::computing(&args.model.backend(), device, precision);
    let length = Duration::from_secs_f64(args.seconds / 2.0);
    let mut rows = BenchTable::new(&FORWARD_COLUMNS);
    if args.json {
        machine.print_json()?;
    }
    for &batch in &args.batch {
        let batch = batch.max(1);
        let per_image = bare.measure(batch, length)?.median().as_secs_f64();
        let alone = bare.measure_alone(batch, length)?.median().as_secs_f64();
        if args.json {
            print_json(&json!({
                "batch": batch, "ms_per_image": per_image * 1e3, "ms_alone": alone * 1e3,
                "device": device, "precision": precision,
            }))?;
        }
        rows.add([
            batch.to_string(),
            format!("{:.2}", per_image * 1e3),
            format!("{:.1}", 1.0 / per_image),
            format!("{:.2}", alone * 1e3),
        ]);
    }
    if args.json {
        return Ok(());
    }
    print_line(format_args!(
        "forward pass on {device} in {precision}, u8 pixels to logits"
    ))?;
    rows.print()?;
    machine.print()
}
