//! Bilinear resizing without antialiasing, as PyTorch, TensorFlow and OpenCV do it: a pixel is interpolated from the four
//! around its position, however much smaller the picture becomes. For networks that were trained on pictures with such
//! aliasing.
//!
//! The arithmetic is that of `torch.nn.functional.interpolate(mode="bilinear", align_corners=False)` in single precision,
//! with the fused multiply-adds of its code for several threads. Its code for one thread or small pictures, TensorFlow and OpenCV
//! interpolate the same numbers and round otherwise.

use std::ops::Range;

use super::picture::{Channels, Shape};
use super::resize::ROW_START;
use super::side::Side;
use super::sink::RowSink;

/// The position of a resized pixel along one side.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Position {
    /// The pixels before and after it, which are the same at the far edge.
    pixels: [u32; 2],
    /// Their weights.
    weights: [f32; 2],
}

/// A resize in progress. It holds the decoder's row and the last two rows of the new width.
pub(super) struct Pointwise {
    channels: Channels,
    columns: Vec<Position>,
    rows: Vec<Position>,
    /// The row that the decoder writes.
    row: Vec<u8>,
    /// Rows that the decoder has passed.
    rows_seen: u32,
    /// The last two wanted rows, interpolated to the new width: the older one first. One value for each pixel of a grey
    /// picture, else three.
    lines: [Vec<f32>; 2],
    /// The finished rows of the crop, in red, green and blue.
    output: Vec<f32>,
    /// The number of finished rows.
    next: usize,
}

impl Pointwise {
    /// `sides` are those of the width and the height of a picture of `shape`.
    pub(super) fn new(shape: Shape, sides: &[Side; 2]) -> Self {
        let [columns, rows] = sides;
        let columns = positions(shape.width, columns.resized, columns.kept.clone());
        let rows = positions(shape.height, rows.resized, rows.kept.clone());
        let line = columns.len() * values(shape.channels);
        Self {
            channels: shape.channels,
            row: vec![0; ROW_START + shape.width as usize * shape.channels.count()],
            rows_seen: 0,
            lines: [vec![0.0; line], vec![0.0; line]],
            output: Vec::with_capacity(columns.len() * rows.len() * 3),
            columns,
            rows,
            next: 0,
        }
    }

    /// Returns an upper bound of the memory of this resizer, its result included, in bytes.
    pub(super) fn memory(shape: Shape, sides: &[Side; 2]) -> u64 {
        /// The structure itself, and what allocators round up.
        const FIXED: u64 = 1 << 10;
        const POSITION_BYTES: u64 = size_of::<Position>() as u64;
        let [width, height] = [sides[0].len(), sides[1].len()];
        let parts = [
            FIXED + u64::from(shape.width) * shape.channels.count() as u64,
            width.saturating_add(height).saturating_mul(POSITION_BYTES),
            width.saturating_mul(2 * 4 * values(shape.channels) as u64),
            width.saturating_mul(height).saturating_mul(3 * 4),
        ];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Returns the crop, in red, green and blue. Rows that were not written are black.
    pub(super) fn finish(mut self) -> Vec<f32> {
        while self.next < self.rows.len() {
            self.row().fill(0);
            self.advance();
        }
        self.output
    }

    /// Interpolates the row that was written to the new width.
    fn add_line(&mut self) {
        self.lines.swap(0, 1);
        let row = &self.row[ROW_START..];
        let (count, values) = (self.channels.count(), values(self.channels));
        for (position, line) in self.columns.iter().zip(self.lines[1].chunks_exact_mut(values)) {
            let [left, right] = position.pixels.map(|pixel| &row[pixel as usize * count..][..count]);
            for ((value, &left), &right) in line.iter_mut().zip(left).zip(right) {
                *value = interpolate([left.into(), right.into()], position.weights);
            }
        }
    }

    /// Writes a row of the result, of which `above` is a row of the new width; the last one is below.
    fn add_row(&mut self, above: usize, weights: [f32; 2]) {
        for (&above, &below) in self.lines[above].iter().zip(&self.lines[1]) {
            let value = interpolate([above, below], weights);
            match self.channels {
                Channels::Grey => self.output.extend([value; 3]),
                Channels::Rgbx => self.output.push(value),
            }
        }
    }
}

impl RowSink for Pointwise {
    fn row(&mut self) -> &mut [u8] {
        &mut self.row[ROW_START..]
    }

    fn wants_row(&self) -> bool {
        let next = self.rows.get(self.next);
        next.is_some_and(|position| position.pixels[0] <= self.rows_seen)
    }

    fn advance(&mut self) {
        let is_wanted = self.wants_row();
        let row = self.rows_seen;
        self.rows_seen = row.saturating_add(1);
        if !is_wanted {
            return;
        }
        self.add_line();
        while let Some(&Position { pixels, weights }) = self.rows.get(self.next) {
            let [above, below] = pixels;
            if below != row {
                return;
            }
            // A row above this one is the one before it, which was wanted, too.
            self.add_row(usize::from(above == row), weights);
            self.next += 1;
        }
    }
}

/// Returns how many values of a pixel are interpolated.
fn values(channels: Channels) -> usize {
    match channels {
        Channels::Grey => 1,
        Channels::Rgbx => 3,
    }
}

/// Returns the positions of the resized pixels in `kept`: `area_pixel_compute_scale` and
/// `compute_source_index_and_lambda` in PyTorch's `aten/src/ATen/native/UpSample.h`.
fn positions(length: u32, resized: u64, kept: Range<u64>) -> Vec<Position> {
    let last = length - 1;
    let scale = length as f32 / resized as f32;
    let mut positions = Vec::with_capacity((kept.end - kept.start) as usize);
    for at in kept {
        if u64::from(length) == resized {
            positions.push(Position {
                pixels: [at as u32; 2],
                weights: [1.0, 0.0],
            });
            continue;
        }
        let position = multiply_add(scale, at as f32 + 0.5, -0.5).max(0.0);
        let first = (position as u32).min(last);
        let fraction = (position - first as f32).clamp(0.0, 1.0);
        positions.push(Position {
            pixels: [first, first.saturating_add(1).min(last)],
            weights: [1.0 - fraction, fraction],
        });
    }
    positions
}

fn interpolate(values: [f32; 2], weights: [f32; 2]) -> f32 {
    multiply_add(values[0], weights[0], values[1] * weights[1])
}

/// Returns a · b + c, rounded once. The product is exact in double precision, which is faster than `f32::mul_add` on
/// processors whose fused instruction the compiler may not assume.
fn multiply_add(a: f32, b: f32, c: f32) -> f32 {
    (f64::from(a) * f64::from(b) + f64::from(c)) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREY: Shape = Shape {
        width: 4,
        height: 2,
        channels: Channels::Grey,
    };
    const LEVELS: [u8; 8] = [0, 100, 200, 255, 10, 20, 30, 41];

    fn resized(shape: Shape, pixels: &[u8], sides: [Side; 2]) -> Vec<f32> {
        let mut resizer = Pointwise::new(shape, &sides);
        for row in pixels.chunks_exact(shape.width as usize * shape.channels.count()) {
            if resizer.wants_row() {
                resizer.row().copy_from_slice(row);
            } else {
                resizer.row().fill(99);
            }
            resizer.advance();
        }
        resizer.finish()
    }

    fn sides(width: u64, height: u64) -> [Side; 2] {
        [Side::whole(width), Side::whole(height)]
    }

    #[test]
    fn halving_interpolates_the_four_in_the_middle() {
        // At 0.5 and 2.5 from the left, 0.5 from the top.
        let halved = resized(GREY, &LEVELS, sides(2, 1));
        assert_eq!([halved[0], halved[3]], [32.5, 131.5]);
    }

    #[test]
    fn an_eighth_of_the_size_skips_pixels() {
        let mut shape = Shape {
            width: 8,
            height: 1,
            channels: Channels::Grey,
        };
        // At 3.5. Antialiasing would include pixels 0 and 7.
        let levels = [255, 0, 0, 100, 50, 0, 0, 255];
        assert_eq!(resized(shape, &levels, sides(1, 1)), [75.0; 3]);
        (shape.width, shape.height) = (1, 8);
        assert_eq!(resized(shape, &levels, sides(1, 1)), [75.0; 3]);
    }

    #[test]
    fn an_edge_is_repeated() {
        let larger = resized(GREY, &LEVELS, sides(8, 4));
        assert_eq!((larger[0], larger[7 * 3]), (0.0, 255.0));
    }

    #[test]
    fn a_side_of_the_same_length_is_copied() {
        let copied = resized(GREY, &LEVELS, sides(4, 2));
        assert!(copied.iter().step_by(3).copied().eq(LEVELS.map(f32::from)));
    }

    #[test]
    fn channels_are_separate_and_the_crop_is_exact() {
        let shape = Shape {
            channels: Channels::Rgbx,
            width: 2,
            height: 1,
        };
        let pixels = [10, 20, 30, 0, 50, 60, 70, 0];
        let mut kept = sides(4, 1);
        kept[0].kept = 1..3;
        assert_eq!(resized(shape, &pixels, kept), [20.0, 30.0, 40.0, 40.0, 50.0, 60.0]);
    }

    #[test]
    fn missing_rows_are_black() {
        let mut resizer = Pointwise::new(GREY, &sides(4, 2));
        resizer.row().fill(7);
        resizer.advance();
        let output = resizer.finish();
        assert_eq!((output[0], output[12]), (7.0, 0.0));
    }
}
