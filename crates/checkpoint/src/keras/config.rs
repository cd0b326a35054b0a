//! A Keras model's configuration: the JSON in which Keras 2 and 3 save a model's layers and how they are connected.
//!
//! `Model.get_config()` of Keras 2 and `serialize_keras_object` of Keras 3 write it; see
//! <https://keras.io/guides/serialization_and_saving/>.

use serde_json::{Map, Value as Json};

use super::refused;
use crate::CheckpointError;

/// Limit of the bytes of a configuration. That of a VGG16 has 30 kB. As values, JSON takes up to a hundred times its length.
pub(super) const BYTES_MAX: usize = 128 << 10;
/// Limit of a model's layers, those of models within it included.
const LAYERS_MAX: usize = 1024;
/// Limit of the calls of one layer that are looked at.
const CALLS_MAX: usize = 16;
/// Limit of the models within models.
const DEPTH_MAX: usize = 8;

/// A model: its layers, and for functional models their inputs and outputs.
#[derive(Debug)]
pub(super) struct Model {
    pub name: String,
    pub layers: Vec<Layer>,
    /// The names of the layers that take a functional model's inputs and return its outputs; `None` for a `Sequential`.
    pub ends: Option<Ends>,
}

#[derive(Debug)]
pub(super) struct Ends {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
}

#[derive(Debug)]
pub(super) struct Layer {
    pub name: String,
    /// Its class, with the package of one that was registered: `mine>Attention`.
    pub class: String,
    pub config: Map<String, Json>,
    /// The layers of a model that is a layer.
    pub model: Option<Model>,
    /// How a functional model calls it.
    pub calls: Vec<Call>,
}

/// A call of a layer.
#[derive(Debug, Default)]
pub(super) struct Call {
    /// The positional arguments.
    pub arguments: Vec<Argument>,
    /// The named ones.
    pub named: Vec<(String, Argument)>,
    /// True if the layer computes as in training, always. Keras 3 does not do that when it serves.
    pub is_training: bool,
}

/// An argument of a call.
#[derive(Debug, PartialEq)]
pub(super) enum Argument {
    /// The result of another layer.
    Result(String),
    /// Several results of other layers.
    Results(Vec<String>),
    /// Anything else.
    Constant(Json),
}

impl Layer {
    /// Returns true for a cast whose result is rounded.
    pub fn casts_to_integers(&self, call: &Call) -> bool {
        let named = call.named.iter().find(|(name, _)| name == "dtype");
        let given = match named {
            Some((_, Argument::Constant(dtype))) => dtype.as_str().unwrap_or_default().to_owned(),
            _ => text(&self.config, "dtype"),
        };
        given.contains("int") || given.contains("bool")
    }

    /// Returns true for a function that is a layer.
    pub fn is_operation(&self) -> bool {
        ["TFOpLambda", "SlicingOpLambda", "GetItem", "Negative"].contains(&self.class.as_str())
    }

    /// The shape that an input layer, or the first layer of a `Sequential`, takes, without the batch's size.
    pub fn first_shape(&self) -> Option<Vec<Option<usize>>> {
        let shape = ["batch_shape", "batch_input_shape"]
            .into_iter()
            .find_map(|key| self.config.get(key)?.as_array())?;
        let sizes = shape.iter().skip(1).take(4);
        Some(
            sizes
                .map(|size| size.as_u64().and_then(|size| usize::try_from(size).ok()))
                .collect(),
        )
    }
}

/// Reads a configuration.
///
/// # Errors
/// [`CheckpointError::Layer`] or [`CheckpointError::StateDict`] if it is not that of a model of layers.
pub(super) fn read(json: &[u8]) -> Result<Model, CheckpointError> {
    if json.len() > BYTES_MAX {
        let length = json.len();
        return Err(refused_model(&format!(
            "a configuration of {length} bytes; the limit is {BYTES_MAX}"
        )));
    }
    let broken = |error: serde_json::Error| refused_model(&format!("a configuration that is not JSON ({error})"));
    let mut json: Json = serde_json::from_slice(json).map_err(broken)?;
    let class = json["class_name"].as_str().unwrap_or_default().to_owned();
    let mut left = LAYERS_MAX;
    match model(&class, take(&mut json, "config"), DEPTH_MAX, &mut left)? {
        Some(model) => Ok(model),
        None => Err(refused_model(&format!(
            "a model of class {class}, whose layers only its code knows"
        ))),
    }
}

/// The layers of a model's configuration; `None` for classes of their own.
fn model(class: &str, config: Json, depth: usize, left: &mut usize) -> Result<Option<Model>, CheckpointError> {
    let is_sequential = class == "Sequential";
    if !is_sequential && !["Functional", "Model"].contains(&class) {
        return Ok(None);
    }
    // Keras before 2.2.3 wrote a Sequential's layers alone.
    let (mut config, layers) = match config {
        Json::Array(layers) => (Map::new(), layers),
        Json::Object(mut config) => match config.remove("layers") {
            Some(Json::Array(layers)) => (config, layers),
            _ => return Ok(None),
        },
        _ => return Ok(None),
    };
    let ends = match is_sequential {
        true => None,
        false => Some(Ends {
            inputs: tensors(config.remove("input_layers")),
            outputs: tensors(config.remove("output_layers")),
        }),
    };
    let mut read = Vec::with_capacity(layers.len().min(LAYERS_MAX));
    for layer in layers {
        *left = left
            .checked_sub(1)
            .ok_or_else(|| refused_model("more layers than a VGG16 needs"))?;
        read.push(self::layer(layer, depth, left)?);
    }
    Ok(Some(Model {
        name: text(&config, "name"),
        layers: read,
        ends,
    }))
}

fn layer(mut json: Json, depth: usize, left: &mut usize) -> Result<Layer, CheckpointError> {
    let class = class_of(&json);
    let config = take(&mut json, "config");
    let name = match (json["name"].as_str(), config["name"].as_str()) {
        (Some(name), _) | (None, Some(name)) => name.to_owned(),
        (None, None) => class.clone(),
    };
    let calls = calls(take(&mut json, "inbound_nodes"));
    let is_model = ["Sequential", "Functional", "Model"].contains(&class.as_str());
    if is_model && depth == 0 {
        return Err(refused(&name, "is a model within too many others; save it flat"));
    }
    let mut layer = Layer {
        name,
        class,
        config: Map::new(),
        model: None,
        calls,
    };
    if is_model {
        layer.model = model(&layer.class, config, depth - 1, left)?;
    } else if let Json::Object(config) = config {
        layer.config = config;
    }
    Ok(layer)
}

/// A layer's class, with its package or its module before it unless it is Keras's own. Keras 2's `.h5` has the name alone.
fn class_of(json: &Json) -> String {
    let class = json["class_name"].as_str().unwrap_or_default();
    let registered = json["registered_name"].as_str().filter(|name| name.contains('>'));
    // A class of one's own that was not registered has its name there, and no module.
    let is_nameless = json["module"].is_null() && json["registered_name"].is_string();
    let module = match json["module"].as_str() {
        None if is_nameless => "custom",
        module => module.unwrap_or("keras"),
    };
    let is_own = ["keras", "tf_keras", "tensorflow"]
        .iter()
        .any(|package| module.split('.').next() == Some(package));
    match (registered, is_own) {
        (Some(registered), _) => registered.to_owned(),
        (None, true) => class.to_owned(),
        (None, false) => format!("{module}>{class}"),
    }
}

/// The names of tensors: `["a", 0, 0]`, or a list of such, or a mapping of names to them.
fn tensors(json: Option<Json>) -> Vec<String> {
    match json {
        Some(Json::Array(list)) => match list.first() {
            Some(Json::String(name)) => vec![name.clone()],
            _ => list.into_iter().flat_map(|json| tensors(Some(json))).collect(),
        },
        Some(Json::Object(map)) => map.into_iter().flat_map(|(_, json)| tensors(Some(json))).collect(),
        _ => Vec::new(),
    }
}

fn calls(nodes: Json) -> Vec<Call> {
    let Json::Array(nodes) = nodes else {
        return Vec::new();
    };
    let mut calls = Vec::new();
    for node in nodes.into_iter().take(CALLS_MAX) {
        calls.push(match node {
            Json::Object(node) => keras3_call(node),
            Json::Array(node) => keras2_call(node),
            _ => Call::default(),
        });
    }
    calls
}

/// `{"args": [...], "kwargs": {...}}`
fn keras3_call(mut node: Map<String, Json>) -> Call {
    let mut call = Call::default();
    if let Some(Json::Array(arguments)) = node.remove("args") {
        call.arguments.extend(arguments.into_iter().map(keras3_argument));
    }
    if let Some(Json::Object(named)) = node.remove("kwargs") {
        let named = named.into_iter().map(|(name, value)| (name, keras3_argument(value)));
        call.named.extend(named);
    }
    call
}

fn keras3_argument(json: Json) -> Argument {
    if let Some(name) = keras3_tensor(&json) {
        return Argument::Result(name);
    }
    if let Json::Array(list) = &json {
        let names: Vec<String> = list.iter().filter_map(keras3_tensor).collect();
        if !names.is_empty() && names.len() == list.len() {
            return Argument::Results(names);
        }
    }
    Argument::Constant(json)
}

fn keras3_tensor(json: &Json) -> Option<String> {
    if json["class_name"] != "__keras_tensor__" {
        return None;
    }
    Some(json["config"]["keras_history"][0].as_str()?.to_owned())
}

/// `[["a", 0, 0, {...}]]`, or without the outer list for a function that is a layer. A constant before the tensor is
/// `["_CONSTANT_VALUE", -1, constant, {...}]`.
fn keras2_call(node: Vec<Json>) -> Call {
    let mut call = Call::default();
    let tensors = match node.first() {
        Some(Json::String(_)) => vec![Json::Array(node)],
        _ => node,
    };
    let mut names = Vec::new();
    for mut tensor in tensors {
        match tensor[0].as_str() {
            Some("_CONSTANT_VALUE") => {
                let constant = tensor.get_mut(2).map(Json::take).unwrap_or_default();
                call.arguments.push(Argument::Constant(constant));
            }
            Some(name) => names.push(name.to_owned()),
            None => {}
        }
        call.is_training |= tensor[3]["training"] == true;
        if let Json::Object(named) = tensor.get_mut(3).map(Json::take).unwrap_or_default() {
            let named = named.into_iter().map(|(name, value)| (name, keras2_argument(value)));
            call.named.extend(named);
        }
    }
    match &mut names[..] {
        [] => {}
        [only] => call.arguments.push(Argument::Result(std::mem::take(only))),
        _ => call.arguments.push(Argument::Results(names)),
    }
    call
}

fn keras2_argument(json: Json) -> Argument {
    let is_tensor = |json: &Json| json[0].is_string() && json[1].is_u64() && json[2].is_u64();
    if is_tensor(&json) {
        return Argument::Result(json[0].as_str().unwrap_or_default().to_owned());
    }
    if let Json::Array(list) = &json
        && !list.is_empty()
        && list.iter().all(is_tensor)
    {
        let names = list.iter().filter_map(|tensor| tensor[0].as_str()).map(str::to_owned);
        return Argument::Results(names.collect());
    }
    Argument::Constant(json)
}

fn take(json: &mut Json, key: &str) -> Json {
    json.get_mut(key).map(Json::take).unwrap_or_default()
}

/// A text of a configuration; empty without one.
pub(super) fn text(config: &Map<String, Json>, key: &str) -> String {
    config.get(key).and_then(Json::as_str).unwrap_or_default().to_owned()
}

fn refused_model(held: &str) -> CheckpointError {
    CheckpointError::Keras {
        reason: format!("it has {held}; save a model of keras.layers around keras.applications.VGG16"),
    }
}
