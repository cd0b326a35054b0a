//! Convolutions without transforms: with three channels, Winograd's transforms cost more than they save, and its
//! filters take four times the weight's memory.

use std::ops::Range;

use crate::bias::Bias;
use crate::buffer::Buffer;
use crate::engine::Engine;
use crate::groups::{Groups, by_rows};
use crate::maps::{COLOURS, Images, Maps};
use crate::simd::{Isa, Kernel, LANES, Simd};
use crate::subnormal::flush_subnormal;

/// Rows of an output that a thread computes at a time.
const BAND: usize = 8;

/// A packed 3x3 convolution, as large as its weight where channels come in whole blocks.
#[derive(Debug)]
pub struct Direct {
    /// Block of output channels, block of input channels, filter row, filter column, channel in, channel out.
    filters: Buffer<f32>,
    /// Input channels that lie side by side.
    lanes: usize,
    /// Blocks of input channels.
    blocks: usize,
}

impl Direct {
    /// Packs a weight of O x `inputs` x 3 x 3.
    pub fn new(weight: &[f32], inputs: usize) -> Self {
        let lanes = if inputs == COLOURS { COLOURS } else { LANES };
        let outputs = weight.len() / (inputs * 9);
        let blocks = inputs.div_ceil(lanes);
        let mut filters = Buffer::zeroed(outputs.next_multiple_of(LANES) * blocks * lanes * 9);
        for (index, filter) in weight.chunks_exact(9).enumerate() {
            let (output, input) = (index / inputs, index % inputs);
            let at = ((output / LANES * blocks + input / lanes) * 9 * lanes + input % lanes) * LANES + output % LANES;
            for (place, &value) in filter.iter().enumerate() {
                filters[at + place * lanes * LANES] = flush_subnormal(value);
            }
        }
        Self { filters, lanes, blocks }
    }

    /// The packed filters.
    #[cfg(test)]
    pub fn numbers(&self) -> &[f32] {
        &self.filters
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.filters.bytes()
    }

    /// Computes max(conv(input) + bias, 0); `output` must have the result's shape.
    pub fn forward(&self, input: &Maps, bias: &Bias, output: Images<'_>, engine: &mut Engine) {
        let shape = output.shape;
        let isa = engine.isa;
        // Images and bands innermost, so that a share's filters stay in L2 while all of them use these.
        let bands = shape.height.div_ceil(BAND);
        let share = isa.panels();
        let shares = shape.blocks().div_ceil(share);
        engine.pool.run(shares * shape.count * bands, |item, _| {
            let (panel, image) = (item / (shape.count * bands) * share, item / bands % shape.count);
            let top = item % bands * BAND;
            let band = Band {
                direct: self,
                input,
                bias,
                image,
                rows: top..shape.height.min(top + BAND),
                panels: panel..shape.blocks().min(panel + share),
                output,
            };
            match self.lanes {
                COLOURS => isa.run(Lanes::<COLOURS>(band)),
                _ => isa.run(Lanes::<LANES>(band)),
            }
        });
    }
}

/// Computes some rows and channels of an image's output.
struct Band<'a> {
    direct: &'a Direct,
    input: &'a Maps,
    bias: &'a Bias,
    image: usize,
    rows: Range<usize>,
    /// At most as many as fit in the registers.
    panels: Range<usize>,
    output: Images<'a>,
}

/// A band of maps with `COLUMN` channels side by side.
struct Lanes<'a, const COLUMN: usize>(Band<'a>);

impl<const COLUMN: usize> Kernel for Lanes<'_, COLUMN> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Band { output, image, .. } = self.0;
        let width = output.shape.width;
        for panel in self.0.panels.clone() {
            // SAFETY: the border beside a band belongs to the band's thread.
            unsafe { output.clear_border((image, panel), self.0.rows.clone(), 0..width) };
        }
        let groups = Groups::new(width, S::ROWS);
        for y in self.0.rows.clone() {
            for group in 0..groups.count() {
                let range = groups.range(group);
                if const { S::PANELS == 2 } && self.0.panels.len() == 2 {
                    by_rows!(S, range.len(), ROWS => self.tile::<S, ROWS, 2>(s, y, range.start, self.0.panels.start));
                } else {
                    for panel in self.0.panels.clone() {
                        by_rows!(S, range.len(), ROWS => self.tile::<S, ROWS, 1>(s, y, range.start, panel));
                    }
                }
            }
        }
    }
}

impl<const COLUMN: usize> Lanes<'_, COLUMN> {
    /// Computes `PIXELS` pixels from column `x` of row `y`, `PANELS` blocks of channels from `panel`.
    #[inline(always)]
    fn tile<S: Simd, const PIXELS: usize, const PANELS: usize>(&self, s: S, y: usize, x: usize, panel: usize) {
        let band = &self.0;
        let (from, blocks) = (band.input.shape(), band.direct.blocks);
        let at = band.image * from.image() + y * from.row() + x * COLUMN;
        let window = (blocks - 1) * from.block() + 2 * from.row() + (PIXELS + 2) * COLUMN;
        let window = &band.input.data()[at..at + window];
        let depth = blocks * 9 * COLUMN;
        let filters = &band.direct.filters[panel * depth * LANES..][..PANELS * depth * LANES];
        let bias = &band.bias[panel * LANES..][..PANELS * LANES];
        let block = band.output.shape.block();
        let len = (PANELS - 1) * block + PIXELS * LANES;
        let to = band.output.pointer((band.image, panel), y, x, len);
        let zero = s.splat(0.0);
        let mut sums = [[zero; PANELS]; PIXELS];
        // SAFETY: the slices and `pointer` checked the largest index of each loop; a band is one thread's.
        unsafe {
            for depth_block in 0..blocks {
                for y in 0..3 {
                    let window = window.as_ptr().add(depth_block * from.block() + y * from.row());
                    let filters = filters.as_ptr().add((depth_block * 3 + y) * 3 * COLUMN * LANES);
                    for k in 0..3 * COLUMN {
                        let mut right = [zero; PANELS];
                        for (p, right) in right.iter_mut().enumerate() {
                            *right = s.load(filters.add((p * depth + k) * LANES));
                        }
                        for (pixel, sums) in sums.iter_mut().enumerate() {
                            let left = s.splat(*window.add(pixel * COLUMN + k));
                            for p in 0..PANELS {
                                sums[p] = s.mul_add(left, right[p], sums[p]);
                            }
                        }
                    }
                }
            }
            for p in 0..PANELS {
                let bias = s.load(bias.as_ptr().add(p * LANES));
                for (pixel, sums) in sums.iter().enumerate() {
                    // In this order, `max` passes NaN on.
                    let value = s.max(zero, s.add(sums[p], bias));
                    s.store(to.add(p * block + pixel * LANES), value);
                }
            }
        }
    }
}

/// 2x2 max pooling of `input`; `output` must have the result's shape.
pub fn pool(input: &Maps, output: Images<'_>, engine: &mut Engine) {
    let shape = output.shape;
    let isa: Isa = engine.isa;
    engine.pool.run(shape.count * shape.blocks() * shape.height, |item, _| {
        let (plane, y) = (item / shape.height, item % shape.height);
        let plane = (plane / shape.blocks(), plane % shape.blocks());
        let from = input.shape();
        let at = from.at(plane.0, plane.1, 2 * y, 0);
        isa.run(PoolRow {
            from: &input.data()[at..at + from.row() + 2 * shape.width * LANES],
            below: from.row(),
            to: output.pointer(plane, y, 0, shape.width * LANES),
            width: shape.width,
        });
        // SAFETY: the border beside a row belongs to the row's thread.
        unsafe { output.clear_border(plane, y..y + 1, 0..shape.width) };
    });
}

/// One row of a block, pooled.
struct PoolRow<'a> {
    /// Two rows.
    from: &'a [f32],
    /// From a row to the next.
    below: usize,
    to: *mut f32,
    width: usize,
}

impl Kernel for PoolRow<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let at = |x: usize| {
            let numbers = &self.from[x..][..LANES];
            // SAFETY: the slice has sixteen numbers.
            unsafe { s.load(numbers.as_ptr()) }
        };
        for x in 0..self.width {
            let left = 2 * x * LANES;
            let top = s.max(at(left), at(left + LANES));
            let bottom = s.max(at(left + self.below), at(left + self.below + LANES));
            // SAFETY: `pool` made room for `width` blocks; a row is one thread's.
            unsafe { s.store(self.to.add(x * LANES), s.max(top, bottom)) };
        }
    }
}
