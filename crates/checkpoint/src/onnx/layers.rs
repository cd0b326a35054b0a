//! Operators with weights: convolutions, Linears and batch norms.

use crate::{CheckpointError, ModuleKind};

use super::axes::{Axes, Axis};
use super::chain::{Link, Parameter, path};
use super::constant::Constant;
use super::model::Node;
use super::operators::vector;
use super::refusal::{EXPORT, refused};
use super::values::{Activation, Content, Value};
use super::walk::Walk;
use crate::pixels;

impl Walk<'_, '_> {
    pub fn convolution(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
        x: &Activation,
    ) -> Result<Activation, CheckpointError> {
        let weight = constant(node, inputs, 1)?;
        let ([output, input, height, width], true) = (&weight.shape[..], is_image(&x.axes)) else {
            return Err(node.refused("is not a convolution of a map with its channels first"));
        };
        let (output, input, kernel) = (*output, *input, [*height, *width]);
        if x.axes.order[1] == Axis::Channels && x.axes.channels.is_some_and(|channels| channels != input) {
            return Err(node.refused("takes another number of channels than there are"));
        }
        let padding = padding(node, kernel)?;
        let is_plain = all_are(node, "strides", 1) && all_are(node, "dilations", 1) && node.int("group", 1) == 1;
        let before = self.settled(node, x)?;
        let transform = match &x.content {
            Content::Pixels(channels) => Some(pixels::transform(channels).ok_or_else(|| {
                node.refused("takes other channels than the picture's three in their order or the reverse")
            })?),
            Content::Computed { .. } => None,
        };
        let path = path(node, index, Some(&weight.name));
        let map = x.axes.map.map(Option::unwrap_or_default);
        let is_pooled = x.axes.order[1] == Axis::Values;
        let is_whole_map = padding == [0, 0] && (is_pooled && kernel == [1, 1] || !is_pooled && kernel == map);
        if is_whole_map && transform.is_none() {
            return self.linear_of_map(node, inputs, x, weight, before);
        }
        if !is_plain || is_pooled {
            return Err(node.refused(&format!(
                "is a convolution of another kind (strides {:?}, dilations {:?}, group {}) than VGG16's",
                node.ints("strides").unwrap_or_default(),
                node.ints("dilations").unwrap_or_default(),
                node.int("group", 1)
            )));
        }
        let mut link = Link::new(before, ModuleKind::Conv2d { padding }, path);
        link.transform = transform;
        link.parameters.push(Parameter {
            leaf: "weight",
            shape: weight.shape.clone(),
            constant: weight.clone(),
        });
        if let Some(bias) = optional(node, inputs, 2)? {
            link.parameters.push(bias_of(node, bias, output)?);
        }
        let mut axes = x.axes.clone();
        axes.channels = Some(output);
        for (side, (kernel, padding)) in axes.map.iter_mut().zip(kernel.into_iter().zip(padding)) {
            *side = side.and_then(|side| (side + 2 * padding + 1).checked_sub(kernel));
        }
        Ok(Activation::computed(axes, self.chain.push(link)))
    }

    /// A convolution as large as the map, which is a Linear of the flattened map.
    fn linear_of_map(
        &mut self,
        node: &Node,
        inputs: &[Option<Value>],
        x: &Activation,
        weight: &Constant,
        before: Option<usize>,
    ) -> Result<Activation, CheckpointError> {
        let rows = weight.shape.first().copied().unwrap_or(0);
        let columns = weight.shape[1..].iter().product();
        let path = path(node, 0, Some(&weight.name));
        let mut tip = before;
        if x.axes.order[1] == Axis::Channels {
            tip = self
                .chain
                .push_flatten(before, false, path.clone(), x.axes.map_elements());
        }
        let (Some(weight), Some(tip)) = (weight.reshaped(&[rows, columns]), tip) else {
            return Err(node.refused("has weights in an order that is not read"));
        };
        let mut axes = vector(&x.axes, Some(columns));
        axes.order.extend([Axis::One, Axis::One]);
        let x = Activation::computed(axes, tip);
        self.linear(
            node,
            &x,
            Linear {
                weight,
                path,
                before: Some(tip),
            },
            optional(node, inputs, 2)?,
        )
    }

    pub fn gemm(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
        x: &Activation,
    ) -> Result<Activation, CheckpointError> {
        let weight = constant(node, inputs, 1)?;
        let bias = optional(node, inputs, 2)?;
        let is_plain = node.int("transA", 0) == 0
            && node.float("alpha", 1.0) == 1.0
            && (bias.is_none() || node.float("beta", 1.0) == 1.0);
        if !is_plain {
            return Err(node.refused("multiplies its operands by other factors than 1, or turns the first one round"));
        }
        let turned = match node.int("transB", 0) {
            0 => weight.transposed(&[1, 0]),
            _ => Some(weight.clone()),
        };
        self.matrix(node, index, x, turned, bias)
    }

    pub fn matmul(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
        x: &Activation,
    ) -> Result<Activation, CheckpointError> {
        let weight = constant(node, inputs, 1)?;
        self.matrix(node, index, x, weight.transposed(&[1, 0]), None)
    }

    /// A Linear of a vector with a weight of (out, in).
    fn matrix(
        &mut self,
        node: &Node,
        index: usize,
        x: &Activation,
        weight: Option<Constant>,
        bias: Option<&Constant>,
    ) -> Result<Activation, CheckpointError> {
        self.not_of_pixels(node, x)?;
        let Some(weight) =
            weight.filter(|weight| weight.shape.len() == 2 && x.axes.order == [Axis::Batch, Axis::Values])
        else {
            return Err(node.refused("is not the product of one vector for each picture and a matrix"));
        };
        let before = self.settled(node, x)?;
        let path = path(node, index, Some(&weight.name));
        self.linear(node, x, Linear { weight, path, before }, bias)
    }

    fn linear(
        &mut self,
        node: &Node,
        x: &Activation,
        linear: Linear,
        bias: Option<&Constant>,
    ) -> Result<Activation, CheckpointError> {
        let shape = linear.weight.shape.clone();
        let [output, input] = shape[..] else {
            return Err(node.unknown());
        };
        if x.axes.values.is_some_and(|values| values != input) {
            return Err(node.refused("takes another number of values than there are"));
        }
        let mut link = Link::new(linear.before, ModuleKind::Linear, linear.path);
        link.parameters.push(Parameter {
            leaf: "weight",
            shape,
            constant: linear.weight,
        });
        if let Some(bias) = bias {
            link.parameters.push(bias_of(node, bias, output)?);
        }
        let mut axes = x.axes.clone();
        axes.values = Some(output);
        Ok(Activation::computed(axes, self.chain.push(link)))
    }

    pub fn batch_norm(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
        x: &Activation,
    ) -> Result<Activation, CheckpointError> {
        self.not_of_pixels(node, x)?;
        let is_channels = matches!(x.axes.order.get(1), Some(Axis::Channels | Axis::Values));
        if node.int("training_mode", 0) != 0 || node.int("spatial", 1) != 1 || !is_channels {
            return Err(node.refused("is a batch norm of training, or not of the channels"));
        }
        let eps = node.float("epsilon", 1e-5);
        let weight = constant(node, inputs, 1)?;
        let width = weight.elements();
        let before = self.settled(node, x)?;
        let mut link = Link::new(
            before,
            ModuleKind::BatchNorm { eps },
            path(node, index, Some(&weight.name)),
        );
        let leaves = ["weight", "bias", "running_mean", "running_var"];
        for (place, leaf) in leaves.into_iter().enumerate() {
            let vector = constant(node, inputs, place + 1)?.vector();
            let vector = vector.filter(|vector| vector.elements() == width);
            let Some(vector) = vector else {
                return Err(node.refused("has vectors of different lengths"));
            };
            link.parameters.push(Parameter::vector(leaf, vector));
        }
        Ok(Activation::computed(x.axes.clone(), self.chain.push(link)))
    }
}

/// A Linear before it has its bias.
struct Linear {
    weight: Constant,
    path: std::rc::Rc<str>,
    before: Option<usize>,
}

/// True for a map or a pooled map, channels first.
fn is_image(axes: &Axes) -> bool {
    axes.is_map() || axes.order == [Axis::Batch, Axis::Values, Axis::One, Axis::One]
}

/// The constant at an input's place.
fn constant<'i>(node: &Node, inputs: &'i [Option<Value>], place: usize) -> Result<&'i Constant, CheckpointError> {
    match optional(node, inputs, place)? {
        Some(constant) => Ok(constant),
        None => Err(node.refused("lacks its weights")),
    }
}

fn optional<'i>(
    node: &Node,
    inputs: &'i [Option<Value>],
    place: usize,
) -> Result<Option<&'i Constant>, CheckpointError> {
    match inputs.get(place) {
        Some(Some(Value::Constant(constant))) => Ok(Some(constant)),
        None | Some(None) => Ok(None),
        Some(Some(_)) => Err(node.refused("has weights that the network computes")),
    }
}

fn bias_of(node: &Node, bias: &Constant, rows: usize) -> Result<Parameter, CheckpointError> {
    match bias.vector().filter(|bias| bias.elements() == rows) {
        Some(bias) => Ok(Parameter::vector("bias", bias)),
        None => Err(node.refused("has a bias of another length than its weight")),
    }
}

/// True if an attribute has this number alone, or is left out.
pub(super) fn all_are(node: &Node, attribute: &str, number: i64) -> bool {
    let ints = node.ints(attribute).unwrap_or_default();
    ints.iter().all(|int| *int == number)
}

/// The rows and columns of zeros on each side.
fn padding(node: &Node, kernel: [usize; 2]) -> Result<[usize; 2], CheckpointError> {
    match node.text("auto_pad") {
        None | Some("NOTSET") => {}
        Some("VALID") => return Ok([0, 0]),
        Some(_) if kernel[0] % 2 == 1 && kernel[1] % 2 == 1 && all_are(node, "strides", 1) => {
            return Ok([kernel[0] / 2, kernel[1] / 2]);
        }
        Some(_) => return Err(node.refused("pads its sides differently")),
    }
    let pads = node.ints("pads").unwrap_or_else(|| vec![0; 4]);
    match pads[..] {
        [top, left, bottom, right] if top == bottom && left == right && top >= 0 && left >= 0 => {
            let (rows, columns) = (usize::try_from(top), usize::try_from(left));
            let sides = rows
                .ok()
                .zip(columns.ok())
                .filter(|(rows, columns)| *rows < 1024 && *columns < 1024);
            let (rows, columns) = sides.ok_or_else(|| refused("pads a map by more than its size", EXPORT))?;
            Ok([rows, columns])
        }
        _ => Err(node.refused("pads its sides differently")),
    }
}
