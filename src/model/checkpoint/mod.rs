//! Weights as people have them on disk: safetensors files and PyTorch's `.pth`, told apart by their content.
//!
//! Whatever a file claims is held against its length before memory is taken for it: opening one takes at most 16 MiB
//! beyond what is read of it, and reading a tensor takes the tensor and, of a file, one block. Nothing in a file is run.

mod cursor;
mod entry;
mod error;
mod names;
mod pickle;
mod safetensors;
mod source;
mod state_dict;
mod torch_legacy;
mod torch_zip;
mod zip;

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::path::Path;

use bytes::Bytes;

pub use entry::TensorEntry;
pub use error::CheckpointError;
pub(super) use error::shown;
use source::Source;

use super::tensor::HostTensor;

/// How a checkpoint was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckpointFormat {
    /// A safetensors file.
    Safetensors,
    /// What torch.save writes since PyTorch 1.6.
    TorchZip,
    /// What torch.save wrote before, and as torchvision publishes weights.
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

/// Whose names a checkpoint uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Naming {
    /// The names are timm's rather than torchvision's.
    pub timm: bool,
    /// What wrappers put in front of the names, as `module.`; each prefix once.
    pub prefixes: Vec<String>,
    /// The keys that lead to the tensors in what was saved, as `state_dict`; empty if they are at the top.
    pub container: String,
}

/// An open file of weights whose tensors are read when asked for.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    format: CheckpointFormat,
    entries: Vec<TensorEntry>,
    metadata: HashMap<String, String>,
    naming: Naming,
}

/// What a format's reader finds before any tensor is read.
#[derive(Default)]
struct Found {
    entries: Vec<TensorEntry>,
    metadata: HashMap<String, String>,
    container: String,
}

impl Checkpoint {
    /// Opens a file and reads its headers.
    ///
    /// # Errors
    /// [`CheckpointError`] if the file is no checkpoint, contradicts itself, or asks for code to be run.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::read_headers(Source::open(path)?)
    }

    /// As [`Checkpoint::open`], of a file that is in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::read_headers(Source::Memory(bytes))
    }

    /// How the file was written.
    pub fn format(&self) -> CheckpointFormat {
        self.format
    }

    /// Whose names the file uses.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// Every tensor, in the order in which they lie in the file. No two have the same name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorEntry> {
        self.entries.iter()
    }

    /// Forgets the tensors of these names.
    pub fn leave_out(&mut self, names: &[String]) {
        self.entries.retain(|entry| !names.contains(&entry.name));
    }

    /// The free-form metadata of a safetensors file; PyTorch's files have none.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Reads one of this checkpoint's tensors.
    ///
    /// # Errors
    /// [`CheckpointError::Dtype`] unless its elements are F32, F16, BF16 or F64; [`CheckpointError::NotFinite`] names
    /// the first element that is NaN or infinite as f32.
    pub fn read(&self, entry: &TensorEntry) -> Result<HostTensor, CheckpointError> {
        entry.read(&self.source)
    }

    fn read_headers(source: Source) -> Result<Self, CheckpointError> {
        let format = detect(&source)?;
        let Found {
            mut entries,
            metadata,
            container,
        } = match format {
            CheckpointFormat::Safetensors => safetensors::open(&source),
            CheckpointFormat::TorchZip => torch_zip::open(&source),
            CheckpointFormat::TorchLegacy => torch_legacy::open(&source),
        }?;
        entries.sort_by_key(|entry| entry.layout.start);
        entries.iter_mut().for_each(names::canonicalize);
        check_unique(&entries)?;
        let prefixes: BTreeSet<&str> = entries.iter().map(|entry| names::prefix(&entry.file_name)).collect();
        let naming = Naming {
            timm: entries.iter().any(|entry| names::is_timm(&entry.file_name)),
            prefixes: prefixes
                .into_iter()
                .filter(|prefix| !prefix.is_empty())
                .map(str::to_owned)
                .collect(),
            container,
        };
        Ok(Self {
            source,
            format,
            entries,
            metadata,
            naming,
        })
    }
}

/// Tells the format by the first bytes.
fn detect(source: &Source) -> Result<CheckpointFormat, CheckpointError> {
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
        // Before pickles are thought of: a header's length may begin with their byte.
        Ok(CheckpointFormat::Safetensors)
    } else if is_pickle {
        // A pickle that was not written by torch.save; what it asks for is worth knowing.
        let length = source.length().min(pickle::PICKLE_BYTES_MAX as u64);
        pickle::read(&source.read(0, length)?, 0)?;
        Err(unknown("it is a pickle, but not torch.save's"))
    } else if start.is_empty() {
        Err(unknown("it is empty"))
    } else {
        let text = String::from_utf8_lossy(&start[..start.len().min(16)]);
        Err(unknown(&format!("it starts with `{}`", shown(&text))))
    }
}

fn unknown(reason: &str) -> CheckpointError {
    CheckpointError::Format {
        reason: reason.to_owned(),
    }
}

fn check_unique(entries: &[TensorEntry]) -> Result<(), CheckpointError> {
    let mut seen: HashMap<&str, &TensorEntry> = HashMap::new();
    for entry in entries {
        if let Some(other) = seen.insert(&entry.name, entry) {
            return Err(CheckpointError::Twice {
                name: shown(&entry.name),
                first: shown(&other.file_name),
                second: shown(&entry.file_name),
            });
        }
    }
    Ok(())
}
