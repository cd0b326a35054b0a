//! Reads torch.save's format since PyTorch 1.6: a zip archive of one pickle, `NAME/data.pkl`, and the bytes of each
//! storage, `NAME/data/KEY`.

use super::checkpoint::Headers;
use super::error::CheckpointError;
use super::format::CheckpointFormat;
use super::pickle::{self, PICKLE_BYTES_MAX};
use super::source::Source;
use super::state_dict;
use super::zip::Archive;

pub(super) fn open(source: &Source) -> Result<Headers, CheckpointError> {
    let archive = Archive::open(source)?;
    let folder = archive
        .names()
        .filter_map(|name| name.strip_suffix("/data.pkl"))
        .min_by_key(|folder| folder.len())
        .ok_or_else(|| CheckpointError::Format {
            reason: "it is a zip archive without data.pkl".into(),
        })?;
    check_byte_order(&archive, source, folder)?;
    let pickle = archive.locate(source, &format!("{folder}/data.pkl"))?;
    let pickle = pickle.filter(|pickle| pickle.bytes <= PICKLE_BYTES_MAX as u64);
    let pickle = pickle.ok_or_else(|| CheckpointError::StateDict {
        reason: format!("a pickle of more than {PICKLE_BYTES_MAX} bytes"),
    })?;
    let bytes = source.read(pickle.start, pickle.bytes)?;
    let (objects, result, _) = pickle::read(&bytes, 0)?;
    let state = state_dict::find(&objects, result)?;
    state_dict::into_headers(state, &objects, |key| {
        archive.locate(source, &format!("{folder}/data/{key}"))
    })
}

/// Checks the byte order, which PyTorch 2.1 and later write.
fn check_byte_order(archive: &Archive, source: &Source, folder: &str) -> Result<(), CheckpointError> {
    let Some(entry) = archive.locate(source, &format!("{folder}/byteorder"))? else {
        return Ok(());
    };
    match &source.read(entry.start, entry.bytes.min(16))?[..] {
        b"little" => Ok(()),
        _ => Err(CheckpointError::Damaged {
            format: CheckpointFormat::TorchZip,
            reason: "its numbers are not little-endian".into(),
        }),
    }
}
