//! Resizing and cropping, row by row while a picture is decoded: of the decoded picture only one row is held, and of the
//! resized one what the crop keeps. A 1x60000 picture costs 224x224 pixels rather than 256x15360000.
//!
//! As Pillow does: one side after the other, rounded to bytes in between; each channel by itself.

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

/// Where a pending row begins in its memory: at no multiple of 32, where libjpeg's vector code would write past the cache
/// what is read again at once.
const ROW_START: usize = 4;

/// Resizes a picture and cuts a part out, bit for bit as Pillow does: `sides` are what its width and its height become.
///
/// `pixels` has rows from the top, pixels from the left, bytes as [`Channels`] says. Returns the same in red, green and blue.
///
/// # Panics
/// If there are not as many bytes as `shape` says, or a part is cut out that lies beyond the resized picture.
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

/// A picture that is being resized.
pub(super) struct Resizer {
    channels: Channels,
    order: Order,
    columns: Axis,
    rows: Columns,
    /// Which rows of the picture count.
    reach: Range<u32>,
    /// Rows that wait for being resized together: the decoder's, or, if the height goes first, those of the new height. Each
    /// is padded for the kernel.
    pending: [Vec<u8>; kernel::ROWS],
    /// How many of them are written.
    written: usize,
    row_length: usize,
    /// How many rows came.
    came: u32,
    /// Rows of the new width.
    resized: [Vec<u8>; kernel::ROWS],
    /// A row in between the two directions.
    between: Vec<u8>,
    /// What is kept, in red, green and blue, as far as it is finished.
    kept: Vec<u8>,
}

/// Which side is resized first: the other is resized from that result, rounded to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    WidthFirst,
    HeightFirst,
}

impl Order {
    /// Pillow's choice since 13.0: the height, if it shrinks by more than twice the pixels that the width shrinks by.
    fn of(columns: Span, rows: Span) -> Self {
        let [columns, rows] = [columns, rows].map(|span| i128::from(span.length) - i128::from(span.resized));
        if rows > 0 && rows > 2 * columns {
            Self::HeightFirst
        } else {
            Self::WidthFirst
        }
    }
}

/// What a side of a picture becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its length after resizing.
    pub resized: u64,
    /// What is cut out of that.
    pub kept: Range<u64>,
}

impl Resizer {
    /// For a picture of `shape`, whose sides become those of `sides`: from left to right, and from top to bottom.
    fn new(shape: Shape, filter: Filter, sides: [Side; 2]) -> Self {
        let [columns, rows] = sides;
        let columns = (Span::new(shape.width, columns.resized), columns.kept);
        let rows = (Span::new(shape.height, rows.resized), rows.kept);
        Self::with_spans(shape, filter, columns, rows)
    }

    /// As torchvision's `Resize(256)` and `CenterCrop(224)` do with a Pillow picture of `whole` pixels, of which the decoder
    /// made `shape`: the same, or `eighths` eighths of it, rounded up.
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
        let between = match order {
            Order::WidthFirst => columns.len() * count,
            Order::HeightFirst => row_length,
        };
        Self {
            channels: shape.channels,
            order,
            pending: std::array::from_fn(|_| vec![0; ROW_START + row_length + kernel::PADDING]),
            written: 0,
            row_length,
            came: 0,
            reach: rows.reach(),
            resized: std::array::from_fn(|_| vec![0; columns.len() * count]),
            between: vec![0; between],
            kept: Vec::with_capacity(columns.len() * rows.len() * 3),
            columns,
            rows: Columns::new(rows, between),
        }
    }

    /// The bytes that a resizer of a picture of `whole` pixels takes, of which `shape` is decoded: rather too many.
    pub(super) fn memory(shape: Shape, whole: [u32; 2]) -> u64 {
        let count = shape.channels.count() as u64;
        let short = u64::from(whole[0].min(whole[1]));
        let side = SIDE as u64;
        // How many pixels of the picture become one, and how many one is made of.
        let scale = short.div_ceil(SHORT);
        let taps = 2 * scale + 2;
        let weights = 2 * side * 2 * 2 * (taps + 16);
        let row = (u64::from(shape.width).max(side) + 16) * count;
        // Four rows that are resized together, twice over, and as many as one is made of twice over: once in use, once to be dropped.
        (8 + 2 * taps) * row + weights + side * side * 3
    }

    /// The next row's bytes, for the decoder to write. They hold what was last written to them.
    pub(super) fn row(&mut self) -> &mut [u8] {
        &mut self.pending[self.written][ROW_START..][..self.row_length]
    }

    /// Whether the next row counts for what is kept; a decoder need not write one that does not.
    pub(super) fn wants_row(&self) -> bool {
        self.reach.contains(&self.came)
    }

    /// Takes the row that was written.
    pub(super) fn advance(&mut self) {
        let counts = self.wants_row();
        self.came = self.came.saturating_add(1);
        if !counts {
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

    /// What is kept, in red, green and blue. Rows that never came are black.
    pub(super) fn finish(mut self) -> Vec<u8> {
        if self.order == Order::WidthFirst {
            self.resize_widths();
        }
        let black = vec![0; self.between.len()];
        while !self.rows.is_done() {
            self.rows.push(&black);
            self.finish_rows();
        }
        if self.order == Order::HeightFirst {
            self.resize_widths();
        }
        self.kept
    }

    /// Resizes the pending rows in the direction of the width, and takes them on.
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

    /// Takes the rows of the new height on that can be made by now.
    fn finish_rows(&mut self) {
        match self.order {
            Order::WidthFirst => {
                let mut row = std::mem::take(&mut self.between);
                while self.rows.pop(&mut row) {
                    self.keep(&row);
                }
                self.between = row;
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
        let start = self.kept.len();
        self.kept.resize(start + self.columns.len() * 3, 0);
        let kept = &mut self.kept[start..];
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
    /// Of a side of `length` pixels in a picture whose short side is `short`.
    fn of(length: u32, short: u32) -> Self {
        let resized = SHORT * u64::from(length) / u64::from(short);
        let offset = half_to_even(resized - SIDE as u64);
        Self {
            resized,
            kept: offset..offset + SIDE as u64,
        }
    }
}

/// `int(round(n / 2.0))` as Python rounds: halves go to the even neighbour.
fn half_to_even(n: u64) -> u64 {
    let half = n / 2;
    half + (n & half & 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_margins_round_as_python_does() {
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
    fn a_thin_picture_costs_what_is_kept_of_it() {
        let shape = Shape {
            width: 1,
            height: 60_000,
            channels: Channels::Grey,
        };
        let resizer = Resizer::for_vgg16(shape, [1, 60_000], 8);
        assert!(resizer.reach.start > 29_990 && resizer.reach.len() < 10);
    }

    #[test]
    fn the_height_goes_first_where_it_shrinks_by_more_than_twice_as_much() {
        let order = |width: [u32; 2], height: [u32; 2]| {
            let [width, height] = [width, height].map(|[length, resized]| Span::new(length, resized.into()));
            Order::of(width, height)
        };
        assert_eq!(order([300, 200], [400, 200]), Order::WidthFirst);
        assert_eq!(order([300, 200], [401, 200]), Order::HeightFirst);
        assert_eq!(order([100, 200], [201, 200]), Order::HeightFirst);
        assert_eq!(order([100, 200], [100, 200]), Order::WidthFirst);
        assert_eq!(order([300, 300], [300, 200]), Order::HeightFirst);
    }

    #[test]
    fn rows_that_never_come_are_black() {
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
