//! The backbone's weights: those of a checkpoint, or the demo's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headswap_checkpoint::{Checkpoint, CheckpointError, Digest, Misfit, Parameters, fit_backbone};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};

use super::demo::demo_parameters;

/// The source of the backbone's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightsSource {
    /// Generated and untrained.
    Demo,
    /// A checkpoint: safetensors or PyTorch's.
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
    /// The architecture of the parameters.
    pub architecture: Architecture,
    /// Every parameter, the last Linear's included.
    pub parameters: Parameters,
    /// The SHA-256 of the parameters before the last Linear, by which heads identify their backbone: backbones that compute
    /// the same features have the same digest.
    pub digest: Digest,
    /// The SHA-256 of all parameters, by which releases before 0.2.0 identified it.
    pub legacy_digest: Digest,
    /// The outputs of the last Linear.
    pub classes: usize,
}

/// The reason for which a weights file is refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The file is not a checkpoint, or one of its tensors cannot be used.
    #[error("{path}: {source}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// The tensors are not those of the architecture.
    #[error("{path}: {source}")]
    Misfit {
        /// The file.
        path: PathBuf,
        /// The first difference.
        source: Misfit,
    },
}

impl Backbone {
    /// Reads or generates every parameter. A file is read once, from start to end.
    ///
    /// # Errors
    /// [`WeightsError`] names the file and the tensor.
    pub fn load(source: &WeightsSource, architecture: Architecture) -> Result<Self, WeightsError> {
        let parameters = match source {
            WeightsSource::Demo => demo_parameters(architecture),
            WeightsSource::File(path) => read_all(path, architecture)?,
        };
        digest_in_parallel(&parameters);
        let legacy_digest = Digest::of_parameters(&parameters, &[]);
        let tensors = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.digest()));
        let digest = Digest::of_backbone(tensors);
        let classes = parameters[LAST_BIAS].values.len();
        Ok(Self {
            architecture,
            parameters,
            digest,
            legacy_digest,
            classes,
        })
    }

    /// Removes the last Linear, which is served as version 1 of the default head.
    pub fn take_last_linear(&mut self) -> Parameters {
        [LAST_WEIGHT, LAST_BIAS]
            .into_iter()
            .filter_map(|name| self.parameters.remove_entry(name))
            .collect()
    }
}

/// Computes the tensors' digests, each on a thread of its own.
fn digest_in_parallel(parameters: &Parameters) {
    std::thread::scope(|scope| {
        for tensor in parameters.values() {
            scope.spawn(|| tensor.digest());
        }
    });
}

fn read_all(path: &Path, architecture: Architecture) -> Result<Parameters, WeightsError> {
    let checkpoint = Checkpoint::open(path).map_err(|source| unreadable(path, source))?;
    fit_backbone(architecture, &checkpoint).map_err(|source| WeightsError::Misfit {
        path: path.to_owned(),
        source,
    })?;
    // In the file's order, so that a cold disk reads ahead.
    let mut parameters = Parameters::new();
    for entry in checkpoint.tensors() {
        let tensor = checkpoint.read(entry).map_err(|source| unreadable(path, source))?;
        parameters.insert(entry.name.clone(), Arc::new(tensor));
    }
    Ok(parameters)
}

fn unreadable(path: &Path, source: CheckpointError) -> WeightsError {
    WeightsError::Checkpoint {
        path: path.to_owned(),
        source,
    }
}
