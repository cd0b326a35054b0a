//! What a layer adds to its sums.

use std::ops::Deref;

use crate::buffer::Buffer;
use crate::simd::LANES;

/// A bias of O numbers, one for each output.
#[derive(Debug)]
pub struct Bias {
    /// Filled up to whole blocks with zeros.
    numbers: Buffer<f32>,
    outputs: usize,
}

impl Bias {
    /// Takes one number for each output.
    pub fn new(bias: &[f32]) -> Self {
        let mut numbers = Buffer::zeroed(bias.len().next_multiple_of(LANES));
        numbers[..bias.len()].copy_from_slice(bias);
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

/// The numbers, filled up to whole blocks.
impl Deref for Bias {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.numbers
    }
}
