//! Vertical resizing: input rows are pushed one by one, and an output row can be popped once all its input rows are there.

use super::axis::Axis;
use super::kernel;

/// A vertical resize in progress.
pub(super) struct Columns {
    axis: Axis,
    /// The bytes of a row.
    length: usize,
    /// The input rows that are still needed; before them, some that are not.
    window: Vec<u8>,
    /// Rows of the picture before the first of the window.
    before: usize,
    /// The next output row.
    next: usize,
}

impl Columns {
    /// Returns a resize of rows of `length` bytes.
    pub(super) fn new(axis: Axis, length: usize) -> Self {
        let reach = axis.reach();
        let rows = Self::rows_max(axis.taps_most().into()).min(reach.len() as u64);
        Self {
            axis,
            length,
            window: Vec::with_capacity(rows as usize * length),
            before: reach.start as usize,
            next: 0,
        }
    }

    /// Returns an upper bound of the memory of the window, for rows of `length` bytes and output rows of up to `taps` input
    /// rows.
    pub(super) fn memory(taps: u64, length: u64) -> u64 {
        Self::rows_max(taps).saturating_mul(length)
    }

    /// Returns the largest number of rows in the window. Fewer than `taps` are needed for the next output row, or it would
    /// have been popped; no more than they were are kept although they are not needed; and [`kernel::ROWS`] are added before
    /// the next is popped.
    fn rows_max(taps: u64) -> u64 {
        taps.saturating_mul(2).saturating_add(kernel::ROWS as u64)
    }

    /// Adds the next input row of the axis's reach.
    pub(super) fn push(&mut self, row: &[u8]) {
        self.window.extend_from_slice(&row[..self.length]);
    }

    /// Writes the next output row to the front of `target` and returns true, if all its input rows are there.
    pub(super) fn pop(&mut self, target: &mut [u8]) -> bool {
        if self.next == self.axis.len() {
            return false;
        }
        let (taps, ..) = self.axis.at(self.next);
        let start = (taps.first as usize).saturating_sub(self.before) * self.length;
        let end = start + taps.count as usize * self.length;
        let Some(rows) = self.window.get(start..end) else {
            return false;
        };
        kernel::sum_rows(&self.axis, self.next, rows, &mut target[..self.length]);
        self.next += 1;
        self.drop_used_rows();
        true
    }

    /// Returns true if every output row has been written.
    pub(super) fn is_done(&self) -> bool {
        self.next == self.axis.len()
    }

    /// Drops the rows that are no longer needed, once they are most of the window.
    fn drop_used_rows(&mut self) {
        if self.is_done() {
            return;
        }
        let (taps, ..) = self.axis.at(self.next);
        let used = (taps.first as usize).saturating_sub(self.before);
        let bytes = (used * self.length).min(self.window.len());
        if bytes > self.window.len() / 2 {
            self.window.drain(..bytes);
            self.before += bytes / self.length;
        }
    }
}
