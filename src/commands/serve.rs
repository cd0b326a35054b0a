//! `headswap serve`.

use std::process::ExitCode;

use headswap_model::TorchRuntime;
use headswap_server::{ServeArgs, serve};

use super::error::CliError;
use super::output::note;
use crate::libtorch;

/// How many tasks a thread runs before it looks for what has arrived from the network and from other threads. At tokio's
/// default of 61, a small request waits for milliseconds behind 50 connections that pour in pictures; at 7 it does not, and
/// a request costs no more CPU time.
const TASKS_PER_LOOK: u32 = 7;

/// Serves until a signal comes; exit code 0 if everything accepted was answered, else 1.
pub(super) fn run(args: ServeArgs, torch: Option<&'static dyn TorchRuntime>) -> ExitCode {
    if let Err(error) = libtorch::ensure(&args.backend(), torch) {
        return CliError::from(error).report();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(TASKS_PER_LOOK)
        .global_queue_interval(TASKS_PER_LOOK)
        .build();
    let result = runtime.map_err(Into::into).and_then(|runtime| {
        let served = runtime.block_on(serve(args, torch));
        // A picture that is still being decoded when a drain has run out of time must not hold the process.
        runtime.shutdown_background();
        served
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            for line in error.to_string().lines() {
                note(line);
            }
            ExitCode::FAILURE
        }
    }
}
