//! The `headswap` program, without libtorch.

use std::process::ExitCode;

fn main() -> ExitCode {
    headswap::run(None)
}
