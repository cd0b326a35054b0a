//! Winograd's first step: transforms tiles of input to the rows of the 36 products.

use std::ops::Range;

use crate::buffer::Shared;
use crate::grid::Grid;
use crate::groups::Groups;
use crate::maps::Maps;
use crate::simd::{Kernel, LANES, Simd};
use crate::tile::{PRODUCTS, TILE, WINDOW, across, load_six, transform_input};

/// The Euclidean norm to which a row of 16-bit integers is scaled.
///
/// By the Cauchy–Schwarz inequality, a sum of products is at most the product of both rows' norms. Rounding adds at
/// most 12 to each (√576 times half a unit), and 32,712 x 65,412 < 2^31: sums in i32 cannot overflow. No number exceeds
/// its row's norm, so each fits in 16 bits.
pub const LENGTH: f32 = 32_700.0;
/// The norm to which a filter's row is scaled, if its largest number then fits in 16 bits.
pub const FILTER_LENGTH: f64 = 65_400.0;
/// The most channels for which the bound above holds.
pub const CHANNELS_MAX: usize = 576;

/// Keeps the scale of a row of zeros finite.
const SQUARE_MIN: f32 = 1e-30;
/// The part of L2 for a strip: the transforms of some tiles in f32, until they are rounded.
const STRIP_BYTES_MAX: usize = 168 << 10;
/// Maximum number of tiles in a strip.
const STRIP_MAX: usize = 14;
/// How many tiles ahead the maps are prefetched to L1: about memory's latency.
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
    /// The distance between successive products' rows, in numbers.
    pub stride: usize,
}

/// The rows of the 36 products: by product, then in the order of [`Groups`].
#[derive(Clone, Copy)]
pub enum Rows<'a> {
    /// As f32.
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

/// The number of tiles in a strip.
fn strip_tiles(blocks: usize) -> usize {
    (STRIP_BYTES_MAX / (tile_len(blocks) * size_of::<f32>())).clamp(1, STRIP_MAX)
}

/// Numbers of a tile in a strip: product, block, channel in the block. Each product has one block of padding, so that
/// the 36 numbers written at a time do not compete for the same few sets of L1.
fn tile_len(blocks: usize) -> usize {
    PRODUCTS * (blocks + 1) * LANES
}

/// The length in numbers of the strip of [`Rows::Integer`], for an input of `blocks` blocks of channels.
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

    /// Transforms the tiles of up to [`STRIP_MAX`] rows, sixteen channels at a time. Writes to 36 places `stride`
    /// numbers apart, the first of them `to(tile, block)`, with tiles counted from 0. Goes block by block, not tile by
    /// tile, so that the six rows of the maps are read as six streams.
    ///
    /// # Safety
    /// All these places are valid for writing sixteen numbers, and belong to this thread.
    #[inline(always)]
    unsafe fn windows<S: Simd>(&self, s: S, rows: Range<usize>, stride: usize, to: impl Fn(usize, usize) -> *mut f32) {
        let shape = self.maps.shape();
        let grid = Grid::new(shape);
        // Where the windows of these tiles, and of the tiles that follow, start in their image's first block.
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
                // SAFETY: guaranteed by the caller.
                unsafe { window(s, self.maps, at, next, to(tile, block), stride) };
            }
        }
    }

    /// Returns the factors that scale the 36 rows of a tile of the strip to [`LENGTH`]; writes their inverses to
    /// `scales`.
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
            // A row of zeros gets a finite scale, and in this order `max` passes NaN on.
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

    /// Multiplies the 36 rows of a tile of the strip by their factors, and rounds them.
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

/// Writes Bt d B for sixteen channels of the tile whose window starts at number `at` of the maps: 36 times sixteen
/// numbers, `stride` numbers apart. Prefetches the window at `next`, whose lines are too scattered for the CPU's own
/// prefetcher.
///
/// # Safety
/// The 36 places are valid for writing sixteen numbers, and belong to this thread.
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
        // Each row is stored as soon as it is computed: 36 vectors are more than the registers hold.
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
