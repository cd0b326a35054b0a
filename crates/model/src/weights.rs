//! A backbone's weights: those of a checkpoint, or the demo's.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headswap_checkpoint::{
    Checkpoint, CheckpointError, Digest, Graph, HeadFileError, Misfit, Parameters, Throttle, fit_backbone,
    read_backbone,
};
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};

use super::demo::demo_parameters;

/// The parameter that a file with torchvision's names begins with.
const FIRST_WEIGHT: &str = "features.0.weight";

/// The Linears under torchvision's names.
const LINEARS: [&str; 3] = ["classifier.0", "classifier.3", "classifier.6"];

/// The source of a backbone's weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightsSource {
    /// Generated and untrained.
    Demo,
    /// A checkpoint of any format.
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

/// A VGG16 in host memory, checked name by name and shape by shape.
#[derive(Debug)]
pub struct Backbone {
    /// The architecture of the parameters.
    pub architecture: Architecture,
    /// The parameters of the convolutions and, unless the file lacks them, of the Linears.
    pub parameters: Parameters,
    /// The SHA-256 of the parameters before the last Linear, by which heads identify their backbone: backbones that compute
    /// the same features have the same digest.
    pub digest: Digest,
    /// The SHA-256 of all parameters, by which releases before 0.2.0 identified it.
    pub legacy_digest: Digest,
    /// The outputs of the last Linear; none if the file lacks it.
    pub classes: Option<usize>,
    /// What its file says of its pictures, if it says all that the network computes.
    pub graph: Option<Graph>,
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
    /// The tensors are neither a VGG16's nor a fine-tuned one's.
    #[error("{path}: {source}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: HeadFileError,
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
        let (parameters, graph) = match source {
            WeightsSource::Demo => (demo_parameters(architecture), None),
            WeightsSource::File(path) => {
                let checkpoint = Checkpoint::open(path).map_err(|source| unreadable(path, source))?;
                let parameters = read_all(path, &checkpoint, architecture)?;
                (parameters, checkpoint.graph().cloned())
            }
        };
        digest_in_parallel(&parameters);
        let legacy_digest = Digest::of_parameters(&parameters, &[]);
        let tensors = parameters.iter().map(|(name, tensor)| (name.as_str(), tensor.digest()));
        let digest = Digest::of_backbone(tensors);
        let classes = parameters.get(LAST_BIAS).map(|bias| bias.values.len());
        Ok(Self {
            architecture,
            parameters,
            digest,
            legacy_digest,
            classes,
            graph,
        })
    }

    /// Returns true if it computes `features`, that is, has the Linears before the last one.
    pub fn has_features(&self) -> bool {
        has_features(self.architecture, &self.parameters)
    }

    /// Removes the last Linear, which is served as version 1 of the default head; empty if the file lacks it.
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

fn read_all(path: &Path, checkpoint: &Checkpoint, architecture: Architecture) -> Result<Parameters, WeightsError> {
    if let Err(misfit) = fit_backbone(architecture, checkpoint) {
        return read_any(path, checkpoint, architecture, misfit);
    }
    // In the file's order, so that a cold disk reads ahead.
    let mut parameters = Parameters::new();
    for entry in checkpoint.tensors() {
        let tensor = checkpoint.read(entry).map_err(|source| unreadable(path, source))?;
        parameters.insert(entry.name.clone(), Arc::new(tensor));
    }
    Ok(parameters)
}

/// Reads a file of another form than torchvision's. One that has torchvision's names is refused for what it differs in, if it
/// is no VGG16 or if half a Linear is missing: it is damaged then, and no backbone without Linears.
fn read_any(
    path: &Path,
    checkpoint: &Checkpoint,
    architecture: Architecture,
    misfit: Misfit,
) -> Result<Parameters, WeightsError> {
    let path = path.to_owned();
    let has_names = checkpoint.tensors().any(|entry| entry.name == FIRST_WEIGHT);
    if has_names && LINEARS.into_iter().any(|layer| is_torn(checkpoint, layer)) {
        return Err(WeightsError::Misfit { path, source: misfit });
    }
    match read_backbone(checkpoint, architecture, &Throttle::off()) {
        Ok(parameters) => Ok(parameters),
        Err(HeadFileError::Checkpoint(source)) => Err(WeightsError::Checkpoint { path, source }),
        Err(_) if has_names => Err(WeightsError::Misfit { path, source: misfit }),
        Err(source) => Err(WeightsError::Unknown { path, source }),
    }
}

/// Returns true if a Linear lacks its weight or its bias, or if they contradict each other.
fn is_torn(checkpoint: &Checkpoint, layer: &str) -> bool {
    let shape_of = |parameter: &str| {
        let name = format!("{layer}.{parameter}");
        let entry = checkpoint.tensors().find(|entry| entry.name == name)?;
        Some(&entry.shape[..])
    };
    match (shape_of("weight"), shape_of("bias")) {
        (None, None) => false,
        (Some([rows, _]), Some([length])) => rows != length,
        _ => true,
    }
}

fn has_features(architecture: Architecture, parameters: &Parameters) -> bool {
    let mut steps = architecture.steps().into_iter();
    steps.all(|step| parameters.contains_key(&step.weight()) && parameters.contains_key(&step.bias()))
}

fn unreadable(path: &Path, source: CheckpointError) -> WeightsError {
    WeightsError::Checkpoint {
        path: path.to_owned(),
        source,
    }
}
