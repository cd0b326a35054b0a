//! The part of `onnx.proto3` that says what a network computes.
//!
//! Fields may come in any order and more than once: of a single value the last counts, lists are joined, and messages are
//! merged, as protobuf's own parsers do.

use std::collections::HashMap;

use crate::CheckpointError;
use crate::entry::{NAME_BYTES_MAX, RANK_MAX, TENSORS_MAX};

use super::refusal::damaged;
use super::tensor::Tensor;
use super::wire::{Range, Value, Wire};

/// Limit of the nodes. An export of a VGG16 has 40 to 200.
const NODES_MAX: usize = 4096;
/// Limit of the numbers in one attribute.
const INTS_MAX: usize = 64;
/// Limit of a metadata entry that is kept. Labels are the longest.
const METADATA_BYTES_MAX: usize = 1024 * 1024;
/// Limit of the dimensions of an input.
const DIMENSIONS_MAX: usize = RANK_MAX;

/// What a file says, without the elements of its tensors.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub nodes: Vec<Node>,
    pub initializers: HashMap<String, Tensor>,
    pub inputs: Vec<Input>,
    pub outputs: Vec<String>,
    pub metadata: HashMap<String, String>,
    /// The names of functions that the file defines itself, with their domains.
    pub functions: Vec<(String, String)>,
    pub has_graph: bool,
}

/// One step.
#[derive(Debug, Default)]
pub(super) struct Node {
    pub inputs: Vec<String>,
    pub outputs: Vec<String>,
    pub name: String,
    pub operator: String,
    pub domain: String,
    pub attributes: HashMap<String, Attribute>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Attribute {
    pub float: Option<f32>,
    pub int: Option<i64>,
    pub text: Option<String>,
    pub floats: Vec<f32>,
    pub ints: Vec<i64>,
    pub tensor: Option<Tensor>,
    /// A graph, a sparse tensor, a type or several tensors.
    pub is_other: bool,
}

/// An input of the network.
#[derive(Debug, Default)]
pub(super) struct Input {
    pub name: String,
    /// `None` for sizes that the file does not fix; `None` altogether without a shape.
    pub shape: Option<Vec<Option<u64>>>,
}

/// Reads a model's headers.
pub(super) fn read(wire: &mut Wire<'_>) -> Result<Model, CheckpointError> {
    let mut model = Model::default();
    let mut fields = Range {
        start: 0,
        bytes: wire.source.length(),
    }
    .fields();
    while let Some((number, value)) = wire.next(&mut fields)? {
        match number {
            7 => {
                model.has_graph = true;
                model.graph(wire, value)?;
            }
            14 => model.metadata(wire, value)?,
            25 => {
                wire.keep(size_of::<(String, String)>())?;
                let function = function(wire, value)?;
                model.functions.push(function);
            }
            _ => {}
        }
    }
    Ok(model)
}

impl Model {
    fn graph(&mut self, wire: &mut Wire<'_>, graph: Value) -> Result<(), CheckpointError> {
        let mut fields = graph.range()?.fields();
        while let Some((number, value)) = wire.next(&mut fields)? {
            match number {
                1 => {
                    wire.keep(size_of::<Node>())?;
                    if self.nodes.len() == NODES_MAX {
                        return Err(damaged("it has too many nodes"));
                    }
                    self.nodes.push(node(wire, value)?);
                }
                5 => {
                    wire.keep(size_of::<Tensor>())?;
                    let mut tensor = Tensor::default();
                    tensor.merge(wire, value)?;
                    self.initializers.insert(tensor.name.clone(), tensor);
                    if self.initializers.len() > TENSORS_MAX {
                        return Err(damaged("it has too many tensors"));
                    }
                }
                11 => {
                    wire.keep(size_of::<Input>())?;
                    self.inputs.push(input(wire, value)?);
                }
                12 => {
                    wire.keep(size_of::<String>())?;
                    let output = input(wire, value)?;
                    self.outputs.push(output.name);
                }
                15 => {
                    return Err(super::refusal::refused(
                        "has sparse tensors",
                        "export the model with dense ones",
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn metadata(&mut self, wire: &mut Wire<'_>, entry: Value) -> Result<(), CheckpointError> {
        let mut fields = entry.range()?.fields();
        let (mut key, mut text) = (String::new(), None);
        while let Some((number, value)) = wire.next(&mut fields)? {
            match number {
                1 => key = wire.text(value, NAME_BYTES_MAX)?,
                2 if value.range()?.bytes <= METADATA_BYTES_MAX as u64 => {
                    text = Some(wire.text(value, METADATA_BYTES_MAX)?);
                }
                _ => {}
            }
        }
        self.metadata.extend(text.map(|text| (key, text)));
        Ok(())
    }
}

/// Reads the domain and the name of a function.
fn function(wire: &mut Wire<'_>, function: Value) -> Result<(String, String), CheckpointError> {
    let mut fields = function.range()?.fields();
    let (mut name, mut domain) = (String::new(), String::new());
    while let Some((number, value)) = wire.next(&mut fields)? {
        match number {
            1 => name = wire.text(value, NAME_BYTES_MAX)?,
            10 => domain = wire.text(value, NAME_BYTES_MAX)?,
            _ => {}
        }
    }
    Ok((domain, name))
}

fn node(wire: &mut Wire<'_>, node: Value) -> Result<Node, CheckpointError> {
    let mut fields = node.range()?.fields();
    let mut read = Node::default();
    while let Some((number, value)) = wire.next(&mut fields)? {
        match number {
            1 => read.inputs.push(wire.text(value, NAME_BYTES_MAX)?),
            2 => read.outputs.push(wire.text(value, NAME_BYTES_MAX)?),
            3 => read.name = wire.text(value, NAME_BYTES_MAX)?,
            4 => read.operator = wire.text(value, NAME_BYTES_MAX)?,
            5 => {
                wire.keep(size_of::<Attribute>())?;
                let (name, attribute) = attribute(wire, value)?;
                read.attributes.insert(name, attribute);
            }
            7 => read.domain = wire.text(value, NAME_BYTES_MAX)?,
            _ => {}
        }
    }
    Ok(read)
}

fn attribute(wire: &mut Wire<'_>, attribute: Value) -> Result<(String, Attribute), CheckpointError> {
    let mut fields = attribute.range()?.fields();
    let mut name = String::new();
    let mut read = Attribute::default();
    while let Some((number, value)) = wire.next(&mut fields)? {
        match number {
            1 => name = wire.text(value, NAME_BYTES_MAX)?,
            2 => read.float = Some(float(value)?),
            3 => read.int = Some(value.int()?),
            // A text may be long, such as a documentation; none that counts is.
            4 if value.range()?.bytes <= NAME_BYTES_MAX as u64 => read.text = Some(wire.text(value, NAME_BYTES_MAX)?),
            5 => read.tensor.get_or_insert_default().merge(wire, value)?,
            7 => floats(wire, value, &mut read.floats)?,
            8 => ints(wire, value, INTS_MAX, &mut read.ints)?,
            6 | 10 | 11 | 14 | 15 | 22 | 23 => read.is_other = true,
            _ => {}
        }
    }
    Ok((name, read))
}

fn float(value: Value) -> Result<f32, CheckpointError> {
    match value {
        Value::Fixed32(bits) => Ok(f32::from_bits(bits)),
        _ => Err(damaged("a field is not of its type")),
    }
}

/// Appends a repeated field's numbers, packed or not.
pub(super) fn ints(
    wire: &mut Wire<'_>,
    value: Value,
    count_max: usize,
    list: &mut Vec<i64>,
) -> Result<(), CheckpointError> {
    if let Value::Bytes(range) = value {
        let mut fields = range.fields();
        while let Some(number) = wire.packed_int(&mut fields)? {
            push(wire, number, count_max, list)?;
        }
        return Ok(());
    }
    let number = value.int()?;
    push(wire, number, count_max, list)
}

fn floats(wire: &mut Wire<'_>, value: Value, list: &mut Vec<f32>) -> Result<(), CheckpointError> {
    let Value::Bytes(range) = value else {
        let number = float(value)?;
        return push(wire, number, INTS_MAX, list);
    };
    if range.bytes > (INTS_MAX * size_of::<f32>()) as u64 {
        return Err(damaged("a list of numbers is too long"));
    }
    for bytes in wire.source.read(range.start, range.bytes)?.as_chunks().0 {
        push(wire, f32::from_le_bytes(*bytes), INTS_MAX, list)?;
    }
    Ok(())
}

fn push<T>(wire: &mut Wire<'_>, number: T, count_max: usize, list: &mut Vec<T>) -> Result<(), CheckpointError> {
    if list.len() == count_max {
        return Err(damaged("a list of numbers is too long"));
    }
    wire.keep(0)?;
    list.push(number);
    Ok(())
}

fn input(wire: &mut Wire<'_>, input: Value) -> Result<Input, CheckpointError> {
    let mut fields = input.range()?.fields();
    let mut read = Input::default();
    while let Some((number, value)) = wire.next(&mut fields)? {
        match number {
            1 => read.name = wire.text(value, NAME_BYTES_MAX)?,
            // A type's first field is that of tensors, whose second is the shape.
            2 => {
                for tensor in children(wire, value, 1)? {
                    for shape in children(wire, tensor, 2)? {
                        let sizes = sizes(wire, shape)?;
                        let all = read.shape.get_or_insert_default();
                        all.extend(sizes);
                        if all.len() > DIMENSIONS_MAX {
                            return Err(damaged("an input has too many dimensions"));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    Ok(read)
}

fn sizes(wire: &mut Wire<'_>, shape: Value) -> Result<Vec<Option<u64>>, CheckpointError> {
    let mut sizes = Vec::new();
    for dimension in children(wire, shape, 1)? {
        let mut fields = dimension.range()?.fields();
        let mut size = None;
        while let Some((number, value)) = wire.next(&mut fields)? {
            match number {
                // Zero and -1 also stand for a size that is not fixed.
                1 => size = u64::try_from(value.int()?).ok().filter(|size| *size > 0),
                2 => size = None,
                _ => {}
            }
        }
        sizes.push(size);
    }
    Ok(sizes)
}

/// The values of all fields of this number, a few at most.
fn children(wire: &mut Wire<'_>, message: Value, wanted: u64) -> Result<Vec<Value>, CheckpointError> {
    let mut fields = message.range()?.fields();
    let mut children = Vec::new();
    while let Some((number, value)) = wire.next(&mut fields)? {
        if number == wanted {
            if children.len() > DIMENSIONS_MAX {
                return Err(damaged("a type has too many parts"));
            }
            children.push(value);
        }
    }
    Ok(children)
}

impl Node {
    /// An attribute of one integer, or its default.
    pub fn int(&self, name: &str, default: i64) -> i64 {
        let attribute = self.attributes.get(name);
        attribute.and_then(|attribute| attribute.int).unwrap_or(default)
    }

    pub fn float(&self, name: &str, default: f32) -> f64 {
        let attribute = self.attributes.get(name);
        f64::from(attribute.and_then(|attribute| attribute.float).unwrap_or(default))
    }

    /// An attribute of several integers, if it is there.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        Some(self.attributes.get(name)?.ints.clone())
    }

    pub fn text(&self, name: &str) -> Option<&str> {
        self.attributes.get(name)?.text.as_deref()
    }
}
