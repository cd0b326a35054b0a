//! JPEG, by zune-jpeg; what it cannot do, a part of the size or components in scans of their own, by libjpeg.

use memchr::memchr;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::cmyk;
use super::decode::{ImageLimits, malformed};
use super::error::ImageError;
use super::format::Format;
use super::libjpeg;
use super::samples::{self, Channels, Samples};
use super::scaling::{JpegScaling, WHOLE};

/// A progressive file refines the whole picture with each scan: without a bound few bytes would buy much work. Encoders
/// write about ten.
const SCANS_MAX: usize = 64;
const START_OF_SCAN: u8 = 0xda;

pub(super) fn decode(bytes: &[u8], limits: ImageLimits, scaling: JpegScaling) -> Result<Samples, ImageError> {
    let damaged = |error: &dyn std::fmt::Debug| malformed(Format::Jpeg, format!("{error:?}"));
    // Strict: where a code is wrong or missing, an error rather than grey.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_max_scans(SCANS_MAX)
        // Decided when the headers are read, where colours are mixed; pixels of four bytes are resized in two thirds of the
        // time of three.
        .jpeg_set_out_colorspace(ColorSpace::RGBA);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| damaged(&error))?;
    let info = decoder
        .info()
        .ok_or_else(|| malformed(Format::Jpeg, "it has no frame header"))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    limits.check(Format::Jpeg, width, height)?;
    let scans = scans_before_end(bytes).ok_or_else(|| malformed(Format::Jpeg, "it ends before its end marker"))?;

    // Grey and four inks are taken as they are stored: the one is spread and the others are mixed below, as Pillow does.
    let stored = decoder
        .input_colorspace()
        .ok_or_else(|| malformed(Format::Jpeg, "it names no colours"))?;
    let wanted = match stored {
        ColorSpace::Luma | ColorSpace::CMYK | ColorSpace::YCCK => stored,
        ColorSpace::YCbCr => ColorSpace::RGBA,
        _ => ColorSpace::RGB,
    };
    let channels = match wanted {
        ColorSpace::Luma => Channels::Grey,
        ColorSpace::RGBA => Channels::Rgba,
        _ => Channels::Rgb,
    };
    let eighths = scaling.eighths(width.min(height));
    // Of these zune-jpeg 0.5 would take the first scan, and call the green picture whole.
    let is_planar = scans > 1 && !info.sof.is_progressive();
    let is_usual = matches!(stored, ColorSpace::Luma | ColorSpace::YCbCr) && scans <= SCANS_MAX;
    if (eighths < WHOLE || is_planar) && is_usual {
        // What libjpeg will not take is left to zune-jpeg if possible, so that damage has one judge and one wording.
        if let Some(samples) = libjpeg::decode(bytes, (width, height), channels, eighths) {
            return Ok(samples);
        }
    }
    if is_planar {
        let reason = "its components are in separate scans, which are damaged or not YCbCr";
        return Err(malformed(Format::Jpeg, reason));
    }

    decoder.set_options(options.jpeg_set_out_colorspace(wanted));
    let length = decoder
        .output_buffer_size()
        .ok_or_else(|| malformed(Format::Jpeg, "its size overflows"))?;
    let mut bytes = samples::zeroed(length);
    decoder.decode_into(&mut bytes).map_err(|error| damaged(&error))?;
    match wanted {
        ColorSpace::CMYK => cmyk::cmyk_to_rgb(&mut bytes),
        ColorSpace::YCCK => cmyk::ycck_to_rgb(&mut bytes),
        _ => {}
    }
    Ok(Samples {
        width,
        height,
        eighths: WHOLE,
        channels,
        bytes,
    })
}

/// How many scans there are up to the end-of-image marker; `None` if the segments do not lead to one.
///
/// zune-jpeg notices a missing end only where it still needed the codes, but a progressive file that lost its last scans
/// looks whole, only blurred. Embedded thumbnails with ends of their own lie inside segments and are stepped over.
fn scans_before_end(bytes: &[u8]) -> Option<usize> {
    let mut rest = bytes;
    let mut scans = 0;
    loop {
        // Also steps over the codes of a scan, where 0xff is followed by 0 or by a restart marker.
        let at = memchr(0xff, rest)?;
        let (&marker, after) = rest[at + 1..].split_first()?;
        match marker {
            0xd9 => return Some(scans),
            0xff => rest = &rest[at + 1..],
            0x00 | 0x01 | 0xd0..=0xd8 => rest = after,
            _ => {
                scans += usize::from(marker == START_OF_SCAN);
                let (length, _) = after.split_first_chunk()?;
                rest = after.get(usize::from(u16::from_be_bytes(*length))..)?;
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
        assert_eq!(scans_before_end(segment), None);
        assert_eq!(scans_before_end(&[segment.as_slice(), b"\xff\xd9"].concat()), Some(0));
    }

    #[test]
    fn codes_and_restarts_are_stepped_over() {
        let scan = b"\xff\xd8\xff\xda\x00\x02ab\xff\x00c\xff\xd0d\xff";
        assert_eq!(scans_before_end(&[scan.as_slice(), b"\xff\xd9"].concat()), Some(1));
        assert_eq!(scans_before_end(scan), None);
        assert_eq!(scans_before_end(b"\xff\xd8\xff\xda\x00"), None);
    }
}
