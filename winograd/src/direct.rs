//! The convolution of pictures: three channels are too few for Winograd's transforms to pay.

use crate::buffer::{Buffer, Shared};
use crate::engine::Engine;
use crate::groups::{Groups, by_rows};
use crate::maps::{Maps, Shape};
use crate::simd::{Kernel, LANES, Simd};

/// The channels of a picture.
const COLOURS: usize = 3;
/// Filter numbers of an output channel, 3 x 3 x 3, and those of one row of the filter.
const DEPTH: usize = 3 * ROW;
const ROW: usize = 3 * COLOURS;

/// A packed 3x3 convolution of three channels.
#[derive(Debug)]
pub struct Direct {
    /// Block of output channels, filter row, filter column, colour, channel in the block.
    filters: Buffer<f32>,
    bias: Buffer<f32>,
}

impl Direct {
    /// Packs a weight of O x 3 x 3 x 3 and a bias that is filled up to whole blocks.
    pub fn new(weight: &[f32], bias: Buffer<f32>) -> Self {
        let mut filters = Buffer::zeroed(bias.len() * DEPTH);
        for (output, weight) in weight.chunks_exact(DEPTH).enumerate() {
            let (panel, lane) = (output / LANES, output % LANES);
            for (i, &value) in weight.iter().enumerate() {
                let (colour, place) = (i / 9, i % 9);
                filters[(panel * DEPTH + place * COLOURS + colour) * LANES + lane] = value;
            }
        }
        Self { filters, bias }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.filters.bytes() + self.bias.bytes()
    }

    /// max(conv(input) + bias, 0)
    pub fn forward(&self, input: &Maps, output: &mut Maps, engine: &mut Engine) {
        let shape = output.shape();
        let isa = engine.isa;
        let to = Shared::new(output.data_mut());
        engine.pool.run(shape.count * shape.height, |item, _| {
            isa.run(Row {
                direct: self,
                input,
                image: item / shape.height,
                y: item % shape.height,
                output: to,
                shape,
            });
        });
    }
}

/// Computes one row of an image's output.
struct Row<'a> {
    direct: &'a Direct,
    input: &'a Maps,
    image: usize,
    y: usize,
    output: Shared<'a, f32>,
    shape: Shape,
}

impl Kernel for Row<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let groups = Groups::new(self.shape.width, S::ROWS);
        let panels = self.shape.blocks();
        for group in 0..groups.count() {
            let range = groups.range(group);
            let mut panel = 0;
            while panel + S::PANELS <= panels {
                if S::PANELS == 2 {
                    by_rows!(S, range.len(), ROWS => self.tile::<S, ROWS, 2>(s, range.start, panel));
                } else {
                    by_rows!(S, range.len(), ROWS => self.tile::<S, ROWS, 1>(s, range.start, panel));
                }
                panel += S::PANELS;
            }
            for panel in panel..panels {
                by_rows!(S, range.len(), ROWS => self.tile::<S, ROWS, 1>(s, range.start, panel));
            }
        }
    }
}

impl Row<'_> {
    /// `PIXELS` pixels from column `x`, `PANELS` blocks of channels from `panel`.
    #[inline(always)]
    fn tile<S: Simd, const PIXELS: usize, const PANELS: usize>(&self, s: S, x: usize, panel: usize) {
        let from = self.input.shape();
        let at = self.image * from.image() + self.y * from.row() + x * COLOURS;
        let window = &self.input.data()[at..at + 2 * from.row() + (PIXELS - 1) * COLOURS + ROW];
        let filters = &self.direct.filters[panel * DEPTH * LANES..][..PANELS * DEPTH * LANES];
        let bias = &self.direct.bias[panel * LANES..][..PANELS * LANES];
        let corner = self.shape.origin() + self.y * self.shape.row() + x * LANES;
        let at = self.image * self.shape.image() + panel * self.shape.block() + corner;
        let to = self
            .output
            .pointer(at, (PANELS - 1) * self.shape.block() + PIXELS * LANES);
        let zero = s.splat(0.0);
        let mut sums = [[zero; PANELS]; PIXELS];
        // SAFETY: the slices and `pointer` checked the largest index of each loop; a row is one thread's.
        unsafe {
            for y in 0..3 {
                for k in 0..ROW {
                    let mut right = [zero; PANELS];
                    for (p, right) in right.iter_mut().enumerate() {
                        *right = s.load(filters.as_ptr().add((p * DEPTH + y * ROW + k) * LANES));
                    }
                    for (pixel, sums) in sums.iter_mut().enumerate() {
                        let left = s.splat(*window.as_ptr().add(y * from.row() + pixel * COLOURS + k));
                        for p in 0..PANELS {
                            sums[p] = s.mul_add(left, right[p], sums[p]);
                        }
                    }
                }
            }
            for p in 0..PANELS {
                let bias = s.load(bias.as_ptr().add(p * LANES));
                for (pixel, sums) in sums.iter().enumerate() {
                    // NaN passes `max` in this order.
                    let value = s.max(zero, s.add(sums[p], bias));
                    s.store(to.add(p * self.shape.block() + pixel * LANES), value);
                }
            }
        }
    }
}
