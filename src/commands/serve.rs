//! `headswap serve`.

use std::process::ExitCode;

use headswap_model::TorchRuntime;
use headswap_server::{ServeArgs, ServerError, report_failure, serve, start_logging};

use crate::libtorch;

/// How many tasks a thread runs before it looks for what has arrived from the network and from other threads. At tokio's
/// default of 61, a small request waits for milliseconds behind 50 connections that pour in pictures; at 7 it does not, and
/// a request costs no more CPU time.
const TASKS_PER_LOOK: u32 = 7;

/// Serves until a signal comes; exit code 0 if everything accepted was answered, else 1.
pub(super) fn run(args: ServeArgs, torch: Option<&'static dyn TorchRuntime>) -> ExitCode {
    start_logging(&args.operations);
    let operations = args.operations.clone();
    match serve_all(args, torch) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report_failure(&operations, &error);
            ExitCode::FAILURE
        }
    }
}

fn serve_all(args: ServeArgs, torch: Option<&'static dyn TorchRuntime>) -> Result<(), ServerError> {
    libtorch::ensure(&args.model.backend(), torch)?;
    args.prepare()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .event_interval(TASKS_PER_LOOK)
        .global_queue_interval(TASKS_PER_LOOK)
        .build()?;
    let served = runtime.block_on(serve(args, torch));
    // A picture that is still being decoded when a drain has run out of time must not hold the process.
    runtime.shutdown_background();
    served
}
