//! Checks that a checkpoint holds exactly the tensors of a whole VGG16 or of a head.

use std::collections::BTreeSet;

use headswap_spec::{Architecture, LAST_BIAS, LAST_WEIGHT};

use super::checkpoint::Checkpoint;
use super::text::excerpt;

/// The first difference between a checkpoint and what it should hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    /// A parameter is missing.
    #[error("the file lacks the tensor {name}; a whole VGG16 with torchvision's or timm's names is expected")]
    Missing {
        /// The parameter.
        name: String,
    },
    /// A tensor is not one of VGG16's parameters.
    #[error("the file holds the tensor {name}, which VGG16 does not have; leave it out")]
    Unexpected {
        /// The name in the file.
        name: String,
    },
    /// A parameter has another shape.
    #[error("{name} has shape {got:?}; {expected:?} is expected")]
    Shape {
        /// The parameter.
        name: String,
        /// The shape in the file.
        got: Vec<usize>,
        /// The shape in the architecture.
        expected: Vec<usize>,
    },
}

/// Returns the number of classes of the backbone that the checkpoint holds.
///
/// # Errors
/// [`Misfit`] if it is not exactly this architecture's parameters.
pub fn fit_backbone(architecture: Architecture, checkpoint: &Checkpoint) -> Result<usize, Misfit> {
    let classes = classes(checkpoint, LAST_BIAS).unwrap_or(1000);
    let expected = architecture.parameters(classes);
    for (name, shape) in &expected {
        let entry = checkpoint.tensors().find(|entry| entry.name == *name);
        let entry = entry.ok_or_else(|| Misfit::Missing { name: name.clone() })?;
        check_shape(name, &entry.shape, shape)?;
    }
    let known: BTreeSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    match checkpoint.tensors().find(|entry| !known.contains(entry.name.as_str())) {
        Some(entry) => Err(Misfit::Unexpected {
            name: excerpt(&entry.file_name),
        }),
        None => Ok(classes),
    }
}

/// Returns the number of classes of the head that the checkpoint holds: the last Linear, under its full or its short
/// names, and the other parameters that were fine-tuned.
///
/// # Errors
/// [`Misfit`] if it lacks the last Linear or holds a tensor that this architecture does not have.
pub fn fit_head(architecture: Architecture, checkpoint: &Checkpoint) -> Result<usize, Misfit> {
    let classes = classes(checkpoint, LAST_BIAS).or_else(|| classes(checkpoint, "bias"));
    let classes = classes.ok_or_else(|| Misfit::Missing { name: LAST_BIAS.into() })?;
    let expected = architecture.parameters(classes);
    let mut weight_seen = false;
    for entry in checkpoint.tensors() {
        let name = match entry.name.as_str() {
            "weight" => LAST_WEIGHT,
            "bias" => LAST_BIAS,
            full => full,
        };
        weight_seen |= name == LAST_WEIGHT;
        let known = expected.iter().find(|(known, _)| *known == name);
        let (_, shape) = known.ok_or_else(|| Misfit::Unexpected {
            name: excerpt(&entry.file_name),
        })?;
        check_shape(name, &entry.shape, shape)?;
    }
    weight_seen.then_some(classes).ok_or_else(|| Misfit::Missing {
        name: LAST_WEIGHT.into(),
    })
}

/// Returns the length of this bias, if the checkpoint holds it and it is not empty.
fn classes(checkpoint: &Checkpoint, bias: &str) -> Option<usize> {
    let entry = checkpoint.tensors().find(|entry| entry.name == bias)?;
    entry.shape.first().copied().filter(|classes| *classes > 0)
}

fn check_shape(name: &str, got: &[usize], expected: &[usize]) -> Result<(), Misfit> {
    if got == expected {
        return Ok(());
    }
    Err(Misfit::Shape {
        name: name.to_owned(),
        got: got.to_vec(),
        expected: expected.to_vec(),
    })
}
