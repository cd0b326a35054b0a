//! Reads the chunks other than those of pixels.

use super::chunks::{Chunks, Name};
use super::form::{Colour, Form};
use super::passes::Area;
use super::refusal;
use super::text::{self, Text};
use crate::error::ImageError;

/// Limit of all text of a file, in characters.
const TEXT_LIMIT: u64 = 64 << 20;

/// A chunk, as [`Header::read_chunk`] returns it.
pub(super) enum Chunk<'a> {
    /// An unknown chunk, of which nothing was read.
    Unknown,
    /// The data of a known chunk.
    Read(&'a [u8]),
    /// The number of bytes of pixels that follow.
    Pixels(u32),
    End,
}

/// The transparent colour, as Pillow stores it. Alpha is dropped, but Pillow refuses colours that it cannot convert.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Transparency {
    #[default]
    None,
    /// A grey value or an index.
    One,
    /// An alpha for each colour of a palette.
    Palette,
    Rgb([u16; 3]),
    /// The value of a text named `transparency`.
    Text,
}

/// The part of the picture that the pixels cover.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Extent {
    #[default]
    Whole,
    /// Left, top, right and bottom.
    Frame([u64; 4]),
    /// The value of a text named `bbox`.
    Text,
}

/// The state that the chunks change, one after the other.
#[derive(Clone, Debug, Default)]
pub(super) struct Header<'a> {
    pub width: u32,
    pub height: u32,
    pub form: Option<Form>,
    pub interlaced: bool,
    pub palette: Option<&'a [u8]>,
    transparency: Transparency,
    extent: Extent,
    animation: Option<u32>,
    sequence: Option<u32>,
    /// True if the pixels are not a frame of the animation.
    is_separate: bool,
    characters: u64,
}

impl<'a> Header<'a> {
    /// Reads a chunk's data and updates the state.
    pub(super) fn read_chunk(
        &mut self,
        name: Name,
        length: u32,
        chunks: &mut Chunks<'a>,
    ) -> Result<Chunk<'a>, ImageError> {
        match &name {
            b"IEND" => return Ok(Chunk::End),
            b"IDAT" => return Ok(self.pixels(length)),
            b"fdAT" => return self.frame_data(length, chunks),
            b"IHDR" | b"PLTE" | b"tRNS" | b"gAMA" | b"cHRM" | b"sRGB" | b"pHYs" | b"iCCP" | b"eXIf" | b"tEXt"
            | b"zTXt" | b"iTXt" | b"acTL" | b"fcTL" => {}
            _ => return Ok(Chunk::Unknown),
        }
        let data = chunks.take(length)?;
        match &name {
            b"IHDR" => self.size(field(name, data)?)?,
            b"PLTE" => self.colours(data),
            b"tRNS" => self.transparent(data)?,
            b"gAMA" => field::<4>(name, data).map(drop)?,
            b"cHRM" => field::<32>(name, data).map(drop)?,
            b"sRGB" => field::<1>(name, data).map(drop)?,
            b"pHYs" => field::<9>(name, data).map(drop)?,
            b"iCCP" => text::profile(data)?,
            b"tEXt" => self.keep(text::plain(data))?,
            b"zTXt" => self.keep(text::compressed(data)?)?,
            b"iTXt" => self.keep(text::international(data)?)?,
            b"acTL" => self.animation(field(name, data)?),
            b"fcTL" => self.frame(field(name, data)?)?,
            _ => {}
        }
        Ok(Chunk::Read(data))
    }

    fn size(&mut self, data: &[u8; 13]) -> Result<(), ImageError> {
        self.width = number(data, 0);
        self.height = number(data, 4);
        let [.., depth, colour, _, filter, interlace] = *data;
        // An invalid combination of depth and colour type keeps that of an earlier header.
        self.form = Form::new(depth, colour).or(self.form);
        self.interlaced |= interlace != 0;
        if filter != 0 {
            return Err(refusal("its filter method is unknown"));
        }
        Ok(())
    }

    fn colours(&mut self, data: &'a [u8]) {
        if self.form.is_some_and(|form| form.colour == Colour::Palette) {
            self.palette = Some(data);
        }
    }

    fn transparent(&mut self, data: &[u8]) -> Result<(), ImageError> {
        let Some(form) = self.form else {
            return Ok(());
        };
        self.transparency = match form.colour {
            Colour::Palette if is_one_index(data) => Transparency::One,
            Colour::Palette => Transparency::Palette,
            Colour::Grey => field::<2>(*b"tRNS", data).map(|_| Transparency::One)?,
            Colour::Rgb => {
                let [r0, r1, g0, g1, b0, b1] = *field(*b"tRNS", data)?;
                Transparency::Rgb([[r0, r1], [g0, g1], [b0, b1]].map(u16::from_be_bytes))
            }
            Colour::GreyAlpha | Colour::Rgba => return Ok(()),
        };
        Ok(())
    }

    /// Pillow stores texts in the same dictionary as the fields of chunks, so that texts of some names replace fields.
    fn keep(&mut self, text: Option<Text<'_>>) -> Result<(), ImageError> {
        let Some(Text { key, characters }) = text else {
            return Ok(());
        };
        match key {
            b"interlace" => self.interlaced = characters > 0,
            b"bbox" => self.extent = Extent::Text,
            b"default_image" => self.is_separate = characters > 0,
            b"transparency" => self.transparency = Transparency::Text,
            _ => {}
        }
        self.characters = self.characters.saturating_add(characters);
        if self.characters > TEXT_LIMIT {
            Err(refusal("its texts are too long"))
        } else {
            Ok(())
        }
    }

    fn animation(&mut self, data: &[u8; 8]) {
        let frames = number(data, 0);
        let valid = frames > 0 && frames <= 1 << 31;
        self.animation = if self.animation.is_none() && valid {
            Some(frames)
        } else {
            None
        };
    }

    fn frame(&mut self, data: &[u8; 26]) -> Result<(), ImageError> {
        self.follow(number(data, 0))?;
        let [width, height, left, top] = [4, 8, 12, 16].map(|at| u64::from(number(data, at)));
        if left + width > self.width.into() || top + height > self.height.into() {
            return Err(refusal("a frame reaches beyond the picture"));
        }
        self.extent = Extent::Frame([left, top, left + width, top + height]);
        Ok(())
    }

    fn frame_data(&mut self, length: u32, chunks: &mut Chunks<'a>) -> Result<Chunk<'a>, ImageError> {
        let Some(rest) = length.checked_sub(4) else {
            return Err(refusal("its chunk fdAT is short"));
        };
        let sequence = number(field::<4>(*b"fdAT", chunks.take(4)?)?, 0);
        if self.sequence.is_none() {
            return Err(refusal("its frames are out of order"));
        }
        self.follow(sequence)?;
        Ok(self.pixels(rest))
    }

    /// Pixels before the header are an unknown chunk.
    fn pixels(&mut self, length: u32) -> Chunk<'a> {
        if self.extent == Extent::Whole && self.animation.is_some() {
            self.is_separate = true;
        }
        if self.form.is_some() {
            Chunk::Pixels(length)
        } else {
            Chunk::Unknown
        }
    }

    fn follow(&mut self, sequence: u32) -> Result<(), ImageError> {
        let expected = self.sequence.map_or(Some(0), |last| last.checked_add(1));
        if expected != Some(sequence) {
            return Err(refusal("its frames are out of order"));
        }
        self.sequence = Some(sequence);
        Ok(())
    }

    /// Returns the number of frames, as Pillow counts them.
    pub(super) fn frames(&self) -> u64 {
        self.animation
            .map_or(1, |frames| u64::from(frames) + u64::from(self.is_separate))
    }

    /// Returns the part of the picture that the pixels cover.
    pub(super) fn area(&self) -> Result<Area, ImageError> {
        match self.extent {
            Extent::Whole => Ok(Area {
                left: 0,
                top: 0,
                width: self.width,
                height: self.height,
            }),
            Extent::Frame(frame) => {
                let [left, top, right, bottom] = frame.map(|edge| u32::try_from(edge).unwrap_or(u32::MAX));
                if left >= right || top >= bottom || right > self.width || bottom > self.height {
                    return Err(refusal("its frame is empty or reaches beyond the picture"));
                }
                Ok(Area {
                    left,
                    top,
                    width: right - left,
                    height: bottom - top,
                })
            }
            Extent::Text => Err(refusal("it has a text named bbox")),
        }
    }

    /// Checks that Pillow can convert the transparent colour to RGB, which it does although the result is dropped.
    ///
    /// `form`, and `palette` (true if there was one), are those before the pixels.
    pub(super) fn check_transparency(&self, form: Form, palette: bool) -> Result<(), ImageError> {
        let convertible = match (form.colour, self.transparency) {
            (_, Transparency::None | Transparency::Palette) => true,
            (Colour::Grey, transparency) => matches!(form.depth, 1 | 16) || transparency == Transparency::One,
            (Colour::Palette, Transparency::One) => palette,
            (Colour::Palette, Transparency::Rgb(colour)) => palette && colour.iter().all(|value| *value < 256),
            (Colour::Palette, Transparency::Text) => false,
            (Colour::Rgb | Colour::GreyAlpha | Colour::Rgba, _) => true,
        };
        if convertible {
            Ok(())
        } else {
            Err(refusal("its transparent colour does not fit its colour type"))
        }
    }
}

/// Returns the first bytes of a chunk, which may have more.
fn field<const N: usize>(name: Name, data: &[u8]) -> Result<&[u8; N], ImageError> {
    data.first_chunk()
        .ok_or_else(|| refusal(format!("its chunk {} is short", name.escape_ascii())))
}

/// Returns the number at this offset of a field, which must be long enough.
fn number<const N: usize>(data: &[u8; N], at: usize) -> u32 {
    data.get(at..)
        .and_then(|data| data.first_chunk())
        .map_or(0, |number| u32::from_be_bytes(*number))
}

/// Returns true if exactly one colour of a palette is transparent and all others are opaque. Like Pillow's pattern, it
/// ignores a line feed at the end.
fn is_one_index(data: &[u8]) -> bool {
    let data = data.strip_suffix(b"\n").unwrap_or(data);
    data.iter().filter(|alpha| **alpha != 255).eq([&0])
}
