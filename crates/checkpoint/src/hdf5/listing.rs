//! An HDF5 file as it is, without what Keras means by it: for the fuzz target.

use bytes::Bytes;
use safetensors::Dtype;

use super::super::entry::{Encoding, Storage, TensorEntry};
use super::super::error::CheckpointError;
use super::super::source::Source;
use super::super::tensor::HostTensor;
use super::super::throttle::Throttle;
use super::{Attribute, Dataset, Hdf5, View};

/// The texts and the tensors of an HDF5 file.
pub struct Hdf5Listing {
    source: Source,
    file: Hdf5,
}

impl Hdf5Listing {
    /// Reads the structure of a file in memory.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is damaged, or uses a part of HDF5 that Keras does not.
    pub fn open(bytes: Bytes) -> Result<Self, CheckpointError> {
        let storage = Storage {
            start: 0,
            bytes: bytes.len() as u64,
            encoding: Encoding::default(),
        };
        let source = Source::Memory(bytes);
        let file = Hdf5::open(&source, &storage)?;
        Ok(Self { source, file })
    }

    /// Returns the texts of all attributes, each with its group's path and its name.
    pub fn texts(&self) -> Vec<(&str, &str, &str)> {
        let mut all = Vec::new();
        for group in self.file.groups() {
            for (name, attribute) in self.file.attributes(&group.path) {
                let texts = match attribute {
                    Attribute::Text(text) => std::slice::from_ref(text),
                    Attribute::Texts(texts) => texts,
                };
                all.extend(
                    texts
                        .iter()
                        .map(|text| (group.path.as_str(), name.as_str(), text.as_str())),
                );
            }
        }
        all
    }

    /// Returns the paths of the datasets.
    pub fn paths(&self) -> Vec<&str> {
        self.file
            .datasets()
            .iter()
            .map(|dataset| dataset.path.as_str())
            .collect()
    }

    /// Returns the types of the datasets' elements; `None` for those that cannot be read.
    pub fn dtypes(&self) -> Vec<Option<Dtype>> {
        self.file.datasets().iter().map(Dataset::dtype).collect()
    }

    /// Returns a dataset as a tensor of its own shape.
    ///
    /// # Errors
    /// [`CheckpointError`] if it is not numbers, or not stored in a way that is read.
    pub fn tensor(&self, index: usize) -> Result<TensorEntry, CheckpointError> {
        let dataset = &self.file.datasets()[index];
        dataset.entry(&dataset.path)
    }

    /// Returns a dataset as a tensor whose dimensions are in the reverse order.
    ///
    /// # Errors
    /// As [`Hdf5Listing::tensor`].
    pub fn reversed(&self, index: usize) -> Result<TensorEntry, CheckpointError> {
        let dataset = &self.file.datasets()[index];
        let axes: Vec<usize> = (0..dataset.shape.len()).rev().collect();
        let shape: Vec<usize> = dataset.shape.iter().copied().rev().collect();
        let view = View {
            sizes: &dataset.shape,
            axes: &axes,
            shape: &shape,
        };
        dataset.view(&dataset.path, view)
    }

    /// Reads a tensor of this file.
    ///
    /// # Errors
    /// As [`crate::Checkpoint::read`].
    pub fn read(&self, entry: &TensorEntry) -> Result<HostTensor, CheckpointError> {
        entry.read(&self.source, &Throttle::off())
    }
}
