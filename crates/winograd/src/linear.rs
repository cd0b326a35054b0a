//! The fully connected layer.

use crate::bias::Bias;
use crate::buffer::{Buffer, Shared};
use crate::conv::Precision;
use crate::engine::Engine;
use crate::groups::Groups;
use crate::multiply::{Float, Mixed};
use crate::product::{Product, Store};
use crate::simd::{LANES, Simd};
use crate::subnormal::{flush_subnormal, scale_of};

/// The packed weight of a Linear.
#[derive(Debug)]
pub struct PackedLinear {
    inputs: usize,
    outputs: usize,
    weights: Weights,
}

/// Ordered by block of output channels, input, output channel in the block; inputs are also padded to whole blocks.
#[derive(Debug)]
pub enum Weights {
    /// As f32.
    Float(Buffer<f32>),
    /// As i16, each output's row with a scale of its own.
    Integer {
        /// The integers.
        values: Buffer<i16>,
        /// By output: what to multiply the integers by.
        scales: Buffer<f32>,
    },
}

impl PackedLinear {
    /// Packs a `weight` of `outputs` x I. Subnormal numbers become 0.
    ///
    /// # Panics
    /// If the length does not fit.
    pub fn new(weight: &[f32], outputs: usize, precision: Precision) -> Self {
        let inputs = weight.len() / outputs;
        assert_eq!(weight.len(), outputs * inputs, "O x I weights");
        let columns = outputs.next_multiple_of(LANES);
        let depth = inputs.next_multiple_of(LANES);
        let at = |output: usize, input: usize| (output / LANES * depth + input) * LANES + output % LANES;
        let weights = match precision {
            Precision::Float => {
                let mut values = Buffer::zeroed(columns * depth);
                pack(weight, inputs, |output, input, value| {
                    values[at(output, input)] = flush_subnormal(value);
                });
                Weights::Float(values)
            }
            Precision::Integer => {
                let (mut values, mut scales) = (Buffer::zeroed(columns * depth), Buffer::zeroed(columns));
                for (scale, row) in scales.iter_mut().zip(weight.chunks_exact(inputs)) {
                    let largest = row.iter().fold(0f32, |largest, value| largest.max(value.abs()));
                    *scale = scale_of(largest, f32::from(i16::MAX));
                }
                pack(weight, inputs, |output, input, value| {
                    values[at(output, input)] = (value / scales[output]).round() as i16;
                });
                Weights::Integer { values, scales }
            }
        };
        Self {
            inputs,
            outputs,
            weights,
        }
    }

    /// Computes `output` (N x O) = `rows` (N x I) times the weight plus `bias`, then max(_, 0) if `relu`. A row's
    /// results have the same bits in every batch.
    ///
    /// # Panics
    /// If `rows` are not whole rows, or `bias` does not have O numbers.
    pub fn forward(&self, rows: &[f32], bias: &Bias, relu: bool, output: &mut Vec<f32>, engine: &mut Engine) {
        let count = rows.len() / self.inputs;
        assert_eq!(rows.len(), count * self.inputs, "whole rows");
        assert_eq!(bias.values().len(), self.outputs, "a bias for each output");
        output.resize(count * self.outputs, 0.0);
        let groups = Groups::new(count, engine.isa.rows());
        self.pack_rows(rows, groups, &mut engine.scratch.rows);
        let packed = &engine.scratch.rows[..];
        let output = Shared::new(output);
        let isa = engine.isa;
        let panels = bias.len() / LANES;
        let share = isa.panels();
        engine.pool.run(panels.div_ceil(share), |item, _| {
            let panels = item * share..panels.min((item + 1) * share);
            let store = Outputs {
                to: output.pointer(0, count * self.outputs),
                linear: self,
                bias,
                relu,
            };
            let blocks = self.blocks();
            match &self.weights {
                Weights::Float(columns) => isa.run(Product::<Float, _> {
                    rows: packed,
                    columns,
                    groups,
                    blocks,
                    panels,
                    store,
                }),
                Weights::Integer { values, .. } => isa.run(Product::<Mixed, _> {
                    rows: packed,
                    columns: values,
                    groups,
                    blocks,
                    panels,
                    store,
                }),
            }
        });
    }

    /// Numbers in.
    pub fn inputs(&self) -> usize {
        self.inputs
    }

    /// Numbers out.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// The packed weights.
    #[cfg(test)]
    pub(crate) fn weights(&self) -> &Weights {
        &self.weights
    }

    /// Bytes of packed weights held.
    pub fn bytes(&self) -> usize {
        match &self.weights {
            Weights::Float(values) => values.bytes(),
            Weights::Integer { values, scales } => values.bytes() + scales.bytes(),
        }
    }

    fn blocks(&self) -> usize {
        self.inputs.div_ceil(LANES)
    }

    fn pack_rows(&self, rows: &[f32], groups: Groups, packed: &mut Buffer<f32>) {
        packed.reserve(groups.rows() * self.blocks() * LANES);
        for (row, numbers) in rows.chunks_exact(self.inputs).enumerate() {
            for (block, numbers) in numbers.chunks(LANES).enumerate() {
                let to = &mut packed[groups.at(row, block, self.blocks())..][..LANES];
                to[..numbers.len()].copy_from_slice(numbers);
                to[numbers.len()..].fill(0.0);
            }
        }
    }
}

/// Calls `to` for 16 rows side by side, so that it writes whole cache lines.
fn pack(weight: &[f32], inputs: usize, mut to: impl FnMut(usize, usize, f32)) {
    for (panel, weight) in weight.chunks(inputs * LANES).enumerate() {
        for input in 0..inputs {
            for (lane, row) in weight.chunks_exact(inputs).enumerate() {
                to(panel * LANES + lane, input, row[input]);
            }
        }
    }
}

/// Where results go, by row and output, after scale, bias and ReLU.
#[derive(Clone, Copy)]
struct Outputs<'a> {
    to: *mut f32,
    linear: &'a PackedLinear,
    bias: &'a Bias,
    relu: bool,
}

impl Store for Outputs<'_> {
    #[inline(always)]
    unsafe fn store<S: Simd>(self, s: S, row: usize, panel: usize, value: S::Floats) {
        let at = panel * LANES;
        let linear = self.linear;
        // SAFETY: bias and scales are padded to whole panels, and the caller vouches for the panel.
        let mut value = unsafe {
            let bias = s.load(self.bias.as_ptr().add(at));
            match &linear.weights {
                Weights::Float(_) => s.add(value, bias),
                Weights::Integer { scales, .. } => s.mul_add(value, s.load(scales.as_ptr().add(at)), bias),
            }
        };
        if self.relu {
            // In this order, `max` passes NaN on.
            value = s.max(s.splat(0.0), value);
        }
        let to = self.to.wrapping_add(row * linear.outputs + at);
        if at + LANES <= linear.outputs {
            // SAFETY: `forward` made `to` valid for all rows of `outputs` numbers, and these sixteen are of one row.
            unsafe { s.store(to, value) };
        } else {
            let mut last = [0f32; LANES];
            // SAFETY: `last` has room for sixteen numbers, and the row for `outputs - at` more.
            unsafe {
                s.store(last.as_mut_ptr(), value);
                std::ptr::copy_nonoverlapping(last.as_ptr(), to, linear.outputs - at);
            }
        }
    }
}
