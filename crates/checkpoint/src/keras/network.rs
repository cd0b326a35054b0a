//! Follows a Keras model from its picture to its output, layer by layer.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::config::{Argument, Call, Layer, Model, text};
use super::layer::{self, Shape};
use super::map_history::MapHistory;
use super::normalization;
use super::picture::{self, Operand, Picture};
use super::preprocess_input;
use super::variables::{Scope, Variables};
use super::{entry, refused};
use crate::entry::TensorEntry;
use crate::source::Source;
use crate::{CheckpointError, Graph, Module, excerpt};

/// What was read of a model.
pub(super) struct Network<'a> {
    file: File<'a>,
    pub modules: Vec<Module>,
    pub entries: Vec<TensorEntry>,
    /// `None` until its picture, or the map that it begins with, is known.
    pub graph: Option<Graph>,
    /// What was assumed.
    pub assumed: Vec<String>,
    /// The number of the last result.
    last: usize,
    size: Option<[u32; 2]>,
    is_channels_first: bool,
    history: MapHistory,
}

/// The result of a layer.
#[derive(Clone)]
enum Value {
    Picture(Picture),
    /// What has become of the picture. Only the last result is of use: nothing else has been computed beside it.
    Result {
        number: usize,
        shape: Shape,
    },
}

/// What reading needs of the file.
#[derive(Clone, Copy)]
pub(super) struct File<'a> {
    pub variables: Variables<'a>,
    pub source: &'a Source,
}

/// Reads a model.
///
/// # Errors
/// [`CheckpointError::Layer`] names the first layer that heads do not have.
pub(super) fn read<'a>(model: &Model, file: File<'a>) -> Result<Network<'a>, CheckpointError> {
    let mut network = Network {
        file,
        modules: Vec::new(),
        entries: Vec::new(),
        graph: None,
        assumed: Vec::new(),
        last: 0,
        size: None,
        is_channels_first: false,
        history: MapHistory::default(),
    };
    let scope = Scope::of(model, file.variables);
    let result = network.model(model, &scope, None)?;
    match result {
        Value::Result { number, .. } if number == network.last => Ok(network),
        _ => Err(CheckpointError::Keras {
            reason: "its model returns something else than the result of its last layer; save a model of one branch"
                .into(),
        }),
    }
}

impl Network<'_> {
    /// Follows a model, and returns its result.
    fn model(&mut self, model: &Model, scope: &Scope, fed: Option<Value>) -> Result<Value, CheckpointError> {
        match &model.ends {
            None => self.sequential(model, scope, fed),
            Some(ends) => match (&ends.inputs[..], &ends.outputs[..]) {
                ([input], [output]) => self.functional(model, scope, fed, [input, output]),
                (inputs, outputs) => Err(refused(
                    &excerpt(&model.name),
                    &format!(
                        "is a model of {} inputs and {} outputs; one of each is read",
                        inputs.len(),
                        outputs.len()
                    ),
                )),
            },
        }
    }

    fn sequential(&mut self, model: &Model, scope: &Scope, fed: Option<Value>) -> Result<Value, CheckpointError> {
        let mut value = fed;
        for layer in &model.layers {
            let taken = match value.take() {
                Some(value) => value,
                None => match layer.first_shape() {
                    Some(shape) => self.start(&layer.name, &shape)?,
                    // A model within: its own first layer has the shape.
                    None if layer.model.is_some() => {
                        value = Some(self.within(layer, scope, None)?);
                        continue;
                    }
                    None => return Err(no_input(&layer.name)),
                },
            };
            value = Some(match layer.class.as_str() {
                "InputLayer" => taken,
                _ => self.layer(layer, scope, taken)?,
            });
        }
        value.ok_or_else(|| no_input(&model.name))
    }

    fn functional(
        &mut self,
        model: &Model,
        scope: &Scope,
        mut fed: Option<Value>,
        [input, output]: [&String; 2],
    ) -> Result<Value, CheckpointError> {
        let mut results: HashMap<&str, Value> = HashMap::new();
        for layer in &model.layers {
            let value = match (&layer.calls[..], layer.class.as_str()) {
                ([], _) if layer.name == *input => match (fed.take(), layer.first_shape()) {
                    (Some(value), _) => value,
                    (None, Some(shape)) => self.start(&layer.name, &shape)?,
                    (None, None) => return Err(no_input(&layer.name)),
                },
                ([call], _) => self.call(layer, call, scope, &results)?,
                _ => {
                    return Err(refused(
                        &scope.path(&layer.name),
                        "is used several times, or is a second input; a model of one branch is read",
                    ));
                }
            };
            results.insert(&layer.name, value);
        }
        match results.remove(output.as_str()) {
            Some(value) => Ok(value),
            None => Err(no_input(output)),
        }
    }

    /// Computes one call of a layer.
    fn call(
        &mut self,
        layer: &Layer,
        call: &Call,
        scope: &Scope,
        results: &HashMap<&str, Value>,
    ) -> Result<Value, CheckpointError> {
        if call.is_training && !layer.is_operation() {
            return Err(refused(
                &scope.path(&layer.name),
                "is called with training=True, and so computes as in training; call it without",
            ));
        }
        if let [Argument::Result(name)] = &call.arguments[..]
            && let Some(value) = results.get(name.as_str())
            && !layer.is_operation()
        {
            return self.layer(layer, scope, value.clone());
        }
        let is_plain = !self.is_channels_first && !layer.casts_to_integers(call);
        let operands = operands(call, results).filter(|_| is_plain);
        let operation = match text(&layer.config, "function") {
            function if function.is_empty() => layer.class.clone(),
            function => function,
        };
        let picture = operands.and_then(|operands| picture::operation(&operation, &operands));
        picture.map(Value::Picture).ok_or_else(|| {
            refused(
                &scope.path(&layer.name),
                &format!(
                    "computes {}, which is not read there; a model of one branch is, with linear functions of the picture's \
                     channels before its convolutions",
                    excerpt(&operation)
                ),
            )
        })
    }

    /// Computes a layer that takes one value.
    fn layer(&mut self, layer: &Layer, scope: &Scope, value: Value) -> Result<Value, CheckpointError> {
        if layer.model.is_some() {
            return self.within(layer, scope, Some(value));
        }
        if layer::is_nothing(&layer.class) {
            return Ok(value);
        }
        if let Value::Picture(picture) = &value
            && let Some(picture) = self.picture_layer(layer, scope, picture)?
        {
            return Ok(Value::Picture(picture));
        }
        let path = scope.path(&layer.name);
        if layer.class == "Lambda" {
            return Err(refused(
                &path,
                "is a Lambda of Python code, which is never run; build the model without it, and say what it did with \
                 --preprocessing or --spec",
            ));
        }
        let shape = match value {
            Value::Picture(picture) => self.enter(layer, &path, &picture)?,
            Value::Result { number, shape } if number == self.last => shape,
            Value::Result { .. } => {
                return Err(refused(
                    &path,
                    "takes what another layer takes, too; a model of one branch is read",
                ));
            }
        };
        let kind = layer::kind(layer, shape).map_err(|reason| refused(&path, &reason))?;
        self.history.follow(&path, shape, &kind.module)?;
        let datasets = self.file.variables.of(scope, &layer.name, &kind.variables)?;
        for (name, dataset) in kind.variables.iter().zip(datasets) {
            self.entries.push(entry::of(&path, name, dataset)?);
        }
        let after = format!("{path}.activation");
        let activation = kind.activation.map(|kind| (after, kind));
        for (path, kind) in [(path, kind.module)].into_iter().chain(activation) {
            self.modules.push(Module { path, kind });
        }
        self.last += 1;
        Ok(Value::Result {
            number: self.last,
            shape: kind.shape,
        })
    }

    fn within(&mut self, layer: &Layer, scope: &Scope, value: Option<Value>) -> Result<Value, CheckpointError> {
        match &layer.model {
            Some(model) => self.model(model, &scope.within(layer, model, self.file.variables), value),
            None => Err(no_input(&layer.name)),
        }
    }

    /// Returns what a layer makes of a picture; `None` for one that belongs to the network.
    fn picture_layer(
        &mut self,
        layer: &Layer,
        scope: &Scope,
        picture: &Picture,
    ) -> Result<Option<Picture>, CheckpointError> {
        let path = scope.path(&layer.name);
        let unread = || {
            refused(
                &path,
                "has numbers that are not read: one for all channels, or one for each, are",
            )
        };
        match layer.class.as_str() {
            "Rescaling" => picture.rescaled(&layer.config).map(Some).ok_or_else(unread),
            "Normalization" => {
                let [mean, variance] = normalization::statistics(layer, scope, self.file)?.ok_or_else(unread)?;
                picture.normalised(&mean, &variance).map(Some).ok_or_else(unread)
            }
            "Lambda" if self.is_channels_first => Ok(None),
            "Lambda" => match preprocess_input::mode(&layer.config) {
                Some(mode) => {
                    if mode.is_assumed {
                        self.assumed.push(format!(
                            "{}: preprocess_input of keras.applications.vgg16, as the file does not say whose",
                            excerpt(&path)
                        ));
                    }
                    Ok(picture.preprocessed(&mode.name))
                }
                None => Ok(None),
            },
            "Activation" if text(&layer.config, "activation") == "linear" => Ok(Some(picture.clone())),
            "Resizing" | "CenterCrop" | "RandomCrop" => {
                let size = ["height", "width"].map(|key| layer.config.get(key).and_then(Json::as_u64));
                match self.size.map(|size| size.map(|side| Some(u64::from(side)))) == Some(size) {
                    true => Ok(Some(picture.clone())),
                    false => Err(refused(
                        &path,
                        "changes the size of its pictures; build the model without it, and say that size with \
                         --preprocessing or --spec",
                    )),
                }
            }
            _ => Ok(None),
        }
    }

    /// Takes what a model is fed: a picture, or what stands after the convolutions.
    fn start(&mut self, name: &str, shape: &[Option<usize>]) -> Result<Value, CheckpointError> {
        let side = |side: Option<usize>| side.and_then(|side| u32::try_from(side).ok());
        // The channels of VGG16's last map, and of the narrow one's.
        let is_map = |channels: Option<usize>| matches!(channels, Some(512 | 16));
        let shape = match *shape {
            [rows, columns, Some(3)] => {
                self.size = side(rows).zip(side(columns)).map(|(rows, columns)| [rows, columns]);
                return Ok(Value::Picture(Picture::fed()));
            }
            [Some(3), rows, columns] if !is_map(columns) => {
                self.is_channels_first = true;
                self.size = side(rows).zip(side(columns)).map(|(rows, columns)| [rows, columns]);
                return Ok(Value::Picture(Picture::fed()));
            }
            [rows, columns, Some(_)] => Shape::Map {
                size: rows.zip(columns).map(|(rows, columns)| [rows, columns]),
                channels_first: false,
            },
            [Some(_)] => Shape::Vector,
            _ => {
                return Err(refused(
                    &excerpt(name),
                    "takes neither pictures of three channels nor the map or the vector that VGG16 makes of them",
                ));
            }
        };
        self.graph = Some(Graph::after_convolutions());
        Ok(Value::Result { number: 0, shape })
    }

    /// Ends the part that computes pictures.
    fn enter(&mut self, layer: &Layer, path: &str, picture: &Picture) -> Result<Shape, CheckpointError> {
        if layer.class != "Conv2D" && layer.class != "Convolution2D" {
            return Err(refused(
                path,
                &format!(
                    "is of class {} where VGG16 has a convolution; fine-tune keras.applications.VGG16 without changes to \
                     its convolutions",
                    excerpt(&layer.class)
                ),
            ));
        }
        let Some(transform) = picture.transform() else {
            return Err(refused(
                path,
                "takes other channels than a picture's three in their order or in reverse",
            ));
        };
        if self.graph.is_some() {
            return Err(refused(path, "takes the picture again; a model of one branch is read"));
        }
        self.graph = Some(Graph {
            size: self.size,
            transform,
            assumed: Vec::new(),
        });
        Ok(Shape::Map {
            size: self.size.map(|size| size.map(|side| side as usize)),
            channels_first: text(&layer.config, "data_format") == "channels_first",
        })
    }
}

/// The arguments of a function on pictures; `None` if one is what has become of a picture.
fn operands(call: &Call, results: &HashMap<&str, Value>) -> Option<Vec<Operand>> {
    // What the functions' further arguments are called; others say nothing of the result.
    const NAMES: [&str; 9] = [
        "x",
        "input",
        "y",
        "x2",
        "bias",
        "value",
        "slice_spec",
        "axis",
        "tensors",
    ];
    let named = call.named.iter().filter(|(name, _)| NAMES.contains(&name.as_str()));
    let mut operands = Vec::new();
    for argument in call.arguments.iter().chain(named.map(|(_, argument)| argument)) {
        let picture = |name: &String| match results.get(name.as_str()) {
            Some(Value::Picture(picture)) => Some(picture.clone()),
            _ => None,
        };
        operands.push(match argument {
            Argument::Result(name) => Operand::Picture(picture(name)?),
            Argument::Results(names) => Operand::Pictures(names.iter().map(picture).collect::<Option<_>>()?),
            Argument::Constant(constant) => Operand::Constant(constant.clone()),
        });
    }
    Some(operands)
}

fn no_input(name: &str) -> CheckpointError {
    refused(
        &excerpt(name),
        "has no input that the file names; save the model after it was called or built",
    )
}
