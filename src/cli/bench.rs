//! `headswap bench`, and of its sub-commands `forward`: the network alone.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::bare_forward::BareForward;
use super::bench_cache::{self, BenchCacheArgs};
use super::bench_heads::{self, BenchHeadsArgs};
use super::bench_image::{self, BenchImageArgs};
use super::bench_isolation::{self, BenchIsolationArgs};
use super::bench_server::{self, BenchServeArgs};
use super::bench_upload::{self, BenchUploadArgs};
use super::error::CliError;
use super::output::{print_json, print_table, table};
use crate::model::{DeviceChoice, EngineChoice, NetworkSettings, NullFault, Precision, WeightsSource};

#[derive(Debug, Subcommand)]
pub(super) enum BenchCommand {
    /// The forward pass alone, by batch size
    Forward(BenchForwardArgs),
    /// From a picture's bytes to pixels, on one core
    Image(BenchImageArgs),
    /// A server under load, beside the bare forward pass in the same run
    Serve(BenchServeArgs),
    /// Pictures asked for the first and for the second time
    Cache(BenchCacheArgs),
    /// Many heads on one backbone, beside few
    Heads(BenchHeadsArgs),
    /// A large head uploaded under load
    Upload(BenchUploadArgs),
    /// Unary calls beside streams, read or not, and beside cancelled calls
    Isolation(BenchIsolationArgs),
}

/// What computes.
#[derive(Args, Clone, Debug)]
pub(super) struct ModelArgs {
    /// A safetensors file, or `demo`
    #[arg(long, default_value = "demo")]
    pub weights: WeightsSource,
    /// What computes; `null` computes nothing: the server alone
    #[arg(long, value_enum, default_value = "auto")]
    pub engine: EngineChoice,
    /// auto, cpu, cuda (every GPU) or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Element type
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Threads on the CPU; 0 takes one for each core
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
    /// Keep the threads of our own forward pass on one CPU each
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
    /// Suits the C allocator to what this process itself will compute, before any thread is started.
    pub fn prepare_memory(&self) {
        match self {
            Self::Forward(args) => args.model.network().prepare_memory(),
            Self::Serve(args) => args.model.network().prepare_memory(),
            Self::Cache(_) | Self::Heads(_) | Self::Image(_) | Self::Isolation(_) | Self::Upload(_) => {}
        }
    }
}

impl ModelArgs {
    pub fn network(&self) -> NetworkSettings {
        NetworkSettings {
            engine: self.engine,
            device: self.device,
            precision: self.precision,
            threads: self.threads,
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
            ("--engine", name_of(&self.engine)),
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
pub(super) struct BenchForwardArgs {
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

pub(super) async fn run(command: BenchCommand) -> Result<(), CliError> {
    match command {
        BenchCommand::Forward(args) => forward(&args),
        BenchCommand::Image(args) => bench_image::run(&args),
        BenchCommand::Serve(args) => bench_server::run(args).await,
        BenchCommand::Cache(args) => bench_cache::run(args).await,
        BenchCommand::Heads(args) => bench_heads::run(args).await,
        BenchCommand::Upload(args) => bench_upload::run(args).await,
        BenchCommand::Isolation(args) => bench_isolation::run(args).await,
    }
}

fn forward(args: &BenchForwardArgs) -> Result<(), CliError> {
    let bare = BareForward::load(&args.model)?;
    let (device, precision) = &bare.device;
    let length = Duration::from_secs_f64(args.seconds / 2.0);
    let mut rows = table(&["batch", "ms/image (median)", "images/s", "ms for one batch alone"]);
    for &batch in &args.batch {
        let batch = batch.max(1);
        let per_image = bare.measure(batch, length)?.median().as_secs_f64();
        let alone = bare.measure_alone(batch, length)?.median().as_secs_f64();
        if args.json {
            print_json(&json!({
                "batch": batch, "ms_per_image": per_image * 1e3, "ms_alone": alone * 1e3,
                "device": device, "precision": precision,
            }));
        }
        rows.add_row([
            batch.to_string(),
            format!("{:.2}", per_image * 1e3),
            format!("{:.1}", 1.0 / per_image),
            format!("{:.2}", alone * 1e3),
        ]);
    }
    if !args.json {
        println!("forward pass on {device} in {precision}, u8 pixels to logits");
        print_table(&rows);
    }
    Ok(())
}
