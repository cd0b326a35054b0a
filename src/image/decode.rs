//! The way from a file's bytes to [`Pixels`].

use image::ImageFormat;

use super::error::ImageError;
use super::pixels::Pixels;
use super::{jpeg, raster, resize};

/// What bounds decoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageLimits {
    /// Width times height at most, known from the header before anything is allocated.
    pub pixels_max: u64,
}

impl Default for ImageLimits {
    fn default() -> Self {
        Self {
            pixels_max: 64 * 1024 * 1024,
        }
    }
}

impl ImageLimits {
    /// Refuses a picture that is too large or has no pixels.
    pub(super) fn check(self, format: &'static str, width: usize, height: usize) -> Result<(), ImageError> {
        let (width, height) = (width as u64, height as u64);
        if width == 0 || height == 0 {
            return Err(ImageError::Malformed {
                format,
                reason: format!("it is {width}x{height} pixels"),
            });
        }
        if width.saturating_mul(height) > self.pixels_max {
            return Err(ImageError::TooLarge {
                width,
                height,
                pixels_max: self.pixels_max,
            });
        }
        Ok(())
    }
}

/// A decoded picture: RGB interleaved, rows from the top.
pub(super) struct Rgb {
    pub width: usize,
    pub height: usize,
    pub bytes: Vec<u8>,
}

/// Decodes, resizes and crops.
///
/// # Errors
/// [`ImageError`]; nothing a file holds makes it panic or allocate more than a few bytes for each pixel allowed.
pub fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Pixels, ImageError> {
    if bytes.is_empty() {
        return Err(ImageError::Empty);
    }
    let rgb = match image::guess_format(bytes) {
        Ok(ImageFormat::Jpeg) => jpeg::decode(bytes, limits)?,
        Ok(ImageFormat::Png) => raster::decode(bytes, ImageFormat::Png, "PNG", limits)?,
        Ok(ImageFormat::WebP) => raster::decode(bytes, ImageFormat::WebP, "WebP", limits)?,
        Ok(ImageFormat::Gif) => raster::decode(bytes, ImageFormat::Gif, "GIF", limits)?,
        Ok(ImageFormat::Bmp) => raster::decode(bytes, ImageFormat::Bmp, "BMP", limits)?,
        _ => return Err(ImageError::UnknownFormat),
    };
    resize::to_pixels(&rgb)
}
