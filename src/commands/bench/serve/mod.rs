//! `headswap bench serve`: a server under load; one of its own beside the bare forward pass, or one that runs already.

mod asked;
mod closed;
mod open;
mod own;
mod running;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use headswap_loadtest::Arrivals;
use headswap_model::{BackendChoice, BackendSettings, TorchRuntime};

use self::asked::Asked;
use crate::commands::bench::ModelArgs;
use crate::commands::error::CliError;

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap bench serve                                    a server of its own, beside the bare forward pass
  headswap bench serve --address 10.0.0.7:50051 --images photos --head cats --concurrency 1,8,64
  headswap bench serve --address 10.0.0.7:50051 --images photos --rate 200 --seconds 60

Without --rate the loop is closed: each client sends its next request when its last is answered, so a slow server is \
asked less. With --rate the loop is open: requests start at times fixed beforehand, and a latency counts from that time, \
not from when the request was sent, so the waiting that a slow server causes is part of it.

The exit code is 1 if a request of a closed loop failed, or if an open loop got no answer at all.";

/// The arguments that choose how a server of its own computes, which a running one has chosen itself.
const OF_OWN_SERVER: [&str; 10] = [
    "weights",
    "backend",
    "device",
    "precision",
    "threads",
    "pin_threads",
    "null_row_us",
    "null_fault",
    "max_batch",
    "unix",
];

#[derive(Args, Clone, Debug)]
pub(crate) struct BenchServeArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Measure the server that runs at HOST:PORT or unix:/PATH instead of one of its own
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = OF_OWN_SERVER)]
    address: Option<String>,
    /// The admin address of that server, HOST:PORT, to name its device and precision in the output
    #[arg(long, value_name = "ADDRESS", requires = "address")]
    admin_address: Option<String>,
    /// The head to request from the server at --address
    #[arg(long, value_name = "NAME", requires = "address")]
    head: Option<String>,
    /// Pictures to send in turn, or directories, for every picture below them; without this flag, two photographs
    #[arg(long, value_name = "FILE|DIR", num_args = 1..)]
    images: Vec<PathBuf>,
    /// Clients at the same time
    #[arg(long, value_delimiter = ',', default_value = "1,32", conflicts_with = "rate")]
    concurrency: Vec<usize>,
    /// An open loop of R requests a second
    #[arg(long, value_name = "R", value_parser = rate)]
    rate: Option<f64>,
    /// How the open loop's requests are spread over time
    #[arg(long, value_enum, default_value = "poisson", requires = "rate")]
    arrivals: ArrivalsArg,
    /// Seed of the arrival times; the same seed gives the same times
    #[arg(long, default_value_t = 1, requires = "rate")]
    seed: u64,
    /// Connections that the open loop's requests take in turn
    #[arg(long, default_value = "8", requires = "rate", value_parser = clap::value_parser!(u16).range(1..=1024))]
    connections: u16,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    seconds: f64,
    /// Measurements of each concurrency; the medians are shown
    #[arg(long, default_value_t = 3, conflicts_with = "rate")]
    repetitions: usize,
    /// Send raw pixels instead of files
    #[arg(long)]
    pixels: bool,
    /// Limit on pictures in a batch; 0 selects it by a measurement at start
    #[arg(long, default_value_t = 0)]
    max_batch: usize,
    /// Connect over a Unix socket instead of TCP
    #[arg(long)]
    unix: bool,
    /// JSON instead of a table
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ArrivalsArg {
    /// At equal intervals
    Uniform,
    /// As those of many independent callers
    Poisson,
}

pub(super) async fn run(args: BenchServeArgs, torch: Option<&'static dyn TorchRuntime>) -> Result<(), CliError> {
    if let Some(rate) = args.rate {
        // What the schedule and the answers of a load may take: some hundred megabytes.
        const REQUESTS_MAX: f64 = 4e6;
        if rate * args.seconds > REQUESTS_MAX {
            return Err(CliError::Usage(format!(
                "--rate times --seconds is {:.0} requests; the limit is {REQUESTS_MAX:.0}",
                rate * args.seconds
            )));
        }
    }
    let asked = args.asked()?;
    match &args.address {
        Some(address) => running::run(&args, address, asked).await,
        None => own::run(&args, asked, torch).await,
    }
}

impl BenchServeArgs {
    /// What this process itself will compute with, if it does.
    pub fn own_backend(&self) -> Option<BackendSettings> {
        (self.address.is_none() && self.rate.is_none()).then(|| self.model.backend())
    }

    /// Reads the pictures that clients send.
    fn asked(&self) -> Result<Asked, CliError> {
        let pixels = self.pixels || self.model.backend == BackendChoice::Null;
        let heads = self.head.iter().cloned().collect();
        Asked::read(&self.images, pixels, heads)
    }

    fn arrivals(&self) -> Arrivals {
        match self.arrivals {
            ArrivalsArg::Uniform => Arrivals::Uniform,
            ArrivalsArg::Poisson => Arrivals::Poisson { seed: self.seed },
        }
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.001..=1e6).contains(&rate) => Ok(rate),
        _ => Err("give requests a second, from 0.001 to 1000000".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(seconds) if (0.001..=1e6).contains(&seconds) => Ok(seconds),
        _ => Err("give seconds, from 0.001 to 1000000".to_owned()),
    }
}
