//! GIF, by the image crate; what surrounds the first frame is coloured here, as Pillow does.

use std::borrow::Cow;

use image::DynamicImage;

use super::decode::{ImageLimits, malformed};
use super::error::ImageError;
use super::format::Format;
use super::raster;
use super::samples::Samples;

const SCREEN: std::ops::Range<usize> = 6..10;
const EXTENSION: u8 = 0x21;
const GRAPHIC_CONTROL: u8 = 0xf9;
const FRAME: u8 = 0x2c;

pub(super) fn decode(bytes: &[u8], limits: ImageLimits) -> Result<Samples, ImageError> {
    let frame = Frame::first(bytes).ok_or_else(|| malformed(Format::Gif, "it ends before its first frame"))?;
    let (width, height) = frame.canvas;
    limits.check(Format::Gif, width.into(), height.into())?;

    let mut bytes = Cow::Borrowed(bytes);
    if frame.is_beyond_screen {
        // The image crate would crop the frame; Pillow makes the screen larger.
        let [w, h] = [width.to_le_bytes(), height.to_le_bytes()];
        bytes.to_mut()[SCREEN].copy_from_slice(&[w[0], w[1], h[0], h[1]]);
    }
    let mut picture = raster::read(&bytes, Format::Gif, limits)?;
    if let DynamicImage::ImageRgba8(pixels) = &mut picture {
        frame.surround(pixels);
    }
    Ok(raster::to_samples(picture, false))
}

/// What is known of the first frame before its pixels are.
struct Frame {
    left: u16,
    top: u16,
    width: u16,
    height: u16,
    /// The logical screen, grown to hold the frame.
    canvas: (u16, u16),
    is_beyond_screen: bool,
    /// Red, green and blue around the frame: the transparent colour if there is one, or else the first of the palette.
    around: [u8; 3],
}

impl Frame {
    /// Walks the blocks before the first frame; `None` where the file ends, or the canvas has no 16-bit size.
    fn first(bytes: &[u8]) -> Option<Self> {
        let mut blocks = Blocks { rest: bytes.get(6..)? };
        let screen = (blocks.number()?, blocks.number()?);
        let flags = blocks.byte()?;
        blocks.take(2)?;
        let screen_palette = blocks.palette(flags)?;

        let mut transparent = None;
        loop {
            match blocks.byte()? {
                EXTENSION => {
                    let is_control = blocks.byte()? == GRAPHIC_CONTROL;
                    let block = blocks.sub_block()?;
                    if let (true, [flags, _, _, index, ..]) = (is_control, block)
                        && flags & 1 == 1
                    {
                        transparent = Some(*index);
                    }
                    let mut length = block.len();
                    while length > 0 {
                        length = blocks.sub_block()?.len();
                    }
                }
                FRAME => break,
                0x3b => return None,
                // Pillow skips what it does not know, byte by byte.
                _ => {}
            }
        }
        let [left, top, width, height] = [blocks.number()?, blocks.number()?, blocks.number()?, blocks.number()?];
        let flags = blocks.byte()?;
        let own_palette = blocks.palette(flags)?;
        let palette = own_palette.or(screen_palette).unwrap_or(&[]);

        let canvas = (
            screen.0.max(left.checked_add(width)?),
            screen.1.max(top.checked_add(height)?),
        );
        let at = usize::from(transparent.unwrap_or(0)) * 3;
        let around = palette.get(at..).and_then(|rest| rest.first_chunk()).copied();
        Some(Self {
            left,
            top,
            width,
            height,
            canvas,
            is_beyond_screen: canvas != screen,
            around: around.unwrap_or_default(),
        })
    }

    /// Colours the canvas outside of the frame.
    fn surround(&self, pixels: &mut image::RgbaImage) {
        if (self.width, self.height) == self.canvas {
            return;
        }
        let [red, green, blue] = self.around;
        let columns = u32::from(self.left)..u32::from(self.left) + u32::from(self.width);
        let rows = u32::from(self.top)..u32::from(self.top) + u32::from(self.height);
        for (x, y, pixel) in pixels.enumerate_pixels_mut() {
            if !(columns.contains(&x) && rows.contains(&y)) {
                *pixel = image::Rgba([red, green, blue, 0]);
            }
        }
    }
}

/// What is left to read; every step is `None` at the end.
struct Blocks<'a> {
    rest: &'a [u8],
}

impl<'a> Blocks<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    fn number(&mut self) -> Option<u16> {
        self.take(2).map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    fn sub_block(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(length.into())
    }

    /// The palette that `flags` announce, or `Some(None)` if they announce none.
    fn palette(&mut self, flags: u8) -> Option<Option<&'a [u8]>> {
        if flags & 0x80 == 0 {
            return Some(None);
        }
        self.take(3 << ((flags & 7) + 1)).map(Some)
    }
}
