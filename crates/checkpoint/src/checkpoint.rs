//! An open checkpoint: its headers, and its tensors, which are read on request.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

use bytes::Bytes;

use super::entry::TensorEntry;
use super::error::CheckpointError;
use super::format::{CheckpointFormat, detect};
use super::graph::Graph;
use super::module::Module;
use super::names::{self, Naming};
use super::source::Source;
use super::tensor::HostTensor;
use super::text::excerpt;
use super::throttle::Throttle;
use super::{foreign, keras, label_lists, onnx, plain_pickle, safetensors, torch_legacy, torch_zip};

/// The key of a safetensors file's metadata whose value is the labels, as a JSON list.
pub const LABELS: &str = "labels";
/// Other keys of metadata whose value may be the labels, as a JSON mapping.
const OTHER_LABELS: [&str; 2] = ["class_to_idx", "id2label"];

/// An open file of weights. Its headers are in memory, its tensors are read on request.
#[derive(Debug)]
pub struct Checkpoint {
    source: Source,
    format: CheckpointFormat,
    entries: Vec<TensorEntry>,
    metadata: HashMap<String, String>,
    naming: Naming,
    selected: Option<String>,
    modules: Vec<Module>,
    graph: Option<Graph>,
    order: Vec<String>,
    label_lists: Vec<(String, Vec<String>)>,
}

/// What the reader of a format returns before any tensor is read.
#[derive(Default)]
pub(super) struct Headers {
    pub entries: Vec<TensorEntry>,
    pub metadata: HashMap<String, String>,
    pub container: String,
    /// The key that was asked for, unless it is a dictionary's.
    pub selected: Option<String>,
    pub modules: Vec<Module>,
    /// `Some` if the modules are all that the network computes.
    pub graph: Option<Graph>,
    /// The paths of layers in their order, if the file has one beside their names.
    pub order: Vec<String>,
    /// Class names, by the path of keys to them.
    pub label_lists: Vec<(String, Vec<String>)>,
}

impl Checkpoint {
    /// Opens a file and reads its headers.
    ///
    /// # Errors
    /// [`CheckpointError`] if the file is not a checkpoint or contradicts itself, if it holds several networks, or if
    /// code would have to be run to get the network.
    pub fn open(path: &Path) -> Result<Self, CheckpointError> {
        Self::open_selecting(path, None)
    }

    /// As [`Checkpoint::open`], of several networks in the file the one under `key`: a path of keys of dictionaries,
    /// joined by dots. If there is no such dictionary, `key` is left to [`Checkpoint::selected`].
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_selecting(path: &Path, key: Option<&str>) -> Result<Self, CheckpointError> {
        if path.is_dir() {
            return Err(foreign::directory(path));
        }
        Self::read_headers(Source::open(path)?, key)
    }

    /// As [`Checkpoint::open`], for a file in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes(bytes: Bytes) -> Result<Self, CheckpointError> {
        Self::from_bytes_selecting(bytes, None)
    }

    /// As [`Checkpoint::open_selecting`], for a file in memory.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_bytes_selecting(bytes: Bytes, key: Option<&str>) -> Result<Self, CheckpointError> {
        Self::read_headers(Source::Memory(bytes), key)
    }

    /// The file's format.
    pub fn format(&self) -> CheckpointFormat {
        self.format
    }

    /// The length of the file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.source.length()
    }

    /// The naming scheme that the file uses.
    pub fn naming(&self) -> &Naming {
        &self.naming
    }

    /// All tensors, in file order. No two have the same name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorEntry> {
        self.entries.iter()
    }

    /// The free-form metadata of a safetensors file; PyTorch's files have none.
    pub fn metadata(&self) -> &HashMap<String, String> {
        &self.metadata
    }

    /// The key that was asked for when the file was opened, if it is not that of a dictionary: a prefix of names.
    pub fn selected(&self) -> Option<&str> {
        self.selected.as_deref()
    }

    /// The layers of a pickled module or of a TorchScript archive, in order of definition, depth first. Empty for files
    /// without modules. Beside a state dict, those modules whose tensors are in it.
    pub fn modules(&self) -> &[Module] {
        &self.modules
    }

    /// What the file says of the whole network, if it says all that it computes.
    pub fn graph(&self) -> Option<&Graph> {
        self.graph.as_ref()
    }

    /// The paths of layers in their order, if the file has one beside their names; else empty.
    pub(super) fn order(&self) -> &[String] {
        &self.order
    }

    /// The lists of class names that a training script saved beside the network, each with the path of keys to it:
    /// `class_to_idx`, `hyper_parameters.classes` and others. Only lists of text and complete mappings.
    pub fn label_lists(&self) -> Vec<(String, Vec<String>)> {
        self.label_lists.clone()
    }

    /// Returns the labels in a safetensors file's metadata ([`LABELS`], or a mapping `class_to_idx` or `id2label`);
    /// empty if there are none.
    ///
    /// # Errors
    /// [`CheckpointError::Labels`] if those under [`LABELS`] are neither a JSON list of strings nor a mapping between
    /// strings and 0 to n - 1.
    pub fn labels(&self) -> Result<Vec<String>, CheckpointError> {
        if let Some(text) = self.metadata.get(LABELS) {
            return label_lists::from_json(text).map_err(|reason| CheckpointError::Labels {
                reason: excerpt(&reason),
            });
        }
        let others = OTHER_LABELS.iter().filter_map(|key| self.metadata.get(*key));
        let labels = others.filter_map(|text| label_lists::from_json(text).ok()).next();
        Ok(labels.unwrap_or_default())
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

    fn read_headers(source: Source, key: Option<&str>) -> Result<Self, CheckpointError> {
        let format = detect(&source)?;
        let Headers {
            mut entries,
            metadata,
            container,
            selected,
            modules,
            graph,
            order,
            label_lists,
        } = match format {
            CheckpointFormat::Safetensors => safetensors::open(&source, key),
            CheckpointFormat::TorchZip => torch_zip::open(&source, key),
            CheckpointFormat::TorchLegacy => torch_legacy::open(&source, key),
            CheckpointFormat::Pickle => plain_pickle::open(&source, key),
            CheckpointFormat::KerasH5 => keras::open(&source, key),
            CheckpointFormat::KerasZip => keras::open_archive(&source, key),
            CheckpointFormat::Onnx => onnx::open(&source, key),
        }?;
        entries.sort_by_key(|entry| entry.layout.file_offset());
        entries.iter_mut().for_each(names::canonicalize);
        drop_aliases(&mut entries);
        if let Some(key) = &selected {
            drop_rivals(&mut entries, key.trim_end_matches('.'));
        }
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
            selected,
            modules,
            graph,
            order,
            label_lists,
        })
    }
}

/// Drops the second of two entries that have the same name and are the same elements of the file, as a module has that is
/// stored under two attributes.
fn drop_aliases(entries: &mut Vec<TensorEntry>) {
    let mut kept: HashMap<String, TensorEntry> = HashMap::new();
    entries.retain(|entry| match kept.get(&entry.name) {
        Some(other) => !entry.is_alias(other),
        None => {
            kept.insert(entry.name.clone(), entry.clone());
            true
        }
    });
}

/// Drops the entries that are not under a prefix of names, and have the name of one that is: of another network, under another
/// wrapper.
fn drop_rivals(entries: &mut Vec<TensorEntry>, prefix: &str) {
    let mut chosen = HashSet::new();
    for entry in entries.iter().filter(|entry| entry.is_under(prefix)) {
        chosen.insert(entry.name.clone());
    }
    entries.retain(|entry| entry.is_under(prefix) || !chosen.contains(&entry.name));
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
