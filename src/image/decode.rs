//! The way from a file's bytes to [`Pixels`].

use super::error::ImageError;
use super::format::Format;
use super::pixels::Pixels;
use super::scaling::JpegScaling;
use super::{gif, jpeg, raster, resize};

/// What bounds decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Width times height at most, checked in the header before memory is taken for the picture.
    pub pixels_max: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            pixels_max: 64 * 1024 * 1024,
        }
    }
}

/// What decoding depends on beside the bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImageSettings {
    /// What is refused.
    pub limits: ImageLimits,
    /// Whether large JPEGs are decoded at a part of their size.
    pub jpeg_scaling: JpegScaling,
}

impl ImageLimits {
    /// Refuses a picture that is too large or has no pixels.
    pub(super) fn check(self, format: Format, width: u32, height: u32) -> Result<(), ImageError> {
        let (width, height) = (u64::from(width), u64::from(height));
        let pixels_max = self.pixels_max;
        if width == 0 || height == 0 {
            return Err(malformed(format, format!("it is {width}x{height} pixels")));
        }
        if width.saturating_mul(height) > pixels_max {
            return Err(ImageError::TooLarge {
                width,
                height,
                pixels_max,
            });
        }
        Ok(())
    }
}

/// Decodes a JPEG, PNG, WebP, GIF or BMP file, resizes its short side to 256 and cuts out the middle 224x224.
///
/// The module's documentation says what becomes of alpha, orientation, animations and deep colours.
///
/// # Errors
/// [`ImageError`]: no bytes make it panic, and none make it take memory for more pixels than the limits allow.
pub fn decode(bytes: &[u8], settings: ImageSettings) -> Result<Pixels, ImageError> {
    let limits = settings.limits;
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let samples = match Format::of(bytes).ok_or(ImageError::UnknownFormat)? {
        Format::Jpeg => jpeg::decode(bytes, limits, settings.jpeg_scaling)?,
        Format::Gif => gif::decode(bytes, limits)?,
        format => raster::decode(bytes, format, limits)?,
    };
    resize::to_pixels(samples)
}

/// The error of a file whose decoder said `reason`, which is put on one line.
pub(super) fn malformed(format: Format, reason: impl ToString) -> ImageError {
    let reason = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
    ImageError::Malformed {
        format: format.name(),
        reason,
    }
}
