//! Winograd's last step: transforms 36 products to a tile of output, with bias, ReLU and pooling.

use std::ops::Range;

use crate::grid::{Grid, Place};
use crate::maps::Images;
use crate::simd::{Kernel, LANES, Simd};
use crate::tile::{PRODUCTS, TILE, WINDOW, across, load_six, transform_output};

/// Transforms some tiles' products.
pub struct TransformOutput<'a> {
    /// Ordered by product, row (a tile), channel: 36 x `rows` x 16 `panels.len()`. Products start `stride` numbers
    /// apart.
    pub products: &'a [f32],
    /// See `products`.
    pub stride: usize,
    /// Rows of a product.
    pub rows: usize,
    /// The rows to transform.
    pub range: Range<usize>,
    /// The tile that is row 0.
    pub first: usize,
    /// The blocks of channels that `products` holds.
    pub panels: Range<usize>,
    /// The convolution's bias, padded to whole blocks.
    pub bias: &'a [f32],
    /// The tiles' maps, before pooling.
    pub grid: Grid,
    /// Where the results go, after pooling.
    pub images: Images<'a>,
    /// True for 2x2 max pooling.
    pub pool: bool,
}

impl Kernel for TransformOutput<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(
            self.stride >= self.rows * self.panels.len() * LANES && self.products.len() >= PRODUCTS * self.stride,
            "all products"
        );
        assert!(self.range.end <= self.rows, "rows of the products");
        for row in self.range.clone() {
            let place = self.grid.place(self.first + row);
            let next_place = self.grid.place(self.first + row + 1);
            for panel in self.panels.clone() {
                if panel + 1 < self.panels.end {
                    self.prefetch(s, place, panel + 1);
                } else {
                    self.prefetch(s, next_place, self.panels.start);
                }
                let tile = self.tile(s, row, panel);
                if self.pool {
                    self.write(s, place, panel, pooled(s, tile));
                } else {
                    self.write(s, place, panel, tile);
                }
            }
        }
    }
}

impl TransformOutput<'_> {
    /// Prefetches the cache lines of a tile's results, one tile ahead: a store that misses waits as long as a load.
    #[inline(always)]
    fn prefetch<S: Simd>(&self, s: S, place: Place, panel: usize) {
        let side = if self.pool { TILE / 2 } else { TILE };
        let to = self
            .images
            .address((place.image, panel), place.row * side, place.column * side);
        for y in 0..side {
            for x in 0..side {
                s.prefetch(to.wrapping_add(y * self.images.shape.row() + x * LANES));
            }
        }
    }

    /// max(At m A + bias, 0) for sixteen channels.
    #[inline(always)]
    fn tile<S: Simd>(&self, s: S, row: usize, panel: usize) -> [[S::Floats; TILE]; TILE] {
        let width = self.panels.len() * LANES;
        let at = row * width + (panel - self.panels.start) * LANES;
        let stride = self.stride;
        // SAFETY: `run` checked that `products` holds 36 strides; row and panel are within one.
        let columns = unsafe {
            let from = self.products.as_ptr().add(at);
            let down = WINDOW * stride;
            [
                transform_output(s, load_six(s, from, down)),
                transform_output(s, load_six(s, from.add(stride), down)),
                transform_output(s, load_six(s, from.add(2 * stride), down)),
                transform_output(s, load_six(s, from.add(3 * stride), down)),
                transform_output(s, load_six(s, from.add(4 * stride), down)),
                transform_output(s, load_six(s, from.add(5 * stride), down)),
            ]
        };
        let bias = &self.bias[panel * LANES..][..LANES];
        // SAFETY: the slice has sixteen numbers.
        let bias = unsafe { s.load(bias.as_ptr()) };
        [
            rectified(s, transform_output(s, across(&columns, 0)), bias),
            rectified(s, transform_output(s, across(&columns, 1)), bias),
            rectified(s, transform_output(s, across(&columns, 2)), bias),
            rectified(s, transform_output(s, across(&columns, 3)), bias),
        ]
    }

    /// Writes the part of a tile (`SIDE` x `SIDE` numbers of a channel) that lies within the maps.
    #[inline(always)]
    fn write<S: Simd, const SIDE: usize>(&self, s: S, place: Place, panel: usize, tile: [[S::Floats; SIDE]; SIDE]) {
        let shape = self.images.shape;
        let (top, left) = (place.row * SIDE, place.column * SIDE);
        let height = shape.height.saturating_sub(top).min(SIDE);
        let width = shape.width.saturating_sub(left).min(SIDE);
        if height == 0 || width == 0 {
            return;
        }
        let plane = (place.image, panel);
        let len = (height - 1) * shape.row() + width * LANES;
        let to = self.images.pointer(plane, top, left, len);
        for (y, row) in tile.iter().enumerate().take(height) {
            for (x, &value) in row.iter().enumerate().take(width) {
                // SAFETY: `pointer` checked room up to the last row's last number; each tile is one thread's.
                unsafe { s.store(to.add(y * shape.row() + x * LANES), value) };
            }
        }
        // SAFETY: the border beside a tile belongs to the tile's thread.
        unsafe { self.images.clear_border(plane, top..top + height, left..left + width) };
    }
}

/// max(row + bias, 0)
#[inline(always)]
fn rectified<S: Simd>(s: S, row: [S::Floats; TILE], bias: S::Floats) -> [S::Floats; TILE] {
    // In this order, `max` passes NaN on.
    let zero = s.splat(0.0);
    let [a, b, c, d] = row;
    [
        s.max(zero, s.add(a, bias)),
        s.max(zero, s.add(b, bias)),
        s.max(zero, s.add(c, bias)),
        s.max(zero, s.add(d, bias)),
    ]
}

/// 2x2 max pooling.
#[inline(always)]
fn pooled<S: Simd>(s: S, tile: [[S::Floats; TILE]; TILE]) -> [[S::Floats; TILE / 2]; TILE / 2] {
    let [a, b, c, d] = tile;
    [pooled_row(s, a, b), pooled_row(s, c, d)]
}

#[inline(always)]
fn pooled_row<S: Simd>(s: S, top: [S::Floats; TILE], bottom: [S::Floats; TILE]) -> [S::Floats; TILE / 2] {
    [
        s.max(s.max(top[0], top[1]), s.max(bottom[0], bottom[1])),
        s.max(s.max(top[2], top[3]), s.max(bottom[2], bottom[3])),
    ]
}
