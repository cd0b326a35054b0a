//! A convolution's weights, transformed and packed.

use crate::buffer::{Buffer, Number};
use crate::conv::Precision;
use crate::input::FILTER_LENGTH;
use crate::simd::LANES;
use crate::subnormal::flush_subnormal;
use crate::tile::{PRODUCTS, transform_filter};

/// G g Gt of all filters, by product, block of output channels, input channel (in pairs if integers), output channel.
#[derive(Debug)]
pub enum Filters {
    /// As f32.
    Float(Buffer<f32>),
    /// As i16, with a scale for each product and output channel.
    Integer {
        /// The integers.
        values: Buffer<i16>,
        /// By product and output channel: what to multiply the integers by.
        scales: Buffer<f32>,
    },
}

impl Filters {
    /// Transforms and packs a weight of O x `inputs` x 3 x 3, O at most `panels` x 16.
    pub fn new(weight: &[f32], inputs: usize, panels: usize, precision: Precision) -> Self {
        let depth = inputs.next_multiple_of(LANES);
        let numbers = PRODUCTS * panels * depth * LANES;
        let mut filters = match precision {
            Precision::Float => Self::Float(Buffer::zeroed(numbers)),
            Precision::Integer => Self::Integer {
                values: Buffer::zeroed(numbers),
                scales: Buffer::zeroed(PRODUCTS * panels * LANES),
            },
        };
        let mut rows = vec![[0f64; PRODUCTS]; inputs];
        for (output, weight) in weight.chunks_exact(inputs * 9).enumerate() {
            for (row, filter) in rows.iter_mut().zip(weight.chunks_exact(9)) {
                *row = transform_filter(filter);
            }
            for product in 0..PRODUCTS {
                let place = Place {
                    panel: product * panels + output / LANES,
                    lane: output % LANES,
                    depth,
                };
                filters.pack(place, rows.iter().map(|row| row[product]));
            }
        }
        filters
    }

    fn pack(&mut self, place: Place, row: impl Iterator<Item = f64> + Clone) {
        let Place { panel, lane, depth } = place;
        match self {
            Self::Float(values) => {
                for (input, value) in row.enumerate() {
                    values[(panel * depth + input) * LANES + lane] = flush_subnormal(value as f32);
                }
            }
            Self::Integer { values, scales } => {
                let length = row.clone().map(|value| value * value).sum::<f64>().sqrt();
                let largest = row.clone().fold(0f64, |largest, value| largest.max(value.abs()));
                if largest == 0.0 {
                    return;
                }
                // The last limit keeps the inverse a normal f32; values below half of the smallest normal one become 0.
                let scale = (FILTER_LENGTH / length)
                    .min(f64::from(i16::MAX) / largest)
                    .min(1.0 / f64::from(f32::MIN_POSITIVE));
                scales[panel * LANES + lane] = (1.0 / scale) as f32;
                for (input, value) in row.enumerate() {
                    let at = (panel * depth + input / 2 * 2) * LANES + lane * 2 + input % 2;
                    values[at] = (value * scale).round() as i16;
                }
            }
        }
    }

    /// The part of `numbers`, a buffer of this value, that belongs to a product.
    pub fn of<'a, T: Number>(&self, numbers: &'a Buffer<T>, product: usize) -> &'a [T] {
        let len = numbers.len() / PRODUCTS;
        &numbers[product * len..][..len]
    }

    /// Bytes of a number.
    pub fn number_bytes(&self) -> usize {
        match self {
            Self::Float(_) => size_of::<f32>(),
            Self::Integer { .. } => size_of::<i16>(),
        }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Float(values) => values.bytes(),
            Self::Integer { values, scales } => values.bytes() + scales.bytes(),
        }
    }
}

/// Where a row of an output channel goes.
struct Place {
    /// Product x panels + panel.
    panel: usize,
    /// The channel in the panel.
    lane: usize,
    /// Input channels, padded to whole blocks.
    depth: usize,
}
