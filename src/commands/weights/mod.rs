//! `headswap weights`: looks into files of weights, converts and fetches them.

mod convert;
mod download;
mod fetch;
mod inspect;
mod partial;

use clap::{Subcommand, ValueEnum as _};
use headswap_checkpoint::{Checkpoint, Misfit, fit_backbone, fit_head};
use headswap_spec::Architecture;

use crate::commands::error::CliError;

#[derive(Debug, Subcommand)]
pub(super) enum WeightsCommand {
    /// Show a file's format, names, tensors and what it fits
    Inspect(inspect::InspectArgs),
    /// Write a file as safetensors with torchvision's names
    Convert(convert::ConvertArgs),
    /// Fetch trained weights, by default torchvision's VGG16
    #[command(after_help = fetch::EXAMPLES)]
    Fetch(fetch::FetchArgs),
}

pub(super) fn run(command: WeightsCommand) -> Result<(), CliError> {
    match command {
        WeightsCommand::Inspect(args) => inspect::run(&args),
        WeightsCommand::Convert(args) => convert::run(&args),
        WeightsCommand::Fetch(args) => fetch::run(&args),
    }
}

/// What a checkpoint can be used for, and with how many classes.
enum Fit {
    Backbone(Architecture, usize),
    Head(Architecture, usize),
}

impl Fit {
    /// The first architecture that a checkpoint fits, or why it does not fit the real VGG16.
    fn of(checkpoint: &Checkpoint) -> Result<Self, Misfit> {
        for &arch in Architecture::value_variants() {
            if let Ok(classes) = fit_backbone(arch, checkpoint) {
                return Ok(Self::Backbone(arch, classes));
            }
        }
        for &arch in Architecture::value_variants() {
            if let Ok(classes) = fit_head(arch, checkpoint) {
                return Ok(Self::Head(arch, classes));
            }
        }
        // What a head lacks of a whole VGG16 is not worth saying.
        let arch = Architecture::Vgg16;
        if checkpoint.tensors().any(|entry| entry.name == "features.0.weight") {
            Ok(Self::Backbone(arch, fit_backbone(arch, checkpoint)?))
        } else {
            Ok(Self::Head(arch, fit_head(arch, checkpoint)?))
        }
    }
}

/// As `--arch` takes it.
fn arch_name(architecture: Architecture) -> String {
    let value = architecture.to_possible_value();
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}
