//! The backbone's weights: from a safetensors file with torchvision's names, or the demo's.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::architecture::Architecture;
use super::demo::demo_parameters;
use super::digest::Digest;
use super::tensor::{HostTensor, Parameters, UnsupportedDtype};
use super::{LAST_BIAS, LAST_WEIGHT};

/// A longer header than this is no VGG16's.
const HEADER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where the backbone's weights come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightsSource {
    /// Generated and untrained.
    Demo,
    /// A safetensors file.
    File(PathBuf),
}

impl std::str::FromStr for WeightsSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text == "demo" {
            Self::Demo
        } else {
            Self::File(text.into())
        })
    }
}

impl fmt::Display for WeightsSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Demo => f.write_str("demo (untrained)"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A whole VGG16 in host memory, checked name by name and shape by shape.
#[derive(Debug)]
pub struct Backbone {
    /// Which table of layers the parameters fill.
    pub architecture: Architecture,
    /// Every parameter, the last Linear's included.
    pub parameters: Parameters,
    /// Over all of them.
    pub digest: Digest,
    /// The outputs of the last Linear.
    pub classes: usize,
}

/// Why a weights file was refused.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum WeightsError {
    #[error("cannot read the weights file {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no safetensors file: {reason}; convert a PyTorch state dict with safetensors.torch.save_file")]
    Format { path: PathBuf, reason: String },
    #[error("{path} lacks the tensor {name}; it must hold a whole VGG16 with torchvision's names")]
    Missing { path: PathBuf, name: String },
    #[error("{path} holds the tensor {name}, which VGG16 does not have")]
    Unexpected { path: PathBuf, name: String },
    #[error("in {path}, {name} has shape {got:?}; {expected:?} is expected")]
    Shape {
        path: PathBuf,
        name: String,
        got: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("in {path}, {name} {source}")]
    Dtype {
        path: PathBuf,
        name: String,
        source: UnsupportedDtype,
    },
    #[error("in {path}, {name} holds {value} at element {index}; every weight must be finite")]
    NotFinite {
        path: PathBuf,
        name: String,
        value: f32,
        index: usize,
    },
}

impl Backbone {
    /// Reads or generates every parameter; a file is read once, from start to end.
    ///
    /// # Errors
    /// [`WeightsError`] names the file and the tensor.
    pub fn load(source: &WeightsSource, architecture: Architecture) -> Result<Self, WeightsError> {
        let parameters = match source {
            WeightsSource::Demo => demo_parameters(architecture),
            WeightsSource::File(path) => WeightsFile::open(path)?.read_all(architecture)?,
        };
        let digest = digest_in_parallel(&parameters);
        let classes = parameters[LAST_BIAS].values.len();
        Ok(Self {
            architecture,
            parameters,
            digest,
            classes,
        })
    }

    /// Takes the last Linear out: it is served as version 1 of the default head.
    pub fn take_last_linear(&mut self) -> Parameters {
        [LAST_WEIGHT, LAST_BIAS]
            .into_iter()
            .filter_map(|name| self.parameters.remove_entry(name))
            .collect()
    }
}

fn digest_in_parallel(parameters: &Parameters) -> Digest {
    let digests: Vec<Digest> = std::thread::scope(|scope| {
        let threads: Vec<_> = parameters
            .values()
            .map(|tensor| scope.spawn(|| tensor.digest()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("hashing does not panic"))
            .collect()
    });
    Digest::combine(parameters.keys().map(String::as_str).zip(digests), &[])
}

/// An open safetensors file whose header has been checked against the file's length.
struct WeightsFile<'a> {
    path: &'a Path,
    file: File,
    metadata: Metadata,
    data_start: u64,
}

impl<'a> WeightsFile<'a> {
    /// The format: <https://github.com/huggingface/safetensors#format>.
    fn open(path: &'a Path) -> Result<Self, WeightsError> {
        let read = |source| WeightsError::Read {
            path: path.to_owned(),
            source,
        };
        let format = |reason: String| WeightsError::Format {
            path: path.to_owned(),
            reason,
        };

        let mut file = File::open(path).map_err(read)?;
        let file_bytes = file.metadata().map_err(read)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length)
            .map_err(|_| format(format!("{file_bytes} bytes are too few")))?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > HEADER_BYTES_MAX.min(file_bytes - 8) {
            return Err(format(format!("its header claims {header_bytes} bytes")));
        }
        let mut header = vec![0; header_bytes as usize];
        file.read_exact(&mut header).map_err(read)?;
        let metadata: Metadata =
            serde_json::from_slice(&header).map_err(|error| format(format!("its header is invalid: {error}")))?;
        let data_start = 8 + header_bytes;
        let expected = data_start + metadata.data_len() as u64;
        if expected != file_bytes {
            return Err(format(format!(
                "its header describes {expected} bytes, the file has {file_bytes}"
            )));
        }
        Ok(Self {
            path,
            file,
            metadata,
            data_start,
        })
    }

    fn read_all(mut self, architecture: Architecture) -> Result<Parameters, WeightsError> {
        let path = || self.path.to_owned();
        let tensors = self.metadata.tensors();
        let classes = tensors
            .get(LAST_BIAS)
            .and_then(|info| info.shape.first().copied())
            .unwrap_or(1000);
        let expected = architecture.parameters(classes);
        for (name, shape) in &expected {
            let info = tensors.get(name).ok_or_else(|| WeightsError::Missing {
                path: path(),
                name: name.clone(),
            })?;
            if &info.shape != shape {
                let (got, expected) = (info.shape.clone(), shape.clone());
                return Err(WeightsError::Shape {
                    path: path(),
                    name: name.clone(),
                    got,
                    expected,
                });
            }
        }
        let known: BTreeSet<&String> = expected.iter().map(|(name, _)| name).collect();
        if let Some(name) = tensors.keys().find(|name| !known.contains(name)) {
            return Err(WeightsError::Unexpected {
                path: path(),
                name: name.clone(),
            });
        }

        // In the file's order, so that a cold disk reads ahead.
        let in_order: Vec<(String, TensorInfo)> = self
            .metadata
            .offset_keys()
            .into_iter()
            .map(|name| {
                let info = tensors[&name].clone();
                (name, info)
            })
            .collect();
        drop(tensors);
        in_order
            .into_iter()
            .map(|(name, info)| Ok((name.clone(), Arc::new(self.read_tensor(name, info)?))))
            .collect()
    }

    fn read_tensor(&mut self, name: String, info: TensorInfo) -> Result<HostTensor, WeightsError> {
        let path = self.path;
        let failed = |source| WeightsError::Read {
            path: path.to_owned(),
            source,
        };
        let refused = |source| WeightsError::Dtype {
            path: path.to_owned(),
            name: name.clone(),
            source,
        };
        if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) {
            return Err(refused(UnsupportedDtype(info.dtype)));
        }
        let (start, end) = info.data_offsets;
        self.file
            .seek(SeekFrom::Start(self.data_start + start as u64))
            .map_err(failed)?;

        let mut values = Vec::with_capacity(info.shape.iter().product());
        let mut block = vec![0; (end - start).min(4 * 1024 * 1024)];
        let mut left = end - start;
        while left > 0 {
            let block = &mut block[..left.min(4 * 1024 * 1024)];
            self.file.read_exact(block).map_err(failed)?;
            let widened = HostTensor::from_le_bytes(info.dtype, Vec::new(), block).map_err(refused)?;
            values.extend_from_slice(&widened.values);
            left -= block.len();
        }
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(WeightsError::NotFinite {
                path: path.to_owned(),
                name,
                value: values[index],
                index,
            });
        }
        Ok(HostTensor::new(info.shape, values))
    }
}
