//! What the command line says when something fails: one line, and what to do.

use std::process::ExitCode;

use tonic::Status;
use tonic_types::StatusExt as _;

/// A failure of a sub-command.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// Nobody answers at the address.
    #[error("no server answers at {address} ({reason}); start one with `headswap serve` or give another {flag}")]
    Unreachable {
        address: String,
        flag: &'static str,
        reason: String,
    },
    /// The server refused; the text is its own.
    #[error("{}", describe(.0))]
    Refused(#[from] Box<Status>),
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: std::io::Error },
    /// The system refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl CliError {
    /// Prints the line and gives the exit code.
    pub fn report(&self) -> ExitCode {
        eprintln!("headswap: {self}");
        match self {
            Self::Unreachable { .. } => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }
}

/// `CODE: message`, and when to try again if the server said.
pub(super) fn describe(status: &Status) -> String {
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let retry = retry
        .map(|delay| format!(" (retry after {delay:?})"))
        .unwrap_or_default();
    format!("{:?}: {}{retry}", status.code(), status.message())
}
