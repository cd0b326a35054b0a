//! The `headswap` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    headswap::cli::run()
}
