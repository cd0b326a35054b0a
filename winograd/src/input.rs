//! Winograd's first step: tiles of input to rows of 36 products.

use std::ops::Range;

use crate::buffer::Shared;
use crate::grid::{Grid, Place};
use crate::groups::Groups;
use crate::maps::Maps;
use crate::simd::{Kernel, LANES, Simd};
use crate::tile::{PRODUCTS, TILE, WINDOW, transform_input};

/// The length to which a row of 16-bit integers is scaled.
///
/// By Cauchy and Schwarz a sum of products is at most the product of both rows' lengths, here 32,712 x 65,412 < 2^31 if
/// rounding adds 12 (half a unit in each of 576 channels) to each: sums in i32 cannot overflow. And no number of the row
/// exceeds its length, so that each fits in 16 bits.
pub const LENGTH: f32 = 32_700.0;
/// The length to which a filter's row is scaled, if its largest number then fits in 16 bits.
pub const FILTER_LENGTH: f64 = 65_400.0;
/// Channels for which the arithmetic above holds.
pub const CHANNELS_MAX: usize = 576;

/// Keeps the scale of a row of zeros finite.
const SQUARE_MIN: f32 = 1e-30;
/// What a strip may keep of L2.
const STRIP_BYTES_MAX: usize = 168 << 10;

/// Transforms some tiles.
pub struct TransformInput<'a> {
    /// What the convolution reads.
    pub maps: &'a Maps,
    /// The tile that is row 0 of the products.
    pub first: usize,
    /// The division of the products' rows.
    pub groups: Groups,
    /// The rows to transform.
    pub range: Range<usize>,
    /// Where the rows go.
    pub rows: Rows<'a>,
    /// From a product's rows to the next product's; counts numbers.
    pub stride: usize,
}

/// The rows of the 36 products: product, then as [`Groups`] says.
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// As they are.
    Float(Shared<'a, f32>),
    /// As integers and scales.
    Integer {
        /// The integers.
        values: Shared<'a, i16>,
        /// By product and row: what to multiply the integers by.
        scales: Shared<'a, f32>,
        /// Room for [`strip_len`] numbers that no other thread uses.
        strip: Shared<'a, f32>,
    },
}

impl Kernel for TransformInput<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let range = self.range.clone();
        match self.rows {
            Rows::Float(values) => self.floats(s, range, values),
            Rows::Integer { values, scales, strip } => {
                let tiles = strip_tiles(self.maps.shape().blocks());
                for start in range.clone().step_by(tiles) {
                    let rows = start..range.end.min(start + tiles);
                    self.strip(s, rows.clone(), strip);
                    for row in rows.clone() {
                        let tile = row - rows.start;
                        let factors = self.factors(s, row, tile, (scales, strip));
                        self.integers(s, row, tile, &factors, (values, strip));
                    }
                }
            }
        }
    }
}

/// Tiles whose f32 are kept in L2 until they are rounded.
fn strip_tiles(blocks: usize) -> usize {
    (STRIP_BYTES_MAX / (tile_len(blocks) * size_of::<f32>())).clamp(1, 14)
}

/// Numbers of a tile in a strip: product, block, channel in the block. A block more than that, lest the 36 numbers that
/// are written at a time compete for the same few places in L1.
fn tile_len(blocks: usize) -> usize {
    PRODUCTS * (blocks + 1) * LANES
}

/// Numbers of the strip that [`Rows::Integer`] takes for an input of `blocks` blocks of channels.
pub fn strip_len(blocks: usize) -> usize {
    strip_tiles(blocks) * tile_len(blocks)
}

// Block by block rather than tile by tile: so the six rows of the maps are read as six streams.
impl TransformInput<'_> {
    #[inline(always)]
    fn floats<S: Simd>(&self, s: S, rows: Range<usize>, values: Shared<'_, f32>) {
        let grid = Grid::new(self.maps.shape());
        let blocks = self.maps.shape().blocks();
        for block in 0..blocks {
            for row in rows.clone() {
                let window = window(s, self.maps, grid.place(self.first + row), block);
                let at = self.groups.at(row, block, blocks);
                let to = values.pointer(at, (PRODUCTS - 1) * self.stride + LANES);
                for (k, &value) in window.as_flattened().iter().enumerate() {
                    // SAFETY: `pointer` checked room for 35 strides and sixteen numbers; threads transform distinct rows.
                    unsafe { s.store(to.add(k * self.stride), value) };
                }
            }
        }
    }

    /// Writes the transforms of `rows` to the strip.
    #[inline(always)]
    fn strip<S: Simd>(&self, s: S, rows: Range<usize>, strip: Shared<'_, f32>) {
        let grid = Grid::new(self.maps.shape());
        let blocks = self.maps.shape().blocks();
        for block in 0..blocks {
            for (tile, row) in rows.clone().enumerate() {
                let window = window(s, self.maps, grid.place(self.first + row), block);
                let to = strip.pointer(tile * tile_len(blocks), tile_len(blocks));
                for (k, &value) in window.as_flattened().iter().enumerate() {
                    // SAFETY: `pointer` checked room for 36 rows of `blocks + 1` blocks.
                    unsafe { s.store(to.add((k * (blocks + 1) + block) * LANES), value) };
                }
            }
        }
    }

    /// The scales that bring the 36 rows of a tile of the strip to the same length; writes their inverses.
    #[inline(always)]
    fn factors<S: Simd>(
        &self,
        s: S,
        row: usize,
        tile: usize,
        (scales, strip): (Shared<'_, f32>, Shared<'_, f32>),
    ) -> [f32; PRODUCTS] {
        const AT_A_TIME: usize = 12;
        let row_len = (self.maps.shape().blocks() + 1) * LANES;
        let from = strip.pointer(tile * PRODUCTS * row_len, PRODUCTS * row_len);
        let rows = self.groups.rows();
        let scale_to = scales.pointer(row, (PRODUCTS - 1) * rows + 1);
        let mut factors = [0f32; PRODUCTS];
        for first in (0..PRODUCTS).step_by(AT_A_TIME) {
            let mut squares = [s.splat(0.0); LANES];
            for at in (0..row_len - LANES).step_by(LANES) {
                for (k, square) in squares[..AT_A_TIME].iter_mut().enumerate() {
                    // SAFETY: `pointer` checked room for 36 rows of `row_len`.
                    let value = unsafe { s.load(from.add((first + k) * row_len + at)) };
                    *square = s.mul_add(value, value, *square);
                }
            }
            // A row of zeros gets a finite scale, and NaN passes in this order.
            let lengths = s.sqrt(s.max(s.splat(SQUARE_MIN), s.sums(&squares)));
            let (mut few, mut inverses) = ([0f32; LANES], [0f32; LANES]);
            // SAFETY: both have room for sixteen numbers.
            unsafe {
                s.store(few.as_mut_ptr(), s.div(s.splat(LENGTH), lengths));
                s.store(inverses.as_mut_ptr(), s.mul(lengths, s.splat(1.0 / LENGTH)));
            }
            for k in 0..AT_A_TIME {
                factors[first + k] = few[k];
                // SAFETY: `pointer` checked room for 35 strides of `rows` and one number; the row is this thread's.
                unsafe { *scale_to.add((first + k) * rows) = inverses[k] };
            }
        }
        factors
    }

    /// Rounds the 36 rows of a tile of the strip, each times its factor.
    #[inline(always)]
    fn integers<S: Simd>(
        &self,
        s: S,
        row: usize,
        tile: usize,
        factors: &[f32; PRODUCTS],
        (values, strip): (Shared<'_, i16>, Shared<'_, f32>),
    ) {
        let blocks = self.maps.shape().blocks();
        let row_len = (blocks + 1) * LANES;
        let from = strip.pointer(tile * PRODUCTS * row_len, PRODUCTS * row_len);
        for block in 0..blocks {
            let at = self.groups.at(row, block, blocks);
            let to = values.pointer(at, (PRODUCTS - 1) * self.stride + LANES);
            for (k, &factor) in factors.iter().enumerate() {
                // SAFETY: `pointer` checked room for 36 rows of `row_len` to read, and for 35 strides and sixteen numbers
                // to write; threads transform distinct rows.
                unsafe {
                    let value = s.load(from.add(k * row_len + block * LANES));
                    s.store_i16(to.add(k * self.stride), s.mul(value, s.splat(factor)));
                }
            }
        }
    }
}

/// Bt d B for sixteen channels of a tile.
#[inline(always)]
fn window<S: Simd>(s: S, maps: &Maps, place: Place, block: usize) -> [[S::Floats; WINDOW]; WINDOW] {
    let shape = maps.shape();
    let tile = (place.row * shape.row() + place.column * LANES) * TILE;
    let at = place.image * shape.image() + block * shape.block() + tile;
    let data = &maps.data()[at..at + (WINDOW - 1) * shape.row() + WINDOW * LANES];
    // The next tile to the right is next. Its lines lie in too many places for the CPU to foresee.
    for y in 0..WINDOW {
        for x in 0..TILE {
            s.prefetch(data.as_ptr().wrapping_add(y * shape.row() + (WINDOW + x) * LANES));
        }
    }
    let zero = s.splat(0.0);
    let mut columns = [[zero; WINDOW]; WINDOW];
    for (x, transformed) in columns.iter_mut().enumerate() {
        let mut column = [zero; WINDOW];
        for (y, value) in column.iter_mut().enumerate() {
            // SAFETY: y < 6 and x < 6, and `data` holds five rows and six times sixteen numbers.
            *value = unsafe { s.load(data.as_ptr().add(y * shape.row() + x * LANES)) };
        }
        *transformed = transform_input(s, column);
    }
    let mut result = [[zero; WINDOW]; WINDOW];
    for (y, transformed) in result.iter_mut().enumerate() {
        let mut row = [zero; WINDOW];
        for (value, column) in row.iter_mut().zip(&columns) {
            *value = column[y];
        }
        *transformed = transform_input(s, row);
    }
    result
}
