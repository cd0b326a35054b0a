//! Reads the shape of a picture by the chunks before the pixels.

use super::chunks::Chunks;
use super::form::{Colour, Form};
use super::refusal;
use crate::error::ImageError;
use crate::picture::{Channels, Shape};

/// The facts that determine the memory of decoding.
#[derive(Debug)]
pub(super) struct Outline {
    pub width: u32,
    pub height: u32,
    pub form: Form,
    /// True if the picture may be interlaced.
    pub interlaced: bool,
    /// True if pixels are mapped by a palette.
    palette: bool,
}

impl Outline {
    pub(super) fn shape(&self) -> Shape {
        let grey = matches!(self.form.colour, Colour::Grey | Colour::GreyAlpha) && !self.palette;
        let channels = if grey { Channels::Grey } else { Channels::Rgbx };
        Shape {
            width: self.width,
            height: self.height,
            channels,
        }
    }
}

/// Reads the chunks before the first pixels as [`super::header::Header`] does, but without its checks.
pub(super) fn read(bytes: &[u8]) -> Result<Outline, ImageError> {
    let mut chunks = Chunks::after_signature(bytes)?;
    let (mut size, mut form, mut interlaced, mut palette) = ((0, 0), None, false, false);
    let mut first = true;
    loop {
        let (name, length) = chunks.next()?;
        match &name {
            b"CgBI" if first => {
                return Err(refusal(
                    "it is in Xcode's CgBI form, which only Apple's programs read; convert it to an ordinary PNG with \
                     `xcrun pngcrush -revert-iphone-optimizations`",
                ));
            }
            b"IDAT" | b"fdAT" if form.is_some() => break,
            b"fdAT" => chunks.skip(4),
            b"IEND" => return Err(refusal("it has no pixels")),
            _ => {}
        }
        first = false;
        let data = chunks.take(length)?;
        chunks.skip(4);
        match &name {
            b"IHDR" => {
                let Some(&[w0, w1, w2, w3, h0, h1, h2, h3, depth, colour, _, _, interlace]) = data.first_chunk() else {
                    return Err(refusal("its header is short"));
                };
                size = (
                    u32::from_be_bytes([w0, w1, w2, w3]),
                    u32::from_be_bytes([h0, h1, h2, h3]),
                );
                form = Form::new(depth, colour).or(form);
                interlaced |= interlace != 0;
            }
            b"PLTE" => palette |= form.is_some_and(|form| form.colour == Colour::Palette),
            // A text of this name replaces the header's field.
            b"tEXt" | b"zTXt" | b"iTXt" => interlaced |= data.starts_with(b"interlace\0"),
            _ => {}
        }
    }
    let (width, height) = size;
    match form {
        Some(form) if width > 0 && height > 0 => Ok(Outline {
            width,
            height,
            form,
            interlaced,
            palette,
        }),
        _ => Err(refusal("it has no size")),
    }
}
