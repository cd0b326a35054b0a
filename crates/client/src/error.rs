//! Why a call did not come to its end.

use std::io;
use std::path::{Path, PathBuf};

use headswap_checkpoint::CheckpointError;
use tonic::Status;
use tonic_types::StatusExt as _;

/// A call, or its preparation, that failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No server answers at the address.
    #[error("no server answers at {address} ({reason})")]
    Unreachable {
        /// As it was given.
        address: String,
        /// What the system said.
        reason: String,
    },
    /// The server refused; the text is its own.
    #[error("{}", describe_status(.0))]
    Refused(#[from] Box<Status>),
    /// A file of weights cannot be used.
    #[error("{}: {source}", path.display())]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// A file is no head's weights or labels.
    #[error("{}: {reason}", path.display())]
    Head {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// Neither the file nor the command says something.
    #[error("{}: neither the file nor the command says {missing}", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What, each with the flag that gives it.
        missing: String,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Anything else, in words.
    #[error("{0}")]
    Failed(String),
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        Self::Refused(Box::new(status))
    }
}

impl ClientError {
    /// `path` cannot be read.
    pub fn unreadable(path: &Path, source: io::Error) -> Self {
        Self::Read {
            path: path.to_owned(),
            source,
        }
    }
}

/// Returns `CODE: message`, and when to try again if the server said.
pub fn describe_status(status: &Status) -> String {
    let (code, message) = (status.code(), status.message());
    match status.get_details_retry_info().and_then(|info| info.retry_delay) {
        Some(delay) => format!("{code:?}: {message} (retry after {delay:?})"),
        None => format!("{code:?}: {message}"),
    }
}
