//! The errors of this crate.

use std::io;
use std::path::PathBuf;

use super::name::HeadName;
use super::store::StoreError;

/// The setting that bounds what heads take on the device.
pub const RESIDENT_BYTES_MAX: &str = "--heads-resident-bytes-max";

/// An operation on heads failed; the text is the message that users read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum HeadError {
    #[error(
        "`{name}` is not a valid head name; use 1 to 63 lower-case letters, digits, '.', '_' and '-', beginning with a \
         letter or digit"
    )]
    Name { name: String },
    #[error("there is no head `{name}`; the nearest names are {}", .known.join(", "))]
    UnknownHead { name: HeadName, known: Vec<String> },
    #[error("there is no backbone `{name}`; this server has {}", .known.join(", "))]
    UnknownBackbone { name: String, known: Vec<String> },
    #[error(
        "the head takes VGG16's features, and neither it nor the backbone `{backbone}` has {lacking}; choose another `backbone`, \
         or give a head that takes the last pooling's map"
    )]
    NoFeatures { backbone: String, lacking: String },
    #[error("head `{name}` has no version {version}; it has {available:?}, and 0 stands for the live version")]
    UnknownVersion {
        name: HeadName,
        version: u64,
        available: Vec<u64>,
    },
    #[error(
        "the live version is {live}, not {expected} as expected (0 means that the head does not exist); check the live \
         version and try again"
    )]
    VersionMismatch { live: u64, expected: u64 },
    #[error("the head's weights are refused: {reason}")]
    Weights { reason: String },
    #[error("the head's spec is refused: {reason}")]
    Spec { reason: String },
    #[error("the head's spec is refused: output: {reason}")]
    Output { reason: String },
    #[error(
        "the head has no spec, and this server requires one; give the spec's JSON, whose `preprocessing` says how its \
         pictures are prepared and whose `output` what its numbers mean"
    )]
    SpecMissing,
    #[error(
        "the head has one output, and nothing says what it means; give a spec with the output sigmoid (a probability) or \
         linear (a value)"
    )]
    OneOutput,
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
        "head `{name}` version {version} needs {bytes} bytes on the device; the limit for all heads is {most}, and heads \
         in use leave too little of it; retry later or raise {setting}",
        setting = RESIDENT_BYTES_MAX
    )]
    NoRoom {
        name: HeadName,
        version: u64,
        bytes: u64,
        most: u64,
    },
    #[error("cannot read {path}: {source}; retry later, and check the disk if this persists", path = .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("the call was cancelled before the change was made; nothing was changed")]
    Cancelled,
    #[error("version {version} of head `{name}` was retired while the request waited; retry")]
    Retired { name: HeadName, version: u64 },
    #[error("loading version {version} of head `{name}` panicked; retry, and report this")]
    LoadPanicked { name: HeadName, version: u64 },
    #[error("the server has stopped loading heads; retry later or on another server")]
    LoadsStopped,
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Placing a head on the device failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The device cannot serve it; the text says why.
    #[error("the head cannot be served: {0}")]
    Refused(String),
    /// The device has too little free memory; a later attempt may succeed.
    #[error("there is too little memory for the head: {0}; retry later, or lower {RESIDENT_BYTES_MAX} or --max-batch")]
    OutOfMemory(String),
}
