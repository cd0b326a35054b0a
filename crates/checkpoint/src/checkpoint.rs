//! An open checkpoint: its headers, and its tensors, which are read on request.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use bytes::Bytes;

use super::entry::TensorEntry;
use super::error::CheckpointError;
use super::format::{CheckpointFormat, detect};
use super::names::{self, Naming};
use super::source::Source;
use super::tensor::HostTensor;
use super::text::excerpt;
use super::throttle::Throttle;
use super::{safetensors, torch_legacy, torch_zip};

/// The key of a safetensors file's metadata whose value is the labels, as a JSON list.
pub const LABELS: &str = "labels";

/// An open file of weights. Its headers are in memory, its tensors are read on request.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    format: CheckpointFormat,
    entries: Vec<TensorEntry>,
    metadata: HashMap<String, String>,
    naming: Naming,
}

/// What the reader of a format returns before any tensor is read.
#[derive(Default)]
pub(super) struct Headers {
    pub entries: Vec<TensorEntry>,
    pub metadata: HashMap<String, String>,
    pub container: String,
}

impl Checkpoint {
    /// Opens a file and reads its headers.
    ///
    /// # Errors
    /// [`CheckpointError`] if the file is not a checkpoint, contradicts itself, or asks for code to be run.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::read_headers(Source::open(path)?)
    }

    /// As [`Checkpoint::open`], for a file in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::read_headers(Source::Memory(bytes))
    }

    /// The file's format.
    pub fn format(&self) -> CheckpointFormat {
        self.format
    }

    /// The naming scheme that the file uses.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// All tensors, in file order. No two have the same name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorEntry> {
        self.entries.iter()
    }

    /// Drops the entries of the tensors with these names.
    pub fn leave_out(&mut self, names: &[String]) {
        self.entries.retain(|entry| !names.contains(&entry.name));
    }

    /// The free-form metadata of a safetensors file; PyTorch's files have none.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// Returns the labels in a safetensors file's metadata ([`LABELS`]); empty if there are none.
    ///
    /// # Errors
    /// [`CheckpointError::Labels`] if they are not a JSON list of strings.
    pub fn labels(&self) -> Result<Vec<String>, CheckpointError> {
        let Some(text) = self.metadata.get(LABELS) else {
            return Ok(Vec::new());
        };
        serde_json::from_str(text).map_err(|error| CheckpointError::Labels {
            reason: excerpt(&error.to_string()),
        })
    }

    /// Reads one of this checkpoint's tensors at full speed.
    ///
    /// # Errors
    /// [`CheckpointError::Dtype`] unless its elements are F32, F16, BF16 or F64; [`CheckpointError::NotFinite`] names
    /// the first element that is NaN or infinite as f32.
    pub fn read(&self, entry: &TensorEntry) -> Result<HostTensor, CheckpointError> {
        self.read_throttled(entry, &Throttle::off())
    }

    /// As [`Checkpoint::read`], pausing as `throttle` says.
    ///
    /// # Errors
    /// As [`Checkpoint::read`].
    pub fn read_throttled(&self, entry: &TensorEntry, throttle: &Throttle) -> Result<HostTensor, CheckpointError> {
        entry.read(&self.source, throttle)
    }

    fn read_headers(source: Source) -> Result<Self, CheckpointError> {
        let format = detect(&source)?;
        let Headers {
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

fn check_unique(entries: &[TensorEntry]) -> Result<(), CheckpointError> {
    let mut seen: HashMap<&str, &TensorEntry> = HashMap::new();
    for entry in entries {
        if let Some(other) = seen.insert(&entry.name, entry) {
            return Err(CheckpointError::Twice {
                name: excerpt(&entry.name),
                first: excerpt(&other.file_name),
                second: excerpt(&entry.file_name),
            });
        }
    }
    Ok(())
}
