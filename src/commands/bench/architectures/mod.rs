//! `headswap bench architectures`: heads of several architectures, sizes and preprocessings, beside plain ones.

mod backbones;
mod families;
mod known_traffic;
mod mixed_heads;
mod preprocessings;
mod sizes;

use clap::{Args, ValueEnum};
use headswap_model::TorchRuntime;
use headswap_spec::{Architecture, SIDE_MAX, SIDE_MIN};

use crate::commands::bench::{ModelArgs, name_of};
use crate::commands::error::CliError;
use crate::commands::output::print_line;

pub(super) const EXAMPLES: &str = "\
Examples:
  headswap bench architectures                  heads, sizes and preprocessings, one after the other
  headswap bench architectures --parts sizes    ms an image by the size of the pictures
  headswap bench architectures --parts backbones    1000 heads on two backbones beside two servers";

/// Compares heads of five architectures with heads of one, sizes of pictures with 224x224, and mixed preprocessings with one;
/// checks every answer.
#[derive(Args, Clone, Debug)]
pub(crate) struct BenchArchitecturesArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// What is measured
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "heads,sizes,preprocessings"
    )]
    parts: Vec<Part>,
    /// Architecture of the backbone
    #[arg(long, value_enum, default_value = "vgg16")]
    arch: Architecture,
    /// Heads of one architecture, and as many of five (part `heads`); half as many on each of two backbones (part `backbones`)
    #[arg(long, default_value_t = 1000)]
    heads: usize,
    /// Clients at the same time (parts `heads`, `preprocessings` and `backbones`)
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Pictures for each preprocessing, all different (part `preprocessings`)
    #[arg(long, default_value_t = 40)]
    images: usize,
    /// Sides of the square pictures that are compared with 224x224 (part `sizes`)
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "150,180,256,300,320",
        value_parser = clap::value_parser!(u32).range(i64::from(SIDE_MIN)..=i64::from(SIDE_MAX))
    )]
    sides: Vec<u32>,
    /// Pictures computed together (part `sizes`)
    #[arg(long, default_value_t = 8)]
    batch: usize,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Measurements of each kind, in turn; the medians are shown
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Heads of five architectures beside heads of one: throughput and memory
    Heads,
    /// ms an image by the size of the pictures
    Sizes,
    /// Clients with five preprocessings beside clients with one, and the feature cache
    Preprocessings,
    /// Heads on two backbones in one server beside two servers: throughput and memory
    Backbones,
}

pub(super) async fn run(args: BenchArchitecturesArgs, torch: Option<&dyn TorchRuntime>) -> Result<(), CliError> {
    for (index, part) in args.parts.iter().enumerate() {
        if index > 0 && !args.json {
            print_line("")?;
        }
        let machine = match part {
            Part::Heads => mixed_heads::run(&args).await?,
            Part::Sizes => sizes::run(&args, torch)?,
            Part::Preprocessings => preprocessings::run(&args).await?,
            Part::Backbones => backbones::run(&args).await?,
        };
        if !args.json {
            machine.print()?;
        }
    }
    Ok(())
}

impl BenchArchitecturesArgs {
    /// Returns the flags of a server that keeps all heads on the device.
    fn server_flags(&self) -> Vec<String> {
        let mut flags = self.model.server_flags();
        let resident = 8_u64 << 30;
        let own = [
            ("--arch", name_of(&self.arch)),
            ("--heads-resident-bytes-max", resident.to_string()),
        ];
        flags.extend(own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        flags
    }
}

/// Returns the middle value; there is at least one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}
