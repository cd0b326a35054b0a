//! The command line: one file for each sub-command.

mod address;
mod bench;
mod classify;
mod completions;
mod date;
mod demo;
mod describe;
mod embed;
mod error;
mod head;
mod new_file;
mod npy;
mod output;
mod pictures;
mod serve;
mod weights;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use error::CliError;
use headswap_model::{THREADS_MAX, TorchRuntime, check_threads};

use crate::libtorch;

const AFTER_HELP: &str = "\
Examples:
  headswap demo                                  see it work, with a server of its own
  headswap weights fetch                         get torchvision's trained VGG16
  headswap serve --weights vgg16.pth             serve a backbone
  headswap classify cat.jpg                      ask it
  headswap head replace cats cats.safetensors    make a fine-tuned head live
  headswap classify --head cats cat.jpg
  headswap embed --output features.npy photos    the features of every picture below a directory

Results go to standard output, progress and notes to standard error.
Exit codes: 0 success, 1 something failed, 2 wrong usage, 3 the server cannot be reached.";

/// Serves VGG16 over gRPC and swaps fine-tuned heads while traffic flows.
#[derive(Debug, Parser)]
#[command(name = "headswap", version, after_help = AFTER_HELP, color = clap::ColorChoice::Never)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Box<headswap_server::ServeArgs>),
    /// Classify pictures with a running server
    Classify(classify::ClassifyArgs),
    /// Compute pictures' features with a running server
    Embed(embed::EmbedArgs),
    /// Replace, list and show heads
    #[command(subcommand)]
    Head(head::HeadCommand),
    /// Show the layers, the parameters and what a head overrides
    Describe(describe::DescribeArgs),
    /// Inspect, convert and fetch files of weights
    #[command(subcommand)]
    Weights(weights::WeightsCommand),
    /// Measure the forward pass or the server
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Start a server, classify photographs and swap heads under load
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Parses the command line and runs it.
pub fn run(torch: Option<&'static dyn TorchRuntime>) -> ExitCode {
    let matches = Cli::command().get_matches();
    let mut cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let (Command::Serve(args), Some((_, matches))) = (&mut cli.command, matches.subcommand()) {
        args.note_given(matches);
    }
    let command = match cli.command {
        Command::Serve(args) => return serve::run(*args, torch),
        Command::Weights(command) => {
            let done = weights::run(command);
            return done.map_or_else(|error| error.report(), |()| ExitCode::SUCCESS);
        }
        command => command,
    };
    let settings = match &command {
        Command::Bench(command) => command.backend(),
        Command::Head(command) => command.backend(),
        _ => None,
    };
    if let Some(settings) = &settings
        && let Err(error) = libtorch::ensure(settings, torch)
    {
        return CliError::from(error).report();
    }
    let threads = settings.map_or(0, |settings| settings.threads());
    if threads > THREADS_MAX {
        return CliError::Usage(format!("--threads {threads}: the limit is {THREADS_MAX}")).report();
    }
    // The runtime's threads, which panics where they are refused, and those of a backend in this process.
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    if let Err(error) = check_threads(cores + threads) {
        return CliError::Failed(error.to_string()).report();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return CliError::from(error).report(),
    };
    let result = runtime.block_on(async {
        match command {
            Command::Serve(_) | Command::Weights(_) => Ok(()),
            Command::Classify(args) => classify::run(args).await,
            Command::Embed(args) => embed::run(args).await,
            Command::Head(command) => head::run(command, torch).await,
            Command::Describe(args) => describe::run(args).await,
            Command::Bench(command) => bench::run(command, torch).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Completions(args) => completions::run(&args),
        }
    });
    result.map_or_else(|error| error.report(), |()| ExitCode::SUCCESS)
}
