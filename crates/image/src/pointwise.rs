//! Bilinear resizing without antialiasing, as OpenCV and TensorFlow do it: a pixel is interpolated from the four around its
//! position, however much smaller the picture becomes. For networks that were trained on pictures with such aliasing.

use std::ops::Range;

use super::picture::{Channels, Shape};
use super::resize::Side;

/// The position of a resized pixel along one side.
struct Position {
    /// The pixels before and after it, which are the same at an edge.
    pixels: [usize; 2],
    /// The distance from the first of them, as a fraction of the distance to the second.
    fraction: f32,
}

/// Resizes and crops raw pixels as `cv2.resize(…, interpolation=cv2.INTER_LINEAR)` does, in its 11-bit fixed point. A few
/// results differ by 1 from those of OpenCV's vector code.
///
/// Arguments and result are those of [`resize`](super::resize()).
///
/// # Panics
/// If `pixels` are not as many bytes as `shape` says, or the crop is beyond the resized picture.
pub fn resize_opencv(shape: Shape, pixels: &[u8], sides: [Side; 2]) -> Vec<u8> {
    let positions = all_positions(shape, pixels, sides, opencv_positions);
    let mut resized = Vec::new();
    for_each_value(shape, pixels, &positions, |corners, [x, y]| {
        let [left, right, above, below] =
            [1.0 - x, x, 1.0 - y, y].map(|weight| (weight * 2048.0).round_ties_even() as i32);
        let rows = corners.map(|[first, second]| (i32::from(first) * left + i32::from(second) * right) >> 4);
        let sum = ((rows[0] * above) >> 16) + ((rows[1] * below) >> 16);
        resized.push(((sum + 2) >> 2).clamp(0, 255) as u8);
    });
    resized
}

/// Resizes and crops raw pixels as `tf.image.resize(…, method="bilinear", antialias=False)` does, in single precision and
/// without rounding to integers.
///
/// Arguments and result, except its type, are those of [`resize`](super::resize()).
///
/// # Panics
/// If `pixels` are not as many bytes as `shape` says, or the crop is beyond the resized picture.
pub fn resize_tensorflow(shape: Shape, pixels: &[u8], sides: [Side; 2]) -> Vec<f32> {
    let positions = all_positions(shape, pixels, sides, tensorflow_positions);
    let mut resized = Vec::new();
    for_each_value(shape, pixels, &positions, |corners, [x, y]| {
        let [above, below] = corners.map(|[first, second]| {
            let (first, second) = (f32::from(first), f32::from(second));
            first + (second - first) * x
        });
        resized.push(above + (below - above) * y);
    });
    resized
}

fn all_positions(
    shape: Shape,
    pixels: &[u8],
    sides: [Side; 2],
    positions: fn(u32, u64, Range<u64>) -> Vec<Position>,
) -> [Vec<Position>; 2] {
    let length = shape.width as usize * shape.height as usize * shape.channels.count();
    assert_eq!(pixels.len(), length, "pixels of the shape");
    let [columns, rows] = sides;
    [(shape.width, columns), (shape.height, rows)].map(|(length, side)| {
        assert!(side.kept.end <= side.resized, "a part of the resized picture");
        positions(length, side.resized, side.kept)
    })
}

/// Like OpenCV: computed in double precision, then rounded; at an edge a pixel is not interpolated.
fn opencv_positions(length: u32, resized: u64, kept: Range<u64>) -> Vec<Position> {
    let scale = 1.0 / (resized as f64 / f64::from(length));
    let mut positions = Vec::new();
    for at in kept {
        let position = ((at as f64 + 0.5) * scale - 0.5) as f32;
        let whole = position.floor();
        let last = length as usize - 1;
        let is_within = whole >= 0.0 && (whole as usize) < last;
        let first = (whole.max(0.0) as usize).min(last);
        positions.push(Position {
            pixels: [first, (first + 1).min(last)],
            fraction: if is_within { position - whole } else { 0.0 },
        });
    }
    positions
}

/// `HalfPixelScaler` and `compute_interpolation_weights` in `tensorflow/core/util/image_resizer_state.h` and
/// `resize_bilinear_op.cc`: single precision throughout.
fn tensorflow_positions(length: u32, resized: u64, kept: Range<u64>) -> Vec<Position> {
    let scale = length as f32 / resized as f32;
    let mut positions = Vec::new();
    for at in kept {
        let position = (at as f32 + 0.5) * scale - 0.5;
        let last = length as usize - 1;
        let [first, second] = [position.floor(), position.ceil()].map(|pixel| (pixel.max(0.0) as usize).min(last));
        positions.push(Position {
            pixels: [first, second],
            fraction: position - position.floor(),
        });
    }
    positions
}

/// Calls `each` for each value of the result in order, with the four values around its position and the fractions of the
/// column and the row.
fn for_each_value(
    shape: Shape,
    pixels: &[u8],
    [columns, rows]: &[Vec<Position>; 2],
    mut each: impl FnMut([[u8; 2]; 2], [f32; 2]),
) {
    let count = shape.channels.count();
    for row in rows {
        for column in columns {
            for channel in 0..3 {
                let channel = if shape.channels == Channels::Grey { 0 } else { channel };
                let corners = row.pixels.map(|y| {
                    let start = y * shape.width as usize;
                    column.pixels.map(|x| pixels[(start + x) * count + channel])
                });
                each(corners, [column.fraction, row.fraction]);
            }
        }
    }
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

    fn sides(width: u64, height: u64) -> [Side; 2] {
        [width, height].map(|resized| Side {
            resized,
            kept: 0..resized,
        })
    }

    #[test]
    fn halving_interpolates_the_four_in_the_middle() {
        // At 0.5 and 2.5 from the left, 0.5 from the top.
        let exact = [32.5, 131.5];
        let tensorflow = resize_tensorflow(GREY, &LEVELS, sides(2, 1));
        assert_eq!([tensorflow[0], tensorflow[3]], exact);
        let opencv = resize_opencv(GREY, &LEVELS, sides(2, 1));
        assert_eq!([opencv[0], opencv[3]], [33, 132]);
    }

    #[test]
    fn an_eighth_of_the_size_skips_pixels() {
        let wide = Shape {
            width: 8,
            height: 1,
            channels: Channels::Grey,
        };
        // At 3.5. Antialiasing would include pixels 0 and 7.
        let levels = [255, 0, 0, 100, 50, 0, 0, 255];
        assert_eq!(resize_tensorflow(wide, &levels, sides(1, 1)), [75.0; 3]);
        assert_eq!(resize_opencv(wide, &levels, sides(1, 1)), [75; 3]);
    }

    #[test]
    fn an_edge_is_repeated() {
        let larger = resize_tensorflow(GREY, &LEVELS, sides(8, 4));
        assert_eq!((larger[0], larger[7 * 3]), (0.0, 255.0));
        let larger = resize_opencv(GREY, &LEVELS, sides(8, 4));
        assert_eq!((larger[0], larger[7 * 3]), (0, 255));
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
        assert_eq!(
            resize_tensorflow(shape, &pixels, kept.clone()),
            [20.0, 30.0, 40.0, 40.0, 50.0, 60.0]
        );
        assert_eq!(resize_opencv(shape, &pixels, kept), [20, 30, 40, 40, 50, 60]);
    }
}
