//! A layer's bias.

use std::ops::Deref;

use crate::buffer::Buffer;
use crate::simd::LANES;
use crate::subnormal::flush_subnormal;

/// A bias of O numbers, one for each output.
#[derive(Debug)]
pub struct Bias {
    /// Padded to whole blocks with zeros.
    numbers: Buffer<f32>,
    outputs: usize,
}

impl Bias {
    /// Takes one number for each output; subnormal ones become 0.
    pub fn new(bias: &[f32]) -> Self {
        let mut numbers = Buffer::zeroed(bias.len().next_multiple_of(LANES));
        for (number, &value) in numbers.iter_mut().zip(bias) {
            *number = flush_subnormal(value);
        }
        Self {
            numbers,
            outputs: bias.len(),
        }
    }

    /// The numbers, one for each output.
    pub fn values(&self) -> &[f32] {
        &self.numbers[..self.outputs]
    }
}

/// The numbers, padded to whole blocks.
impl Deref for Bias {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers
    }
}
