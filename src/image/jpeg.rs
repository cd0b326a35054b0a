//! JPEG, by zune-jpeg.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::cmyk;
use super::decode::{ImageLimits, malformed};
use super::error::ImageError;
use super::format::Format;
use super::samples::{Channels, Samples};

/// A progressive file refines the whole picture with each scan: without a bound few bytes would buy much work. Encoders
/// write about ten.
const SCANS_MAX: usize = 64;

pub(super) fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Samples, ImageError> {
    let damaged = |error: &dyn std::fmt::Debug| malformed(Format::Jpeg, format!("{error:?}"));
    // Strict: where a code is wrong or missing, an error rather than grey.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_max_scans(SCANS_MAX);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| damaged(&error))?;
    let info = decoder
        .info()
        .ok_or_else(|| malformed(Format::Jpeg, "it has no frame header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    limits.check(Format::Jpeg, width, height)?;
    if !reaches_its_end(bytes) {
        return Err(malformed(Format::Jpeg, "it ends before its end marker"));
    }

    // Grey and four inks are taken as they are stored: the one is spread and the others are mixed below, as Pillow does.
    let stored = decoder
        .input_colorspace()
        .ok_or_else(|| malformed(Format::Jpeg, "it names no colours"))?;
    let wanted = match stored {
        ColorSpace::Luma | ColorSpace::CMYK | ColorSpace::YCCK => stored,
        _ => ColorSpace::RGB,
    };
    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    let mut bytes = decoder.decode().map_err(|error| damaged(&error))?;
    let channels = match wanted {
        ColorSpace::Luma => Channels::Grey,
        _ => Channels::Rgb,
    };
    match wanted {
        ColorSpace::CMYK => cmyk::cmyk_to_rgb(&mut bytes),
        ColorSpace::YCCK => cmyk::ycck_to_rgb(&mut bytes),
        _ => {}
    }
    Ok(Samples {
        width,
        height,
        channels,
        bytes,
    })
}

/// Whether the segments and scans lead to an end-of-image marker.
///
/// zune-jpeg notices a missing end only where it still needed the codes, but a progressive file that lost its last scans
/// looks whole, only blurred. Embedded thumbnails with ends of their own lie inside segments and are stepped over.
fn reaches_its_end(bytes: &[u8]) -> bool {
    let mut rest = bytes;
    loop {
        // Also steps over the codes of a scan, where 0xff is followed by 0 or by a restart marker.
        let Some(at) = rest.iter().position(|&byte| byte == 0xff) else {
            return false;
        };
        let Some((&marker, after)) = rest[at + 1..].split_first() else {
            return false;
        };
        match marker {
            0xd9 => return true,
            0xff => rest = &rest[at + 1..],
            0x00 | 0x01 | 0xd0..=0xd8 => rest = after,
            _ => {
                let Some((length, _)) = after.split_first_chunk() else {
                    return false;
                };
                let Some(next) = after.get(usize::from(u16::from_be_bytes(*length))..) else {
                    return false;
                };
                rest = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_inside_a_segment_is_not_the_end() {
        let segment = b"\xff\xd8\xff\xe1\x00\x04\xff\xd9";
        assert!(!reaches_its_end(segment));
        assert!(reaches_its_end(&[segment.as_slice(), b"\xff\xd9"].concat()));
    }

    #[test]
    fn codes_and_restarts_are_stepped_over() {
        assert!(reaches_its_end(
            b"\xff\xd8\xff\xda\x00\x02ab\xff\x00c\xff\xd0d\xff\xff\xd9"
        ));
        assert!(!reaches_its_end(b"\xff\xd8\xff\xda\x00\x02ab\xff\x00c\xff\xd0d\xff"));
        assert!(!reaches_its_end(b"\xff\xd8\xff\xda\x00"));
    }
}
