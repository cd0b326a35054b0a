//! Tells what a Keras layer computes of a map or a vector, from its class and its configuration.

use serde_json::{Map, Value as Json};

use super::config::{Layer, text};
use crate::{ModuleKind, excerpt};

/// What a layer computes of what has become of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Rows, columns and channels.
    Map {
        /// Rows and columns, if the model's input has a fixed size.
        size: Option<[usize; 2]>,
        /// True if the channels come first.
        channels_first: bool,
    },
    Vector,
}

/// What a layer is.
pub(super) struct Kind {
    /// What it computes with its parameters, or without.
    pub module: ModuleKind,
    /// The activation after it.
    pub activation: Option<ModuleKind>,
    /// Its parameters in the order in which Keras saves them, by Keras's names.
    pub variables: Vec<&'static str>,
    /// What it returns.
    pub shape: Shape,
}

/// Why a layer is not read; the message goes on after its name.
pub(super) type Refusal = String;

/// Classes that change nothing outside of training: dropout, noise, and augmentation. A `RandomCrop` takes the middle, and so
/// changes the size.
const NOTHING: [&str; 34] = [
    "Dropout",
    "SpatialDropout1D",
    "SpatialDropout2D",
    "GaussianDropout",
    "GaussianNoise",
    "AlphaDropout",
    "ActivityRegularization",
    "Identity",
    "RandAugment",
    "AugMix",
    "CutMix",
    "MixUp",
    "RandomApply",
    "RandomBrightness",
    "RandomColorDegeneration",
    "RandomColorJitter",
    "RandomContrast",
    "RandomElasticTransform",
    "RandomErasing",
    "RandomFlip",
    "RandomGaussianBlur",
    "RandomGrayscale",
    "RandomHeight",
    "RandomHue",
    "RandomInvert",
    "RandomPerspective",
    "RandomPosterization",
    "RandomRotation",
    "RandomSaturation",
    "RandomSharpness",
    "RandomShear",
    "RandomTranslation",
    "RandomWidth",
    "RandomZoom",
];

/// Returns true for layers that change nothing outside of training.
pub(super) fn is_nothing(class: &str) -> bool {
    NOTHING.contains(&class)
}

/// Returns what a layer computes of a value of this shape.
///
/// # Errors
/// Why heads do not have it.
pub(super) fn kind(layer: &Layer, shape: Shape) -> Result<Kind, Refusal> {
    let config = &layer.config;
    let plain = |module, shape| Kind {
        module,
        activation: None,
        variables: Vec::new(),
        shape,
    };
    match (layer.class.as_str(), shape) {
        (class, Shape::Map { size: Some([1, 1]), .. }) if is_pooling(class) => {
            let shape = if class.starts_with("Global") {
                Shape::Vector
            } else {
                shape
            };
            Ok(plain(ModuleKind::Identity, shape))
        }
        ("Conv2D" | "Convolution2D", Shape::Map { .. }) => convolution(config, shape),
        ("MaxPooling2D" | "MaxPool2D", Shape::Map { .. }) => match pooled(config, shape)? {
            (Pooling { halves: true, .. }, shape) => Ok(plain(ModuleKind::MaxPool, shape)),
            (_, shape) => Ok(plain(MAX, shape)),
        },
        ("AveragePooling2D" | "AvgPool2D", Shape::Map { .. }) => match pooled(config, shape)? {
            (Pooling { whole: true, .. }, shape) => Ok(plain(AVERAGE, shape)),
            _ => Err(unsupported("averages parts of the map")),
        },
        ("GlobalAveragePooling2D" | "GlobalAvgPool2D", Shape::Map { channels_first, .. }) => {
            check_format(config, channels_first)?;
            Ok(plain(AVERAGE, Shape::Vector))
        }
        ("GlobalMaxPooling2D" | "GlobalMaxPool2D", Shape::Map { channels_first, .. }) => {
            check_format(config, channels_first)?;
            Ok(plain(MAX, Shape::Vector))
        }
        ("Flatten", shape) => Ok(plain(flattened(config, shape)?, Shape::Vector)),
        ("Reshape", shape) => reshaped(config, shape).map(|module| plain(module, Shape::Vector)),
        ("Dense", Shape::Vector) => Ok(Kind {
            module: ModuleKind::Linear,
            activation: activation(config)?,
            variables: with_bias(config),
            shape,
        }),
        ("Dense", Shape::Map { .. }) => Err(unsupported(
            "is a Dense on a map that no Flatten or pooling has made a vector",
        )),
        ("BatchNormalization" | "SyncBatchNormalization", shape) => batch_norm(config, shape),
        ("Activation", shape) => {
            let module = activation(config)?.unwrap_or(ModuleKind::Identity);
            Ok(plain(module, shape))
        }
        (class, shape) => match activation_layer(class, config) {
            Some(module) => Ok(plain(module, shape)),
            None => Err(format!("is of class {class}, which heads do not have; {TRAIN_WITHOUT}")),
        },
    }
}

/// Returns true for what leaves a map of one place as it is.
fn is_pooling(class: &str) -> bool {
    ["MaxPool", "AveragePool", "AvgPool"]
        .iter()
        .any(|kind| class.strip_prefix("Global").unwrap_or(class).starts_with(kind))
}

const AVERAGE: ModuleKind = ModuleKind::AdaptiveAveragePool { size: [1, 1] };
const MAX: ModuleKind = ModuleKind::AdaptiveMaxPool { size: [1, 1] };
const TRAIN_WITHOUT: &str = "train the head without it, or with others that are read (docs/weights.md lists them)";

fn unsupported(what: &str) -> Refusal {
    format!("{what}, which heads do not have; {TRAIN_WITHOUT}")
}

fn convolution(config: &Map<String, Json>, shape: Shape) -> Result<Kind, Refusal> {
    let Shape::Map { size, channels_first } = shape else {
        return Err(unsupported("is a convolution of a vector"));
    };
    check_format(config, channels_first)?;
    let kernel = pair(config, "kernel_size").unwrap_or([0; 2]);
    let is_plain = pair(config, "strides").is_none_or(|strides| strides == [1, 1])
        && pair(config, "dilation_rate").is_none_or(|rate| rate == [1, 1])
        && config.get("groups").is_none_or(|groups| groups == 1);
    if !is_plain {
        return Err(unsupported("is a convolution with a stride, a dilation or groups"));
    }
    let padding = match text(config, "padding").as_str() {
        "same" if kernel.iter().all(|side| side % 2 == 1) => kernel.map(|side| side / 2),
        "valid" => [0, 0],
        _ => return Err(unsupported("is a convolution with a padding of another kind")),
    };
    let mut after = size;
    if let Some(size) = &mut after {
        for side in 0..2 {
            size[side] = (size[side] + 2 * padding[side] + 1).saturating_sub(kernel[side]);
        }
    }
    Ok(Kind {
        module: ModuleKind::Conv2d { padding },
        activation: activation(config)?,
        variables: with_bias(config),
        shape: Shape::Map {
            size: after,
            channels_first,
        },
    })
}

fn with_bias(config: &Map<String, Json>) -> Vec<&'static str> {
    match config.get("use_bias") {
        Some(Json::Bool(false)) => vec!["kernel"],
        _ => vec!["kernel", "bias"],
    }
}

/// What a pooling without overlaps takes together.
struct Pooling {
    /// 2x2 places.
    halves: bool,
    /// All of the map.
    whole: bool,
}

/// A pooling of 2x2 places that do not overlap, or of the whole map.
fn pooled(config: &Map<String, Json>, shape: Shape) -> Result<(Pooling, Shape), Refusal> {
    let Shape::Map { size, channels_first } = shape else {
        return Err(unsupported("pools a vector"));
    };
    check_format(config, channels_first)?;
    let window = pair(config, "pool_size").unwrap_or([2, 2]);
    let is_apart = pair(config, "strides").unwrap_or(window) == window;
    let is_even = size.is_some_and(|size| size.iter().all(|side| side % 2 == 0));
    let is_padded = text(config, "padding") == "same";
    let pooling = Pooling {
        halves: window == [2, 2] && is_apart && (!is_padded || is_even),
        whole: Some(window) == size && !is_padded,
    };
    if !pooling.halves && !pooling.whole {
        let [rows, columns] = window;
        return Err(unsupported(&format!("pools {rows}x{columns} places of the map")));
    }
    let after = match pooling.whole {
        true => Some([1, 1]),
        false => size.map(|size| size.map(|side| side / 2)),
    };
    Ok((
        pooling,
        Shape::Map {
            size: after,
            channels_first,
        },
    ))
}

/// Keras's `Flatten` puts the channels last, whatever the order of the map, if its own `data_format` is the map's.
fn flattened(config: &Map<String, Json>, shape: Shape) -> Result<ModuleKind, Refusal> {
    let Shape::Map { channels_first, size } = shape else {
        return Ok(ModuleKind::Identity);
    };
    if size == Some([1, 1]) {
        return Ok(ModuleKind::Identity);
    }
    match (channels_first, text(config, "data_format") == "channels_first") {
        (false, true) => Err(unsupported(
            "flattens a map whose channels are last as if they were first",
        )),
        (map, own) => Ok(ModuleKind::Flatten {
            channels_last: map == own,
        }),
    }
}

/// A `Reshape` to one dimension.
fn reshaped(config: &Map<String, Json>, shape: Shape) -> Result<ModuleKind, Refusal> {
    let target = config.get("target_shape").and_then(Json::as_array);
    match (target.map(Vec::len), shape) {
        (Some(1), Shape::Vector) => Ok(ModuleKind::Identity),
        (Some(1), Shape::Map { channels_first, .. }) => Ok(ModuleKind::Flatten {
            channels_last: !channels_first,
        }),
        _ => Err(unsupported("reshapes to several dimensions")),
    }
}

fn batch_norm(config: &Map<String, Json>, shape: Shape) -> Result<Kind, Refusal> {
    let axis = match config.get("axis") {
        Some(Json::Array(axes)) if axes.len() == 1 => axes[0].as_i64(),
        Some(axis) => axis.as_i64(),
        None => Some(-1),
    };
    let channels = match shape {
        Shape::Vector => 1,
        Shape::Map { channels_first, .. } if channels_first => 1,
        Shape::Map { .. } => 3,
    };
    let is_last = !matches!(
        shape,
        Shape::Map {
            channels_first: true,
            ..
        }
    );
    if axis != Some(channels) && !(is_last && axis == Some(-1)) {
        return Err(unsupported("normalises along another axis than the channels'"));
    }
    let has = |key: &str| config.get(key) != Some(&Json::Bool(false));
    let mut variables = Vec::new();
    for (key, name) in [("scale", "gamma"), ("center", "beta")] {
        if has(key) {
            variables.push(name);
        }
    }
    variables.extend(["moving_mean", "moving_variance"]);
    Ok(Kind {
        module: ModuleKind::BatchNorm {
            eps: config.get("epsilon").and_then(Json::as_f64).unwrap_or(1e-3),
        },
        activation: None,
        variables,
        shape,
    })
}

/// The activation of a layer's configuration: its name, or in Keras 3 also an object.
fn activation(config: &Map<String, Json>) -> Result<Option<ModuleKind>, Refusal> {
    let name = match config.get("activation") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(name)) => name.clone(),
        Some(object) => match (object["config"].as_str(), object["class_name"].as_str()) {
            (Some(name), _) => name.to_owned(),
            // A layer as an activation.
            (None, Some(class)) => {
                let own = object["config"].as_object().cloned().unwrap_or_default();
                let kind = activation_layer(class, &own);
                return kind
                    .map(Some)
                    .ok_or_else(|| unsupported(&format!("has the activation {}", excerpt(class))));
            }
            (None, None) => "that is a function".to_owned(),
        },
    };
    Ok(Some(match name.as_str() {
        "linear" => return Ok(None),
        "relu" => ModuleKind::Relu,
        "leaky_relu" => ModuleKind::LeakyRelu { slope: 0.2 },
        "elu" => ModuleKind::Elu { alpha: 1.0 },
        "gelu" => ModuleKind::Gelu { tanh: false },
        "silu" | "swish" => ModuleKind::Silu,
        "tanh" => ModuleKind::Tanh,
        "sigmoid" => ModuleKind::Sigmoid,
        "softmax" | "softmax_v2" => ModuleKind::Softmax,
        "log_softmax" => ModuleKind::LogSoftmax,
        name => return Err(unsupported(&format!("has the activation {}", excerpt(name)))),
    }))
}

/// A layer that is an activation.
fn activation_layer(class: &str, config: &Map<String, Json>) -> Option<ModuleKind> {
    let number = |keys: &[&str], default: f64| {
        let value = keys.iter().find_map(|key| config.get(*key));
        match value {
            None | Some(Json::Null) => Some(default),
            // Keras 2 writes the NumPy scalar that it was given as an object.
            Some(Json::Object(object)) => object.get("value").and_then(Json::as_f64),
            Some(value) => value.as_f64(),
        }
    };
    let is_last_axis = config.get("axis").is_none_or(|axis| axis == -1 || axis == 1);
    match class {
        "ReLU" => {
            let is_capped = config.get("max_value").is_some_and(|value| !value.is_null());
            let is_plain = !is_capped && number(&["threshold"], 0.0)? == 0.0;
            match number(&["negative_slope"], 0.0)? {
                0.0 if is_plain => Some(ModuleKind::Relu),
                slope if is_plain => Some(ModuleKind::LeakyRelu { slope }),
                _ => None,
            }
        }
        "LeakyReLU" => Some(ModuleKind::LeakyRelu {
            slope: number(&["negative_slope", "alpha"], 0.3)?,
        }),
        "ELU" => Some(ModuleKind::Elu {
            alpha: number(&["alpha"], 1.0)?,
        }),
        "Softmax" if is_last_axis => Some(ModuleKind::Softmax),
        _ => None,
    }
}

/// Refuses a layer whose `data_format` is not the map's.
fn check_format(config: &Map<String, Json>, channels_first: bool) -> Result<(), Refusal> {
    match (text(config, "data_format").as_str(), channels_first) {
        ("", _) | ("channels_last", false) | ("channels_first", true) => Ok(()),
        (format, _) => Err(unsupported(&format!(
            "has data_format {}, unlike what it takes",
            excerpt(format)
        ))),
    }
}

/// A pair of sizes, or one for both.
fn pair(config: &Map<String, Json>, key: &str) -> Option<[usize; 2]> {
    let size = |json: &Json| {
        json.as_u64()
            .and_then(|size| usize::try_from(size).ok())
            .filter(|size| *size < 1 << 16)
    };
    match config.get(key)? {
        Json::Array(sizes) => match &sizes[..] {
            [rows, columns] => Some([size(rows)?, size(columns)?]),
            _ => None,
        },
        number => Some([size(number)?; 2]),
    }
}
