//! Functions of one number, as their values at some points.
//!
//! Exporters write an activation in many ways: GELU as Div, Erf, Add, Mul, Mul, in any order and with any constants. What
//! matters is what it computes, so the operators are applied to sample points, and the result is compared with what heads
//! know. Only smooth operators are applied so: two functions that are composed of a few of them and agree at all points to
//! five digits are the same but for the rounding of their constants.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

use crate::ModuleKind;

const POINTS: usize = 64;
/// The exact GELU and its approximation differ by 40 times as much.
const TOLERANCE: f64 = 1e-5;

/// A function of x, by its values at the points.
#[derive(Clone, Debug)]
pub(super) struct Function(Vec<f64>);

impl Function {
    /// f(x) = x.
    pub fn identity() -> Self {
        // From -7.875 to 7.875, and zero is not among them.
        let points = (0..POINTS).map(|point| (point as f64 - (POINTS - 1) as f64 / 2.0) / 4.0);
        Self(points.collect())
    }

    pub fn constant(value: f64) -> Self {
        Self(vec![value; POINTS])
    }

    /// Applies an operator of one operand; `None` for others.
    pub fn unary(&self, operator: &str) -> Option<Self> {
        let apply: fn(f64) -> f64 = match operator {
            "Tanh" => f64::tanh,
            "Sigmoid" => sigmoid,
            "Erf" => erf,
            "Exp" => f64::exp,
            "Neg" => |x| -x,
            "Sqrt" => f64::sqrt,
            "Reciprocal" => f64::recip,
            _ => return None,
        };
        Some(Self(self.0.iter().copied().map(apply).collect()))
    }

    /// Applies an operator of two operands; `None` for others.
    pub fn binary(&self, operator: &str, other: &Self) -> Option<Self> {
        let apply = arithmetic(operator)?;
        let pairs = self.0.iter().zip(&other.0);
        Some(Self(pairs.map(|(x, y)| apply(*x, *y)).collect()))
    }

    pub fn is_identity(&self) -> bool {
        self.is(|x| x)
    }

    /// The module that computes this, if heads know it.
    pub fn module(&self) -> Option<ModuleKind> {
        // The constants are PyTorch's.
        let exact = |x: f64| x * 0.5 * (1.0 + erf(x * FRAC_1_SQRT_2));
        let approximate = |x: f64| x * 0.5 * (1.0 + ((2.0 / PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh());
        if self.is(f64::tanh) {
            Some(ModuleKind::Tanh)
        } else if self.is(sigmoid) {
            Some(ModuleKind::Sigmoid)
        } else if self.is(|x| x * sigmoid(x)) {
            Some(ModuleKind::Silu)
        } else if self.is(exact) {
            Some(ModuleKind::Gelu { tanh: false })
        } else if self.is(approximate) {
            Some(ModuleKind::Gelu { tanh: true })
        } else {
            None
        }
    }

    fn is(&self, function: impl Fn(f64) -> f64) -> bool {
        let points = Self::identity().0;
        let mut pairs = points.into_iter().zip(&self.0);
        pairs.all(|(x, y)| (function(x) - y).abs() <= TOLERANCE * (1.0 + x.abs()))
    }
}

/// The arithmetic of an operator of two operands.
pub(super) fn arithmetic(operator: &str) -> Option<fn(f64, f64) -> f64> {
    Some(match operator {
        "Add" => |x, y| x + y,
        "Sub" => |x, y| x - y,
        "Mul" => |x, y| x * y,
        "Div" => |x, y| x / y,
        "Pow" => f64::powf,
        _ => return None,
    })
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Abramowitz and Stegun's 7.1.26, within 1.5e-7.
fn erf(x: f64) -> f64 {
    const FACTORS: [f64; 5] = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ];
    let t = 1.0 / (1.0 + 0.327_591_1 * x.abs());
    let sum = FACTORS.iter().fold(0.0, |sum, factor| (sum + factor) * t);
    (1.0 - sum * (-x * x).exp()).copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binary(x: &Function, operator: &str, y: &Function) -> Function {
        x.binary(operator, y).unwrap()
    }

    #[test]
    fn activations_are_recognised_in_any_form() {
        let x = Function::identity();
        let number = |value: f64| Function::constant(f64::from(value as f32));
        let erf = binary(&x, "Div", &number(std::f64::consts::SQRT_2))
            .unary("Erf")
            .unwrap();
        let one_more = binary(&number(1.0), "Add", &erf);
        let exact = Some(ModuleKind::Gelu { tanh: false });
        assert_eq!(
            binary(&binary(&x, "Mul", &number(0.5)), "Mul", &one_more).module(),
            exact
        );
        assert_eq!(
            binary(&binary(&one_more, "Mul", &x), "Div", &number(2.0)).module(),
            exact
        );
        let cube = binary(&x, "Pow", &number(3.0));
        let inner = binary(&x, "Add", &binary(&cube, "Mul", &number(0.044715)));
        let tanh = binary(&inner, "Mul", &number(0.797_884_560_8)).unary("Tanh").unwrap();
        let approximate = binary(
            &binary(&x, "Mul", &binary(&tanh, "Add", &number(1.0))),
            "Mul",
            &number(0.5),
        );
        assert_eq!(approximate.module(), Some(ModuleKind::Gelu { tanh: true }));
        let quick = binary(&x, "Mul", &binary(&x, "Mul", &number(1.702)).unary("Sigmoid").unwrap());
        assert_eq!(quick.module(), None);
        let silu = binary(&x.unary("Sigmoid").unwrap(), "Mul", &x);
        assert_eq!(silu.module(), Some(ModuleKind::Silu));
        let written_out = binary(&number(1.0), "Add", &x.unary("Neg").unwrap().unary("Exp").unwrap());
        assert_eq!(
            written_out.unary("Reciprocal").unwrap().module(),
            Some(ModuleKind::Sigmoid)
        );
        assert!(x.is_identity() && !silu.is_identity());
    }
}
