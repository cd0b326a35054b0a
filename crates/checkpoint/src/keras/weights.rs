//! Reads files of weights without a configuration: the layers' names and variables are known, not what lies between.

use std::collections::BTreeMap;

use super::{attribute, entry, groups_in, refused};
use crate::CheckpointError;
use crate::checkpoint::Headers;
use crate::entry::TensorEntry;
use crate::hdf5::{Attribute, Dataset, Hdf5};

/// Groups that hold no layers.
const OTHERS: [&str; 3] = ["optimizer", "optimizer_weights", "top_level_model_weights"];

/// A layer's variables, by their names or numbers.
type Layer<'a> = Vec<(&'a str, &'a Dataset)>;

pub(super) fn headers(file: &Hdf5, root: &str, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let is_numbered = !groups_in(file, "layers").is_empty();
    let mut layers: BTreeMap<String, Layer<'_>> = BTreeMap::new();
    for dataset in file.datasets() {
        let Some(path) = within(&dataset.path, root) else {
            continue;
        };
        let (parent, variable) = path.rsplit_once('/').unwrap_or(("", path));
        let name = match is_numbered {
            true => numbered_name(file, parent),
            false => named(parent),
        };
        if let Some(name) = name {
            layers.entry(name).or_default().push((variable, dataset));
        }
    }
    if layers.is_empty() {
        return Err(CheckpointError::Keras {
            reason: "it has no layers of a Keras model; save one with model.save(\"model.keras\") or model.save_weights(...)"
                .into(),
        });
    }
    let mut entries = Vec::new();
    for (name, variables) in layers {
        add(&mut entries, &name, variables)?;
    }
    Ok(Headers {
        entries,
        selected: key.map(str::to_owned),
        ..Headers::default()
    })
}

fn within<'a>(path: &'a str, root: &str) -> Option<&'a str> {
    let path = match root {
        "" => path,
        root => path.strip_prefix(root)?.strip_prefix('/')?,
    };
    let first = path.split('/').next().unwrap_or_default();
    (!OTHERS.contains(&first)).then_some(path)
}

/// The dotted path of a layer in Keras 2's layout: `vgg16/block1_conv1` is that of a model within, and `dense/dense` and
/// `dense` are the same layer.
fn named(parent: &str) -> Option<String> {
    let mut path: Vec<&str> = Vec::new();
    for name in parent.split('/') {
        if path.last() != Some(&name) {
            path.push(name);
        }
    }
    let is_empty = path.iter().all(|name| name.is_empty());
    (!is_empty).then(|| path.join("."))
}

/// That in Keras 3's layout: `layers/functional/layers/conv2d_1/vars`. Where the layer's own name is beside it, it is the last.
fn numbered_name(file: &Hdf5, parent: &str) -> Option<String> {
    let group = parent.strip_suffix("/vars")?;
    let mut path: Vec<&str> = group.split('/').filter(|name| *name != "layers").collect();
    let own = match attribute(file, parent, "name") {
        Some(Attribute::Text(name)) if !name.is_empty() => name.as_str(),
        _ => path.last().copied()?,
    };
    if let Some(last) = path.last_mut() {
        *last = own;
    }
    Some(path.join("."))
}

/// Adds the entries of one layer.
fn add(entries: &mut Vec<TensorEntry>, name: &str, mut variables: Layer<'_>) -> Result<(), CheckpointError> {
    variables.sort_by(|(first, _), (second, _)| first.len().cmp(&second.len()).then(first.cmp(second)));
    let ranks: Vec<usize> = variables.iter().map(|(_, dataset)| dataset.shape.len()).collect();
    let are_named = variables.iter().any(|(variable, _)| variable.parse::<usize>().is_err());
    let expected: Vec<&str> = match (are_named, &ranks[..]) {
        (true, _) => variables
            .iter()
            .map(|(variable, dataset)| role(variable, dataset))
            .collect(),
        (false, [2 | 4, 1]) => vec!["kernel", "bias"],
        (false, [2 | 4]) => vec!["kernel"],
        (false, [1, 1, 1, 1]) => vec!["gamma", "beta", "moving_mean", "moving_variance"],
        (false, [1, 1]) => vec!["moving_mean", "moving_variance"],
        // The mean, the variance and the count of a Normalization. What it does must be said.
        (false, [_, _, 0]) => return Ok(()),
        (false, _) => {
            return Err(refused(
                name,
                "has variables whose meaning only the model's configuration says; save the whole model with \
                 model.save(\"model.keras\")",
            ));
        }
    };
    for (variable, (_, dataset)) in expected.into_iter().zip(variables) {
        entries.push(entry::of(name, variable, dataset)?);
    }
    Ok(())
}

/// What a variable is, by its name: `kernel:0`, or `block1_conv1_W_1:0` in the files of keras.applications.
fn role<'a>(variable: &'a str, dataset: &Dataset) -> &'a str {
    let name = variable.split(':').next().unwrap_or(variable);
    let is_old = |letter: &str| name.split('_').rev().take(2).any(|part| part == letter);
    match dataset.shape.len() {
        2 | 4 if is_old("W") => "kernel",
        1 if is_old("b") => "bias",
        _ => name,
    }
}
