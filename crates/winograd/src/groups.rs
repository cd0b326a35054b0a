//! The rows of a matrix product, in groups.

use std::ops::Range;

use crate::simd::LANES;

/// Evaluates an expression with the number of rows, at most `S::ROWS`, as a constant.
macro_rules! by_rows {
    ($simd:ident, $rows:expr, $constant:ident => $then:expr) => {
        by_rows!(@ $simd, $rows, $constant, $then, 14 13 12 11 10 9 8 7 6 5 4 3 2 1)
    };
    (@ $simd:ident, $rows:expr, $constant:ident, $then:expr, $($n:literal)*) => {
        match $rows {
            // Numbers of rows that exceed the registers get no branch.
            $($n if const { $n <= $simd::ROWS } => { const $constant: usize = $n; $then })*
            rows => unreachable!("{rows} rows in one tile"),
        }
    };
}
pub(crate) use by_rows;

/// Evaluates an expression for each row below a constant, without a loop: an array indexed in a loop would leave the
/// registers, and LLVM does not unroll the longest loops.
macro_rules! each_row {
    ($rows:ident, $row:ident => $then:expr) => {
        each_row!(@ $rows, $row, $then, 0 1 2 3 4 5 6 7 8 9 10 11 12 13)
    };
    (@ $rows:ident, $row:ident, $then:expr, $($n:literal)*) => {
        const { assert!($rows <= [$($n),*].len(), "each row is written out above") };
        $(if $n < $rows { let $row = $n; $then })*
    };
}
pub(crate) use each_row;

/// The rows of a product, divided into groups that fit in the registers.
///
/// Rows are stored by group, block of 16 columns ("depth"), row in the group, column in the block, so that a step of
/// the innermost loop finds its rows at constant distances.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    rows: usize,
    size: usize,
}

impl Groups {
    /// `rows` rows in groups of at most `size_max`, about equal in size.
    pub fn new(rows: usize, size_max: usize) -> Self {
        let count = rows.div_ceil(size_max).max(1);
        Self {
            rows,
            size: rows.div_ceil(count).max(1),
        }
    }

    /// Rows of all groups.
    pub fn rows(self) -> usize {
        self.rows
    }

    /// The number of groups.
    pub fn count(self) -> usize {
        self.rows.div_ceil(self.size)
    }

    /// The rows of a group.
    pub fn range(self, group: usize) -> Range<usize> {
        group * self.size..self.rows.min((group + 1) * self.size)
    }

    /// The index, in numbers, of block `block` of `row`, where each row has `blocks` blocks.
    pub fn at(self, row: usize, block: usize, blocks: usize) -> usize {
        let group = self.range(row / self.size);
        (group.start * blocks + block * group.len() + row - group.start) * LANES
    }
}
