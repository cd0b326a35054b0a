//! Loads on a Headswap server, and a check of its answers: what the demo and the benchmarks share.

mod client_threads;
mod known_heads;
mod loadgen;
mod photographs;
mod server_process;

pub use client_threads::ClientThreads;
pub use known_heads::{KnownHead, difference, tolerance};
pub use loadgen::{LoadSummary, Workload, run_load};
pub use photographs::PHOTOGRAPHS;
pub use server_process::ServerProcess;
