//! Sums and products of what depends on the picture: with numbers, with vectors of one number for each channel, and with
//! itself.

use std::rc::Rc;

use crate::{CheckpointError, ModuleKind};

use super::axes::{Axes, Axis};
use super::chain::{Link, Parameter, path};
use super::constant::Constant;
use super::function::Function;
use super::model::Node;
use super::operators::pending_function;
use super::pixels;
use super::values::{Activation, Content, Pending, Value};
use super::walk::Walk;

impl Walk<'_, '_> {
    pub fn arithmetic(
        &mut self,
        node: &Node,
        index: usize,
        inputs: &[Option<Value>],
    ) -> Result<Activation, CheckpointError> {
        match inputs {
            [Some(Value::Activation(x)), Some(Value::Activation(y))] => self.with_itself(node, index, x, y),
            [Some(Value::Activation(x)), Some(Value::Constant(constant))] => {
                self.with_constant(node, index, x, constant, false)
            }
            [Some(Value::Constant(constant)), Some(Value::Activation(x))] => {
                self.with_constant(node, index, x, constant, true)
            }
            _ => Err(node.refused("computes with the size of the picture")),
        }
    }

    /// Parts of one activation, such as x · sigmoid(x).
    fn with_itself(
        &self,
        node: &Node,
        index: usize,
        x: &Activation,
        y: &Activation,
    ) -> Result<Activation, CheckpointError> {
        let links = [x, y].map(|operand| match &operand.content {
            Content::Computed { link, .. } => Some(*link),
            Content::Pixels(_) => None,
        });
        for link in links.into_iter().flatten() {
            let functions = self.function_of(x, link).zip(self.function_of(y, link));
            if let Some((x_of, y_of)) = functions.filter(|_| x.axes == y.axes) {
                let computed = x_of.binary(&node.operator, &y_of).ok_or_else(|| node.unknown())?;
                return Ok(pending_function(x, link, computed, path(node, index, None)));
            }
        }
        Err(node.refused("joins several branches"))
    }

    /// What an activation is of a module's result, number by number.
    fn function_of(&self, x: &Activation, of: Option<usize>) -> Option<Function> {
        let Content::Computed { link, pending } = &x.content else {
            return None;
        };
        if *link == of {
            return pending.function();
        }
        let Pending::Function(function, _) = pending else {
            return None;
        };
        let (_, settled) = self.settled.get(&Rc::as_ptr(function))?;
        (Some(*settled) == of).then(Function::identity)
    }

    fn with_constant(
        &mut self,
        node: &Node,
        index: usize,
        x: &Activation,
        constant: &Constant,
        is_second: bool,
    ) -> Result<Activation, CheckpointError> {
        if let Content::Pixels(channels) = &x.content {
            let numbers = match along(&x.axes, Axis::Channels, constant) {
                Some(constant) => constant.values(self.source())?,
                None => None,
            };
            let computed = numbers.and_then(|numbers| pixels::computed(&node.operator, channels, &numbers, is_second));
            let Some(computed) = computed else {
                return Err(node.refused("changes pixels otherwise than by a factor and a sum for each channel"));
            };
            let mut result = x.clone();
            result.content = Content::Pixels(computed.into());
            return Ok(result);
        }
        if let Some(biased) = self.biased(node, x, constant) {
            return Ok(biased);
        }
        if let Some(number) = constant.scalar(self.source())?
            && constant.shape.len() <= x.axes.order.len()
            && let Content::Computed { link, pending } = &x.content
            && let Some(function) = pending.function()
        {
            let number = Function::constant(number);
            let computed = match is_second {
                true => number.binary(&node.operator, &function),
                false => function.binary(&node.operator, &number),
            };
            let computed = computed.ok_or_else(|| node.unknown())?;
            return Ok(pending_function(x, *link, computed, path(node, index, None)));
        }
        self.with_vector(node, index, x, constant)
    }

    /// The sum of a Linear or a convolution and its bias.
    fn biased(&mut self, node: &Node, x: &Activation, constant: &Constant) -> Option<Activation> {
        let Content::Computed {
            link,
            pending: Pending::Nothing,
        } = &x.content
        else {
            return None;
        };
        let link = self.chain.get(*link)?;
        let (axis, rows) = match (&link.kind, &link.parameters[..]) {
            (ModuleKind::Linear, [weight]) => (Axis::Values, *weight.shape.first()?),
            (ModuleKind::Conv2d { .. }, [weight]) => (Axis::Channels, *weight.shape.first()?),
            _ => return None,
        };
        let bias = along(&x.axes, axis, constant).filter(|bias| bias.elements() == rows)?;
        if node.operator != "Add" {
            return None;
        }
        let mut biased = link.clone();
        biased.parameters.push(Parameter::vector("bias", bias));
        Some(Activation::computed(x.axes.clone(), self.chain.push(biased)))
    }

    /// A product with a vector and the sum with another are a batch norm.
    fn with_vector(
        &mut self,
        node: &Node,
        index: usize,
        x: &Activation,
        constant: &Constant,
    ) -> Result<Activation, CheckpointError> {
        let axis = match x.axes.order.contains(&Axis::Values) {
            true => Axis::Values,
            false => Axis::Channels,
        };
        let vector = along(&x.axes, axis, constant);
        let Some(vector) = vector.filter(|vector| is_size(&x.axes, axis, vector.elements())) else {
            return Err(node.refused("computes with a constant that is neither a number nor a vector of the channels"));
        };
        let Content::Computed { link, pending } = &x.content else {
            return Err(node.unknown());
        };
        match (node.operator.as_str(), pending) {
            ("Mul", Pending::Scaled(_)) => Err(node.refused("multiplies by a second vector")),
            ("Mul", _) => Ok(Activation {
                axes: x.axes.clone(),
                content: Content::Computed {
                    link: self.settled(node, x)?,
                    pending: Pending::Scaled(vector),
                },
            }),
            ("Add", Pending::Scaled(scale)) => {
                let mut affine = Link::new(*link, ModuleKind::Affine, path(node, index, None));
                affine.parameters.push(Parameter::vector("weight", scale.clone()));
                affine.parameters.push(Parameter::vector("bias", vector));
                Ok(Activation::computed(x.axes.clone(), self.chain.push(affine)))
            }
            _ => Err(node.refused("computes with a vector otherwise than by a product and then a sum")),
        }
    }
}

/// A vector with one number, or one for each place of `axis`, if the constant's dimensions fall on that axis alone.
pub(super) fn along(axes: &Axes, axis: Axis, constant: &Constant) -> Option<Constant> {
    let rank = constant.shape.len();
    let offset = axes.order.len().checked_sub(rank)?;
    for (place, size) in constant.shape.iter().enumerate() {
        if *size != 1 && axes.order[offset + place] != axis {
            return None;
        }
    }
    constant.vector()
}

/// True unless the axis is known to have another size.
fn is_size(axes: &Axes, axis: Axis, size: usize) -> bool {
    let known = match axis {
        Axis::Values => axes.values,
        _ => axes.channels,
    };
    known.is_none_or(|known| known == size)
}
