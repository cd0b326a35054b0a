//! Structured logs on standard error.

use tracing_subscriber::EnvFilter;

use super::config::LogFormat;

/// Starts logging for the whole process; a second start changes nothing. A filter that cannot be read means `info`.
pub(super) fn start(format: LogFormat, filter: &str) {
    let parsed = EnvFilter::try_new(filter);
    let wrong = parsed.as_ref().err().map(ToString::to_string);
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(parsed.unwrap_or_else(|_| EnvFilter::new("info")));
    let _ = match format {
        LogFormat::Human => subscriber.with_target(false).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    if let Some(error) = wrong {
        tracing::warn!(filter, error, "--log cannot be read; logging at info");
    }
}
