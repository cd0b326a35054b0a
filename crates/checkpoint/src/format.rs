//! The formats of checkpoints, detected by their first bytes.

use std::fmt;

use super::error::CheckpointError;
use super::source::Source;
use super::text::excerpt;
use super::{foreign, torch_legacy};

/// A checkpoint's file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// A safetensors file.
    Safetensors,
    /// The zip archive that torch.save has written since PyTorch 1.6.
    TorchZip,
    /// What torch.save wrote before, and the format in which torchvision publishes weights.
    TorchLegacy,
    /// A plain pickle of NumPy arrays by name.
    Pickle,
}

impl fmt::Display for CheckpointFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "PyTorch (zip)",
            Self::TorchLegacy => "PyTorch (legacy)",
            Self::Pickle => "pickle",
        })
    }
}

/// Returns the format, by the first bytes.
pub(super) fn detect(source: &Source) -> Result<CheckpointFormat, CheckpointError> {
    let start = source.read(0, source.length().min(foreign::START_BYTES))?;
    let is_pickle = start.first() == Some(&0x80);
    let has_magic = start[..start.len().min(32)]
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
        Ok(CheckpointFormat::Pickle)
    } else if start.is_empty() {
        Err(unknown("it is empty"))
    } else if let Some(error) = foreign::start(&start) {
        Err(error)
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
