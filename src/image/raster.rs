//! PNG, WebP, GIF and BMP, by the image crate.

use std::io::Cursor;

use image::{DynamicImage, ImageBuffer, ImageDecoder as _, ImageFormat, ImageReader, Limits};

use super::decode::{ImageLimits, Rgb};
use super::error::ImageError;

/// A decoder may hold this many bytes for each pixel: the picture in 16-bit RGBA, and as much again to work in.
const BYTES_PER_PIXEL_MAX: u64 = 16;
/// And this much for tables, however small the picture.
const BYTES_MIN: u64 = 16 << 20;

pub(super) fn decode(
    bytes: &[u8],
    format: ImageFormat,
    name: &'static str,
    limits: ImageLimits,
) -> Result<Rgb, ImageError> {
    let malformed = |error: image::ImageError| ImageError::Malformed {
        format: name,
        reason: error.to_string(),
    };
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut memory = Limits::default();
    memory.max_alloc = Some(limits.pixels_max.saturating_mul(BYTES_PER_PIXEL_MAX) + BYTES_MIN);
    reader.limits(memory);
    let decoder = reader.into_decoder().map_err(malformed)?;
    let (width, height) = decoder.dimensions();
    limits.check(name, width as usize, height as usize)?;
    let picture = DynamicImage::from_decoder(decoder).map_err(malformed)?;
    Ok(Rgb {
        width: width as usize,
        height: height as usize,
        bytes: to_rgb(picture),
    })
}

/// As Pillow's `convert("RGB")`: alpha is dropped, grey is repeated, and of 16-bit colour the high byte counts.
fn to_rgb(picture: DynamicImage) -> Vec<u8> {
    match picture {
        DynamicImage::ImageRgb8(rgb) => rgb.into_raw(),
        DynamicImage::ImageRgba8(rgba) => rgba.as_raw().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        DynamicImage::ImageLuma8(grey) => grey.as_raw().iter().flat_map(|&v| [v; 3]).collect(),
        DynamicImage::ImageLumaA8(grey) => grey.as_raw().chunks_exact(2).flat_map(|p| [p[0]; 3]).collect(),
        DynamicImage::ImageRgb16(rgb) => rgb.as_raw().iter().map(|&v| high(v)).collect(),
        DynamicImage::ImageRgba16(rgba) => rgba
            .as_raw()
            .chunks_exact(4)
            .flat_map(|p| [high(p[0]), high(p[1]), high(p[2])])
            .collect(),
        DynamicImage::ImageLuma16(grey) => grey.as_raw().iter().flat_map(|&v| [grey_16(v); 3]).collect(),
        DynamicImage::ImageLumaA16(grey) => grey.as_raw().chunks_exact(2).flat_map(|p| [high(p[0]); 3]).collect(),
        other => ImageBuffer::into_raw(other.into_rgb8()),
    }
}

fn high(value: u16) -> u8 {
    (value >> 8) as u8
}

/// 16-bit grey alone: Pillow's mode `I;16`.
fn grey_16(value: u16) -> u8 {
    high(value)
}
