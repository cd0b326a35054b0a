//! Where the variables of a Keras model's layers are in its HDF5 file.
//!
//! Two layouts: that of Keras 2, which Keras 3 keeps for `.h5`, has a group for each layer of the model, in which datasets
//! have the variables' names (`dense/dense/kernel:0`); that of Keras 3's `.keras` and `.weights.h5` has groups by the
//! layers' classes, numbered in each model, in which datasets are numbered (`layers/functional/layers/conv2d_1/vars/0`).

use std::collections::{BTreeMap, HashMap};

use super::config::{Layer, Model};
use super::{attribute, groups_in, refused};
use crate::CheckpointError;
use crate::hdf5::{Attribute, Dataset, Hdf5};

/// The variables of one file.
#[derive(Clone, Copy)]
pub(super) enum Variables<'a> {
    /// Keras 2's layout, in the group with this path.
    Named { file: &'a Hdf5, root: &'a str },
    /// Keras 3's.
    Numbered { file: &'a Hdf5 },
}

/// The place of a model in a file.
#[derive(Clone, Debug, Default)]
pub(super) struct Scope {
    /// The path of its numbered group: empty, or `layers/functional`.
    group: String,
    /// The names of the models around, from the outermost but one: empty, or `vgg16`.
    names: Vec<String>,
    /// The numbered groups of its layers, by their names.
    groups: HashMap<String, String>,
}

impl Scope {
    /// The outermost model.
    pub fn of(model: &Model, variables: Variables<'_>) -> Self {
        let mut scope = Self::default();
        scope.groups = variables.groups(&scope.group, model);
        scope
    }

    /// A model that is a layer of this one.
    pub fn within(&self, layer: &Layer, model: &Model, variables: Variables<'_>) -> Self {
        let mut names = self.names.clone();
        names.push(layer.name.clone());
        let group = self.groups.get(&layer.name).cloned().unwrap_or_default();
        let groups = variables.groups(&group, model);
        Self { group, names, groups }
    }

    /// The dotted path of one of its layers.
    pub fn path(&self, layer: &str) -> String {
        let mut path = self.names.join(".");
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(layer);
        path
    }
}

impl<'a> Variables<'a> {
    /// Returns a layer's variables, in the order of their Keras names `expected`.
    ///
    /// # Errors
    /// [`CheckpointError::Layer`] if the file has more, fewer or others.
    pub fn of(&self, scope: &Scope, layer: &str, expected: &[&str]) -> Result<Vec<&'a Dataset>, CheckpointError> {
        if expected.is_empty() {
            return Ok(Vec::new());
        }
        let found = match *self {
            Self::Named { file, root } => named(file, root, scope, layer, expected),
            Self::Numbered { file } => {
                let group = scope.groups.get(layer).map_or("", String::as_str);
                let numbered: Vec<&Dataset> = (0..=expected.len())
                    .filter_map(|number| dataset(file, &format!("{group}/vars/{number}")))
                    .collect();
                numbered
            }
        };
        if found.len() == expected.len() {
            return Ok(found);
        }
        let names = expected.join(", ");
        let held = found.len();
        Err(refused(
            &scope.path(layer),
            &format!("has {held} variables in the file where {names} are expected; save the model again"),
        ))
    }

    /// The numbered groups of a model's layers: by the name that Keras 3 writes beside them, else by their classes in order.
    fn groups(&self, group: &str, model: &Model) -> HashMap<String, String> {
        let Self::Numbered { file } = *self else {
            return HashMap::new();
        };
        let mut groups = HashMap::new();
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for layer in &model.layers {
            let class = snake_case(&layer.class);
            let count = counts.entry(class.clone()).or_default();
            let number = match *count {
                0 => String::new(),
                count => format!("_{count}"),
            };
            *count += 1;
            let before = if group.is_empty() {
                String::new()
            } else {
                format!("{group}/")
            };
            groups.insert(layer.name.clone(), format!("{before}layers/{class}{number}"));
        }
        if let Some(named) = written_names(file, group, model) {
            groups.extend(named);
        }
        groups
    }
}

/// The numbered groups of a model's layers by the names in their attributes; `None` unless each layer's is there once.
fn written_names(file: &Hdf5, group: &str, model: &Model) -> Option<HashMap<String, String>> {
    let layers = if group.is_empty() {
        "layers".to_owned()
    } else {
        format!("{group}/layers")
    };
    let mut named = HashMap::new();
    for path in groups_in(file, &layers) {
        let Some(Attribute::Text(name)) = attribute(file, &format!("{path}/vars"), "name") else {
            continue;
        };
        if named.insert(name.clone(), path.to_owned()).is_some() {
            return None;
        }
    }
    model
        .layers
        .iter()
        .all(|layer| named.contains_key(&layer.name))
        .then_some(named)
}

fn dataset<'a>(file: &'a Hdf5, path: &str) -> Option<&'a Dataset> {
    file.datasets().iter().find(|dataset| dataset.path == path)
}

/// Keras's `to_snake_case`.
fn snake_case(class: &str) -> String {
    // What was registered is saved by the class without its package.
    let class = class.rsplit('>').next().unwrap_or(class);
    let letters: Vec<char> = class
        .chars()
        .filter(|char| char.is_alphanumeric() || *char == '_')
        .collect();
    let mut snake = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).map(|before| letters[before]);
        let starts_word = letters.get(index + 1).is_some_and(|next| next.is_lowercase());
        let after_word = before.is_some_and(|before| before.is_lowercase());
        if letter.is_uppercase() && before.is_some() && (starts_word || after_word) && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

/// A layer's datasets in Keras 2's layout, in the order of `expected`; all that are there if they are others.
fn named<'a>(file: &'a Hdf5, root: &str, scope: &Scope, layer: &str, expected: &[&str]) -> Vec<&'a Dataset> {
    let top = scope.names.first().map_or(layer, String::as_str);
    let group = match root {
        "" => format!("{top}/"),
        root => format!("{root}/{top}/"),
    };
    let mut all: Vec<(&str, &str, &Dataset)> = Vec::new();
    for dataset in file.datasets() {
        if let Some(name) = dataset.path.strip_prefix(&group) {
            let (parent, variable) = name.rsplit_once('/').unwrap_or(("", name));
            let parent = parent.rsplit('/').next().unwrap_or(parent);
            all.push((parent, variable.split(':').next().unwrap_or(variable), dataset));
        }
    }
    if !scope.names.is_empty() {
        let is_own = |parent: &str| parent == layer || without_number(parent) == Some(layer);
        let exact = all.iter().any(|(parent, ..)| *parent == layer);
        let near = all.iter().any(|(parent, ..)| is_own(parent));
        // A Normalization's variables have no layer before them.
        all.retain(|(parent, ..)| match (exact, near) {
            (true, _) => *parent == layer,
            (false, true) => is_own(parent),
            (false, false) => parent.is_empty(),
        });
    }
    let mut ordered = Vec::new();
    for name in expected {
        let mut matching = all.iter().filter(|(_, variable, _)| variable == name);
        match (matching.next(), matching.next()) {
            (Some((.., dataset)), None) => ordered.push(*dataset),
            _ => return by_rank(all.into_iter().map(|(.., dataset)| dataset).collect(), expected),
        }
    }
    // What changes the others, such as LoRA's. What renorm keeps counts in training alone.
    let is_more = |variable: &str| !expected.contains(&variable) && !variable.starts_with("renorm");
    if all.iter().any(|(_, variable, _)| is_more(variable)) {
        return all.into_iter().map(|(.., dataset)| dataset).collect();
    }
    ordered
}

/// `block1_conv1` of `block1_conv1_1`, as TensorFlow 1 names the variables of a second model.
fn without_number(name: &str) -> Option<&str> {
    let (name, number) = name.rsplit_once('_')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(name)
}

/// The kernel and the bias of a layer under names of other releases, such as `block1_conv1_W_1:0`.
fn by_rank<'a>(mut datasets: Vec<&'a Dataset>, expected: &[&str]) -> Vec<&'a Dataset> {
    if expected == ["kernel", "bias"] && datasets.len() == 2 {
        datasets.sort_by_key(|dataset| std::cmp::Reverse(dataset.shape.len()));
        let [kernel, bias] = datasets[..] else {
            return Vec::new();
        };
        if kernel.shape.len() > 1 && bias.shape.len() == 1 {
            return datasets;
        }
    }
    if expected.len() == 1 && datasets.len() == 1 {
        return datasets;
    }
    // Variables under unknown names are not told apart.
    datasets.truncate(if datasets.len() == expected.len() {
        0
    } else {
        datasets.len()
    });
    datasets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_called_as_keras_calls_their_groups() {
        for (class, expected) in [
            ("Conv2D", "conv2d"),
            ("MaxPooling2D", "max_pooling2d"),
            ("GlobalAveragePooling2D", "global_average_pooling2d"),
            ("BatchNormalization", "batch_normalization"),
            ("ReLU", "re_lu"),
            ("LeakyReLU", "leaky_re_lu"),
            ("Dense", "dense"),
            ("TFOpLambda", "tf_op_lambda"),
            ("InputLayer", "input_layer"),
            ("mine>Attention", "attention"),
        ] {
            assert_eq!(snake_case(class), expected);
        }
    }
}
