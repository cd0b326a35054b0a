//! Loads on a Headswap server, and a check of its answers: what the demo and the benchmarks share.

mod arrivals;
mod client_threads;
mod clients;
mod known_heads;
mod loadgen;
mod open_loop;
mod photographs;
mod quantile;
mod random;
mod server_process;
mod spec_head;

pub use arrivals::Arrivals;
pub use client_threads::ClientThreads;
pub use clients::connect_clients;
pub use known_heads::{KnownHead, difference, tolerance};
pub use loadgen::{LoadSummary, Workload, run_load};
pub use open_loop::{IN_FLIGHT_MAX, LATE_AFTER, OpenLoopSummary, OpenWorkload, Outcome, run_open_loop};
pub use photographs::PHOTOGRAPHS;
pub use random::SplitMix64;
pub use server_process::ServerProcess;
pub use spec_head::SpecHead;
