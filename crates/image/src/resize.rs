//! Resizes and crops row by row while a picture is decoded: only a few rows of the decoded picture are held, and of the
//! resized one only the crop. A 1x60000 picture costs 224x224 pixels rather than 256x15360000.
//!
//! As in Pillow, one side is resized after the other, with rounding to bytes in between, and each channel separately.

use std::ops::Range;

use super::axis::Axis;
use super::columns::Columns;
use super::filter::Filter;
use super::kernel;
use super::picture::{Channels, Shape};
use super::plan::{Decoded, Order, ResizePlan};
use super::side::Side;
use super::sink::RowSink;

/// The offset of a pending row in its buffer. At a multiple of 32, libjpeg's vector code would use stores that bypass the
/// cache, although the row is read again immediately.
pub(super) const ROW_START: usize = 4;

/// Resizes and crops a picture bit for bit as Pillow does. `sides` are those of its width and its height.
///
/// `pixels` are rows from the top, pixels from the left, bytes as in [`Channels`]. Returns the same of red, green and blue.
///
/// # Panics
/// If `pixels` are not as many bytes as `shape` says, or the crop is beyond the resized picture.
pub fn resize(shape: Shape, pixels: &[u8], filter: Filter, sides: [Side; 2]) -> Vec<u8> {
    let length = shape.width as usize * shape.channels.count();
    assert_eq!(pixels.len(), length * shape.height as usize, "pixels of the shape");
    assert!(
        sides.iter().all(|side| side.kept.end <= side.resized),
        "a part of the resized picture"
    );
    let mut resizer = Resizer::new(&ResizePlan::new(Decoded::whole(shape), filter, sides));
    for row in pixels.chunks_exact(length) {
        resizer.row().copy_from_slice(row);
        resizer.advance();
    }
    resizer.finish()
}

/// A resize in progress.
pub(super) struct Resizer {
    channels: Channels,
    order: Order,
    columns: Axis,
    rows: Columns,
    /// The rows of the picture that the crop depends on.
    reach: Range<u32>,
    /// Rows that are collected to be resized together: the decoder's or, if the height is resized first, those of the new
    /// height. Each is padded for the kernel.
    pending: [Vec<u8>; kernel::ROWS],
    /// Pending rows that are complete.
    written: usize,
    row_length: usize,
    /// Rows that the decoder has passed.
    rows_seen: u32,
    /// Rows of the new width.
    resized: [Vec<u8>; kernel::ROWS],
    /// A row between the two steps.
    intermediate: Vec<u8>,
    /// The finished rows of the crop, in red, green and blue.
    output: Vec<u8>,
}

impl Resizer {
    /// Returns a resizer that does what `plan` says.
    pub(super) fn new(plan: &ResizePlan) -> Self {
        let (shape, order) = (plan.shape, plan.order());
        let columns = Axis::new(plan.filter, plan.columns.0, plan.columns.1.clone());
        let rows = Axis::new(plan.filter, plan.rows.0, plan.rows.1.clone());
        let count = shape.channels.count();
        let row_length = shape.width as usize * count;
        let intermediate = match order {
            Order::WidthFirst => columns.len() * count,
            Order::HeightFirst => row_length,
        };
        Self {
            channels: shape.channels,
            order,
            pending: std::array::from_fn(|_| vec![0; ROW_START + row_length + kernel::PADDING]),
            written: 0,
            row_length,
            rows_seen: 0,
            reach: rows.reach(),
            resized: std::array::from_fn(|_| vec![0; columns.len() * count]),
            intermediate: vec![0; intermediate],
            output: Vec::with_capacity(columns.len() * rows.len() * 3),
            columns,
            rows: Columns::new(rows, intermediate),
        }
    }

    /// Returns the crop, in red, green and blue. Rows that were not written are black.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.order == Order::WidthFirst {
            self.resize_widths();
        }
        let black = vec![0; self.intermediate.len()];
        while !self.rows.is_done() {
            self.rows.push(&black);
            self.finish_rows();
        }
        if self.order == Order::HeightFirst {
            self.resize_widths();
        }
        self.output
    }

    /// Resizes the pending rows horizontally and passes the result on.
    fn resize_widths(&mut self) {
        let mut resized = std::mem::take(&mut self.resized);
        let rows = self.pending.each_ref().map(|row| &row[ROW_START..]);
        let targets = resized.each_mut().map(Vec::as_mut_slice);
        kernel::resize_rows(self.channels, &self.columns, rows, targets);
        for row in resized.iter().take(std::mem::take(&mut self.written)) {
            match self.order {
                Order::WidthFirst => self.rows.push(row),
                Order::HeightFirst => self.keep(row),
            }
        }
        self.resized = resized;
        if self.order == Order::WidthFirst {
            self.finish_rows();
        }
    }

    /// Passes on the rows of the new height whose input rows are complete.
    fn finish_rows(&mut self) {
        match self.order {
            Order::WidthFirst => {
                let mut row = std::mem::take(&mut self.intermediate);
                while self.rows.pop(&mut row) {
                    self.keep(&row);
                }
                self.intermediate = row;
            }
            Order::HeightFirst => {
                while self.rows.pop(&mut self.pending[self.written][ROW_START..]) {
                    self.written += 1;
                    if self.written == kernel::ROWS {
                        self.resize_widths();
                    }
                }
            }
        }
    }

    fn keep(&mut self, row: &[u8]) {
        let start = self.output.len();
        self.output.resize(start + self.columns.len() * 3, 0);
        let kept = &mut self.output[start..];
        match self.channels {
            Channels::Grey => {
                for (pixel, &grey) in kept.as_chunks_mut().0.iter_mut().zip(row) {
                    *pixel = [grey; 3];
                }
            }
            Channels::Rgbx => kernel::to_rgb(row, kept),
        }
    }
}

impl RowSink for Resizer {
    fn row(&mut self) -> &mut [u8] {
        &mut self.pending[self.written][ROW_START..][..self.row_length]
    }

    fn wants_row(&self) -> bool {
        self.reach.contains(&self.rows_seen)
    }

    fn advance(&mut self) {
        let is_wanted = self.wants_row();
        self.rows_seen = self.rows_seen.saturating_add(1);
        if !is_wanted {
            return;
        }
        match self.order {
            Order::WidthFirst => {
                self.written += 1;
                if self.written == kernel::ROWS {
                    self.resize_widths();
                }
            }
            Order::HeightFirst => {
                self.rows.push(&self.pending[self.written][ROW_START..]);
                self.finish_rows();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_rows_of_the_crop_are_wanted() {
        let shape = Shape {
            width: 1,
            height: 60_000,
            channels: Channels::Grey,
        };
        let resizer = Resizer::new(&ResizePlan::for_vgg16(Decoded::whole(shape)));
        assert!(resizer.reach.start > 29_990 && resizer.reach.len() < 10);
    }

    #[test]
    fn missing_rows_are_black() {
        let shape = Shape {
            width: 2,
            height: 2,
            channels: Channels::Grey,
        };
        let mut resizer = Resizer::new(&ResizePlan::for_vgg16(Decoded::whole(shape)));
        resizer.row().fill(200);
        resizer.advance();
        let pixels = resizer.finish();
        assert_eq!((pixels[0], pixels[pixels.len() - 1]), (200, 0));
    }
}
