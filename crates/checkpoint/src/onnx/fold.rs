//! What nodes compute of constants alone.

use crate::CheckpointError;
use crate::source::Source;

use super::constant::{Constant, row_major};
use super::function::arithmetic;
use super::model::Node;
use super::numbers::{self, NUMBERS_MAX, Number, Numbers};
use super::refusal::damaged;
use super::values::Value;
use super::wire::Wire;

/// Returns the value of a Constant node.
pub(super) fn constant(wire: &mut Wire<'_>, node: &Node) -> Result<Value, CheckpointError> {
    let name = node.outputs.first().map_or("", String::as_str);
    for key in ["value", "value_int", "value_float", "value_ints", "value_floats"] {
        let Some(attribute) = node.attributes.get(key) else {
            continue;
        };
        let float = |value: &f32| f64::from(*value);
        let (shape, values, is_integer) = match (key, &attribute.tensor) {
            ("value", Some(tensor)) => return Ok(Value::Constant(Constant::new(wire, tensor, name)?)),
            ("value_int", _) => (vec![], vec![attribute.int.unwrap_or(0) as f64], true),
            ("value_float", _) => (vec![], vec![float(&attribute.float.unwrap_or(0.0))], false),
            ("value_ints", _) => {
                let values: Vec<f64> = attribute.ints.iter().map(|value| *value as f64).collect();
                (vec![values.len()], values, true)
            }
            ("value_floats", _) => {
                let values: Vec<f64> = attribute.floats.iter().map(float).collect();
                (vec![values.len()], values, false)
            }
            _ => continue,
        };
        return Ok(Value::Constant(Constant::small(name, shape, values, is_integer)));
    }
    Err(node.refused("has a value that is not read"))
}

/// Returns a constant as a short list of integers, if it is one.
pub(super) fn numbers(source: &Source, constant: &Constant) -> Result<Option<Numbers>, CheckpointError> {
    if !constant.is_integer || constant.shape.len() > 1 || constant.elements() > NUMBERS_MAX {
        return Ok(None);
    }
    let Some(values) = constant.values(source)? else {
        return Ok(None);
    };
    Ok(Some(Numbers {
        values: values.into_iter().map(|value| Number::Known(value as i64)).collect(),
        is_scalar: constant.shape.is_empty(),
    }))
}

/// Returns what a node computes of constants: a view, shape arithmetic, or arithmetic on a few numbers.
pub(super) fn fold(wire: &mut Wire<'_>, node: &Node, inputs: Vec<Option<Value>>) -> Result<Value, CheckpointError> {
    if let Some(view) = view(wire.source, node, &inputs)? {
        return Ok(Value::Constant(view));
    }
    let mut lists = Vec::with_capacity(inputs.len());
    let mut is_list = true;
    for input in &inputs {
        lists.push(match input {
            Some(Value::Numbers(numbers)) => Some(numbers.clone()),
            Some(Value::Constant(constant)) => {
                let numbers = numbers(wire.source, constant)?;
                is_list &= numbers.is_some();
                numbers
            }
            Some(Value::Activation(_)) => return Err(damaged("a node takes what it must not")),
            None => None,
        });
    }
    if is_list && let Some(result) = numbers::evaluate(node, &lists) {
        return Ok(Value::Numbers(result));
    }
    computed(wire, node, &inputs)?.ok_or_else(|| node.unknown())
}

/// The node's first input, if the node only looks at it otherwise.
fn view(source: &Source, node: &Node, inputs: &[Option<Value>]) -> Result<Option<Constant>, CheckpointError> {
    let Some(Some(Value::Constant(constant))) = inputs.first() else {
        return Ok(None);
    };
    let ints = match inputs.get(1) {
        Some(Some(Value::Numbers(numbers))) => numbers.known(),
        Some(Some(Value::Constant(second))) => numbers(source, second)?.and_then(|numbers| numbers.known()),
        _ => None,
    };
    let rank = constant.shape.len() as i64;
    let axes = ints.clone().or_else(|| node.ints("axes"));
    let is_float = |kind: i64| matches!(kind, 1 | 10 | 11 | 16);
    Ok(match node.operator.as_str() {
        "Identity" => Some(constant.clone()),
        "Cast" if is_float(node.int("to", 0)) != constant.is_integer => Some(constant.clone()),
        "Transpose" => {
            let order = node.ints("perm").unwrap_or_else(|| (0..rank).rev().collect());
            let order: Vec<usize> = order
                .into_iter()
                .filter_map(|axis| usize::try_from(axis).ok())
                .collect();
            constant.transposed(&order)
        }
        "Reshape" => {
            let shape = ints.or_else(|| node.ints("shape"));
            shape.and_then(|shape| constant.reshaped(&resolved(&shape, constant)?))
        }
        "Flatten" if node.int("axis", 1) == 1 && rank > 0 => {
            constant.reshaped(&[constant.shape[0], constant.shape[1..].iter().product()])
        }
        "Squeeze" => {
            let removed: Option<Vec<i64>> =
                axes.map(|axes| axes.into_iter().map(|axis| axis.rem_euclid(rank.max(1))).collect());
            let mut shape = Vec::new();
            for (place, size) in constant.shape.iter().enumerate() {
                let is_removed = removed
                    .as_ref()
                    .map_or(*size == 1, |axes| axes.contains(&(place as i64)));
                if !is_removed {
                    shape.push(*size);
                }
            }
            constant.reshaped(&shape)
        }
        "Unsqueeze" => axes.and_then(|axes| {
            let rank = rank + axes.len() as i64;
            let axes: Vec<i64> = axes.into_iter().map(|axis| axis.rem_euclid(rank.max(1))).collect();
            let mut sizes = constant.shape.iter().copied();
            let mut shape = Vec::new();
            for place in 0..rank.min(crate::entry::RANK_MAX as i64) {
                shape.push(match axes.contains(&place) {
                    true => 1,
                    false => sizes.next()?,
                });
            }
            constant.reshaped(&shape)
        }),
        _ => None,
    })
}

/// The sizes of a Reshape, with those that are copied and the one that is left open.
fn resolved(shape: &[i64], constant: &Constant) -> Option<Vec<usize>> {
    let mut sizes = Vec::with_capacity(shape.len());
    let mut open = None;
    for (place, size) in shape.iter().enumerate() {
        sizes.push(match size {
            0 => *constant.shape.get(place)?,
            -1 => {
                open = Some(place);
                1
            }
            size => usize::try_from(*size).ok()?,
        });
    }
    if let Some(place) = open {
        let rest = crate::entry::element_count(&sizes)?;
        sizes[place] = constant.elements().checked_div(rest)?;
    }
    Some(sizes)
}

/// Arithmetic on a few numbers, rounded to f32.
fn computed(wire: &mut Wire<'_>, node: &Node, inputs: &[Option<Value>]) -> Result<Option<Value>, CheckpointError> {
    let mut operands = Vec::new();
    for input in inputs {
        let Some(Value::Constant(constant)) = input else {
            return Ok(None);
        };
        let Some(values) = constant.values(wire.source)? else {
            return Ok(None);
        };
        operands.push((constant, values));
    }
    let (shape, mut values) = match &operands[..] {
        [(constant, values)] => {
            let apply: fn(f64) -> f64 = match node.operator.as_str() {
                "Neg" => |x| -x,
                "Sqrt" => f64::sqrt,
                "Reciprocal" => f64::recip,
                "Exp" => f64::exp,
                "Cast" => |x| x,
                _ => return Ok(None),
            };
            let values: Vec<f64> = values.iter().copied().map(apply).collect();
            (constant.shape.clone(), values)
        }
        [first, second] => match arithmetic(&node.operator).and_then(|apply| broadcast(first, second, apply)) {
            Some(result) => result,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let is_integer = match node.operator.as_str() {
        "Cast" => !matches!(node.int("to", 0), 1 | 10 | 11 | 16),
        _ => operands.iter().all(|(constant, _)| constant.is_integer),
    };
    for value in &mut values {
        *value = match is_integer {
            true => value.trunc(),
            false => f64::from(*value as f32),
        };
    }
    wire.keep(values.len() * size_of::<f64>())?;
    let name = node.outputs.first().map_or("", String::as_str);
    Ok(Some(Value::Constant(Constant::small(name, shape, values, is_integer))))
}

/// Applies an operator to two constants, of which dimensions of one element are repeated.
fn broadcast(
    first: &(&Constant, Vec<f64>),
    second: &(&Constant, Vec<f64>),
    apply: fn(f64, f64) -> f64,
) -> Option<(Vec<usize>, Vec<f64>)> {
    const ELEMENTS_MAX: usize = 8192;
    let rank = first.0.shape.len().max(second.0.shape.len());
    let mut shape = vec![1; rank];
    for (constant, _) in [first, second] {
        let offset = rank - constant.shape.len();
        for (place, size) in constant.shape.iter().enumerate() {
            let slot = &mut shape[offset + place];
            match (*slot, *size) {
                (1, size) => *slot = size,
                (slot, size) if slot == size || size == 1 => {}
                _ => return None,
            }
        }
    }
    let count = crate::entry::element_count(&shape).filter(|count| *count <= ELEMENTS_MAX)?;
    let strides = row_major(&shape);
    let at = |(constant, values): &(&Constant, Vec<f64>), place: usize| {
        let own = row_major(&constant.shape);
        let offset = rank - constant.shape.len();
        let mut at = 0;
        for (axis, size) in constant.shape.iter().enumerate() {
            let index = place / strides[offset + axis] % shape[offset + axis];
            at += if *size == 1 { 0 } else { index * own[axis] };
        }
        values.get(at).copied()
    };
    let mut values = Vec::with_capacity(count);
    for place in 0..count {
        values.push(apply(at(first, place)?, at(second, place)?));
    }
    Some((shape, values))
}
