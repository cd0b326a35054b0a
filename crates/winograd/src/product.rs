//! Matrix products: rows of activations times packed panels of weights.

use std::ops::Range;

use crate::groups::{Groups, by_rows, each_row};
use crate::multiply::Multiply;
use crate::simd::{Kernel, LANES, Simd};

/// Bytes of a cache line.
const LINE: usize = 64;
/// Panels of up to this size are prefetched to L2 while the panels before them are in use.
const NEXT_BYTES_MAX: usize = 128 << 10;
/// How far ahead longer panels are prefetched: 8 KiB of f32, which memory delivers in 330 ns at 25 GB/s.
const BLOCKS_AHEAD: usize = 8;

/// Where a product's results go.
pub trait Store: Copy {
    /// Takes sixteen results of a row.
    ///
    /// # Safety
    /// `row` and `panel` are within the product's rows and panels.
    unsafe fn store<S: Simd>(self, s: S, row: usize, panel: usize, value: S::Floats);
}

/// A matrix product: rows x depth times depth x columns.
///
/// Each result is one sum in the order of depth, so a row's results have the same bits in every batch.
pub struct Product<'a, M: Multiply, T: Store> {
    /// The rows, stored as [`Groups`] says.
    pub rows: &'a [M::Row],
    /// Panels of sixteen columns: panel, depth / DEPTH, column, DEPTH.
    pub columns: &'a [M::Column],
    /// The division of the rows.
    pub groups: Groups,
    /// Depth in blocks of sixteen.
    pub blocks: usize,
    /// The panels to compute.
    pub panels: Range<usize>,
    /// The destination.
    pub store: T,
}

impl<M: Multiply, T: Store> Kernel for Product<'_, M, T> {
    const DOTS_PAIRS: bool = M::DOTS_PAIRS;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert!(self.rows.len() >= self.groups.rows() * self.blocks * LANES, "all rows");
        assert!(
            self.columns.len() >= self.panels.end * self.blocks * LANES * LANES,
            "all panels"
        );
        let mut panel = self.panels.start;
        while panel + S::PANELS <= self.panels.end {
            for group in 0..self.groups.count() {
                if const { S::PANELS == 2 } {
                    self.group::<S, 2>(s, group, panel);
                } else {
                    self.group::<S, 1>(s, group, panel);
                }
            }
            panel += S::PANELS;
        }
        for panel in panel..self.panels.end {
            for group in 0..self.groups.count() {
                self.group::<S, 1>(s, group, panel);
            }
        }
    }
}

impl<M: Multiply, T: Store> Product<'_, M, T> {
    #[inline(always)]
    fn group<S: Simd, const PANELS: usize>(&self, s: S, group: usize, panel: usize) {
        by_rows!(S, self.groups.range(group).len(), ROWS => self.tile::<S, ROWS, PANELS>(s, group, panel));
    }

    #[inline(always)]
    fn tile<S: Simd, const ROWS: usize, const PANELS: usize>(&self, s: S, group: usize, panel: usize) {
        let first = self.groups.range(group).start;
        let panel_len = self.blocks * LANES * LANES;
        let mut sums = [[M::zero(s); PANELS]; ROWS];
        let stream = PANELS * panel_len * size_of::<M::Column>() > NEXT_BYTES_MAX;
        // While a group is multiplied by these panels, its share of the next ones is prefetched. A block of f32 is 16
        // lines per panel.
        let ahead = (PANELS * LANES * LANES * size_of::<M::Column>() / LINE).div_ceil(self.groups.count());
        let next = self
            .columns
            .as_ptr()
            .wrapping_add((panel + PANELS) * panel_len)
            .cast::<u8>();
        let next = next.wrapping_add(group * self.blocks * ahead * LINE);
        // SAFETY: `run` checked that `rows` holds all groups and `columns` all panels. The group has ROWS rows, so block
        // `block` of it is ROWS x 16 numbers; `depth` runs over the 16 columns in steps of DEPTH.
        unsafe {
            let rows = self.rows.as_ptr().add(first * self.blocks * LANES);
            let columns = self.columns.as_ptr().add(panel * panel_len);
            for block in 0..self.blocks {
                if stream {
                    self.prefetch_ahead::<S, PANELS>(s, group, panel, block);
                } else {
                    for line in 0..ahead {
                        s.prefetch_l2(next.wrapping_add((block * ahead + line) * LINE));
                    }
                }
                let rows = rows.add(block * ROWS * LANES);
                let columns = columns.add(block * LANES * LANES);
                for depth in (0..LANES).step_by(M::DEPTH * S::STEPS) {
                    let (rows, columns) = (rows.add(depth), columns.add(depth * LANES));
                    sums = step::<S, M, ROWS, PANELS>(s, sums, rows, columns, panel_len);
                    if const { S::STEPS == 2 } {
                        let (rows, columns) = (rows.add(M::DEPTH), columns.add(M::DEPTH * LANES));
                        sums = step::<S, M, ROWS, PANELS>(s, sums, rows, columns, panel_len);
                    }
                }
            }
            each_row!(ROWS, r => for (p, &sum) in sums[r].iter().enumerate() {
                self.store.store(s, first + r, panel + p, M::finish(s, sum));
            });
        }
    }

    /// Prefetches panels that are too long for L2, a few blocks ahead of the first group that uses them.
    #[inline(always)]
    fn prefetch_ahead<S: Simd, const PANELS: usize>(&self, s: S, group: usize, panel: usize, block: usize) {
        if group > 0 {
            return;
        }
        let bytes = LANES * LANES * size_of::<M::Column>();
        for p in 0..PANELS {
            let at = ((panel + p) * self.blocks + block + BLOCKS_AHEAD) * LANES * LANES;
            let next = self.columns.as_ptr().wrapping_add(at).cast::<u8>();
            for line in 0..bytes / LINE {
                s.prefetch_l2(next.wrapping_add(line * LINE));
            }
        }
    }
}

/// Adds a step's products to `sums`: `M::DEPTH` numbers of each of `ROWS` rows, 16 numbers apart, times as many of each
/// column of `PANELS` panels, `panel_len` numbers apart.
///
/// # Safety
/// Both pointers are valid for reading these numbers.
#[inline(always)]
unsafe fn step<S: Simd, M: Multiply, const ROWS: usize, const PANELS: usize>(
    s: S,
    mut sums: [[M::Sum<S>; PANELS]; ROWS],
    rows: *const M::Row,
    columns: *const M::Column,
    panel_len: usize,
) -> [[M::Sum<S>; PANELS]; ROWS] {
    // SAFETY: guaranteed by the caller.
    unsafe {
        let mut right = [M::right(s, columns); PANELS];
        for (p, right) in right.iter_mut().enumerate().skip(1) {
            *right = M::right(s, columns.add(p * panel_len));
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            let left = M::left(s, rows.add(r * LANES));
            for (sum, &right) in sums.iter_mut().zip(&right) {
                *sum = M::step(s, *sum, left, right);
            }
        }
    }
    sums
}
