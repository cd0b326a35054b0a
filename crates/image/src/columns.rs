//! Resizing in the direction of the columns: rows go in one by one, and come out when all that they are made of was there.

use super::axis::Axis;
use super::kernel;

/// Rows on their way.
pub(super) struct Columns {
    axis: Axis,
    /// The bytes of a row.
    length: usize,
    /// The rows that an output row may still be made of; before them, some that are done with.
    window: Vec<u8>,
    /// How many rows of the picture came before those in the window.
    before: usize,
    /// The next output row.
    next: usize,
}

impl Columns {
    /// Rows have `length` bytes.
    pub(super) fn new(axis: Axis, length: usize) -> Self {
        let before = axis.reach().start as usize;
        Self {
            axis,
            length,
            window: Vec::new(),
            before,
            next: 0,
        }
    }

    /// Takes the next row that the axis reaches.
    pub(super) fn push(&mut self, row: &[u8]) {
        self.window.extend_from_slice(&row[..self.length]);
    }

    /// Writes the next output row to the front of `target`, if everything for it came.
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
        self.forget();
        true
    }

    /// Whether every output row was written.
    pub(super) fn is_done(&self) -> bool {
        self.next == self.axis.len()
    }

    /// Drops rows that are done with, once they are most of the window.
    fn forget(&mut self) {
        if self.is_done() {
            return;
        }
        let (taps, ..) = self.axis.at(self.next);
        let done = (taps.first as usize).saturating_sub(self.before);
        let bytes = (done * self.length).min(self.window.len());
        if bytes > self.window.len() / 2 {
            self.window.drain(..bytes);
            self.before += bytes / self.length;
        }
    }
}
