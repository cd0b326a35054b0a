//! The reasons for which an HDF5 file, or a dataset of it, is refused.

use std::io;

use super::super::error::CheckpointError;
use super::super::text::excerpt;

/// What a user can do about datasets and files that use more of HDF5 than this reader knows.
pub(super) const REMEDY: &str = "load it with Keras and save it again";
/// What a user can do about a compressed archive.
pub(super) const PACKED_REMEDY: &str = "unpack that with `unzip` and pack it again with `zip -0`";

#[derive(Debug)]
pub(super) enum Hdf5Error {
    Read(io::Error),
    /// A structure contradicts another, or the file's length.
    Damaged(String),
    /// A part of HDF5 that Keras does not use. It is a clause: "is compressed with LZF".
    Unsupported(String),
    /// The archive around the file is compressed, and this, a clause as well, is not read from it.
    Packed(&'static str),
}

pub(super) type Result<T> = std::result::Result<T, Hdf5Error>;

pub(super) fn damaged(reason: impl Into<String>) -> Hdf5Error {
    Hdf5Error::Damaged(reason.into())
}

pub(super) fn unsupported(reason: impl Into<String>) -> Hdf5Error {
    Hdf5Error::Unsupported(reason.into())
}

impl From<io::Error> for Hdf5Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends before an object to which it points"),
            _ => Self::Read(error),
        }
    }
}

impl From<Hdf5Error> for CheckpointError {
    fn from(error: Hdf5Error) -> Self {
        let reason = match error {
            Hdf5Error::Read(error) => return Self::Read(error),
            Hdf5Error::Damaged(reason) => format!("is damaged: {}; fetch it or save it again", excerpt(&reason)),
            Hdf5Error::Unsupported(reason) => format!("{}; {REMEDY}", excerpt(&reason)),
            Hdf5Error::Packed(reason) => format!("{reason}; {PACKED_REMEDY}"),
        };
        Self::Unreadable {
            name: "the HDF5 file".into(),
            reason,
        }
    }
}
