//! Logs on standard error: human-readable, or one JSON object on each line.

mod json;

use std::error::Error;
use std::io::IsTerminal as _;
use std::panic;
use std::thread;

use tracing_subscriber::EnvFilter;

use self::json::JsonLines;
use crate::settings::{LogFormat, OperationArgs};

/// Starts logging for the whole process, including panics. A second start changes nothing. An invalid filter counts as
/// `info`.
pub fn start(settings: &OperationArgs) {
    let parsed = EnvFilter::try_new(&settings.log);
    let invalid = parsed.as_ref().err().map(ToString::to_string);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(parsed.unwrap_or_else(|_| EnvFilter::new("info")));
    let started = match settings.log_format {
        LogFormat::Human => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            subscriber.with_target(false).with_ansi(colours).try_init().is_ok()
        }
        LogFormat::Json => subscriber.event_format(JsonLines).try_init().is_ok(),
    };
    if started && settings.log_format == LogFormat::Json {
        panic::set_hook(Box::new(log_panic));
    }
    if let Some(error) = invalid {
        tracing::warn!(
            filter = settings.log,
            error,
            "--log is not a valid filter; logging at info"
        );
    }
}

/// Reports why the program fails. Each line becomes a log event if the log is JSON, and a plain line on standard error
/// otherwise.
pub fn report_failure(settings: &OperationArgs, error: &dyn Error) {
    for line in error.to_string().lines() {
        match settings.log_format {
            LogFormat::Human => eprintln!("headswap: {line}"),
            LogFormat::Json => tracing::error!(error = line, "the server failed"),
        }
    }
}

fn log_panic(info: &panic::PanicHookInfo<'_>) {
    let thread = thread::current();
    let location = info.location().map(ToString::to_string).unwrap_or_default();
    let payload = info.payload();
    let reason = match payload.downcast_ref::<String>() {
        Some(text) => text,
        None => *payload
            .downcast_ref::<&str>()
            .unwrap_or(&"the panic payload is not a string"),
    };
    tracing::error!(thread = thread.name(), location, reason, "a thread panicked");
}
