//! Shape arithmetic: short lists of integers, of which the number of pictures is not known.

use super::model::Node;

/// Limit of the integers in a list.
pub(super) const NUMBERS_MAX: usize = 64;

/// An integer of a computed shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number {
    Known(i64),
    /// The number of pictures.
    Batch,
    /// What depends on the size of the pictures, where the file does not fix it.
    Unknown,
}

/// A scalar or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Numbers {
    pub values: Vec<Number>,
    pub is_scalar: bool,
}

impl Numbers {
    pub fn list(values: Vec<Number>) -> Self {
        Self {
            values,
            is_scalar: false,
        }
    }

    /// The values, if all are known.
    pub fn known(&self) -> Option<Vec<i64>> {
        let mut known = Vec::with_capacity(self.values.len());
        for value in &self.values {
            match value {
                Number::Known(value) => known.push(*value),
                Number::Batch | Number::Unknown => return None,
            }
        }
        Some(known)
    }
}

/// Returns what a node computes of lists, or `None` if it is not shape arithmetic.
pub(super) fn evaluate(node: &Node, inputs: &[Option<Numbers>]) -> Option<Numbers> {
    let first = inputs.first()?.as_ref()?;
    let second = inputs.get(1).and_then(Option::as_ref);
    let result = match node.operator.as_str() {
        "Identity" | "Cast" => first.clone(),
        "Gather" => gather(first, second?)?,
        "Slice" => slice(node, first, inputs)?,
        "Concat" => concat(inputs)?,
        "Squeeze" => Numbers {
            is_scalar: first.values.len() == 1,
            ..first.clone()
        },
        "Unsqueeze" if first.values.len() == 1 => Numbers::list(first.values.clone()),
        // To a list of its own length or of -1.
        "Reshape" => match &second?.known()?[..] {
            [-1] => Numbers::list(first.values.clone()),
            [size] if *size == first.values.len() as i64 => Numbers::list(first.values.clone()),
            _ => return None,
        },
        "ReduceProd" => Numbers {
            values: vec![
                first
                    .values
                    .iter()
                    .fold(Number::Known(1), |product, value| multiply(product, *value)),
            ],
            is_scalar: node.int("keepdims", 1) == 0,
        },
        "Add" | "Sub" | "Mul" | "Div" => elementwise(&node.operator, first, second?)?,
        _ => return None,
    };
    (result.values.len() <= NUMBERS_MAX).then_some(result)
}

fn gather(from: &Numbers, indices: &Numbers) -> Option<Numbers> {
    let mut values = Vec::with_capacity(indices.values.len());
    for index in indices.known()? {
        values.push(*from.values.get(place(index, from.values.len())?)?);
    }
    Some(Numbers {
        values,
        is_scalar: indices.is_scalar,
    })
}

/// An index that may count from the end.
fn place(index: i64, length: usize) -> Option<usize> {
    let index = if index < 0 {
        index.checked_add(length as i64)?
    } else {
        index
    };
    usize::try_from(index).ok().filter(|index| *index < length)
}

fn slice(node: &Node, from: &Numbers, inputs: &[Option<Numbers>]) -> Option<Numbers> {
    let bound = |place: usize, attribute: &str| match inputs.get(place).and_then(Option::as_ref) {
        Some(numbers) => numbers.known(),
        None => node.ints(attribute),
    };
    let (starts, ends) = (bound(1, "starts")?, bound(2, "ends")?);
    let steps = bound(4, "steps").unwrap_or_else(|| vec![1]);
    let ([start], [end], [step]) = (&starts[..], &ends[..], &steps[..]) else {
        return None;
    };
    let values = indices(*start, *end, *step, from.values.len())?;
    Some(Numbers::list(values.into_iter().map(|at| from.values[at]).collect()))
}

/// The indices that a slice takes of `length` elements.
pub(super) fn indices(start: i64, end: i64, step: i64, length: usize) -> Option<Vec<usize>> {
    let length = length as i64;
    if length > NUMBERS_MAX as i64 || step == 0 {
        return None;
    }
    // From the end, then within the bounds; backwards, the end may lie before the first.
    let bound = |at: i64, low: i64, high: i64| if at < 0 { at.saturating_add(length) } else { at }.clamp(low, high);
    let mut taken = Vec::new();
    if step > 0 {
        let (mut at, end) = (bound(start, 0, length), bound(end, 0, length));
        while at < end {
            taken.push(at as usize);
            at = at.saturating_add(step);
        }
    } else {
        let (mut at, end) = (bound(start, -1, length - 1), bound(end, -1, length - 1));
        while at > end {
            taken.push(at as usize);
            at = at.saturating_add(step);
        }
    }
    Some(taken)
}

fn concat(inputs: &[Option<Numbers>]) -> Option<Numbers> {
    let mut values = Vec::new();
    for input in inputs {
        let input = input.as_ref()?;
        if input.is_scalar || values.len() + input.values.len() > NUMBERS_MAX {
            return None;
        }
        values.extend(&input.values);
    }
    Some(Numbers::list(values))
}

fn multiply(x: Number, y: Number) -> Number {
    match (x, y) {
        (Number::Known(x), Number::Known(y)) => x.checked_mul(y).map_or(Number::Unknown, Number::Known),
        (Number::Batch, Number::Known(1)) | (Number::Known(1), Number::Batch) => Number::Batch,
        _ => Number::Unknown,
    }
}

fn elementwise(operator: &str, first: &Numbers, second: &Numbers) -> Option<Numbers> {
    let (m, n) = (first.values.len(), second.values.len());
    if m != n && m != 1 && n != 1 || m == 0 || n == 0 {
        return None;
    }
    let mut values = Vec::with_capacity(m.max(n));
    for place in 0..m.max(n) {
        let (x, y) = (first.values[place % m], second.values[place % n]);
        values.push(match (operator, x, y) {
            ("Mul", x, y) => multiply(x, y),
            ("Div", Number::Batch, Number::Known(1)) => Number::Batch,
            (operator, Number::Known(x), Number::Known(y)) => {
                let result = match operator {
                    "Add" => x.checked_add(y),
                    "Sub" => x.checked_sub(y),
                    _ => x.checked_div(y),
                };
                result.map_or(Number::Unknown, Number::Known)
            }
            _ => Number::Unknown,
        });
    }
    Some(Numbers {
        values,
        is_scalar: first.is_scalar && second.is_scalar,
    })
}

#[cfg(test)]
mod tests {
    use super::Number::{Batch, Known, Unknown};
    use super::*;

    #[test]
    fn slices_are_those_of_numpy() {
        for (bounds, expected) in [
            ((0, i64::MAX, 1), &[0, 1, 2, 3][..]),
            ((-2, 9, 1), &[2, 3]),
            ((3, i64::MIN, -1), &[3, 2, 1, 0]),
            ((-1, 0, -2), &[3, 1]),
            ((1, 1, 1), &[]),
        ] {
            let (start, end, step) = bounds;
            assert_eq!(indices(start, end, step, 4).unwrap(), expected, "{bounds:?}");
        }
        assert_eq!(indices(0, 4, 0, 4), None);
    }

    #[test]
    fn the_batch_stays_the_batch() {
        let x = Numbers::list(vec![Batch, Known(3), Unknown]);
        let y = Numbers::list(vec![Known(1), Known(2), Known(2)]);
        let product = elementwise("Mul", &x, &y).unwrap();
        assert_eq!(product.values, [Batch, Known(6), Unknown]);
        let sum = elementwise("Add", &x, &y).unwrap();
        assert_eq!(sum.values, [Unknown, Known(5), Unknown]);
        assert_eq!(
            elementwise("Div", &y, &Numbers::list(vec![Known(0)])).unwrap().values,
            [Unknown; 3]
        );
    }
}
