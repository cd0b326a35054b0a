//! The formats of checkpoints, detected by their first bytes.

use std::fmt;

use headswap_spec::Framework;

use super::error::CheckpointError;
use super::source::Source;
use super::text::excerpt;
use super::zip::Archive;
use super::{foreign, keras, torch_legacy};

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
    /// What Keras saves as `.h5`: a model of Keras 2 or 3, or weights alone.
    KerasH5,
    /// The zip archive that Keras 3 saves as `.keras`.
    KerasZip,
    /// An ONNX model.
    Onnx,
}

impl CheckpointFormat {
    /// Returns what wrote the file, and so which numbers hold where it states none.
    pub fn framework(self) -> Framework {
        match self {
            Self::KerasH5 | Self::KerasZip => Framework::Keras,
            Self::Safetensors | Self::TorchZip | Self::TorchLegacy | Self::Pickle | Self::Onnx => Framework::PyTorch,
        }
    }
}

impl fmt::Display for CheckpointFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::TorchZip => "PyTorch (zip)",
            Self::TorchLegacy => "PyTorch (legacy)",
            Self::Pickle => "pickle",
            Self::KerasH5 => "Keras (HDF5)",
            Self::KerasZip => "Keras (.keras)",
            Self::Onnx => "ONNX",
        })
    }
}

const HDF5: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Returns the format, by the first bytes.
pub(super) fn detect(source: &Source) -> Result<CheckpointFormat, CheckpointError> {
    let start = source.read(0, source.length().min(foreign::START_BYTES))?;
    let is_pickle = start.first() == Some(&0x80);
    let has_magic = start[..start.len().min(32)]
        .windows(torch_legacy::MAGIC.len())
        .any(|window| window == torch_legacy::MAGIC);
    if start.starts_with(b"PK\x03\x04") {
        match keras::is_archive(&Archive::open(source)?) {
            true => Ok(CheckpointFormat::KerasZip),
            false => Ok(CheckpointFormat::TorchZip),
        }
    } else if start.starts_with(HDF5) {
        Ok(CheckpointFormat::KerasH5)
    } else if is_pickle && has_magic {
        Ok(CheckpointFormat::TorchLegacy)
    } else if start.get(8) == Some(&b'{') {
        // Checked before bare pickles: the header's length may begin with their first byte.
        Ok(CheckpointFormat::Safetensors)
    } else if is_pickle {
        Ok(CheckpointFormat::Pickle)
    } else if foreign::is_onnx(&start) {
        Ok(CheckpointFormat::Onnx)
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
