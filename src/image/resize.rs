//! torchvision's `Resize(256)` and `CenterCrop(224)` on a Pillow image, in one step.
//!
//! Only what the crop keeps is resized, so a 1x60000 picture costs 224x224 pixels rather than 256x15360000: the crop of a
//! resized picture is the resized region of the picture.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeError, ResizeOptions, Resizer};

use super::error::ImageError;
use super::pixels::{Pixels, SIDE};
use super::samples::{Channels, Samples};
use super::scaling::WHOLE;

/// The short side after resizing.
const SHORT: u64 = 256;

pub(super) fn to_pixels(samples: Samples) -> Result<Pixels, ImageError> {
    let channels = samples.channels;
    let resized = resize(samples).map_err(|error| ImageError::Malformed {
        format: "decoded",
        reason: error.to_string(),
    })?;
    Pixels::from_bytes(channels.into_rgb(resized).into())
}

/// Bilinear with antialiasing when shrinking, columns first and bytes in between: Pillow's order. In one call the library
/// would go rows first, and about every fifth number would differ from Pillow's by 1.
fn resize(samples: Samples) -> Result<Vec<u8>, ResizeError> {
    let Samples { width, height, .. } = samples;
    let (stored_columns, stored_rows) = (samples.columns(), samples.rows());
    let kind = match samples.channels {
        Channels::Grey => PixelType::U8,
        Channels::GreyAlpha => PixelType::U8x2,
        Channels::Rgb => PixelType::U8x3,
        Channels::Rgba => PixelType::U8x4,
    };
    let source = ImageRef::new(stored_columns, stored_rows, &samples.bytes, kind)
        .map_err(|_| ResizeError::PixelTypesAreDifferent)?;
    // Of the picture's own size, so that a scaled one is cut at the same place, between its pixels if need be.
    let columns = Region::of(width, width.min(height)).scaled(samples.eighths);
    let rows = Region::of(height, width.min(height)).scaled(samples.eighths);
    let (first, count) = rows.reach(stored_rows);
    // Alpha neither weighs nor changes.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .use_alpha(false);
    let mut resizer = Resizer::new();

    let mut narrow = Image::new(SIDE as u32, count, kind);
    let kept = options.crop(columns.start, f64::from(first), columns.length, f64::from(count));
    resizer.resize(&source, &mut narrow, &kept)?;

    let mut target = Image::new(SIDE as u32, SIDE as u32, kind);
    let kept = options.crop(0.0, rows.start - f64::from(first), SIDE as f64, rows.length);
    resizer.resize(&narrow, &mut target, &kept)?;
    Ok(target.into_vec())
}

/// What the crop keeps of one side, in pixels of the source.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Region {
    start: f64,
    length: f64,
}

impl Region {
    /// Of a side of `length` pixels in a picture whose short side is `short`.
    fn of(length: u32, short: u32) -> Self {
        let resized = SHORT * u64::from(length) / u64::from(short);
        let offset = half_to_even(resized - SIDE as u64);
        let scale = f64::from(length) / resized as f64;
        Self {
            start: offset as f64 * scale,
            length: SIDE as f64 * scale,
        }
    }

    /// The same part of a picture that was decoded at `eighths` eighths of its size.
    fn scaled(self, eighths: u32) -> Self {
        let scale = f64::from(eighths) / f64::from(WHOLE);
        Self {
            start: self.start * scale,
            length: self.length * scale,
        }
    }

    /// The first pixel and the number of pixels that the region's filter touches, out of `length`.
    fn reach(self, length: u32) -> (u32, u32) {
        // The triangle is one pixel wide to each side, of the source or of the target, whichever are larger.
        let support = (self.length / SIDE as f64).max(1.0) + 1.0;
        let first = (self.start - support).floor().max(0.0);
        let end = (self.start + self.length + support).ceil().min(f64::from(length));
        (first as u32, (end - first) as u32)
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
    fn the_region_is_the_middle_of_the_source() {
        let region = |start, length| Region { start, length };
        assert_eq!(Region::of(256, 256), region(16.0, 224.0));
        assert_eq!(Region::of(512, 512), region(32.0, 448.0));
        let thin = Region::of(60_000, 1);
        assert!((thin.start + thin.length / 2.0 - 30_000.0).abs() < 1e-6 && thin.length < 1.0);
    }

    #[test]
    fn the_reach_is_little_more_than_the_region_and_within_the_source() {
        assert_eq!(Region::of(256, 256).reach(256), (14, 228));
        assert_eq!(Region::of(1, 1).reach(1), (0, 1));
        let (first, count) = Region::of(60_000, 1).reach(60_000);
        assert!(first > 29_990 && count < 10);
    }
}
