//! PNG, WebP and BMP, by the image crate.

use std::io::Cursor;

use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};

use super::decode::{ImageLimits, malformed};
use super::error::ImageError;
use super::format::Format;
use super::samples::{Channels, Samples};
use super::scaling::WHOLE;

/// A decoder may hold this many bytes for each pixel: the picture in 16-bit RGBA, and as much again to work in.
const BYTES_PER_PIXEL_MAX: u64 = 16;
/// And this much for tables, however small the picture.
const BYTES_MIN: u64 = 16 << 20;

pub(super) fn decode(bytes: &[u8], format: Format, limits: ImageLimits) -> Result<Samples, ImageError> {
    let header = PngHeader::of(bytes, format);
    if let Some(header) = header {
        // Before the decoder is made: it reads on to the first pixels.
        limits.check(format, header.width, header.height)?;
    }
    let picture = read(bytes, format, limits)?;
    Ok(to_samples(picture, header.is_some_and(|header| header.is_plain_grey)))
}

/// Decodes what the image crate calls by the same name.
pub(super) fn read(bytes: &[u8], format: Format, limits: ImageLimits) -> Result<DynamicImage, ImageError> {
    let damaged = |error: image::ImageError| malformed(format, error);
    let known = match format {
        Format::Jpeg => ImageFormat::Jpeg,
        Format::Png => ImageFormat::Png,
        Format::WebP => ImageFormat::WebP,
        Format::Gif => ImageFormat::Gif,
        Format::Bmp => ImageFormat::Bmp,
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), known);
    let mut memory = Limits::default();
    memory.max_alloc = Some(
        limits
            .pixels_max
            .saturating_mul(BYTES_PER_PIXEL_MAX)
            .saturating_add(BYTES_MIN),
    );
    reader.limits(memory);
    let decoder = reader.into_decoder().map_err(damaged)?;
    let (width, height) = decoder.dimensions();
    limits.check(format, width, height)?;
    DynamicImage::from_decoder(decoder).map_err(damaged)
}

/// What the first chunk of a PNG file says.
#[derive(Clone, Copy)]
struct PngHeader {
    width: u32,
    height: u32,
    /// Grey without an alpha channel; a transparent shade does not make one.
    is_plain_grey: bool,
}

impl PngHeader {
    fn of(bytes: &[u8], format: Format) -> Option<Self> {
        let number = |at: usize| bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        (format == Format::Png).then_some(())?;
        Some(Self {
            width: number(16)?,
            height: number(20)?,
            is_plain_grey: *bytes.get(25)? == 0,
        })
    }
}

/// As Pillow's `convert("RGB")`, but for alpha and the repeating of grey, which come after resizing.
pub(super) fn to_samples(picture: DynamicImage, is_plain_grey: bool) -> Samples {
    let (width, height) = (picture.width(), picture.height());
    let (channels, bytes) = match picture {
        DynamicImage::ImageLuma8(grey) => (Channels::Grey, grey.into_raw()),
        DynamicImage::ImageLumaA8(grey) => (Channels::GreyAlpha, grey.into_raw()),
        DynamicImage::ImageRgb8(rgb) => (Channels::Rgb, rgb.into_raw()),
        DynamicImage::ImageRgba8(rgba) => (Channels::Rgba, rgba.into_raw()),
        DynamicImage::ImageLuma16(grey) => (Channels::Grey, clipped(&grey)),
        DynamicImage::ImageLumaA16(grey) if is_plain_grey => (Channels::GreyAlpha, clipped(&grey)),
        DynamicImage::ImageLumaA16(grey) => (Channels::GreyAlpha, high_bytes(&grey)),
        DynamicImage::ImageRgb16(rgb) => (Channels::Rgb, high_bytes(&rgb)),
        DynamicImage::ImageRgba16(rgba) => (Channels::Rgba, high_bytes(&rgba)),
        other => (Channels::Rgb, other.into_rgb8().into_raw()),
    };
    Samples {
        width,
        height,
        eighths: WHOLE,
        channels,
        bytes,
    }
}

fn high_bytes(values: &[u16]) -> Vec<u8> {
    values.iter().map(|value| (value >> 8) as u8).collect()
}

/// Pillow keeps 16-bit grey whole, as mode `I;16`, and clips it when it becomes RGB.
fn clipped(values: &[u16]) -> Vec<u8> {
    values.iter().map(|&value| value.min(255) as u8).collect()
}
