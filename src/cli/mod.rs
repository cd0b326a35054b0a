//! The command line: one file for each sub-command.

mod serve;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Serves VGG16 over gRPC and swaps fine-tuned heads while traffic flows.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server
    Serve(Box<crate::server::ServeArgs>),
}

/// Parses the command line and runs it.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(args) => serve::run(*args),
    }
}
