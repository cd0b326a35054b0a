//! What the command line prints when something fails: one line, and what to do.

use std::process::ExitCode;

use headswap_client::ClientError;
use tonic::Status;

use super::output::note;

/// A failure of a sub-command.
#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    /// No server answers at the address.
    #[error("{source}; start one with `headswap serve` or give another {flag}")]
    Unreachable { source: ClientError, flag: &'static str },
    /// A call failed, or what it needs.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The system refused.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The arguments contradict each other or mean nothing; found after they were parsed.
    #[error("{0}; see --help")]
    Usage(String),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl From<Status> for CliError {
    fn from(status: Status) -> Self {
        Self::Client(status.into())
    }
}

impl CliError {
    /// Of a connection that was not made to the address of this flag.
    pub fn unreachable(source: ClientError, flag: &'static str) -> Self {
        Self::Unreachable { source, flag }
    }

    /// Prints the line and returns the exit code.
    pub fn report(&self) -> ExitCode {
        note(self);
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Unreachable { .. } => ExitCode::from(3),
            _ => ExitCode::FAILURE,
        }
    }
}
