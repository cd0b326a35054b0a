//! Winograd's first step: tiles of input to rows of 36 products.

use std::ops::Range;

use crate::buffer::Shared;
use crate::grid::Grid;
use crate::groups::Groups;
use crate::maps::Maps;
use crate::simd::{Kernel, LANES, Simd};
use crate::tile::{PRODUCTS, TILE, WINDOW, across, load_six, transform_input};

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
/// Tiles of a strip at most.
const STRIP_MAX: usize = 14;
/// How many tiles ahead the maps are brought to L1: about as long as memory takes.
const AHEAD: usize = 2;

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
    (STRIP_BYTES_MAX / (tile_len(blocks) * size_of::<f32>())).clamp(1, STRIP_MAX)
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

impl TransformInput<'_> {
    #[inline(always)]
    fn floats<S: Simd>(&self, s: S, rows: Range<usize>, values: Shared<'_, f32>) {
        let blocks = self.maps.shape().blocks();
        for start in rows.clone().step_by(STRIP_MAX) {
            let to = |tile, block| {
                let at = self.groups.at(start + tile, block, blocks);
                values.pointer(at, (PRODUCTS - 1) * self.stride + LANES)
            };
            // SAFETY: `pointer` checked room for 35 strides and sixteen numbers; threads transform distinct rows.
            unsafe { self.windows(s, start..rows.end.min(start + STRIP_MAX), self.stride, to) };
        }
    }

    /// Writes the transforms of `rows` to the strip.
    #[inline(always)]
    fn strip<S: Simd>(&self, s: S, rows: Range<usize>, strip: Shared<'_, f32>) {
        let blocks = self.maps.shape().blocks();
        let stride = (blocks + 1) * LANES;
        let to = |tile, block| strip.pointer(tile * tile_len(blocks) + block * LANES, (PRODUCTS - 1) * stride + LANES);
        // SAFETY: `pointer` checked room for 35 strides and sixteen numbers; the strip is this thread's.
        unsafe { self.windows(s, rows, stride, to) };
    }

    /// Transforms the tiles of up to [`STRIP_MAX`] rows, sixteen channels at a time, to 36 places `stride` numbers apart
    /// that `to(tile, block)` starts, tiles counted from 0. Block by block rather than tile by tile, so that the six rows of
    /// the maps are read as six streams.
    ///
    /// # Safety
    /// All these places are valid for writing sixteen numbers, and this thread's.
    #[inline(always)]
    unsafe fn windows<S: Simd>(&self, s: S, rows: Range<usize>, stride: usize, to: impl Fn(usize, usize) -> *mut f32) {
        let shape = self.maps.shape();
        let grid = Grid::new(shape);
        // Where the tiles' windows start, of an image's first block; also of those that will be next.
        let mut starts = [0; STRIP_MAX + AHEAD];
        for (start, row) in starts.iter_mut().zip(rows.start..rows.end + AHEAD) {
            let place = grid.place(self.first + row);
            *start = place.image * shape.image() + (place.row * shape.row() + place.column * LANES) * TILE;
        }
        let tiles = rows.len();
        for block in 0..shape.blocks() {
            for (tile, start) in starts[..tiles].iter().enumerate() {
                let ahead = tile + AHEAD;
                let next = if ahead < tiles {
                    starts[ahead] + block * shape.block()
                } else if block + 1 < shape.blocks() {
                    starts[ahead % tiles] + (block + 1) * shape.block()
                } else {
                    starts[ahead]
                };
                let at = start + block * shape.block();
                // SAFETY: the caller's.
                unsafe { window(s, self.maps, at, next, to(tile, block), stride) };
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
            let mut from = from.wrapping_add(block * LANES);
            let mut to = values.pointer(at, (PRODUCTS - 1) * self.stride + LANES);
            for &factor in factors {
                // SAFETY: `pointer` checked room for 36 rows of `row_len` to read, and for 35 strides and sixteen numbers
                // to write; threads transform distinct rows.
                unsafe { s.store_i16(to, s.mul(s.load(from), s.splat(factor))) };
                from = from.wrapping_add(row_len);
                to = to.wrapping_add(self.stride);
            }
        }
    }
}

/// Bt d B for sixteen channels of the tile whose window starts at number `at` of the maps: 36 times sixteen numbers to
/// places `stride` numbers apart. The window at `next` is asked for; its lines lie in too many places for the CPU to foresee.
///
/// # Safety
/// The 36 places are valid for writing sixteen numbers, and this thread's.
#[inline(always)]
unsafe fn window<S: Simd>(s: S, maps: &Maps, at: usize, next: usize, to: *mut f32, stride: usize) {
    let row = maps.shape().row();
    let data = &maps.data()[at..at + (WINDOW - 1) * row + WINDOW * LANES];
    for y in 0..WINDOW {
        for x in 0..WINDOW {
            s.prefetch(maps.data().as_ptr().wrapping_add(next + y * row + x * LANES));
        }
    }
    let data = data.as_ptr();
    // SAFETY: `data` holds five rows and six times sixteen numbers.
    let columns = unsafe {
        [
            transform_input(s, load_six(s, data, row)),
            transform_input(s, load_six(s, data.add(LANES), row)),
            transform_input(s, load_six(s, data.add(2 * LANES), row)),
            transform_input(s, load_six(s, data.add(3 * LANES), row)),
            transform_input(s, load_six(s, data.add(4 * LANES), row)),
            transform_input(s, load_six(s, data.add(5 * LANES), row)),
        ]
    };
    for y in 0..WINDOW {
        // Each row as soon as it is there: 36 numbers are more than the registers hold.
        let [a, b, c, d, e, f] = transform_input(s, across(&columns, y));
        // SAFETY: the caller vouches for all 36.
        unsafe {
            let to = to.add(y * WINDOW * stride);
            s.store(to, a);
            s.store(to.add(stride), b);
            s.store(to.add(2 * stride), c);
            s.store(to.add(3 * stride), d);
            s.store(to.add(4 * stride), e);
            s.store(to.add(5 * stride), f);
        }
    }
}
