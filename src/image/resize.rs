//! torchvision's `Resize(256)` and `CenterCrop(224)` on a Pillow image, in one step.
//!
//! Only what the crop keeps is resized: the crop of a resized picture is the resized region of the picture.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::decode::Rgb;
use super::error::ImageError;
use super::pixels::{Pixels, SIDE};

/// The short side after resizing.
const SHORT: usize = 256;

pub(super) fn to_pixels(rgb: &Rgb) -> Result<Pixels, ImageError> {
    let malformed = |reason: String| ImageError::Malformed {
        format: "decoded",
        reason,
    };
    let (left, width) = region(rgb.width, rgb.width.min(rgb.height));
    let (top, height) = region(rgb.height, rgb.width.min(rgb.height));

    let source = ImageRef::new(rgb.width as u32, rgb.height as u32, &rgb.bytes, PixelType::U8x3)
        .map_err(|error| malformed(error.to_string()))?;
    let mut target = Image::new(SIDE as u32, SIDE as u32, PixelType::U8x3);
    // Bilinear with antialiasing when shrinking, in Pillow's fixed-point arithmetic.
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Bilinear))
        .crop(left, top, width, height)
        .use_alpha(false);
    Resizer::new()
        .resize(&source, &mut target, &options)
        .map_err(|error| malformed(error.to_string()))?;
    Pixels::from_bytes(target.buffer())
}

/// Along one axis, where the crop begins and how long it is, in the source's pixels.
fn region(length: usize, short: usize) -> (f64, f64) {
    let resized = SHORT * length / short;
    let offset = half_to_even(resized - SIDE);
    let scale = length as f64 / resized as f64;
    (offset as f64 * scale, SIDE as f64 * scale)
}

/// `round(n / 2)` as Python rounds.
fn half_to_even(n: usize) -> usize {
    let half = n / 2;
    if n % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_margins_round_as_python_does() {
        for (n, expected) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 2), (7, 4), (32, 16)] {
            assert_eq!(half_to_even(n), expected, "{n}");
        }
    }
}
