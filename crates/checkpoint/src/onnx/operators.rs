//! What each operator does to a tensor that depends on the picture.

use std::rc::Rc;

use crate::{CheckpointError, ModuleKind};

use super::axes::{Axes, Axis, Reshaped};
use super::chain::{Link, path};
use super::function::Function;
use super::model::Node;
use super::numbers::Numbers;
use super::values::{Activation, Content, Pending, Value};
use super::walk::Walk;

const LATE: &str = "has a dimension where none is expected";

impl<'w> Walk<'_, 'w> {
    /// Returns the results of a node of which one input at least depends on the picture.
    pub fn activation(
        &mut self,
        node: &'w Node,
        index: usize,
        inputs: &[Option<Value>],
    ) -> Result<Vec<Value>, CheckpointError> {
        let operator = node.operator.as_str();
        if matches!(operator, "Add" | "Sub" | "Mul" | "Div" | "Pow") {
            return Ok(vec![Value::Activation(self.arithmetic(node, index, inputs)?)]);
        }
        if operator == "Concat" {
            return Ok(vec![Value::Activation(self.concat(node, index, inputs)?)]);
        }
        let Some(Some(Value::Activation(x))) = inputs.first() else {
            return Err(node.refused("takes a constant where a network takes its picture"));
        };
        let result = match operator {
            "Identity" => x.clone(),
            "Dropout" => self.dropout(node, inputs, x)?,
            "Cast" | "CastLike" if !matches!(node.int("to", 1), 1 | 10 | 11 | 16) => {
                return Err(node.refused("rounds what it computes to integers"));
            }
            "Cast" | "CastLike" => x.clone(),
            "Transpose" => {
                let rank = x.axes.order.len() as i64;
                let order = node.ints("perm").unwrap_or_else(|| (0..rank).rev().collect());
                reordered(node, x, x.axes.transposed(&order))?
            }
            "Squeeze" => {
                let axes = self.ints(node, inputs.get(1), "axes")?;
                reordered(node, x, x.axes.squeezed(axes.as_deref()))?
            }
            "Unsqueeze" => {
                let axes = self.ints(node, inputs.get(1), "axes")?;
                reordered(node, x, axes.and_then(|axes| x.axes.unsqueezed(&axes)))?
            }
            "Reshape" => self.reshape(node, index, inputs, x)?,
            "Flatten" => {
                let is_rest = x.axes.place(node.int("axis", 1)) == Some(1) && x.axes.order[0] == Axis::Batch;
                let flat = x.axes.flat().filter(|_| is_rest);
                self.reshaped(node, index, x, flat)?
            }
            "Gather" | "Slice" => self.taken(node, inputs, x)?,
            "Split" => return self.split(node, inputs, x),
            "Conv" => self.convolution(node, index, inputs, x)?,
            "Gemm" => self.gemm(node, index, inputs, x)?,
            "MatMul" => self.matmul(node, index, inputs, x)?,
            "BatchNormalization" => self.batch_norm(node, index, inputs, x)?,
            "MaxPool" | "AveragePool" => self.pool(node, index, x)?,
            "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceMax" => {
                self.global_pool(node, index, inputs, x)?
            }
            "Tanh" | "Sigmoid" | "Erf" | "Exp" | "Neg" | "Sqrt" | "Reciprocal" => self.smooth(node, index, x)?,
            _ => self.module(node, index, inputs, x)?,
        };
        Ok(vec![Value::Activation(result)])
    }

    /// An activation or a probability that is an operator of its own.
    fn module(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
        x: &Activation,
    ) -> Result<Activation, CheckpointError> {
        let kind = match node.operator.as_str() {
            "Relu" => ModuleKind::Relu,
            "Clip" | "Max" if self.is_relu(node, inputs)? => ModuleKind::Relu,
            "LeakyRelu" => ModuleKind::LeakyRelu {
                slope: node.float("alpha", 0.01),
            },
            "Elu" => ModuleKind::Elu {
                alpha: node.float("alpha", 1.0),
            },
            "Gelu" => match node.text("approximate") {
                None | Some("none") => ModuleKind::Gelu { tanh: false },
                Some("tanh") => ModuleKind::Gelu { tanh: true },
                Some(_) => return Err(node.refused("is a GELU of an unknown kind")),
            },
            "Swish" if node.float("alpha", 1.0) == 1.0 => ModuleKind::Silu,
            "Softmax" | "LogSoftmax" => {
                let is_last = x.axes.place(node.int("axis", -1)) == Some(1);
                if !(is_last && x.axes.order == [Axis::Batch, Axis::Values]) {
                    return Err(node.refused("is not computed over a vector for each picture"));
                }
                match node.operator.as_str() {
                    "Softmax" => ModuleKind::Softmax,
                    _ => ModuleKind::LogSoftmax,
                }
            }
            "Clip" | "PRelu" | "Selu" | "Celu" | "HardSigmoid" | "HardSwish" | "Softplus" | "Softsign" | "Mish"
            | "ThresholdedRelu" | "Swish" | "Max" | "Min" => {
                return Err(node.refused("is an activation that heads do not have"));
            }
            _ => return Err(node.unknown()),
        };
        let before = self.settled(node, x)?;
        self.not_of_pixels(node, x)?;
        let link = self.chain.push(Link::new(before, kind, path(node, index, None)));
        Ok(Activation::computed(x.axes.clone(), link))
    }

    /// True for max(x, 0), as Clip or as Max.
    fn is_relu(&self, node: &Node, inputs: &[Option<Value>]) -> Result<bool, CheckpointError> {
        let mut bounds = [None; 2];
        for (bound, input) in bounds.iter_mut().zip(inputs.iter().skip(1)) {
            if let Some(value) = input {
                let Value::Constant(constant) = value else {
                    return Ok(false);
                };
                *bound = Some(constant.scalar(self.source())?.unwrap_or(f64::NAN));
            }
        }
        let is_attribute = node.attributes.contains_key("max") || node.attributes.contains_key("min");
        let has_upper = match node.operator.as_str() {
            "Max" => inputs.len() != 2,
            _ => bounds[1].is_some_and(|upper| upper < f64::from(f32::MAX)),
        };
        Ok(!is_attribute && bounds[0] == Some(0.0) && !has_upper)
    }

    /// Returns the module whose result a tensor is. What was done to it number by number becomes a module, once.
    pub fn settled(&mut self, node: &Node, x: &Activation) -> Result<Option<usize>, CheckpointError> {
        let (link, pending) = match &x.content {
            Content::Pixels(_) => return Ok(None),
            Content::Computed { link, pending } => (*link, pending),
        };
        let (function, path) = match pending {
            Pending::Nothing => return Ok(link),
            Pending::Scaled(_) => {
                return Err(node.refused("takes numbers that were multiplied by a vector without adding one"));
            }
            Pending::Function(function, path) => (function, path),
        };
        if function.is_identity() {
            return Ok(link);
        }
        if let Some((_, settled)) = self.settled.get(&Rc::as_ptr(function)) {
            return Ok(Some(*settled));
        }
        let Some(kind) = function.module() else {
            return Err(node.refused("takes what is computed by a function that heads do not have"));
        };
        let settled = self.chain.push(Link::new(link, kind, path.clone()));
        self.settled.insert(Rc::as_ptr(function), (function.clone(), settled));
        Ok(Some(settled))
    }

    pub fn not_of_pixels(&self, node: &Node, x: &Activation) -> Result<(), CheckpointError> {
        match x.content {
            Content::Pixels(_) => Err(node.refused("comes before the first convolution")),
            Content::Computed { .. } => Ok(()),
        }
    }

    fn dropout(&self, node: &Node, inputs: &[Option<Value>], x: &Activation) -> Result<Activation, CheckpointError> {
        let is_training = match inputs.get(2) {
            Some(Some(Value::Constant(mode))) => mode.scalar(self.source())? != Some(0.0),
            Some(Some(_)) => true,
            _ => false,
        };
        match is_training {
            true => Err(node.refused("is a dropout of training")),
            false => Ok(x.clone()),
        }
    }

    /// An operator of one operand that may be a part of an activation.
    fn smooth(&mut self, node: &Node, index: usize, x: &Activation) -> Result<Activation, CheckpointError> {
        self.not_of_pixels(node, x)?;
        let Content::Computed { link, pending } = &x.content else {
            return Err(node.unknown());
        };
        let mut link = *link;
        let function = match pending.function() {
            // What is an activation already is not a part of the next.
            Some(function) if !function.is_identity() && function.module().is_some() => {
                link = self.settled(node, x)?;
                Function::identity()
            }
            Some(function) => function,
            None => return Err(node.refused("takes numbers that were multiplied by a vector without adding one")),
        };
        let Some(function) = function.unary(&node.operator) else {
            return Err(node.unknown());
        };
        Ok(pending_function(x, link, function, path(node, index, None)))
    }

    fn reshape(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
        x: &Activation,
    ) -> Result<Activation, CheckpointError> {
        let sizes = match self.numbers(inputs.get(1))? {
            Some(sizes) => Some(sizes),
            None => node
                .ints("shape")
                .map(|sizes| Numbers::list(sizes.into_iter().map(super::numbers::Number::Known).collect())),
        };
        let Some(sizes) = sizes else {
            return Err(node.refused("takes sizes that are not known before it is run"));
        };
        let reshaped = x.axes.reshaped(&sizes, node.int("allowzero", 0) == 1);
        self.reshaped(node, index, x, reshaped)
    }

    fn reshaped(
        &mut self,
        node: &Node,
        index: usize,
        x: &Activation,
        reshaped: Option<Reshaped>,
    ) -> Result<Activation, CheckpointError> {
        let channels_last = match reshaped {
            Some(Reshaped::Flat { channels_last }) => channels_last,
            Some(Reshaped::Order(order)) => return reordered(node, x, Some(order)),
            None => return Err(node.refused("changes a shape otherwise than by flattening a map")),
        };
        self.not_of_pixels(node, x)?;
        let tip = self.settled(node, x)?;
        let elements = x.axes.map_elements();
        let flat = self
            .chain
            .push_flatten(tip, channels_last, path(node, index, None), elements);
        let Some(link) = flat else {
            return Err(node.refused("flattens a normalised map whose size the file does not fix"));
        };
        let axes = vector(
            &x.axes,
            x.axes.channels.zip(elements).and_then(|(c, map)| c.checked_mul(map)),
        );
        Ok(Activation::computed(axes, link))
    }
}

/// The same numbers with their dimensions in this order.
fn reordered(node: &Node, x: &Activation, order: Option<Vec<Axis>>) -> Result<Activation, CheckpointError> {
    let Some(order) = order else {
        return Err(node.refused(LATE));
    };
    let mut result = x.clone();
    result.axes.order = order;
    Ok(result)
}

pub(super) fn pending_function(x: &Activation, link: Option<usize>, function: Function, path: Rc<str>) -> Activation {
    Activation {
        axes: x.axes.clone(),
        content: Content::Computed {
            link,
            pending: Pending::Function(Rc::new(function), path),
        },
    }
}

/// The dimensions of a vector for each picture.
pub(super) fn vector(axes: &Axes, values: Option<usize>) -> Axes {
    Axes {
        order: vec![Axis::Batch, Axis::Values],
        values,
        ..axes.clone()
    }
}
