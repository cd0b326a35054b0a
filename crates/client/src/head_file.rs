//! A file of a head's weights, checked before anything of it is sent.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use headswap_checkpoint::{Checkpoint, CheckpointError, TensorEntry, excerpt};
use headswap_proto::Parameter;
use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};

use super::error::ClientError;
use super::labels::check_labels;
use super::progress::Progress;

/// As ReplaceHeadRequest states it.
const CLASSES_MAX: usize = 65_536;

/// A file of weights that is a head: readable to its end, with the last Linear, without tensors that VGG16 does not have,
/// finite, and with as many labels as classes or none. Only its shapes are left to compare with the server's.
#[derive(Debug)]
pub struct HeadFile {
    path: PathBuf,
    checkpoint: Checkpoint,
    /// SHA-256 of each tensor by its name in the file, in lower-case hexadecimal.
    digests: HashMap<String, String>,
}

impl HeadFile {
    /// Opens the file and reads all of it. `labels` are those that are to be sent with it; if empty, those in the file's
    /// metadata are checked.
    ///
    /// # Errors
    /// [`ClientError::Read`], [`ClientError::Checkpoint`] or [`ClientError::Head`] says what is wrong and what to do.
    pub fn open(path: &Path, labels: &[String], progress: &dyn Progress) -> Result<Self, ClientError> {
        if path.is_dir() {
            return Err(refused(path, "it is a directory; give a file of weights".to_owned()));
        }
        let checkpoint = Checkpoint::open(path).map_err(|error| unusable(path, error))?;
        let classes = check_names(&checkpoint).map_err(|reason| refused(path, reason))?;
        let labels_checked = if labels.is_empty() {
            let own = checkpoint.labels().map_err(|error| unusable(path, error))?;
            check_labels(&own, classes)
        } else {
            check_labels(labels, classes)
        };
        labels_checked.map_err(|reason| refused(path, reason))?;

        progress.start(checkpoint.tensors().count() as u64);
        let mut digests = HashMap::new();
        for entry in checkpoint.tensors() {
            let tensor = checkpoint.read(entry).map_err(|error| unusable(path, error))?;
            digests.insert(entry.name.clone(), tensor.digest().to_string());
            progress.advance(1);
        }
        progress.finish();
        Ok(Self {
            path: path.to_owned(),
            checkpoint,
            digests,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Compares the shapes with those of the server's model, `parameters`.
    ///
    /// # Errors
    /// [`ClientError::Head`] names the first tensor that differs.
    pub fn check_shapes(&self, parameters: &[Parameter]) -> Result<(), ClientError> {
        for entry in self.checkpoint.tensors() {
            let name = full_name(&entry.name);
            let Some(parameter) = parameters.iter().find(|parameter| parameter.name == name) else {
                let reason = format!("it holds {name}, which the server's model does not have; leave it out");
                return Err(refused(&self.path, reason));
            };
            if !fits(entry, &parameter.shape) {
                let expected = describe_shape(name, &parameter.shape);
                let reason = format!(
                    "{name} has shape {:?}, the server's model takes {expected}; use a head of that model",
                    entry.shape
                );
                return Err(refused(&self.path, reason));
            }
        }
        Ok(())
    }

    /// Leaves out the tensors that equal the server's own and returns how many they are. The last Linear stays.
    pub(super) fn leave_out_same(&mut self, parameters: &[Parameter]) -> usize {
        let backbone: BTreeMap<&str, &str> = parameters
            .iter()
            .map(|parameter| (parameter.name.as_str(), parameter.digest.as_str()))
            .collect();
        let mut same = Vec::new();
        for entry in self.checkpoint.tensors() {
            let digest = self.digests.get(&entry.name).map(String::as_str);
            if !is_last(full_name(&entry.name)) && digest.is_some() && digest == backbone.get(&*entry.name).copied() {
                same.push(entry.name.clone());
            }
        }
        self.checkpoint.leave_out(&same);
        same.len()
    }

    pub(super) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// torchvision's name: the last Linear may be called `weight` and `bias` alone.
fn full_name(name: &str) -> &str {
    match name {
        "weight" => LAST_WEIGHT,
        "bias" => LAST_BIAS,
        other => other,
    }
}

fn is_last(name: &str) -> bool {
    name == LAST_WEIGHT || name == LAST_BIAS
}

/// Returns the number of classes if the last Linear is there, its two shapes agree, and VGG16 has every tensor.
fn check_names(checkpoint: &Checkpoint) -> Result<usize, String> {
    let known = Architecture::Vgg16.parameters(1);
    let mut last: BTreeMap<&str, &TensorEntry> = BTreeMap::new();
    for entry in checkpoint.tensors() {
        let name = full_name(&entry.name);
        if !known.iter().any(|(known, _)| known == name) {
            return Err(format!(
                "it holds `{}`, which VGG16 does not have; leave it out, or use torchvision's or timm's names",
                excerpt(&entry.file_name)
            ));
        }
        if is_last(name) && last.insert(name, entry).is_some() {
            return Err(format!(
                "it holds {name} twice, under its full and its short name; leave one of them out"
            ));
        }
    }
    let mut missing = Vec::new();
    for name in [LAST_WEIGHT, LAST_BIAS] {
        if !last.contains_key(name) {
            missing.push(name);
        }
    }
    if !missing.is_empty() {
        return Err(format!(
            "it lacks {}; a head needs the last Linear, {LAST_WEIGHT} and {LAST_BIAS} (or weight and bias)",
            missing.join(" and ")
        ));
    }
    let (weight, bias) = (&last[LAST_WEIGHT].shape, &last[LAST_BIAS].shape);
    let [classes, _] = weight[..] else {
        return Err(format!(
            "{LAST_WEIGHT} has shape {weight:?}; a matrix of classes x features is expected"
        ));
    };
    if classes == 0 || classes > CLASSES_MAX {
        return Err(format!(
            "{LAST_WEIGHT} has {classes} classes; the limits are 1 and {CLASSES_MAX}"
        ));
    }
    if bias[..] != [classes] {
        return Err(format!(
            "{LAST_WEIGHT} has {classes} rows and {LAST_BIAS} the shape {bias:?}; save both from one layer"
        ));
    }
    Ok(classes)
}

/// Whether a tensor may take the place of a parameter of this shape. The number of classes is the head's own.
fn fits(entry: &TensorEntry, shape: &[u64]) -> bool {
    let got: Vec<u64> = entry.shape.iter().map(|size| *size as u64).collect();
    if is_last(full_name(&entry.name)) {
        got.len() == shape.len() && got.get(1..) == shape.get(1..)
    } else {
        got == shape
    }
}

fn describe_shape(name: &str, shape: &[u64]) -> String {
    match shape {
        [_, features] if name == LAST_WEIGHT => format!("[K, {features}]"),
        shape => format!("{shape:?}"),
    }
}

fn refused(path: &Path, reason: String) -> ClientError {
    ClientError::Head {
        path: path.to_owned(),
        reason,
    }
}

pub(super) fn unusable(path: &Path, error: CheckpointError) -> ClientError {
    match error {
        CheckpointError::Read(source) if source.kind() == ErrorKind::UnexpectedEof => refused(
            path,
            "it ends before its tensors do; fetch it or save it again".to_owned(),
        ),
        CheckpointError::Read(source) => ClientError::unreadable(path, source),
        source => ClientError::Checkpoint {
            path: path.to_owned(),
            source,
        },
    }
}
