//! A head's weights, checked: once a [`HeadWeights`] exists, it can be placed.

use std::collections::HashMap;
use std::sync::Arc;

use safetensors::SafeTensors;

use super::error::HeadError;
use crate::model::{Digest, HostTensor, LAST_BIAS, LAST_WEIGHT, Parameters};

const LABEL_BYTES_MAX: usize = 1024;

/// What a head may be.
#[derive(Clone, Debug)]
pub struct HeadLimits {
    /// The most classes.
    pub classes_max: usize,
    /// The length of a row of features: the backbone's.
    pub features: usize,
}

/// A head's parameters and labels, complete, of the right shapes, finite.
#[derive(Clone, Debug)]
pub struct HeadWeights {
    /// `classifier.6.weight` of shape `[K, features]` and `classifier.6.bias` of shape `[K]`.
    pub parameters: Arc<Parameters>,
    /// K labels, or none.
    pub labels: Arc<[String]>,
    /// SHA-256 of both.
    pub digest: Digest,
    /// K.
    pub classes: usize,
}

impl HeadWeights {
    /// Wraps parameters that are known to be right, as the backbone's own.
    pub fn new(parameters: Parameters, labels: Vec<String>) -> Self {
        let digest = Digest::of_parameters(&parameters, &labels);
        let classes = parameters[LAST_BIAS].values.len();
        Self {
            parameters: Arc::new(parameters),
            labels: labels.into(),
            digest,
            classes,
        }
    }

    /// Reads a safetensors file. Empty `labels` means those in the file's metadata under `labels`, a JSON list.
    ///
    /// # Errors
    /// [`HeadError::Weights`] or [`HeadError::Labels`] says which tensor or label is wrong, and how.
    pub fn from_safetensors(bytes: &[u8], labels: Vec<String>, limits: &HeadLimits) -> Result<Self, HeadError> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| {
            refused(format!(
                "the {} bytes are no whole safetensors file ({error}); send it unchanged",
                bytes.len()
            ))
        })?;
        let parameters = read_parameters(&file)?;
        let classes = check_shapes(&parameters, limits)?;
        check_finite(&parameters)?;
        let labels = if labels.is_empty() {
            labels_in(metadata(bytes))?
        } else {
            labels
        };
        check_labels(&labels, classes)?;
        Ok(Self::new(parameters, labels))
    }

    /// Its tensors' bytes in f32.
    pub fn bytes(&self) -> u64 {
        self.parameters.values().map(|tensor| tensor.bytes() as u64).sum()
    }
}

/// The file's free-form metadata; the header has been checked by then.
pub(super) fn metadata(bytes: &[u8]) -> HashMap<String, String> {
    SafeTensors::read_metadata(bytes)
        .ok()
        .and_then(|(_, header)| header.metadata().clone())
        .unwrap_or_default()
}

fn refused(reason: String) -> HeadError {
    HeadError::Weights { reason }
}

fn read_parameters(file: &SafeTensors<'_>) -> Result<Parameters, HeadError> {
    let mut parameters = Parameters::new();
    for (name, view) in file.iter() {
        let canonical = match name {
            "weight" | LAST_WEIGHT => LAST_WEIGHT,
            "bias" | LAST_BIAS => LAST_BIAS,
            other => {
                let other: String = other.chars().take(80).collect();
                return Err(refused(format!(
                    "it holds `{other}`; only {LAST_WEIGHT} and {LAST_BIAS} (or weight and bias) are accepted, deeper \
                     layers not yet"
                )));
            }
        };
        let tensor = HostTensor::from_le_bytes(view.dtype(), view.shape().to_vec(), view.data())
            .map_err(|error| refused(format!("`{name}` {error}")))?;
        if parameters.insert(canonical.to_owned(), tensor).is_some() {
            return Err(refused(format!(
                "it holds {canonical} twice, under its full and its short name"
            )));
        }
    }
    match [LAST_WEIGHT, LAST_BIAS]
        .into_iter()
        .find(|name| !parameters.contains_key(*name))
    {
        Some(missing) => Err(refused(format!("it lacks {missing}"))),
        None => Ok(parameters),
    }
}

/// K, if both shapes agree with it.
fn check_shapes(parameters: &Parameters, limits: &HeadLimits) -> Result<usize, HeadError> {
    let (weight, bias) = (&parameters[LAST_WEIGHT].shape, &parameters[LAST_BIAS].shape);
    let HeadLimits { classes_max, features } = *limits;
    let [classes, width] = weight[..] else {
        return Err(refused(format!(
            "{LAST_WEIGHT} has shape {weight:?}; [K, {features}] is expected"
        )));
    };
    if classes == 0 || classes > classes_max {
        return Err(refused(format!(
            "{LAST_WEIGHT} has {classes} classes; 1 to {classes_max} are accepted"
        )));
    }
    if width != features {
        return Err(refused(format!(
            "{LAST_WEIGHT} has shape {weight:?}; [{classes}, {features}] is expected"
        )));
    }
    if bias[..] != [classes] {
        return Err(refused(format!(
            "{LAST_BIAS} has shape {bias:?}; [{classes}] is expected"
        )));
    }
    Ok(classes)
}

fn check_finite(parameters: &Parameters) -> Result<(), HeadError> {
    for (name, tensor) in parameters {
        if let Some(index) = tensor.values.iter().position(|value| !value.is_finite()) {
            let value = tensor.values[index];
            return Err(refused(format!(
                "{name} holds {value} at element {index}; every weight must be finite"
            )));
        }
    }
    Ok(())
}

fn labels_in(metadata: HashMap<String, String>) -> Result<Vec<String>, HeadError> {
    let Some(text) = metadata.get("labels") else {
        return Ok(Vec::new());
    };
    serde_json::from_str(text).map_err(|error| HeadError::Labels {
        reason: format!("the file's metadata has `labels` that are no JSON list of strings ({error})"),
    })
}

fn check_labels(labels: &[String], classes: usize) -> Result<(), HeadError> {
    let refused = |reason| Err(HeadError::Labels { reason });
    if !labels.is_empty() && labels.len() != classes {
        return refused(format!(
            "there are {} for {classes} classes; give one for each or none",
            labels.len()
        ));
    }
    match labels.iter().position(|label| label.len() > LABEL_BYTES_MAX) {
        Some(index) => refused(format!("label {index} has more than {LABEL_BYTES_MAX} bytes")),
        None => Ok(()),
    }
}
