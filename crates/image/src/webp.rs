//! Decodes WebP by libwebp, through the same interface as Pillow: that for animations, of which the first frame is used.

use std::marker::PhantomData;
use std::ptr::NonNull;

use libwebp_sys::{
    WebPAnimDecoder, WebPAnimDecoderDelete, WebPAnimDecoderGetInfo, WebPAnimDecoderGetNext, WebPAnimDecoderNew,
    WebPAnimInfo, WebPData,
};

use super::error::{ImageError, malformed};
use super::picture::{Channels, Picture, Shape};
use super::sink::RowSink;

/// Limit of a single allocation by libwebp, in bytes, which `.cargo/config.toml` sets for its build: a canvas of 64 Mi
/// pixels and a few rows.
const ALLOCATION_MAX: u64 = 288 << 20;
const PIXELS_MAX: u64 = 64 << 20;

/// A file whose header has been read.
pub(super) struct WebP<'a> {
    bytes: &'a [u8],
    shape: Shape,
}

impl<'a> WebP<'a> {
    /// # Errors
    /// [`ImageError::Malformed`] if the first chunk does not state the picture's size.
    pub(super) fn open(bytes: &'a [u8]) -> Result<Self, ImageError> {
        let [width, height] =
            size(bytes).ok_or_else(|| malformed("WebP", "its first chunk is not that of a picture"))?;
        let shape = Shape {
            width,
            height,
            channels: Channels::Rgbx,
        };
        Ok(Self { bytes, shape })
    }
}

/// Returns the size of the canvas, by the first chunk's header (RFC 9649, section 2).
fn size(bytes: &[u8]) -> Option<[u32; 2]> {
    let chunk = bytes.get(20..)?;
    match bytes.get(12..16)? {
        b"VP8 " if chunk.get(3..6)? == b"\x9d\x01\x2a" => {
            let sides = number(chunk, 6)?;
            Some([sides & 0x3fff, sides >> 16 & 0x3fff])
        }
        b"VP8L" if chunk.first() == Some(&0x2f) => {
            let bits = number(chunk, 1)?;
            Some([(bits & 0x3fff) + 1, (bits >> 14 & 0x3fff) + 1])
        }
        b"VP8X" => Some([(number(chunk, 3)? >> 8) + 1, (number(chunk, 6)? >> 8) + 1]),
        _ => None,
    }
}

fn number(chunk: &[u8], at: usize) -> Option<u32> {
    chunk.get(at..)?.first_chunk().map(|bytes| u32::from_le_bytes(*bytes))
}

impl Picture for WebP<'_> {
    fn shape(&self) -> Shape {
        self.shape
    }

    fn memory(&self) -> u64 {
        /// Two canvases of four bytes a pixel; a lossless frame's four bytes; and one of alpha.
        const BYTES_PER_PIXEL: u64 = 13;
        const TABLES: u64 = 4 << 20;
        // A lossless frame has at most one group of five codes for each 4x4 pixels, of at least 20 bits. libwebp reserves the
        // largest tables for each group, up to `WEBP_MAX_ALLOCABLE_MEMORY` in all, and writes the smallest.
        const GROUPS_MAX: u64 = ALLOCATION_MAX / (2970 * 4);
        const GROUP_BYTES: u64 = 5 * 256 * 4 + 64;
        let pixels = u64::from(self.shape.width) * u64::from(self.shape.height);
        let groups = (pixels / 16).min(self.bytes.len() as u64 * 8 / 20).min(GROUPS_MAX);
        pixels * BYTES_PER_PIXEL + TABLES + groups * GROUP_BYTES
    }

    fn decode(self: Box<Self>, rows: &mut dyn RowSink) -> Result<(), ImageError> {
        if u64::from(self.shape.width) * u64::from(self.shape.height) > PIXELS_MAX {
            return Err(malformed("WebP", "it has more than 64 Mi pixels"));
        }
        let mut decoder =
            Decoder::open(self.bytes).ok_or_else(|| malformed("WebP", "its chunks are damaged or cut short"))?;
        if decoder.size() != Some([self.shape.width, self.shape.height]) {
            return Err(malformed("WebP", "its first chunk states another size"));
        }
        let canvas = decoder
            .first_frame()
            .ok_or_else(|| malformed("WebP", "its first frame is damaged or cut short"))?;
        for row in canvas.chunks_exact(self.shape.width as usize * 4) {
            rows.row().copy_from_slice(row);
            rows.advance();
        }
        Ok(())
    }
}

/// libwebp's decoder of a file's bytes.
struct Decoder<'a> {
    decoder: NonNull<WebPAnimDecoder>,
    bytes: PhantomData<&'a [u8]>,
}

impl<'a> Decoder<'a> {
    fn open(bytes: &'a [u8]) -> Option<Self> {
        let data = WebPData {
            bytes: bytes.as_ptr(),
            size: bytes.len(),
        };
        // SAFETY: the bytes outlive the decoder. Without options it decodes to RGBA.
        let decoder = unsafe { WebPAnimDecoderNew(&data, std::ptr::null()) };
        NonNull::new(decoder).map(|decoder| Self {
            decoder,
            bytes: PhantomData,
        })
    }

    fn size(&self) -> Option<[u32; 2]> {
        // SAFETY: zeros are valid for a structure of numbers, which the call overwrites.
        unsafe {
            let mut info: WebPAnimInfo = std::mem::zeroed();
            let is_known = WebPAnimDecoderGetInfo(self.decoder.as_ptr(), &mut info) != 0;
            is_known.then_some([info.canvas_width, info.canvas_height])
        }
    }

    /// Returns the canvas after the first frame: rows of red, green, blue and alpha.
    fn first_frame(&mut self) -> Option<&[u8]> {
        let [width, height] = self.size()?;
        let (mut canvas, mut time) = (std::ptr::null_mut(), 0);
        // SAFETY: `self` owns the decoder.
        let is_decoded = unsafe { WebPAnimDecoderGetNext(self.decoder.as_ptr(), &mut canvas, &mut time) } != 0;
        if !is_decoded || canvas.is_null() {
            return None;
        }
        // SAFETY: the canvas belongs to the decoder and does not change until the next call, which needs another mutable
        // borrow of `self`.
        Some(unsafe { std::slice::from_raw_parts(canvas, width as usize * height as usize * 4) })
    }
}

impl Drop for Decoder<'_> {
    fn drop(&mut self) {
        // SAFETY: `self` owns the decoder, and it is not used afterwards.
        unsafe { WebPAnimDecoderDelete(self.decoder.as_ptr()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a file whose first chunk is of this kind.
    fn file(kind: &[u8], data: &[u8]) -> Vec<u8> {
        [b"RIFF\0\0\0\0WEBP", kind, b"\0\0\0\0", data].concat()
    }

    #[test]
    fn sizes_are_read_from_each_kind_of_first_chunk() {
        let lossy = file(b"VP8 ", b"\0\0\0\x9d\x01\x2a\x2c\x41\xc8\x00");
        assert_eq!(size(&lossy), Some([300, 200]));
        let bits = (299_u32 | 199 << 14).to_le_bytes();
        let lossless = file(b"VP8L", &[&[0x2f][..], &bits].concat());
        assert_eq!(size(&lossless), Some([300, 200]));
        let extended = file(b"VP8X", b"\0\0\0\0\x2b\x01\0\xc7\0\0");
        assert_eq!(size(&extended), Some([300, 200]));
        assert_eq!(size(&file(b"ALPH", &[0; 20])), None);
        assert_eq!(size(&lossy[..29]), None);
    }
}
