//! Resizes and crops row by row while a picture is decoded: only a few rows of the decoded picture are held, and of the
//! resized one only the crop. A 1x60000 picture costs 224x224 pixels rather than 256x15360000.
//!
//! As in Pillow, one side is resized after the other, with rounding to bytes in between, and each channel separately.

use std::ops::Range;

use headswap_spec::PICTURE_SIDE as SIDE;

use super::axis::{Axis, Span};
use super::columns::Columns;
use super::filter::Filter;
use super::kernel;
use super::picture::{Channels, Shape};
use super::scaling::WHOLE;

/// The short side after resizing.
const SHORT: u64 = 256;

/// The offset of a pending row in its buffer. At a multiple of 32, libjpeg's vector code would use stores that bypass the
/// cache, although the row is read again immediately.
const ROW_START: usize = 4;

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
    let mut resizer = Resizer::new(shape, filter, sides);
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

/// The side that is resized first. The other is resized from that result, which is rounded to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    WidthFirst,
    HeightFirst,
}

impl Order {
    /// Returns Pillow's order since 13.0: the height first if it shrinks by more than twice as many pixels as the width.
    fn of(columns: Span, rows: Span) -> Self {
        let [columns, rows] = [columns, rows].map(|span| i128::from(span.length) - i128::from(span.resized));
        if rows > 0 && rows > 2 * columns {
            Self::HeightFirst
        } else {
            Self::WidthFirst
        }
    }
}

/// How one side of a picture is resized and cropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// The length after resizing.
    pub resized: u64,
    /// The part of the resized side that is kept.
    pub kept: Range<u64>,
}

impl Resizer {
    /// Returns a resizer for a picture of `shape`. `sides` are those of its width and its height.
    fn new(shape: Shape, filter: Filter, sides: [Side; 2]) -> Self {
        let [columns, rows] = sides;
        let columns = (Span::new(shape.width, columns.resized), columns.kept);
        let rows = (Span::new(shape.height, rows.resized), rows.kept);
        Self::with_spans(shape, filter, columns, rows)
    }

    /// Returns a resizer that does what torchvision's `Resize(256)` and `CenterCrop(224)` do with a Pillow picture of
    /// `whole` pixels. The decoder writes rows of `shape`: the same size, or `eighths` eighths of it, rounded up.
    pub(super) fn for_vgg16(shape: Shape, whole: [u32; 2], eighths: u32) -> Self {
        let short = whole[0].min(whole[1]);
        let [columns, rows] = [(whole[0], shape.width), (whole[1], shape.height)].map(|(length, decoded)| {
            let side = Side::of(length, short);
            let mut span = Span::new(decoded, side.resized);
            if eighths < WHOLE {
                span.covered = (f64::from(length) * f64::from(eighths) / f64::from(WHOLE)) as f32;
            }
            (span, side.kept)
        });
        Self::with_spans(shape, Filter::Bilinear, columns, rows)
    }

    fn with_spans(shape: Shape, filter: Filter, columns: (Span, Range<u64>), rows: (Span, Range<u64>)) -> Self {
        let order = Order::of(columns.0, rows.0);
        let (columns, rows) = (
            Axis::new(filter, columns.0, columns.1),
            Axis::new(filter, rows.0, rows.1),
        );
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

    /// Returns an upper bound of the memory of a resizer for a picture of `whole` pixels that is decoded to `shape`, in
    /// bytes.
    pub(super) fn memory(shape: Shape, whole: [u32; 2]) -> u64 {
        let count = shape.channels.count() as u64;
        let short = u64::from(whole[0].min(whole[1]));
        let side = SIDE as u64;
        // How many input pixels there are for one output pixel, and how many it is computed from.
        let scale = short.div_ceil(SHORT);
        let taps = 2 * scale + 2;
        let weights = 2 * side * 2 * 2 * (taps + 16);
        let row = (u64::from(shape.width).max(side) + 16) * count;
        // Four rows before and after horizontal resizing; and twice the input rows of an output row, because used rows are
        // dropped only once they are most of the window.
        (8 + 2 * taps) * row + weights + side * side * 3
    }

    /// Returns the buffer of the next row, for the decoder to write. It holds an earlier row.
    pub(super) fn row(&mut self) -> &mut [u8] {
        &mut self.pending[self.written][ROW_START..][..self.row_length]
    }

    /// Returns true if the crop depends on the next row. A decoder need not write other rows.
    pub(super) fn wants_row(&self) -> bool {
        self.reach.contains(&self.rows_seen)
    }

    /// Processes the row that was written.
    pub(super) fn advance(&mut self) {
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

impl Side {
    /// Returns the resize and crop for VGG16 of a side of `length` pixels in a picture whose short side is `short`.
    fn of(length: u32, short: u32) -> Self {
        let resized = SHORT * u64::from(length) / u64::from(short);
        let offset = half_to_even(resized - SIDE as u64);
        Self {
            resized,
            kept: offset..offset + SIDE as u64,
        }
    }
}

/// Returns Python's `int(round(n / 2.0))`: halves are rounded to even.
fn half_to_even(n: u64) -> u64 {
    let half = n / 2;
    half + (n & half & 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_margins_are_rounded_to_even() {
        for (n, expected) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4), (9, 4), (32, 16)] {
            assert_eq!(half_to_even(n), expected, "{n}");
        }
    }

    #[test]
    fn the_middle_is_kept() {
        assert_eq!(
            Side::of(512, 512),
            Side {
                resized: 256,
                kept: 16..240
            }
        );
        assert_eq!(
            Side::of(60_000, 1),
            Side {
                resized: 15_360_000,
                kept: 7_679_888..7_680_112
            }
        );
    }

    #[test]
    fn only_the_rows_of_the_crop_are_wanted() {
        let shape = Shape {
            width: 1,
            height: 60_000,
            channels: Channels::Grey,
        };
        let resizer = Resizer::for_vgg16(shape, [1, 60_000], 8);
        assert!(resizer.reach.start > 29_990 && resizer.reach.len() < 10);
    }

    /// Returns the order for a width and a height, each before and after resizing.
    fn order(width: [u32; 2], height: [u32; 2]) -> Order {
        let [width, height] = [width, height].map(|[length, resized]| Span::new(length, resized.into()));
        Order::of(width, height)
    }

    #[test]
    fn the_height_goes_first_if_it_shrinks_by_more_than_twice_as_much() {
        assert_eq!(order([300, 200], [400, 200]), Order::WidthFirst);
        assert_eq!(order([300, 200], [401, 200]), Order::HeightFirst);
        assert_eq!(order([100, 200], [201, 200]), Order::HeightFirst);
        assert_eq!(order([100, 200], [100, 200]), Order::WidthFirst);
        assert_eq!(order([300, 300], [300, 200]), Order::HeightFirst);
    }

    #[test]
    fn missing_rows_are_black() {
        let shape = Shape {
            width: 2,
            height: 2,
            channels: Channels::Grey,
        };
        let mut resizer = Resizer::for_vgg16(shape, [2, 2], 8);
        resizer.row().fill(200);
        resizer.advance();
        let pixels = resizer.finish();
        assert_eq!((pixels[0], pixels[pixels.len() - 1]), (200, 0));
    }
}
