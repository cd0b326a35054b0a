//! Reads files of weights without a configuration: the layers' names and variables are known, not what lies between.

use std::collections::BTreeMap;

use super::{attribute, entry, groups_in, refused};
use crate::CheckpointError;
use crate::checkpoint::Headers;
use crate::entry::TensorEntry;
use crate::hdf5::{Attribute, Dataset, Hdf5};
use crate::head::natural;

/// Groups that hold no layers.
const OTHERS: [&str; 4] = ["optimizer", "optimizer_weights", "top_level_model_weights", "metrics"];

/// A layer's variables, by their names or numbers.
type Layer<'a> = Vec<(&'a str, &'a Dataset)>;

/// A layer of the file.
struct Found<'a> {
    path: String,
    /// Where it comes: in a list of names, and then by the name of its group.
    place: (usize, &'a str),
    variables: Layer<'a>,
}

pub(super) fn headers(file: &Hdf5, root: &str, key: Option<&str>) -> Result<Headers, CheckpointError> {
    let is_numbered = !groups_in(file, "layers").is_empty();
    let listed: &[String] = match attribute(file, root, "layer_names") {
        Some(Attribute::Texts(names)) => names,
        _ => &[],
    };
    let mut layers: BTreeMap<&str, Found<'_>> = BTreeMap::new();
    for dataset in file.datasets() {
        let Some(path) = within(&dataset.path, root) else {
            continue;
        };
        let (parent, variable) = path.rsplit_once('/').unwrap_or(("", path));
        let name = match is_numbered {
            true => numbered_name(file, parent),
            false => named(parent),
        };
        let Some(path) = name else {
            continue;
        };
        let top = parent.split('/').next().unwrap_or_default();
        let place = listed.iter().position(|name| name == top).unwrap_or(listed.len());
        let found = layers.entry(parent).or_insert_with(|| Found {
            path,
            place: (place, parent),
            variables: Vec::new(),
        });
        found.variables.push((variable, dataset));
    }
    if layers.is_empty() {
        return Err(CheckpointError::Keras {
            reason: "it has no layers of a Keras model; save one with model.save(\"model.keras\") or model.save_weights(...)"
                .into(),
        });
    }
    let mut layers: Vec<Found<'_>> = layers.into_values().collect();
    layers.sort_by(|one, other| {
        one.place
            .0
            .cmp(&other.place.0)
            .then(natural::compare(one.place.1, other.place.1))
    });
    if is_numbered {
        check_one_model(&layers)?;
    }
    let (mut entries, mut order) = (Vec::new(), Vec::new());
    for layer in layers {
        let is_norm = !is_numbered || class(layer.place.1) == "batch_normalization";
        add(&mut entries, &layer.path, layer.variables, is_norm)?;
        order.push(layer.path);
    }
    Ok(Headers {
        entries,
        order,
        selected: key.map(str::to_owned),
        ..Headers::default()
    })
}

/// The class of a numbered group: `dense` of `layers/dense_1/vars`.
fn class(group: &str) -> &str {
    let name = group
        .strip_suffix("/vars")
        .unwrap_or(group)
        .rsplit('/')
        .next()
        .unwrap_or_default();
    match name.rsplit_once('_') {
        Some((class, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => class,
        _ => name,
    }
}

/// Refuses Denses in several models: which model comes first only the configuration says.
fn check_one_model(layers: &[Found<'_>]) -> Result<(), CheckpointError> {
    let mut around: Option<&str> = None;
    for layer in layers.iter().filter(|layer| class(layer.place.1) == "dense") {
        let group = layer.place.1.strip_suffix("/vars").unwrap_or_default();
        let parent = group.rsplit_once('/').map_or("", |(parent, _)| parent);
        if around.is_some_and(|other| other != parent) {
            return Err(refused(
                &layer.path,
                "is in another model than the Dense before it, and only the model's configuration says which comes first; \
                 save the whole model with model.save(\"model.keras\")",
            ));
        }
        around = Some(parent);
    }
    Ok(())
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
fn add(
    entries: &mut Vec<TensorEntry>,
    name: &str,
    mut variables: Layer<'_>,
    is_norm: bool,
) -> Result<(), CheckpointError> {
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
        (false, [1, 1, 1, 1]) if is_norm => vec!["gamma", "beta", "moving_mean", "moving_variance"],
        (false, [1, 1]) if is_norm => vec!["moving_mean", "moving_variance"],
        // A Normalization: it is listed as left out, and what it does must be said.
        (false, [_, _, 0]) => vec!["mean", "variance", "count"],
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
