//! What the dimensions of a computed tensor mean, in their order.

use super::numbers::{Number, Numbers};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Axis {
    Batch,
    Channels,
    Rows,
    Columns,
    /// The numbers of a vector.
    Values,
    /// One element.
    One,
}

/// The dimensions of a tensor. `None` is a size that the file does not fix.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axes {
    pub order: Vec<Axis>,
    pub batch: Option<u64>,
    pub channels: Option<usize>,
    /// Rows and columns.
    pub map: [Option<usize>; 2],
    pub values: Option<usize>,
}

/// What a Reshape does.
#[derive(Debug, PartialEq)]
pub(super) enum Reshaped {
    /// Adds or removes dimensions of one element.
    Order(Vec<Axis>),
    /// Makes a vector of a map.
    Flat { channels_last: bool },
}

impl Axes {
    pub fn size(&self, axis: Axis) -> Number {
        let size = match axis {
            Axis::Batch => return Number::Batch,
            Axis::One => Some(1),
            Axis::Channels => self.channels,
            Axis::Rows => self.map[0],
            Axis::Columns => self.map[1],
            Axis::Values => self.values,
        };
        size.and_then(|size| i64::try_from(size).ok())
            .map_or(Number::Unknown, Number::Known)
    }

    pub fn shape(&self) -> Numbers {
        Numbers::list(self.order.iter().map(|axis| self.size(*axis)).collect())
    }

    /// The place of a dimension that may be counted from the end.
    pub fn place(&self, axis: i64) -> Option<usize> {
        let rank = self.order.len() as i64;
        let place = if axis < 0 { axis + rank } else { axis };
        usize::try_from(place).ok().filter(|place| *place < self.order.len())
    }

    pub fn is_map(&self) -> bool {
        self.order == [Axis::Batch, Axis::Channels, Axis::Rows, Axis::Columns]
    }

    /// True for a vector for each picture, with or without dimensions of one element; a vector of one number may lack its own.
    pub fn is_vector(&self) -> bool {
        let mut order = self.order.iter().filter(|axis| **axis != Axis::One);
        order.next() == Some(&Axis::Batch)
            && (order.next() == Some(&Axis::Values) || self.values == Some(1))
            && order.next().is_none()
    }

    /// True for a dimension of one element that may be removed.
    fn is_removable(&self, axis: Axis) -> bool {
        axis == Axis::One || axis == Axis::Values && self.values == Some(1)
    }

    /// The numbers of a map, if its size is known.
    pub fn map_elements(&self) -> Option<usize> {
        self.map[0]?.checked_mul(self.map[1]?)
    }

    pub fn transposed(&self, order: &[i64]) -> Option<Vec<Axis>> {
        let mut places = Vec::with_capacity(order.len());
        for axis in order {
            let place = self.place(*axis)?;
            if places.contains(&place) {
                return None;
            }
            places.push(place);
        }
        (places.len() == self.order.len()).then(|| places.into_iter().map(|place| self.order[place]).collect())
    }

    /// Removes dimensions of one element: those given, or all.
    pub fn squeezed(&self, axes: Option<&[i64]>) -> Option<Vec<Axis>> {
        let mut order = self.order.clone();
        if let Some(axes) = axes {
            for axis in axes {
                let place = self.place(*axis)?;
                self.is_removable(order[place]).then_some(())?;
            }
            let mut place = 0;
            order.retain(|_| {
                place += 1;
                !axes.iter().any(|axis| self.place(*axis) == Some(place - 1))
            });
        } else {
            order.retain(|axis| !self.is_removable(*axis));
        }
        Some(order)
    }

    pub fn unsqueezed(&self, axes: &[i64]) -> Option<Vec<Axis>> {
        let rank = self.order.len() + axes.len();
        if rank > crate::entry::RANK_MAX {
            return None;
        }
        let mut order = vec![None; rank];
        for axis in axes {
            let place = if *axis < 0 { axis + rank as i64 } else { *axis };
            let slot = order.get_mut(usize::try_from(place).ok()?)?;
            if slot.replace(Axis::One).is_some() {
                return None;
            }
        }
        let mut rest = self.order.iter().copied();
        for slot in &mut order {
            if slot.is_none() {
                *slot = Some(rest.next()?);
            }
        }
        order.into_iter().collect()
    }

    /// Returns what a Reshape to these sizes does, or `None` if it is none that a VGG16 has. A size of zero stands for the
    /// size that was there unless `allows_zero`.
    pub fn reshaped(&self, sizes: &Numbers, allows_zero: bool) -> Option<Reshaped> {
        let mut sizes = sizes.values.clone();
        for (place, size) in sizes.iter_mut().enumerate() {
            if *size == Number::Known(0) && !allows_zero {
                *size = self.size(*self.order.get(place)?);
            }
        }
        if let Some(order) = self.regrouped(&sizes) {
            return Some(Reshaped::Order(order));
        }
        let [batch, rest] = sizes[..] else { return None };
        let elements = match (self.channels, self.map_elements()) {
            (Some(channels), Some(map)) => channels
                .checked_mul(map)
                .and_then(|elements| i64::try_from(elements).ok()),
            _ => None,
        };
        let is_rest = match (rest, elements) {
            (Number::Known(-1), _) => batch != Number::Known(-1),
            (Number::Known(rest), Some(elements)) => rest == elements,
            (Number::Known(rest), None) => rest > 0,
            // As many elements as there are, since the batch takes its share.
            (Number::Unknown, _) => batch != Number::Known(-1),
            (Number::Batch, _) => false,
        };
        (is_rest && self.may_be_batch(batch)).then(|| self.flat()).flatten()
    }

    /// Returns what flattening all but the batch does.
    pub fn flat(&self) -> Option<Reshaped> {
        let mut order = self.order.clone();
        order.retain(|axis| *axis != Axis::One);
        match order[..] {
            [Axis::Batch, Axis::Channels, Axis::Rows, Axis::Columns] => Some(Reshaped::Flat { channels_last: false }),
            [Axis::Batch, Axis::Rows, Axis::Columns, Axis::Channels] => Some(Reshaped::Flat { channels_last: true }),
            [Axis::Batch, Axis::Values] => Some(Reshaped::Order(order)),
            _ => None,
        }
    }

    /// True for the number of pictures, in each form in which a shape says it.
    fn may_be_batch(&self, size: Number) -> bool {
        match size {
            Number::Batch | Number::Known(-1) => true,
            Number::Known(size) => u64::try_from(size).ok() == self.batch && self.batch.is_some(),
            Number::Unknown => false,
        }
    }

    /// The order of the dimensions if the sizes are the same but for those of one element.
    fn regrouped(&self, sizes: &[Number]) -> Option<Vec<Axis>> {
        let mut rest = self.order.iter().copied().filter(|axis| *axis != Axis::One).peekable();
        let mut order = Vec::with_capacity(sizes.len());
        let mut inferred = 0;
        for size in sizes {
            let next = rest.peek().copied();
            let fits = match (next, size) {
                (Some(_), Number::Known(-1)) => {
                    inferred += 1;
                    true
                }
                (Some(Axis::Batch), size) => self.may_be_batch(*size),
                (Some(axis), Number::Known(_)) => self.size(axis) == *size,
                _ => false,
            };
            if fits {
                order.extend(rest.next());
            } else if *size == Number::Known(1) {
                order.push(Axis::One);
            } else {
                return None;
            }
        }
        (rest.all(|axis| self.is_removable(axis)) && inferred <= 1).then_some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::Axis::{Batch, Channels, Columns, One, Rows, Values};
    use super::Number::Known;
    use super::*;

    fn map(order: &[Axis]) -> Axes {
        Axes {
            order: order.to_vec(),
            batch: Some(1),
            channels: Some(16),
            map: [Some(7), Some(7)],
            values: None,
        }
    }

    #[test]
    fn a_reshape_to_a_vector_flattens_in_the_order_of_the_dimensions() {
        let (first, last) = (
            map(&[Batch, Channels, Rows, Columns]),
            map(&[Batch, Rows, Columns, Channels]),
        );
        for sizes in [
            [Number::Batch, Known(-1)],
            [Known(-1), Known(784)],
            [Known(1), Known(784)],
            [Known(0), Known(-1)],
            [Number::Batch, Number::Unknown],
        ] {
            let sizes = Numbers::list(sizes.to_vec());
            assert_eq!(
                first.reshaped(&sizes, false),
                Some(Reshaped::Flat { channels_last: false }),
                "{sizes:?}"
            );
            assert_eq!(
                last.reshaped(&sizes, false),
                Some(Reshaped::Flat { channels_last: true }),
                "{sizes:?}"
            );
        }
        for sizes in [
            [Known(2), Known(392)],
            [Number::Batch, Known(783)],
            [Known(-1), Known(-1)],
        ] {
            assert_eq!(first.reshaped(&Numbers::list(sizes.to_vec()), false), None, "{sizes:?}");
        }
        let turned = map(&[Batch, Channels, Columns, Rows]);
        assert_eq!(
            turned.reshaped(&Numbers::list(vec![Number::Batch, Known(-1)]), false),
            None
        );
    }

    #[test]
    fn dimensions_of_one_element_come_and_go() {
        let mut pooled = map(&[Batch, Values, One, One]);
        pooled.values = Some(16);
        let sizes = Numbers::list(vec![Known(-1), Known(16)]);
        assert_eq!(
            pooled.reshaped(&sizes, false),
            Some(Reshaped::Order(vec![Batch, Values]))
        );
        assert_eq!(pooled.squeezed(Some(&[-1, 2])), Some(vec![Batch, Values]));
        assert_eq!(pooled.squeezed(Some(&[1])), None);
        pooled.order = vec![Batch, Values];
        assert_eq!(pooled.unsqueezed(&[-1, 2]), Some(vec![Batch, Values, One, One]));
        assert_eq!(pooled.unsqueezed(&[2, 2]), None);
        assert_eq!(map(&[Batch, Rows]).transposed(&[1, 1]), None);
        // The dimension of one number.
        pooled.order = vec![Batch, Values];
        assert!(pooled.is_vector());
        pooled.values = Some(1);
        assert_eq!(pooled.squeezed(Some(&[1])), Some(vec![Batch]));
        assert_eq!(pooled.squeezed(None), Some(vec![Batch]));
        let sizes = Numbers::list(vec![Known(-1)]);
        assert_eq!(pooled.reshaped(&sizes, false), Some(Reshaped::Order(vec![Batch])));
        pooled.order = vec![Batch];
        assert!(pooled.is_vector());
    }
}
