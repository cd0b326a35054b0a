//! Decodes PNG as Pillow 13 does: what it opens is decoded to the same pixels, what it refuses is refused.
//!
//! `open` reads only the shape. `decode` reads the chunks before the pixels, the pixels, and the chunks after them, each as
//! strictly as Pillow: a wrong checksum is an error only before the pixels.

mod chunks;
mod feed;
mod form;
mod header;
mod outline;
mod paint;
mod passes;
mod rows;
mod text;
mod unfilter;
mod unpack;

use chunks::Chunks;
use feed::Feed;
use header::{Chunk, Header};
use outline::Outline;
use paint::Painter;
use passes::{Area, Pass};
use unpack::Unpacker;

use super::error::{ImageError, malformed};
use super::picture::{Picture, Shape};
use super::sink::RowSink;

/// Reads the shape of a file that starts with PNG's signature.
///
/// # Errors
/// [`ImageError::Malformed`] if the file has no valid shape.
pub(super) fn open(bytes: &[u8]) -> Result<Box<dyn Picture + '_>, ImageError> {
    let outline = outline::read(bytes)?;
    Ok(Box::new(Png { bytes, outline }))
}

fn refusal(reason: impl ToString) -> ImageError {
    malformed("PNG", reason)
}

struct Png<'a> {
    bytes: &'a [u8],
    outline: Outline,
}

impl Picture for Png<'_> {
    fn shape(&self) -> Shape {
        self.outline.shape()
    }

    fn memory(&self) -> u64 {
        let Shape {
            width,
            height,
            channels,
        } = self.shape();
        let row = self.outline.form.row_bytes(width);
        let line = u64::from(width) * channels.count() as u64;
        let held = if self.outline.interlaced {
            line * (u64::from(height) + 1)
        } else {
            0
        };
        rows::memory(row) + text::MEMORY + unpack::MEMORY + held
    }

    fn decode(self: Box<Self>, rows: &mut dyn RowSink) -> Result<(), ImageError> {
        let mut chunks = Chunks::after_signature(self.bytes)?;
        let mut header = Header::default();
        let length = read_header(&mut chunks, &mut header)?;
        let plan = Plan::new(&header)?;
        let palette = header.palette.is_some();
        let shape = Shape {
            width: header.width,
            height: header.height,
            channels: plan.unpacker.channels(),
        };
        if shape != self.shape() {
            return Err(refusal("its header changes within the file"));
        }
        let mut feed = Feed::new(chunks, length);
        {
            let mut painter = Painter::new(rows, &plan.unpacker, shape, plan.area, header.interlaced);
            rows::read(&plan.passes, plan.unpacker.form(), &mut feed, &mut header, &mut painter)?;
            painter.finish();
        }
        let mut chunks = feed.into_chunks();
        read_trailer(&mut chunks, &mut header, plan.animated)?;
        header.check_transparency(plan.unpacker.form(), palette)
    }
}

/// Reads all chunks before the first pixels, and returns the length of the pixels' chunk.
fn read_header<'a>(chunks: &mut Chunks<'a>, header: &mut Header<'a>) -> Result<u32, ImageError> {
    loop {
        let (name, length) = chunks.next()?;
        let data = match header.read_chunk(name, length, chunks)? {
            Chunk::Pixels(length) => return Ok(length),
            Chunk::End => return Err(refusal("it has no pixels")),
            Chunk::Read(data) => data,
            Chunk::Unknown => chunks.take(length)?,
        };
        chunks.check(name, data)?;
    }
}

/// Reads the chunks after the pixels, whose checksums are not verified. A file may end without IEND, but not within a
/// chunk.
fn read_trailer<'a>(chunks: &mut Chunks<'a>, header: &mut Header<'a>, animated: bool) -> Result<(), ImageError> {
    loop {
        chunks.skip(4);
        let Ok((name, length)) = chunks.next() else {
            return Ok(());
        };
        if name == *b"IEND" || (name == *b"fcTL" && animated) {
            return Ok(());
        }
        match header.read_chunk(name, length, chunks)? {
            Chunk::Pixels(length) => chunks.take(length)?,
            Chunk::Unknown => chunks.take(length)?,
            Chunk::Read(data) => data,
            Chunk::End => return Ok(()),
        };
    }
}

/// How the pixels are to be read, by the chunks before them.
struct Plan {
    unpacker: Unpacker,
    area: Area,
    passes: Vec<Pass>,
    /// True if other frames follow. Reading ends where the next one begins.
    animated: bool,
}

impl Plan {
    fn new(header: &Header<'_>) -> Result<Self, ImageError> {
        let form = header.form.ok_or_else(|| refusal("it has no header"))?;
        let area = header.area()?;
        // Pillow's limit, whose arithmetic has 32 bits.
        if area.width > i32::MAX as u32 / form.bits() - 7 {
            return Err(refusal("it is too wide"));
        }
        let unpacker = Unpacker::new(form, header.palette)?;
        let passes = passes::of(area.width, area.height, header.interlaced);
        Ok(Self {
            unpacker,
            area,
            passes,
            animated: header.frames() > 1,
        })
    }
}

#[cfg(test)]
mod tests;
