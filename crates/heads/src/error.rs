//! Why a head was refused or is not there.

use std::io;
use std::path::PathBuf;

use super::name::HeadName;
use super::store::StoreError;

/// The setting that bounds what heads take on the device.
pub const RESIDENT_BYTES_MAX: &str = "--heads-resident-bytes-max";

/// Every way to fail with heads; the text is the message that users read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HeadError {
    #[error(
        "`{name}` is no name for a head; use 1 to 63 lower-case letters, digits, '.', '_' and '-', beginning with a \
         letter or digit"
    )]
    Name { name: String },
    #[error("there is no head `{name}`; the nearest names are {}", .known.join(", "))]
    UnknownHead { name: HeadName, known: Vec<String> },
    #[error("head `{name}` has no version {version}; it has {available:?}, and 0 is the live one")]
    UnknownVersion {
        name: HeadName,
        version: u64,
        available: Vec<u64>,
    },
    #[error(
        "the live version is {live}, not {expected} as expected (0 is no head at all); look at the live head and try again"
    )]
    VersionMismatch { live: u64, expected: u64 },
    #[error("the head's weights are refused: {reason}")]
    Weights { reason: String },
    #[error("the labels are refused: {reason}")]
    Labels { reason: String },
    #[error("the annotations are refused: {reason}")]
    Annotations { reason: String },
    #[error("the upload is refused: {reason}; send it again")]
    Upload { field: &'static str, reason: String },
    #[error("{reason}; raise {setting}")]
    LimitReached { setting: &'static str, reason: String },
    #[error("head `{name}` version {version} is damaged in the store ({reason}); replace it again")]
    Damaged {
        name: HeadName,
        version: u64,
        reason: String,
    },
    #[error(
        "head `{name}` version {version} needs {bytes} bytes on the device, and too many of the {most} for heads are in \
         use; retry later or raise {setting}",
        setting = RESIDENT_BYTES_MAX
    )]
    NoRoom {
        name: HeadName,
        version: u64,
        bytes: u64,
        most: u64,
    },
    #[error("cannot read {path}: {source}; retry later, and check the disk if it stays so", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the call was cancelled before the change was made; nothing was changed")]
    Cancelled,
    #[error("version {version} of head `{name}` was let go meanwhile; ask again")]
    Retired { name: HeadName, version: u64 },
    #[error("loading version {version} of head `{name}` failed: it panicked; retry, and report this")]
    LoadPanicked { name: HeadName, version: u64 },
    #[error("the server stopped loading heads; ask another, or this one when it is back")]
    LoadsStopped,
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a head is not on the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The device cannot serve it; the text says why.
    #[error("the head cannot be served: {0}")]
    Refused(String),
    /// Another time there may be memory for it.
    #[error("there is no memory for the head now: {0}; retry later, or lower {RESIDENT_BYTES_MAX} or --max-batch")]
    OutOfMemory(String),
}
