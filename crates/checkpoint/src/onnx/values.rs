//! The values of a graph, as far as they are known before it is run.

use std::rc::Rc;

use super::axes::Axes;
use super::constant::Constant;
use super::function::Function;
use super::numbers::Numbers;
use crate::pixels::Pixel;

#[derive(Clone, Debug)]
pub(super) enum Value {
    Constant(Constant),
    Numbers(Numbers),
    Activation(Activation),
}

/// A tensor that depends on the picture.
#[derive(Clone, Debug)]
pub(super) struct Activation {
    pub axes: Axes,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    /// A picture, before the first convolution.
    Pixels(Rc<[Pixel]>),
    /// The result of a module, and what was done to it since.
    Computed { link: Option<usize>, pending: Pending },
}

/// What was done to the numbers of a module's result, one by one.
#[derive(Clone, Debug)]
pub(super) enum Pending {
    Nothing,
    /// The function, and the path of the node that completed it.
    Function(Rc<Function>, Rc<str>),
    /// Each channel was multiplied by a number of this vector.
    Scaled(Constant),
}

impl Activation {
    pub fn computed(axes: Axes, link: usize) -> Self {
        Self {
            axes,
            content: Content::Computed {
                link: Some(link),
                pending: Pending::Nothing,
            },
        }
    }
}

impl Pending {
    /// The function of one number, unless each channel has its own.
    pub fn function(&self) -> Option<Function> {
        match self {
            Self::Nothing => Some(Function::identity()),
            Self::Function(function, _) => Some((**function).clone()),
            Self::Scaled(_) => None,
        }
    }
}
