//! The formats of checkpoints, detected by their first bytes.

use std::fmt;

use super::error::CheckpointError;
use super::source::Source;
use super::text::excerpt;
use super::{pickle, torch_legacy};

/// A checkpoint's file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// A safetensors file.
    Safetensors,
    /// The zip archive that torch.save has written since PyTorch 1.6.
    TorchZip,
    /// What torch.save wrote before, and the format in which torchvision publishes weights.
    TorchLegacy,
}

impl fmt::Display for CheckpointFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "PyTorch (zip)",
            Self::TorchLegacy => "PyTorch (legacy)",
        })
    }
}

/// Returns the format, by the first bytes.
pub(super) fn detect(source: &Source) -> Result<CheckpointFormat, CheckpointError> {
    let start = source.read(0, source.length().min(32))?;
    let is_pickle = start.first() == Some(&0x80);
    let has_magic = start
        .windows(torch_legacy::MAGIC.len())
        .any(|window| window == torch_legacy::MAGIC);
    if start.starts_with(b"PK\x03\x04") {
        Ok(CheckpointFormat::TorchZip)
    } else if is_pickle && has_magic {
        Ok(CheckpointFormat::TorchLegacy)
    } else if start.get(8) == Some(&b'{') {
        // Checked before bare pickles: the header's length may begin with their first byte.
        Ok(CheckpointFormat::Safetensors)
    } else if is_pickle {
        // A pickle that torch.save did not write. Reading it reports the code that it asks for, if any.
        let length = source.length().min(pickle::PICKLE_BYTES_MAX as u64);
        pickle::read(&source.read(0, length)?, 0)?;
        Err(unknown("it is a pickle, but not torch.save's"))
    } else if start.is_empty() {
        Err(unknown("it is empty"))
    } else {
        let text = String::from_utf8_lossy(&start[..start.len().min(16)]);
        Err(unknown(&format!("it starts with `{}`", excerpt(&text))))
    }
}

fn unknown(reason: &str) -> CheckpointError {
    CheckpointError::Format {
        reason: reason.to_owned(),
    }
}
