//! `headswap bench`, and of its sub-commands `forward`: the network alone.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::bench_cache::{self, BenchCacheArgs};
use super::bench_heads::{self, BenchHeadsArgs};
use super::bench_image::{self, BenchImageArgs};
use super::bench_server::{self, BenchServeArgs};
use super::bench_upload::{self, BenchUploadArgs};
use super::error::CliError;
use super::output::{print_json, print_table, table};
use crate::image::{self, ImageLimits, Pixels};
use crate::model::{
    Architecture, Backbone, DeviceChoice, EngineChoice, HeadRows, Network, NetworkSettings, PlacedHead, Precision,
    WeightsSource, network,
};
use crate::rpc::pb::classify_request::Input;

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
    /// auto, cpu, cuda or cuda:N
    #[arg(long, default_value = "auto")]
    pub device: DeviceChoice,
    /// Element type
    #[arg(long, value_enum, default_value = "auto")]
    pub precision: Precision,
    /// Threads on the CPU; 0 takes one for each core
    #[arg(long, default_value_t = 0)]
    pub threads: usize,
}

impl BenchCommand {
    /// Suits the C allocator to what this process itself will compute, before any thread is started.
    pub fn prepare_memory(&self) {
        match self {
            Self::Forward(args) => args.model.network().prepare_memory(),
            Self::Serve(args) => args.model.network().prepare_memory(),
            Self::Cache(_) | Self::Heads(_) | Self::Image(_) | Self::Upload(_) => {}
        }
    }
}

impl ModelArgs {
    fn network(&self) -> NetworkSettings {
        NetworkSettings {
            engine: self.engine,
            device: self.device,
            precision: self.precision,
            threads: self.threads,
        }
    }

    /// The same choices for a server.
    pub fn server_flags(&self) -> Vec<String> {
        let weights = match &self.weights {
            WeightsSource::Demo => "demo".to_owned(),
            WeightsSource::File(path) => path.display().to_string(),
        };
        let flags = [
            ("--weights", weights),
            ("--engine", name_of(&self.engine)),
            ("--device", self.device.to_string()),
            ("--precision", name_of(&self.precision)),
            ("--threads", self.threads.to_string()),
        ];
        let words = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]);
        words.collect()
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
    }
}

fn forward(args: &BenchForwardArgs) -> Result<(), CliError> {
    let mut bare = BareForward::load(&args.model)?;
    let (device, precision) = bare.network.device();
    let mut rows = table(&["batch", "ms/image (median)", "images/s"]);
    for &batch in &args.batch {
        let per_image = bare
            .measure(batch.max(1), Duration::from_secs_f64(args.seconds))?
            .median()
            .as_secs_f64();
        if args.json {
            print_json(
                &json!({ "batch": batch, "ms_per_image": per_image * 1e3, "device": device, "precision": precision }),
            );
        }
        rows.add_row([
            batch.to_string(),
            format!("{:.2}", per_image * 1e3),
            format!("{:.1}", 1.0 / per_image),
        ]);
    }
    if !args.json {
        println!("forward pass on {device} in {precision}, u8 pixels to logits");
        print_table(&rows);
    }
    Ok(())
}

/// A network with its default head, driven without a server.
pub(super) struct BareForward {
    network: Box<dyn Network>,
    head: PlacedHead,
}

impl BareForward {
    pub fn load(args: &ModelArgs) -> Result<Self, CliError> {
        let failed = |error: &dyn std::error::Error| CliError::Failed(error.to_string());
        let mut backbone = Backbone::load(&args.weights, Architecture::Vgg16).map_err(|error| failed(&error))?;
        let last = backbone.take_last_linear();
        let network = network(backbone, args.network()).map_err(|error| failed(&error))?;
        let head = network.placer().place(&last).map_err(|error| failed(&error))?;
        Ok(Self { network, head })
    }

    /// The times of batches, for one image of each, after one run to warm up.
    pub fn measure(&mut self, batch: usize, length: Duration) -> Result<Times, CliError> {
        let picture: Vec<u8> = (0..Pixels::BYTES).map(|index| (index * 31 % 251) as u8).collect();
        let mut times = Times::of(length, || self.forward(&vec![&picture[..]; batch]))?;
        times.0.iter_mut().for_each(|time| *time /= batch as u32);
        Ok(times)
    }

    /// The times from a picture's bytes to its numbers, one after the other and with no server between.
    pub fn measure_pictures(&mut self, pictures: &[Input], length: Duration) -> Result<Times, CliError> {
        let mut pictures = pictures.iter().cycle();
        Times::of(length, || match pictures.next() {
            Some(Input::Image(bytes)) => {
                let pixels = image::decode(bytes, ImageLimits::default());
                let pixels = pixels.map_err(|error| CliError::Failed(error.to_string()))?;
                self.forward(&[pixels.as_bytes()])
            }
            Some(Input::Pixels(pixels)) => self.forward(&[pixels]),
            None => Ok(()),
        })
    }

    fn forward(&mut self, pictures: &[&[u8]]) -> Result<(), CliError> {
        let groups = [HeadRows {
            head: &self.head,
            rows: (0..pictures.len()).collect(),
        }];
        let outputs = self.network.forward(pictures, &groups, &[]);
        outputs.map(drop).map_err(|error| CliError::Failed(error.to_string()))
    }
}

/// How long each of many repetitions took, ascending; never none.
pub(super) struct Times(Vec<Duration>);

impl Times {
    /// Of what is done over and over, after once to warm up.
    pub fn of(length: Duration, mut once: impl FnMut() -> Result<(), CliError>) -> Result<Self, CliError> {
        let (began, mut times) = (Instant::now(), Vec::new());
        while times.len() < 4 || began.elapsed() < length {
            let started = Instant::now();
            once()?;
            times.push(started.elapsed());
        }
        times.remove(0);
        times.sort_unstable();
        Ok(Self(times))
    }

    /// What a single one takes, whatever disturbed a few.
    pub fn median(&self) -> Duration {
        self.0[self.0.len() / 2]
    }

    /// What one takes of all the time, to compare with a rate.
    pub fn mean(&self) -> Duration {
        self.0.iter().sum::<Duration>() / self.0.len() as u32
    }
}
