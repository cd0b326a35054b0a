//! JPEG, by zune-jpeg.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::decode::{ImageLimits, Rgb};
use super::error::ImageError;

const FORMAT: &str = "JPEG";

pub(super) fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Rgb, ImageError> {
    let malformed = |reason: String| ImageError::Malformed { format: FORMAT, reason };
    // Strict: a file that ends early is an error, not a picture with a grey rest.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder
        .decode_headers()
        .map_err(|error| malformed(format!("{error:?}")))?;
    let (width, height) = decoder
        .dimensions()
        .ok_or_else(|| malformed("it has no frame header".into()))?;
    limits.check(FORMAT, width, height)?;
    let rgb = decoder.decode().map_err(|error| malformed(format!("{error:?}")))?;
    Ok(Rgb {
        width,
        height,
        bytes: rgb,
    })
}
