//! The `headswap` program: one file for each sub-command.
//!
//! What it runs is in the crates of this workspace; `ARCHITECTURE.md` is their map.

mod commands;
mod libtorch;

pub use commands::run;
