//! The `headswap` program with libtorch. `headswap` starts it when a GPU or `--backend torch` asks for it.

use std::process::ExitCode;

fn main() -> ExitCode {
    headswap::run(Some(headswap_torch::LIBTORCH))
}
