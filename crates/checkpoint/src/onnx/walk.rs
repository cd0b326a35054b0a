//! Follows the graph from its input to its output, and finds the modules on the way.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use headswap_spec::ChannelTransform;

use crate::source::Source;
use crate::{CheckpointError, Module, TensorEntry};

use super::axes::{Axes, Axis};
use super::chain::Chain;
use super::constant::Constant;
use super::fold;
use super::function::Function;
use super::model::{Input, Model, Node};
use super::numbers::{self, Number, Numbers};
use super::refusal::{EXPORT, damaged, refused, short};
use super::values::{Activation, Content, Pending, Value};
use super::wire::Wire;
use crate::pixels;

/// What was found.
pub(super) struct Network {
    pub modules: Vec<Module>,
    pub entries: Vec<TensorEntry>,
    pub transform: ChannelTransform,
    pub size: Option<[u32; 2]>,
}

/// A walk along the nodes.
pub(super) struct Walk<'a, 'w> {
    pub wire: &'w mut Wire<'a>,
    pub model: &'w Model,
    pub chain: Chain,
    /// The functions that became modules, by their addresses, which they keep.
    pub settled: HashMap<*const Function, (Rc<Function>, usize)>,
    values: HashMap<&'w str, Value>,
}

/// Follows the nodes that `output` depends on.
pub(super) fn walk(wire: &mut Wire<'_>, model: &Model, output: &str) -> Result<Network, CheckpointError> {
    let live = live(model, output);
    let input = input(model, &live)?;
    let mut walk = Walk {
        wire,
        model,
        chain: Chain::default(),
        settled: HashMap::new(),
        values: HashMap::new(),
    };
    let (picture, size) = picture(input)?;
    walk.values.insert(&input.name, Value::Activation(picture));
    for (index, node) in model.nodes.iter().enumerate().filter(|(index, _)| live.contains(index)) {
        let results = walk.evaluate(node, index)?;
        for (name, value) in node.outputs.iter().zip(results) {
            walk.values.insert(name, value);
        }
        walk.chain.check()?;
    }
    let Some(Value::Activation(result)) = walk.values.remove(output) else {
        let what = format!("has an output, `{}`, that does not depend on a picture", short(output));
        return Err(refused(what, EXPORT));
    };
    let Some(node) = model
        .nodes
        .iter()
        .rev()
        .find(|node| node.outputs.iter().any(|name| name == output))
    else {
        return Err(refused("computes nothing of its picture", EXPORT));
    };
    let tip = walk.settled(node, &result)?;
    if !result.axes.is_vector() {
        return Err(node.refused("does not return one vector for each picture"));
    }
    let (modules, entries, transform) = walk.chain.modules(tip)?;
    Ok(Network {
        modules,
        entries,
        transform,
        size,
    })
}

/// The indices of the nodes that an output depends on.
fn live(model: &Model, output: &str) -> HashSet<usize> {
    let mut producers: HashMap<&str, usize> = HashMap::new();
    for (index, node) in model.nodes.iter().enumerate() {
        for name in node.outputs.iter().filter(|name| !name.is_empty()) {
            producers.insert(name, index);
        }
    }
    let mut live = HashSet::new();
    let mut wanted = vec![output];
    while let Some(name) = wanted.pop() {
        if let Some(index) = producers.get(name)
            && live.insert(*index)
        {
            wanted.extend(model.nodes[*index].inputs.iter().map(String::as_str));
        }
    }
    live
}

/// The only input that is used. Files of early versions list their weights as inputs, too.
fn input<'m>(model: &'m Model, live: &HashSet<usize>) -> Result<&'m Input, CheckpointError> {
    let mut used: HashSet<&str> = HashSet::new();
    for index in live {
        used.extend(model.nodes[*index].inputs.iter().map(String::as_str));
    }
    let mut inputs = model.inputs.iter();
    let is_fed = |input: &&Input| used.contains(&*input.name) && !model.initializers.contains_key(&input.name);
    match (inputs.find(is_fed), inputs.find(is_fed)) {
        (Some(input), None) => Ok(input),
        (Some(first), Some(second)) => {
            let what = format!(
                "has several inputs, `{}` and `{}`",
                short(&first.name),
                short(&second.name)
            );
            Err(refused(what, EXPORT))
        }
        (None, _) => Err(refused("takes no picture", EXPORT)),
    }
}

/// What the input is: a picture with its channels first or last, a map, or a vector.
fn picture(input: &Input) -> Result<(Activation, Option<[u32; 2]>), CheckpointError> {
    let shape = input.shape.as_deref().unwrap_or_default();
    let mut sizes = Vec::with_capacity(shape.len());
    for size in shape {
        sizes.push(size.and_then(|size| usize::try_from(size).ok()));
    }
    let mut axes = Axes {
        order: Vec::new(),
        batch: shape.first().copied().flatten(),
        channels: Some(3),
        map: [None; 2],
        values: None,
    };
    let is_picture = match sizes[..] {
        [_, Some(3), height, width] => {
            axes.order = vec![Axis::Batch, Axis::Channels, Axis::Rows, Axis::Columns];
            axes.map = [height, width];
            true
        }
        [_, height, width, Some(3)] => {
            axes.order = vec![Axis::Batch, Axis::Rows, Axis::Columns, Axis::Channels];
            axes.map = [height, width];
            true
        }
        [_, Some(channels), height, width] if channels > 3 => {
            axes.order = vec![Axis::Batch, Axis::Channels, Axis::Rows, Axis::Columns];
            axes.channels = Some(channels);
            axes.map = [height, width];
            false
        }
        [_, values] => {
            axes.order = vec![Axis::Batch, Axis::Values];
            axes.values = values;
            false
        }
        _ => {
            let dimensions: Vec<String> = shape
                .iter()
                .map(|size| size.map_or("?".to_owned(), |size| size.to_string()))
                .collect();
            let what = format!(
                "takes `{}` of shape [{}], and a picture is [?, 3, height, width] or [?, height, width, 3]",
                short(&input.name),
                dimensions.join(", ")
            );
            return Err(refused(what, EXPORT));
        }
    };
    let [height, width] = axes.map.map(|side| side.and_then(|side| u32::try_from(side).ok()));
    let size = height
        .zip(width)
        .map(|(height, width)| [height, width])
        .filter(|_| is_picture);
    let content = match is_picture {
        true => Content::Pixels(pixels::fed().into()),
        false => Content::Computed {
            link: None,
            pending: Pending::Nothing,
        },
    };
    Ok((Activation { axes, content }, size))
}

impl<'w> Walk<'_, 'w> {
    pub fn source(&self) -> &Source {
        self.wire.source
    }

    fn evaluate(&mut self, node: &'w Node, index: usize) -> Result<Vec<Value>, CheckpointError> {
        if !matches!(node.domain.as_str(), "" | "ai.onnx") {
            return Err(self.foreign(node));
        }
        if node.operator == "Constant" {
            return Ok(vec![fold::constant(self.wire, node)?]);
        }
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for name in &node.inputs {
            inputs.push(self.input(name)?);
        }
        if node.operator == "Shape"
            && let Some(Some(Value::Activation(activation))) = inputs.first()
        {
            return Ok(vec![Value::Numbers(shape(node, &activation.axes))]);
        }
        let depends = inputs
            .iter()
            .flatten()
            .any(|input| matches!(input, Value::Activation(_)));
        if !depends {
            return Ok(vec![fold::fold(self.wire, node, inputs)?]);
        }
        self.activation(node, index, &inputs)
    }

    /// The value of this name; `None` for an input that is left out.
    fn input(&mut self, name: &str) -> Result<Option<Value>, CheckpointError> {
        if name.is_empty() {
            return Ok(None);
        }
        if let Some(value) = self.values.get(name) {
            return Ok(Some(value.clone()));
        }
        match self.model.initializers.get(name) {
            Some(tensor) => Ok(Some(Value::Constant(Constant::new(self.wire, tensor, name)?))),
            None => Err(damaged("a node takes what no node before it returns")),
        }
    }

    /// The refusal of an operator of another domain.
    fn foreign(&self, node: &Node) -> CheckpointError {
        let is_own = |(domain, name): &(String, String)| *domain == node.domain && *name == node.operator;
        match self.model.functions.iter().any(is_own) {
            true => refused(
                format!("{} is a function of the file's own", node.describe()),
                "inline it with onnx.inliner.inline_local_functions and save the model again",
            ),
            false => node.unknown(),
        }
    }

    /// The numbers of an input that is a constant or computed of shapes.
    pub fn numbers(&self, input: Option<&Option<Value>>) -> Result<Option<Numbers>, CheckpointError> {
        match input {
            Some(Some(Value::Numbers(numbers))) => Ok(Some(numbers.clone())),
            Some(Some(Value::Constant(constant))) => fold::numbers(self.source(), constant),
            _ => Ok(None),
        }
    }

    /// The known integers of an input, else of an attribute.
    pub fn ints(
        &self,
        node: &Node,
        input: Option<&Option<Value>>,
        attribute: &str,
    ) -> Result<Option<Vec<i64>>, CheckpointError> {
        match input {
            Some(Some(_)) => match self.numbers(input)?.and_then(|numbers| numbers.known()) {
                Some(known) => Ok(Some(known)),
                None => Err(node.refused("takes sizes that are not known before it is run")),
            },
            _ => Ok(node.ints(attribute)),
        }
    }
}

fn shape(node: &Node, axes: &Axes) -> Numbers {
    let all = axes.shape().values;
    let end = node.int("end", i64::MAX);
    let taken = numbers::indices(node.int("start", 0), end, 1, all.len()).unwrap_or_default();
    let values: Vec<Number> = taken.into_iter().map(|place| all[place]).collect();
    Numbers::list(values)
}
