//! The backbone's weights: from a checkpoint, or the demo's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headswap_checkpoint::{Checkpoint, CheckpointError, Digest, Misfit, Parameters, TensorEntry, fit_backbone};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};

use super::demo::demo_parameters;

/// Where the backbone's weights come from.
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
    /// Which table of layers the parameters fill.
    pub architecture: Architecture,
    /// Every parameter, the last Linear's included.
    pub parameters: Parameters,
    /// SHA-256 over the parameters before the last Linear, by which heads know their backbone: two backbones with the same
    /// features are one.
    pub digest: Digest,
    /// SHA-256 over all of them, by which releases before 0.2.0 knew it.
    pub legacy_digest: Digest,
    /// The outputs of the last Linear.
    pub classes: usize,
}

/// Why a weights file was refused.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// It is no checkpoint, or one of its tensors cannot be used.
    #[error("{path}: {source}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CheckpointError,
    },
    /// Its tensors are not those of the architecture.
    #[error("{path}: {source}")]
    Misfit {
        /// The file.
        path: PathBuf,
        /// The first difference.
        source: Misfit,
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

    /// Takes the last Linear out: it is served as version 1 of the default head.
    pub fn take_last_linear(&mut self) -> Parameters {
        [LAST_WEIGHT, LAST_BIAS]
            .into_iter()
            .filter_map(|name| self.parameters.remove_entry(name))
            .collect()
    }
}

/// Has each tensor compute its digest, on a thread of its own.
fn digest_in_parallel(parameters: &Parameters) {
    std::thread::scope(|scope| {
        for tensor in parameters.values() {
            scope.spawn(|| tensor.digest());
        }
    });
}

fn read_all(path: &Path, architecture: Architecture) -> Result<Parameters, WeightsError> {
    let failed = |source| WeightsError::Checkpoint {
        path: path.to_owned(),
        source,
    };
    let checkpoint = Checkpoint::open(path).map_err(failed)?;
    fit_backbone(architecture, &checkpoint).map_err(|source| WeightsError::Misfit {
        path: path.to_owned(),
        source,
    })?;
    // In the file's order, so that a cold disk reads ahead.
    let read = |entry: &TensorEntry| Ok((entry.name.clone(), Arc::new(checkpoint.read(entry).map_err(failed)?)));
    checkpoint.tensors().map(read).collect()
}
