//! Decodes the first frame of a GIF as Pillow does.

mod blocks;
mod lzw;

use std::ops::ControlFlow;

use self::blocks::Blocks;
use self::lzw::Sink;
use super::error::{ImageError, malformed};
use super::picture::{Channels, Picture, Shape};
use super::sink::RowSink;

/// A file that has been read up to the pixels of its first frame.
pub(super) struct Gif<'a> {
    /// The logical screen, enlarged to hold the frame.
    width: u32,
    height: u32,
    frame: Frame,
    transparent: Option<u8>,
    /// Red, green and blue of each colour; without a palette an index is a level of grey.
    palette: Option<&'a [u8]>,
    /// Bits of a pixel, one fewer than those of the first code.
    depth: u8,
    /// The sub-blocks of codes.
    codes: &'a [u8],
}

#[derive(Clone, Copy)]
struct Frame {
    left: u32,
    top: u32,
    width: u32,
    height: u32,
    interlaced: bool,
}

/// Reads up to the pixels of the first frame.
///
/// # Errors
/// [`ImageError::Malformed`] where Pillow's `Image.open` refuses the file.
pub(super) fn open(bytes: &[u8]) -> Result<Box<dyn Picture + '_>, ImageError> {
    let gif = Gif::read(bytes).ok_or_else(|| malformed("GIF", "it ends before its first frame"))?;
    if gif.width == 0 || gif.height == 0 {
        return Err(malformed("GIF", "its size is 0"));
    }
    Ok(Box::new(gif))
}

impl<'a> Gif<'a> {
    /// Returns `None` if the file has no frame.
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let mut blocks = Blocks { rest: bytes };
        let version = blocks.take(6)?;
        if version != b"GIF87a" && version != b"GIF89a" {
            return None;
        }
        let (width, height) = (blocks.number()?, blocks.number()?);
        let flags = blocks.byte()?;
        blocks.take(2)?;
        let screen_palette = blocks.palette(flags)?;
        let transparent = blocks.extensions()?;

        let (left, top) = (blocks.number()?, blocks.number()?);
        let (frame_width, frame_height) = (blocks.number()?, blocks.number()?);
        let flags = blocks.byte()?;
        // Like Pillow, by an oversight of its: the screen's palette colours a frame whose own only lists levels of grey.
        let palette = blocks.palette(flags)?.or(screen_palette);
        let frame = Frame {
            left,
            top,
            width: frame_width,
            height: frame_height,
            interlaced: flags & 0x40 != 0,
        };
        Some(Self {
            width: width.max(left + frame_width),
            height: height.max(top + frame_height),
            frame,
            transparent,
            palette,
            depth: blocks.byte()?,
            codes: blocks.rest,
        })
    }

    /// Returns the index of every pixel of the screen. Around the frame it is the transparent index, or 0 without one.
    fn indices(&self) -> Result<Vec<u8>, &'static str> {
        if self.frame.width == 0 || self.frame.height == 0 {
            return Err("its first frame has no pixels");
        }
        let (width, height) = (self.width as usize, self.height as usize);
        let length = width.checked_mul(height).ok_or("it is too large")?;
        let mut screen = vec![self.transparent.unwrap_or(0); length];
        lzw::expand(self.codes, self.depth, &mut Pixels::new(&mut screen, width, self.frame))?;
        Ok(screen)
    }
}

impl Picture for Gif<'_> {
    fn shape(&self) -> Shape {
        let channels = if self.palette.is_some() {
            Channels::Rgbx
        } else {
            Channels::Grey
        };
        Shape {
            width: self.width,
            height: self.height,
            channels,
        }
    }

    fn memory(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height) + lzw::MEMORY
    }

    fn decode(self: Box<Self>, rows: &mut dyn RowSink) -> Result<(), ImageError> {
        let screen = self.indices().map_err(|reason| malformed("GIF", reason))?;
        let colours = self.palette.map(colour_table);
        for indices in screen.chunks_exact(self.width as usize) {
            match &colours {
                None => rows.row().copy_from_slice(indices),
                Some(colours) => {
                    let (pixels, _) = rows.row().as_chunks_mut::<4>();
                    for (pixel, &index) in pixels.iter_mut().zip(indices) {
                        *pixel = colours[usize::from(index)];
                    }
                }
            }
            rows.advance();
        }
        Ok(())
    }
}

/// Returns the colour of each index; those beyond the palette are black.
fn colour_table(palette: &[u8]) -> [[u8; 4]; 256] {
    let mut colours = [[0; 4]; 256];
    let (entries, _) = palette.as_chunks::<3>();
    for (colour, &[red, green, blue]) in colours.iter_mut().zip(entries) {
        *colour = [red, green, blue, 0];
    }
    colours
}

/// Writes the frame's pixels to the screen, one after the other.
struct Pixels<'a> {
    screen: &'a mut [u8],
    /// The width of the screen.
    stride: usize,
    left: usize,
    top: usize,
    width: usize,
    height: usize,
    x: usize,
    y: usize,
    /// Rows from one row of the pass to the next.
    step: usize,
    /// The first row and the step of each following pass.
    passes: std::slice::Iter<'static, (usize, usize)>,
}

impl<'a> Pixels<'a> {
    /// The frame must not be empty, and must be within the screen.
    fn new(screen: &'a mut [u8], stride: usize, frame: Frame) -> Self {
        let (step, passes): (_, &[_]) = if frame.interlaced {
            (8, &[(4, 8), (2, 4), (1, 2)])
        } else {
            (1, &[])
        };
        Self {
            screen,
            stride,
            left: frame.left as usize,
            top: frame.top as usize,
            width: frame.width as usize,
            height: frame.height as usize,
            x: 0,
            y: 0,
            step,
            passes: passes.iter(),
        }
    }

    /// Moves to the next row of the pass, or to the first of the next pass that has rows.
    fn advance(&mut self) -> ControlFlow<()> {
        self.y += self.step;
        while self.y >= self.height {
            let Some(&(first, step)) = self.passes.next() else {
                return ControlFlow::Break(());
            };
            (self.y, self.step) = (first, step);
        }
        ControlFlow::Continue(())
    }
}

impl Sink for Pixels<'_> {
    fn write(&mut self, mut string: &[u8]) -> ControlFlow<()> {
        while !string.is_empty() {
            let (now, later) = string.split_at(string.len().min(self.width - self.x));
            let start = (self.top + self.y) * self.stride + self.left + self.x;
            self.screen[start..start + now.len()].copy_from_slice(now);
            self.x += now.len();
            string = later;
            if self.x == self.width {
                self.x = 0;
                self.advance()?;
            }
        }
        ControlFlow::Continue(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED_AND_BLUE: [u8; 6] = [255, 0, 0, 0, 0, 255];
    /// Clear, 1, 1 and 0 in codes of 3 bits, 1 and end in codes of 4, then the trailer.
    const PIXELS: [u8; 7] = [2, 3, 0b0100_1100, 0b0001_0000, 0b0101, 0, b';'];

    /// A file with a screen of 2x2 pixels and the palette red and blue.
    fn file(extensions: &[u8], frame: [u8; 4], flags: u8, pixels: &[u8]) -> Vec<u8> {
        let screen = [b"GIF89a".as_slice(), &[2, 0, 2, 0, 0x80, 0, 0], &RED_AND_BLUE].concat();
        let [left, top, width, height] = frame;
        let frame = [b',', left, 0, top, 0, width, 0, height, 0, flags];
        [&screen, extensions, &frame, pixels].concat()
    }

    fn whole(extensions: &[u8]) -> Vec<u8> {
        file(extensions, [0, 0, 2, 2], 0, &PIXELS)
    }

    fn indices(bytes: &[u8]) -> Vec<u8> {
        Gif::read(bytes).unwrap().indices().unwrap()
    }

    #[test]
    fn pixels_are_expanded_and_coloured() {
        let bytes = whole(&[]);
        let gif = Gif::read(&bytes).unwrap();
        assert_eq!(gif.indices().unwrap(), [1, 1, 0, 1]);
        assert_eq!(
            gif.shape(),
            Shape {
                width: 2,
                height: 2,
                channels: Channels::Rgbx
            }
        );
        let colours = colour_table(gif.palette.unwrap());
        assert_eq!(colours[..3], [[255, 0, 0, 0], [0, 0, 255, 0], [0; 4]]);
    }

    #[test]
    fn interlaced_rows_are_reordered() {
        let bytes = file(&[], [0, 0, 1, 4], 0x40, &PIXELS);
        // Rows 0, 2, 1 and 3, beside a column without a frame.
        assert_eq!(indices(&bytes), [1, 0, 0, 0, 1, 0, 1, 0]);
    }

    #[test]
    fn the_screen_grows_and_is_transparent_around_the_frame() {
        let bytes = file(b"!\xf9\x04\x01\0\0\x07\0", [1, 1, 2, 2], 0, &PIXELS);
        let gif = Gif::read(&bytes).unwrap();
        assert_eq!((gif.width, gif.height), (3, 3));
        assert_eq!(gif.indices().unwrap(), [7, 7, 7, 7, 1, 1, 7, 0, 1]);
    }

    #[test]
    fn a_palette_of_levels_of_grey_is_dropped() {
        let own = [&[0, 0, 0, 1, 1, 1], PIXELS.as_slice()].concat();
        let bytes = file(&[], [0, 0, 2, 2], 0x80, &own);
        assert_eq!(Gif::read(&bytes).unwrap().palette, Some(RED_AND_BLUE.as_slice()));

        let mut bytes = whole(&[]);
        bytes[13..19].copy_from_slice(&[0, 0, 0, 1, 1, 1]);
        assert_eq!(Gif::read(&bytes).unwrap().shape().channels, Channels::Grey);
    }

    #[test]
    fn the_palette_of_the_frame_comes_first() {
        let own = [&[9; 6], PIXELS.as_slice()].concat();
        let bytes = file(&[], [0, 0, 2, 2], 0x80, &own);
        assert_eq!(Gif::read(&bytes).unwrap().palette, Some([9; 6].as_slice()));
    }

    #[test]
    fn a_graphic_control_must_have_what_pillow_reads() {
        assert!(Gif::read(&whole(b"!\xf9\x03\0\0\0\0")).is_some());
        assert!(Gif::read(&whole(b"!\xf9\x02\0\0\0")).is_none());
        assert!(Gif::read(&whole(b"!\xf9\x03\x01\0\0\0")).is_none());
        let twice = whole(b"!\xf9\x04\x01\0\0\x05\0!\xf9\x04\0\0\0\x06\0");
        assert_eq!(Gif::read(&twice).unwrap().transparent, Some(5));
    }

    #[test]
    fn an_empty_first_sub_block_ends_only_a_comment() {
        assert!(Gif::read(&whole(b"!\xfe\0")).is_some());
        assert!(Gif::read(&whole(b"!\x01\0\0")).is_some());
        // The comma is read as the length of a sub-block, which is longer than the file.
        assert!(Gif::read(&whole(b"!\x01\0")).is_none());
        assert!(Gif::read(&whole(b"!\xff\x0bNETSCAPE2.0\0\0")).is_some());
        assert!(Gif::read(&whole(b"!\xff\x0bNETSCAPE2.0\0")).is_none());
    }

    #[test]
    fn unknown_bytes_between_blocks_are_skipped() {
        assert_eq!(indices(&whole(&[0, 7, 0])), [1, 1, 0, 1]);
        assert!(Gif::read(&whole(b";")).is_none());
    }

    #[test]
    fn a_file_cut_short_is_refused() {
        let bytes = whole(&[]);
        // The empty sub-block and the trailer may be missing; the sub-block with the codes must be complete.
        let needed = bytes.len() - 2;
        for length in 0..needed {
            assert!(
                Gif::read(&bytes[..length]).is_none_or(|gif| gif.indices().is_err()),
                "{length}"
            );
        }
        assert_eq!(indices(&bytes[..needed]), [1, 1, 0, 1]);
    }

    #[test]
    fn an_empty_frame_is_refused() {
        let bytes = file(&[], [0, 0, 0, 2], 0, &PIXELS);
        assert!(Gif::read(&bytes).unwrap().indices().is_err());
        let mut bytes = file(&[], [0, 0, 0, 0], 0, &PIXELS);
        bytes[6..10].fill(0);
        assert!(open(&bytes).is_err());
    }
}
